"""All services and PostgreSQL must fit in 700 MB (proportional set size) with the demo's data, and the demo in 3 minutes."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.result import Result, not_run, within
from services.composition import local_issuer
from shared.settings import Settings
from tests.serving import CHECKOUT, bare_environment, served

LIMIT_MEGABYTES = 700.0
LIMIT_SECONDS = 180.0
ROUNDS = 20
PATHS = (
    "matrix",
    "gaps",
    "state",
    "timeline",
    "evidence-pack.html",
    "ledger",
    "releases",
    "verifications",
    "requirements",
)


async def measure(_server_url: str, scratch: Path) -> list[Result]:
    """Runs the demo into a folder, serves the folder, reads everything, and adds up what the processes hold."""
    return await asyncio.to_thread(_measure, scratch / "memory")


def _measure(data: Path) -> list[Result]:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "demo"], cwd=CHECKOUT, env=_environment(data), check=True, capture_output=True
    )
    told = within(name="make demo after its installation", ours=time.monotonic() - began, limit=LIMIT_SECONDS, unit="s")
    if not Path("/proc/self/smaps_rollup").exists():
        return [told, not_run(name="memory of make run", why="this system tells no proportional set size", unit="MB")]
    token = local_issuer(Settings(data=data)).mint(name="Alma Auditor")
    with served(data) as (address, _, process):
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
            for path in PATHS * ROUNDS:
                client.get(f"/v1/systems/flight-delay/{path}").raise_for_status()
        megabytes = sum(_proportional_kilobytes(one) for one in _family(process, data)) / 1024
    return [
        told,
        within(name="memory of make run with the demo's data", ours=megabytes, limit=LIMIT_MEGABYTES, unit="MB"),
    ]


def _environment(data: Path) -> dict[str, str]:
    return {**bare_environment(), "PROOFTRAIL_DATA": str(data)}


def _family(process: int, data: Path) -> list[int]:
    """The process, its children, and the server of the folder with its children."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    family = {process} | {int(pid) for pid, _, args in rows if str(data) in args}
    while grown := {int(pid) for pid, parent, _ in rows if int(parent) in family} - family:
        family |= grown
    return sorted(family)


def _proportional_kilobytes(process: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) if found else 0
