"""What is killed under load is at work again within 5 s: it answers, and what it did is seen in traceability and has a proof.

The services are killed with SIGKILL and started anew; meanwhile events pile up, which their successor has to project and seal. Then
PostgreSQL is killed under services that go on; it is started again, recovers, and they find it. The worst of a few rounds counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from benchmarks.lean_http import LeanClient, Unexpected
from benchmarks.result import Result, within
from benchmarks.seeding import append, requirements_approved
from services.composition import local_issuer
from shared.embedded_postgres import EmbeddedPostgres
from shared.settings import Settings
from tests.house import fresh_database
from tests.serving import served, start

SERVICE = "requirements"
LIMIT_SECONDS = 5.0
PATIENCE_SECONDS = 120.0
ROUNDS = 3
CLIENTS = 8
LOAD_SECONDS = 1.0
WAITING_EVENTS = 2_000
"""What 200 commands a second leave behind in ten seconds."""

AWAY = (OSError, EOFError, Unexpected)


class Recovery(NamedTuple):
    """Seconds until a command was answered, was seen in traceability, and was proven by a checkpoint."""

    answered: float
    seen: float
    proven: float


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """The worst round of each."""
    killed = [await _services_killed(server_url, scratch / f"recovery-{number}") for number in range(ROUNDS)]
    lost = [await _postgresql_killed(scratch, number) for number in range(ROUNDS)]
    figures = {
        "services killed and started: a command is answered": max(one.answered for one in killed),
        f"the same: it and {WAITING_EVENTS:,} waiting events are projected": max(one.seen for one in killed),
        "the same: a checkpoint proves it": max(one.proven for one in killed),
        "PostgreSQL killed and started: a command is answered": max(one.answered for one in lost),
        "the same: it is seen and proven": max(max(one) for one in lost),
    }
    return [within(name=name, ours=ours, limit=LIMIT_SECONDS, unit="s") for name, ours in figures.items()]


async def _services_killed(server_url: str, data: Path) -> Recovery:
    """From the start of the successor of services that were killed while they worked."""
    token = _token(data)
    async with fresh_database(server_url) as url:
        first = start(data, database_url=url)
        await asyncio.to_thread(first.until_ready)
        async with _load(first.address, token):
            await asyncio.sleep(LOAD_SECONDS)
            first.process.kill()
        await asyncio.to_thread(first.process.wait)
        await _let_events_wait(url)
        began = time.perf_counter()
        successor = start(data, database_url=url)
        try:
            return await _recovery(LeanClient(address=successor.address, token=token), began)
        finally:
            await asyncio.to_thread(successor.end)


async def _postgresql_killed(scratch: Path, number: int) -> Recovery:
    """From the kill of a PostgreSQL under services that keep running."""
    data, folder = scratch / f"recovery-data-{number}", scratch / f"recovery-postgres-{number}"
    token = _token(data)
    with contextlib.ExitStack() as server:
        url = server.enter_context(EmbeddedPostgres.start(folder)).dsn
        with served(data, database_url=url) as (address, _, _):
            async with _load(address, token):
                await asyncio.sleep(LOAD_SECONDS)
                began = time.perf_counter()
                os.kill(int((folder / "cluster/data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            await asyncio.to_thread(server.close)
            server.enter_context(await asyncio.to_thread(EmbeddedPostgres.start, folder))
            return await _recovery(LeanClient(address=address, token=token), began)


def _token(data: Path) -> str:
    return local_issuer(Settings(data=data)).mint(name="Ada Author", lifetime_s=3600)


async def _let_events_wait(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await append(connection, SERVICE, requirements_approved(WAITING_EVENTS))
    finally:
        await connection.close()


async def _recovery(client: LeanClient, began: float) -> Recovery:
    position = await _until(lambda: _register(client, "afterwards"))
    answered = time.perf_counter() - began
    await _until(lambda: client.get(f"/v1/systems/afterwards/ledger?after={position}&page_size=1"))
    seen = time.perf_counter() - began
    await _until(lambda: client.get(f"/v1/logs/{SERVICE}/events/{position.partition(':')[2]}/proof"))
    proven = time.perf_counter() - began
    await client.close()
    return Recovery(answered=answered, seen=seen, proven=proven)


async def _until(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """What it gives, once it gives anything."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(*AWAY):
                return await attempt()
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _load(address: str, token: str) -> AsyncIterator[None]:
    """Clients that send one command after the other, whatever becomes of them."""

    async def send_for_ever(number: int) -> None:
        client = LeanClient(address=address, token=token)
        for place in count():
            with contextlib.suppress(*AWAY):
                await _register(client, f"load-{number}-{place}")
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(send_for_ever(number)) for number in range(CLIENTS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _register(client: LeanClient, key: str) -> str:
    body = {"key": key, "name": "Bench", "intended_use": "to outlive", "risk_class": "limited", "reason": "measured"}
    position: str = (await client.post("/v1/systems", body))["position"]
    return position
