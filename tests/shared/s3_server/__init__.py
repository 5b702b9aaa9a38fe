"""A real S3-compatible server for the tests: versitygw over a folder, and a way to it that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.serving import free_port

VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
INSTALLATIONS = Path(__file__).parents[3] / "build" / "s3-server"
BUILD_TIMEOUT_S = 900
READY_TIMEOUT_S = 60
ACCESS_KEY, SECRET_KEY = "writer", "the-secret-of-the-writer"
BUCKET = "evidence"


class CannotRun(Exception):
    """The server cannot run here; the message is one line that says what to install."""


def installed() -> Path:
    """The program, built once under build/ by Go, which checks the sums of all modules. Raises CannotRun."""
    program = INSTALLATIONS / VERSION / "versitygw"
    if not program.exists():
        go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
        if go is None:
            raise CannotRun("install Go (Debian and Ubuntu: golang; macOS: brew install go)")
        _build(go, program.parent)
    return program


def _build(go: str, folder: Path) -> None:
    """Into a folder beside, then renamed: a build that was cut off is never taken for a whole one."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    environment = {**os.environ, "GOBIN": str(beside), "CGO_ENABLED": "0"}
    try:
        subprocess.run(
            [go, "install", MODULE],
            cwd=beside,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(beside, ignore_errors=True)
        reason = " ".join(str(error.stderr or error).split())[-200:]
        raise CannotRun(f"make `go install {MODULE}` work (is Go new enough?): {reason}") from None
    try:
        beside.rename(folder)
    except OSError:  # somebody else's test run was faster
        shutil.rmtree(beside, ignore_errors=True)


@dataclass(frozen=True)
class S3Server:
    """A running server; objects are plain files below `root`/<bucket>."""

    root: Path
    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()

    @property
    def environment(self) -> Mapping[str, str]:
        """The AWS variables with which a client reaches it."""
        return environment(port=self.port)


def environment(*, port: int, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> Mapping[str, str]:
    """The AWS variables for a server on this port of the loopback."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
    }


@contextlib.contextmanager
def running(program: Path, folder: Path) -> Iterator[S3Server]:
    """The server on a free port of the loopback, with one empty bucket."""
    root, sidecar, port = folder / "root", folder / "metadata", free_port()
    for made in (root / BUCKET, sidecar):
        made.mkdir(parents=True)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "--port", f"127.0.0.1:{port}", "posix", "--sidecar", sidecar, root],
            env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_ready(process, port)
            yield S3Server(root=root, port=port, process=process)
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError("the S3 server did not start")
