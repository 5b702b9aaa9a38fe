"""A real `python -m services` process for tests and benchmarks: started, waited for, measured, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

READY_SECONDS_MAX = 120.0
CHECKOUT = Path(__file__).parent.parent


@contextlib.contextmanager
def served(
    data: Path,
    *names: str,
    database_url: str | None = None,
    settings: Mapping[str, str] | None = None,
    output: Path = Path(os.devnull),
) -> Iterator[tuple[str, float, int]]:
    """Serves the named services, or all, on the data folder: address, seconds until ready, process id. Ended with SIGTERM.

    `settings` are further environment variables; `output` gets what it writes to standard output.
    """
    port, metrics_port = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        "PROOFTRAIL_DATA": str(data),
        "PROOFTRAIL_PORT": str(port),
        "PROOFTRAIL_METRICS_PORT": str(metrics_port),
        "PROOFTRAIL_GRPC_PORT": "0",
        **({"DATABASE_URL": database_url} if database_url else {}),
        **(settings or {}),
    }
    address = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", *names], cwd=CHECKOUT, env=environment, stdout=written
        )
    try:
        _wait_until_ready(address, process)
        yield address, time.monotonic() - began, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the services ended with {process.returncode} before they were ready")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/readyz", timeout=10).is_success:
                return
        time.sleep(0.02)
    raise RuntimeError(f"the services were not ready within {READY_SECONDS_MAX} s")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
