"""The log beside the events: what sealing costs next to appending, and how fast a proof is served from a long log."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import asyncpg

from benchmarks.lean_http import LeanClient
from benchmarks.result import Result, median, percentile, within
from benchmarks.seeding import append, requirements_approved
from services.server import uvicorn_serving
from shared.log.merkle import leaf_hash
from shared.settings import Settings
from tests.house import running_house
from tests.serving import free_port
from tests.shared.log.sealed_store import SERVICE, SealedStore, sealed_store

CLIENTS = 64
APPENDS = 400
"""Commands of each client, one event each."""

SHARE_LIMIT_PERCENT = 3.0
EVENTS = 300_000
REQUESTS = 1_000
ROUNDS = 3
PROOF_LIMIT_MILLISECONDS = 5.0


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Both figures."""
    return [await _share(server_url, scratch / "share"), await _proofs(server_url, scratch / "proofs")]


async def _share(server_url: str, folder: Path) -> Result:
    """Processor time of sealing an event, in our process and in its PostgreSQL backend, in percent of the time to append one."""
    async with sealed_store(server_url, folder) as store:
        began = time.perf_counter()
        await asyncio.gather(*(_client(store, number) for number in range(CLIENTS)))
        appending = time.perf_counter() - began
        sealer = store.sealer()
        async with sealer.alone() as connection:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            before = time.process_time() + _processor_time(backend)
            sealed = await sealer.seal_all(connection)
            sealing = time.process_time() + _processor_time(backend) - before
    assert sealed == CLIENTS * APPENDS
    return within(
        name=f"sealing, share of append time with {CLIENTS} clients", ours=100 * sealing / appending,
        limit=SHARE_LIMIT_PERCENT, unit="%",
    )  # fmt: skip


async def _client(store: SealedStore, number: int) -> None:
    for _ in range(APPENDS):
        await store.append(1, stream=f"count:s/{number}")


def _processor_time(process: int) -> float:
    """Seconds of processor time that the process has used; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        return 0.0


async def _proofs(server_url: str, folder: Path) -> Result:
    """Milliseconds until a client has the proof of a random event, p99."""
    async with running_house(server_url=server_url, folder=folder, names=(SERVICE,)) as house:
        connection = await asyncpg.connect(house.house.runtime.database_url)
        await append(connection, SERVICE, requirements_approved(EVENTS))
        foundation = house.house.services[SERVICE].foundation
        await foundation.projection.wait({SERVICE: EVENTS}, timeout_s=300)
        while foundation.log.signer.size < EVENTS:  # noqa: ASYNC110 -- sealed in a while
            await asyncio.sleep(0.1)
        await connection.close()
        token = house.client("Rita Reader").token
        settings = Settings(data=folder, port=free_port())
        async with uvicorn_serving(house.house.app, settings):
            client = LeanClient(address=f"http://127.0.0.1:{settings.port}", token=token)
            rounds = [await _round(client, seed) for seed in range(ROUNDS + 1)]
    return within(
        name=f"inclusion proof from {EVENTS:,} events, p99", ours=median(rounds[1:]), limit=PROOF_LIMIT_MILLISECONDS,
        unit="ms",
    )  # fmt: skip


async def _round(client: LeanClient, seed: int) -> float:
    positions = random.Random(seed).sample(range(1, EVENTS + 1), REQUESTS)
    milliseconds = []
    for position in positions:
        began = time.perf_counter()
        proof = await client.get(f"/v1/logs/{SERVICE}/events/{position}/proof")
        milliseconds.append((time.perf_counter() - began) * 1000)
        assert proof["position"] == position
        assert len(proof["leaf_hash"]) == len(leaf_hash(b"").hex())
    return percentile(milliseconds, 0.99)
