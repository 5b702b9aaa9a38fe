"""A command over HTTP, with everything that belongs to it, is at least half as fast as a bare handler that inserts a row.

Both are served in a process of their own, on one database; 16 clients each send one request after the other, ours and the bare
handler in turn. Ours is one service as `python -m services requirements` runs it: its projection and its sealer run beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.lean_http import LeanClient
from benchmarks.result import Result, compared, median
from services.composition import EMBEDDED_ISSUER, local_issuer
from shared.settings import Settings
from tests.house import fresh_database
from tests.serving import CHECKOUT, free_port, served

CLIENTS = 16
REQUESTS = 1_600
ROUNDS = 5
SYSTEM = "bench"
READY_SECONDS_MAX = 30.0


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Commands a second, medians of interleaved rounds; the first round warms up."""
    async with fresh_database(server_url) as url:
        data = scratch / "command"
        issuer = local_issuer(Settings(data=data))
        token = issuer.mint(name="Ada Author", lifetime_s=3600)
        with served(data, "requirements", database_url=url) as (address, _, _), _bare(url, data) as bare_address:
            ours, bare = LeanClient(address=address, token=token), LeanClient(address=bare_address, token=token)
            await become_author(ours, issuer.subject(name="Ada Author"))
            rounds = [(await _rate(ours, number), await _rate(bare, number)) for number in range(ROUNDS + 1)][1:]
            await ours.close()
            await bare.close()
    return [
        compared(
            name=f"a command over HTTP, {CLIENTS} clients", ours=median([one for one, _ in rounds]),
            peer=median([peer for _, peer in rounds]), peer_name="a bare FastAPI handler with one insert",
            unit="commands/s", goal=0.5, better="more",
        )
    ]  # fmt: skip


async def become_author(client: LeanClient, subject: str) -> None:
    """Registers the AI system and gives the subject the role of an author, known everywhere when this returns."""
    body = {"key": SYSTEM, "name": "Bench", "intended_use": "to be fast", "risk_class": "limited", "reason": "measured"}
    await client.post("/v1/systems", body)
    granted = await client.post(
        f"/v1/systems/{SYSTEM}:grant-role", {"subject": subject, "role": "author", "reason": "measured"}
    )
    await client.get(f"/v1/systems/{SYSTEM}?after={granted['position']}")


async def _rate(client: LeanClient, round_number: int) -> float:
    async def one_after_the_other(number: int) -> None:
        for place in range(REQUESTS // CLIENTS):
            version = f"{round_number}-{number}-{place}"
            await client.post(f"/v1/systems/{SYSTEM}/datasets", dataset_body(version))

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other(number) for number in range(CLIENTS)))
    return REQUESTS / (time.perf_counter() - began)


def dataset_body(version: str) -> dict[str, object]:
    """A command that is like no other one before."""
    return {
        "name": "flights", "version": version, "digest": "a" * 64, "rows": 1000, "columns": ["delay", "carrier"],
        "purpose": "test", "provenance": "the airport", "licence": "CC0", "sequestered": True, "personal_data": False,
        "reason": "measured",
    }  # fmt: skip


@contextlib.contextmanager
def _bare(url: str, data: Path) -> Iterator[str]:
    port = free_port()
    arguments = ["-m", "benchmarks.bare_handler", url, str(data), str(port), EMBEDDED_ISSUER]
    process = subprocess.Popen([sys.executable, *arguments], cwd=CHECKOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/readyz", timeout=2).is_success:
                return
        time.sleep(0.02)
    raise RuntimeError("the bare handler was not ready in time")
