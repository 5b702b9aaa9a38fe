"""The ledger: every event once, in order of arrival, whoever follows, and never past a hole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from services.traceability.ledger import Ledger
from services.traceability.main import MIGRATIONS
from shared.cloud_event import recorded_event
from shared.event import RecordedEvent, leaf_hash_of
from shared.feed import HoleInFeed, Pulse
from shared.log.row_check import EventAltered
from shared.projection import NotThereYet
from shared.runtime import migrate_service
from tests.house import fresh_database
from tests.shared.log.sealed_store import until
from tests.verifier.pack_maker import written


@dataclass
class MemoryFeed:
    """The feed port in memory; events can be held back to make a hole."""

    events: dict[str, list[RecordedEvent]] = field(default_factory=dict)
    held_back: set[tuple[str, int]] = field(default_factory=set)

    def add(self, service: str, count: int) -> None:
        """More events of the service."""
        events = self.events.setdefault(service, [])
        for position in range(len(events) + 1, len(events) + count + 1):
            raw = written(
                {
                    "service": service, "position": position, "recorded_at": "2026-01-01T00:00:00.000000Z", "system": "s",
                    "id": f"{position}", "stream": f"a:s/{position}", "version": 1, "name": f"{service}.happened",
                    "correlation": "",
                }
            )  # fmt: skip
            events.append(recorded_event(raw, service=service, position=position))

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        found = [event for event in self.events.get(service, []) if event.position > after]
        return [event for event in found if (service, event.position) not in self.held_back][:limit]

    async def changed(self, *, service: str, after: int) -> None:
        await asyncio.sleep(0.001)

    async def head(self, *, service: str) -> int:
        return len(self.events.get(service, []))

    async def pulse(self, *, service: str) -> Pulse:
        return Pulse(at=datetime.now(UTC), head=await self.head(service=service), reacted={})

    async def listen(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture
async def pool(server_url: str) -> AsyncIterator[asyncpg.Pool]:
    """An empty ledger."""
    async with fresh_database(server_url) as url:
        await migrate_service(url, service="traceability", scripts=MIGRATIONS)
        async with asyncpg.create_pool(url, min_size=1, max_size=6) as pool:
            yield pool


def ledger_on(pool: asyncpg.Pool, feed: MemoryFeed) -> Ledger:
    """A follower of two services."""
    return Ledger(pool=pool, feed=feed, sources=("requirements", "drift"), timeout_s=0.2)


async def has_reached(ledger: Ledger, positions: dict[str, int]) -> None:
    """Waits until the ledger holds so much of each service."""

    async def reached() -> bool:
        return await ledger.positions() == positions

    await until(reached)


async def test_three_replicas_side_by_side_write_every_event_once(pool: asyncpg.Pool) -> None:
    """Positions have no holes, and each service is in its own order."""
    feed = MemoryFeed()
    feed.add("requirements", 1200)
    feed.add("drift", 700)
    await asyncio.gather(*(ledger_on(pool, feed).catch_up() for _ in range(3)))
    entries = await ledger_on(pool, feed).read(systems=None, after=0)
    assert [entry.position for entry in entries] == list(range(1, 1901))
    for service, count in (("requirements", 1200), ("drift", 700)):
        assert [e.event.position for e in entries if e.event.service == service] == list(range(1, count + 1))
    assert all(leaf_hash_of(entry.event.raw) == entry.event.leaf_hash for entry in entries)


async def test_a_hole_stops_its_service_until_it_is_filled_and_no_other(pool: asyncpg.Pool) -> None:
    """An event is never passed over, and one service does not hold up the rest."""
    feed = MemoryFeed(held_back={("requirements", 3)})
    feed.add("requirements", 5)
    feed.add("drift", 4)
    ledger = ledger_on(pool, feed)
    with pytest.raises(HoleInFeed, match="requirements has a hole after position 2"):
        await ledger.catch_up()
    await ledger.advance("drift")
    assert await ledger.positions() == {"requirements": 2, "drift": 4}
    feed.held_back.clear()
    await ledger.catch_up()
    assert await ledger.positions() == {"requirements": 5, "drift": 4}


@pytest.mark.parametrize(
    "change",
    [
        {"system": "other"},
        {"stream": "a:other/2"},
        {"name": "requirements.forgotten"},
        {"recorded_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"leaf_hash": "0" * 64},
        {"raw": b"{}"},
    ],
)
async def test_an_event_whose_columns_are_not_its_bytes_is_refused(pool: asyncpg.Pool, change: dict[str, Any]) -> None:
    """Somebody changed its row in the store: the ledger takes nothing of it, goes on in all others, and later here too."""
    feed = MemoryFeed()
    feed.add("requirements", 2)
    feed.add("drift", 1)
    true = feed.events["requirements"][1]
    feed.events["requirements"][1] = msgspec.structs.replace(true, **change)
    ledger = ledger_on(pool, feed)
    following = asyncio.create_task(ledger.run())
    await has_reached(ledger, {"requirements": 1, "drift": 1})
    with pytest.raises(EventAltered) as refused:
        await ledger.advance("requirements")
    assert (refused.value.position, await ledger.positions()) == (2, {"requirements": 1, "drift": 1})
    feed.events["requirements"][1] = true
    await has_reached(ledger, {"requirements": 2, "drift": 1})
    following.cancel()


async def test_waiting_for_what_does_not_come_ends_with_a_typed_error(pool: asyncpg.Pool) -> None:
    """A bounded time, then the client is told to ask again."""
    feed = MemoryFeed()
    feed.add("requirements", 2)
    ledger = ledger_on(pool, feed)
    await ledger.catch_up()
    await ledger.wait({"requirements": 2, "unheard-of": 9})
    with pytest.raises(NotThereYet, match="requirements:3"):
        await ledger.wait({"requirements": 3})


async def test_the_ledger_refuses_change(pool: asyncpg.Pool) -> None:
    """It is a record: nothing in it is updated, deleted or truncated."""
    feed = MemoryFeed()
    feed.add("drift", 1)
    await ledger_on(pool, feed).catch_up()
    for statement in ("UPDATE {0} SET name = 'x'", "DELETE FROM {0}", "TRUNCATE {0}"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await pool.execute(statement.format("traceability.ledger"))
