"""What the gate keeps in memory says the same as reading everything anew, whatever happened in between."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from random import Random
from typing import Any

import asyncpg
import pytest

from services.releases.application.gate_copies import KEPT_MAX, GateCopies, Subject
from services.releases.projections import ReleasesProjection
from shared.effects import Effects
from shared.event import RecordedEvent, leaf_hash_of
from shared.feed import StoreFeed
from shared.projection import ProjectionRunner
from shared.runtime import migrate_service, open_pool
from tests.house import fresh_database

DIGESTS = ("a" * 64, "b" * 64)
KEYS = ("REQ-1", "REQ-2", "REQ-3")


class Neighbours:
    """Requirements and verification, as far as the copies are concerned: events at random, applied as they come."""

    def __init__(self, *, connection: asyncpg.Connection, seed: int) -> None:
        self._connection = connection
        self._random = Random(seed)
        self._positions: Counter[str] = Counter()

    async def act(self) -> None:
        """One event of one of them."""
        position = self._positions["verification"] + 1
        known = f"V-{self._random.randint(1, max(self._positions['verification'], 1))}"
        requirement = {"key": self._random.choice(KEYS), "revision": self._random.randint(1, 2)}
        choices: list[tuple[str, dict[str, Any]]] = [
            ("requirements.requirement-approved", {**requirement, "criteria": [_criterion()]}),
            ("requirements.requirement-retired", requirement),
            ("verification.verification-recorded", self._recorded(f"V-{position}", requirement)),
            ("verification.verification-recorded", self._recorded(f"V-{position}", requirement)),
            ("verification.verification-approved", {"key": known}),
            ("verification.verification-approved", {"key": known}),
            ("verification.verification-marked-suspect", {"key": known}),
            ("verification.suspicion-cleared", {"key": known}),
        ]
        await self._apply(*self._random.choice(choices))

    def _recorded(self, key: str, requirement: dict[str, Any]) -> dict[str, Any]:
        verdict = {"criterion": "C1", "outcome": self._random.choice(("met", "not met", "inconclusive"))}
        return {
            "key": key, "requirement": requirement["key"], "requirement_revision": requirement["revision"],
            "model_digest": self._random.choice(DIGESTS), "dataset": "flights", "dataset_version": "march",
            "dataset_digest": "d" * 64, "post_hoc": False, "verdicts": [verdict],
        }  # fmt: skip

    async def _apply(self, name: str, data: dict[str, Any]) -> None:
        service = name.partition(".")[0]
        self._positions[service] += 1
        raw = json.dumps({"data": data}).encode()
        event = RecordedEvent(
            service=service, position=self._positions[service], stream=f"record:flights/{data['key']}", version=1,
            name=name, system="flights", recorded_at=datetime.now(UTC), leaf_hash=leaf_hash_of(raw), raw=raw,
        )  # fmt: skip
        async with self._connection.transaction():
            effects = Effects(self._connection)
            await ReleasesProjection().apply(effects, event)
            await effects.settle()
            await self._connection.execute(
                "UPDATE position SET position = $2 WHERE source = $1", service, event.position
            )


def _criterion() -> dict[str, str]:
    return {"key": "C1", "dataset": "flights", "dataset_version": "march"}


def _subject(digest: str) -> Subject:
    return Subject(system="flights", release=None, model_digest=digest, environment="production")


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_kept_is_what_is_there(server_url: str, seed: int) -> None:
    """After each of many events at random, for two model versions; also once other tables took the place of these."""
    async with fresh_database(server_url) as url:
        for service in ("releases", "requirements", "verification", "drift"):
            await migrate_service(url, service=service)
        pool = await open_pool(
            url, connections_max=4, application_name="test", search_path="releases_projection,releases"
        )
        async with pool, pool.acquire() as connection:
            runner = ProjectionRunner(pool=pool, feed=StoreFeed(pool=pool, dsn=url), projection=ReleasesProjection())
            await runner.prepare()
            neighbours = Neighbours(connection=connection, seed=seed)
            keeping = GateCopies(pool=pool)
            in_force = set()
            for _ in range(120):
                await neighbours.act()
                for digest in DIGESTS:
                    kept = await keeping.read(_subject(digest))
                    assert kept is not None
                    assert kept == await GateCopies(pool=pool).read(_subject(digest))
                    in_force.add(len(kept.requirements))
            assert in_force == {0, 1, 2, 3}
            await connection.execute("UPDATE position SET position = 0")  # these events are in no store
            await runner.rebuild()
            emptied = await keeping.read(_subject(DIGESTS[0]))
            assert emptied is not None
            assert emptied.requirements == ()


async def test_only_so_many_are_kept(server_url: str) -> None:
    """The oldest goes first, and is read anew when it is asked for again."""
    async with fresh_database(server_url) as url:
        for service in ("releases", "requirements", "verification", "drift"):
            await migrate_service(url, service=service)
        pool = await open_pool(
            url, connections_max=4, application_name="test", search_path="releases_projection,releases"
        )
        async with pool, pool.acquire() as connection:
            await ProjectionRunner(
                pool=pool, feed=StoreFeed(pool=pool, dsn=url), projection=ReleasesProjection()
            ).prepare()
            await Neighbours(connection=connection, seed=1)._apply(
                "requirements.requirement-approved", {"key": "REQ-1", "revision": 1, "criteria": [_criterion()]}
            )
            keeping = GateCopies(pool=pool)
            for number in [*range(KEPT_MAX + 1), 0]:
                copies = await keeping.read(_subject(f"{number:064d}"))
                assert copies is not None
                assert len(copies.requirements) == 1
