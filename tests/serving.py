"""A real `python -m services` process for tests and benchmarks: started, waited for, measured, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

READY_SECONDS_MAX = 120.0
CHECKOUT = Path(__file__).parent.parent


DEPLOYED = ("DATABASE_URL", "KAFKA_", "OTEL_", "PROOFTRAIL_")


def bare_environment() -> dict[str, str]:
    """What the shell sets, without that by which a process of a test would join, and change, somebody's deployment."""
    return {name: value for name, value in os.environ.items() if not name.startswith(DEPLOYED)}


@dataclass(frozen=True, kw_only=True)
class ServedProcess:
    """A process that serves, and where."""

    address: str
    grpc_port: int
    process: subprocess.Popen[bytes]

    def until_ready(self) -> None:
        """Returns once it takes requests. Raises RuntimeError if it ends before, or is not ready in time."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the services ended with {self.process.returncode} before they were ready")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/readyz", timeout=10).is_success:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the services were not ready within {READY_SECONDS_MAX} s")

    def end(self) -> None:
        """Ends it with SIGTERM, and waits for it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def start(
    data: Path,
    *names: str,
    database_url: str | None = None,
    settings: Mapping[str, str] | None = None,
    output: Path = Path(os.devnull),
    program: Sequence[str] = ("-m", "services"),
) -> ServedProcess:
    """The named services, or all, on the data folder, not ready yet.

    `settings` are further environment variables; `output` gets what it writes to standard output; `program` is what Python runs.
    """
    ports = {"PROOFTRAIL_PORT": free_port(), "PROOFTRAIL_METRICS_PORT": free_port(), "PROOFTRAIL_GRPC_PORT": 0}
    environment = {
        **bare_environment(),
        "PROOFTRAIL_DATA": str(data),
        **{name: str(port) for name, port in ports.items()},
        **({"DATABASE_URL": database_url} if database_url else {}),
        **(settings or {}),
    }
    with output.open("ab") as written:
        process = subprocess.Popen([sys.executable, *program, *names], cwd=CHECKOUT, env=environment, stdout=written)
    return ServedProcess(
        address=f"http://127.0.0.1:{environment['PROOFTRAIL_PORT']}",
        grpc_port=int(environment["PROOFTRAIL_GRPC_PORT"]),
        process=process,
    )


@contextlib.contextmanager
def served(
    data: Path,
    *names: str,
    database_url: str | None = None,
    settings: Mapping[str, str] | None = None,
    output: Path = Path(os.devnull),
) -> Iterator[tuple[str, float, int]]:
    """Serves the named services, or all, on the data folder: address, seconds until ready, process id. Ended with SIGTERM.

    `settings` and `output` as in `start`.
    """
    began = time.monotonic()
    one = start(data, *names, database_url=database_url, settings=settings, output=output)
    try:
        one.until_ready()
        yield one.address, time.monotonic() - began, one.process.pid
    finally:
        one.end()


@contextlib.contextmanager
def served_apart(
    data: Path, urls: Mapping[str, str], settings: Mapping[str, str]
) -> Iterator[dict[str, ServedProcess]]:
    """Each service as a process on its own database; they start together. Whoever ends one puts its successor into the mapping."""
    running: dict[str, ServedProcess] = {}
    try:
        for name, url in urls.items():
            ports = {"PROOFTRAIL_GRPC_PORT": str(free_port())}
            running[name] = start(data, name, database_url=url, settings={**ports, **settings})
        for one in running.values():
            one.until_ready()
        yield running
    finally:
        for one in running.values():
            one.process.send_signal(signal.SIGTERM)
        for one in running.values():
            one.process.wait(60)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
