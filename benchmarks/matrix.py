"""One page of a matrix of 10,000 requirements x 10,000 verifications must be answered within 20 ms at the 99th percentile."""

from __future__ import annotations

import random
import time
from pathlib import Path

import asyncpg

from benchmarks.result import Result, median, percentile, within
from benchmarks.seeding import SYSTEM, append, requirements_approved, system_registered, verifications_approved
from shared.http_doors import page_token
from tests.house import Client, running_house

REQUIREMENTS = 10_000
VERIFICATIONS = 10_000
REQUESTS = 200
ROUNDS = 3
LIMIT_MILLISECONDS = 20.0


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Pages of 50 rows from random places of the matrix, over HTTP, while everything is in the ledger."""
    async with running_house(server_url=server_url, folder=scratch / "matrix", after_timeout_s=120.0) as house:
        reader = house.client("Rita Reader")
        connection = await asyncpg.connect(house.house.runtime.database_url)
        seeds = [system_registered(reader.subject), *requirements_approved(REQUIREMENTS)]
        reader.seen["requirements"] = await append(connection, "requirements", seeds)
        verifications = verifications_approved(VERIFICATIONS, requirements=REQUIREMENTS)
        reader.seen["verification"] = await append(connection, "verification", verifications)
        await connection.close()
        chosen = random.Random(7)
        rounds = [percentile([await _page(reader, chosen) for _ in range(REQUESTS)], 0.99) for _ in range(ROUNDS + 1)]
    return [
        within(
            name="page of a 10,000 x 10,000 matrix, p99",
            ours=median(rounds[1:]),
            limit=LIMIT_MILLISECONDS,
            unit="ms",
        )
    ]


async def _page(reader: Client, chosen: random.Random) -> float:
    """Milliseconds for one page from a random place; it must not be empty."""
    token = page_token(f"REQ-{chosen.randrange(REQUIREMENTS - 1):05d}")
    began = time.perf_counter()
    page = await reader.get(f"/v1/systems/{SYSTEM}/matrix", page_token=token, page_size=50)
    milliseconds = (time.perf_counter() - began) * 1000
    assert page["items"], "the matrix is empty"
    return milliseconds
