"""A real S3-compatible server for the tests: versitygw over a folder, and a way to it that can be cut."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.go_programs import go_program
from tests.serving import free_port

VERSION = "v1.8.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"
READY_TIMEOUT_S = 60
ACCESS_KEY, SECRET_KEY = "writer", "the-secret-of-the-writer"
BUCKET = "evidence"


def installed() -> Path:
    """The program. Raises CannotRun."""
    return go_program(name="versitygw", module=MODULE, version=VERSION, folder="s3-server")


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
