"""The release gate must answer within 10 ms at the 99th percentile with 1,000 requirements and 10,000 verifications."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.result import Result, median, percentile, within
from benchmarks.seeding import (
    MODEL_DIGEST,
    SYSTEM,
    Seed,
    append,
    dataset_registered,
    requirements_approved,
    system_registered,
    verifications_approved,
)
from tests.house import Client, running_house

REQUIREMENTS = 1_000
VERIFICATIONS = 10_000
REQUESTS = 200
ROUNDS = 3
LIMIT_MILLISECONDS = 10.0


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """The answer over HTTP for one model version, everything verified: while nothing happens, and right after a verification."""
    async with running_house(server_url=server_url, folder=scratch / "gate", after_timeout_s=120.0) as house:
        reader = house.client("Rita Releaser")
        connection = await asyncpg.connect(house.house.runtime.database_url)
        requirements = [system_registered(reader.subject), dataset_registered(), *requirements_approved(REQUIREMENTS)]
        verifications = verifications_approved(VERIFICATIONS, requirements=REQUIREMENTS)
        reader.seen["requirements"] = await append(connection, "requirements", requirements)
        reader.seen["releases"] = await append(connection, "releases", _model_version())
        reader.seen["verification"] = await append(connection, "verification", verifications)
        still = [percentile([await _answer(reader) for _ in range(REQUESTS)], 0.99) for _ in range(ROUNDS + 1)]
        moving = [percentile(await _answers_after_events(reader, connection, r), 0.99) for r in range(ROUNDS + 1)]
        await connection.close()
    name = "gate with 1,000 requirements and 10,000 verifications, p99"
    return [
        within(name=name, ours=median(still[1:]), limit=LIMIT_MILLISECONDS, unit="ms"),
        within(
            name=f"{name}, right after a verification", ours=median(moving[1:]), limit=LIMIT_MILLISECONDS, unit="ms"
        ),
    ]


async def _answers_after_events(reader: Client, connection: asyncpg.Connection, round_number: int) -> list[float]:
    """Milliseconds of answers, each asked once a further approved verification has reached the copies."""
    milliseconds = []
    for number in range(REQUESTS):
        newest = VERIFICATIONS + round_number * REQUESTS + number
        events = verifications_approved(1, requirements=REQUIREMENTS, first=newest)
        reader.seen["verification"] += await append(connection, "verification", events)
        await reader.get(f"/v1/systems/{SYSTEM}/releases")
        milliseconds.append(await _answer(reader))
    return milliseconds


async def _answer(reader: Client) -> float:
    """Milliseconds for one answer; the seeded evidence must count in it."""
    began = time.perf_counter()
    answer = await reader.get(f"/v1/systems/{SYSTEM}/gate", model_digest=MODEL_DIGEST, environment="production")
    milliseconds = (time.perf_counter() - began) * 1000
    unmet = [
        missing for missing in answer["missing"] if not missing["record"].startswith(("release:", "model-version:"))
    ]
    assert not unmet, f"the seeded evidence does not count: {unmet[:2]}"
    return milliseconds


def _model_version() -> Iterator[Seed]:
    data: dict[str, Any] = {
        "model": "late", "version": "1", "digest": MODEL_DIGEST, "components": [], "hosted": None,
        "manifest_digest_verifiable": True, "training_dataset": None, "training_dataset_version": None,
        "code_revision": "c", "parent": None, "why": "seeded",
    }  # fmt: skip
    yield Seed(f"model-version:{SYSTEM}/late@1", "releases.model-version-registered", data)
