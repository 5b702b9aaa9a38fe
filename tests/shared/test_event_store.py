"""The store port: every implementation passes the same tests."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import ClassVar

import asyncpg
import pytest

from shared.event import Actor, Event, EventMapper, Fact, RecordedEvent, leaf_hash_of
from shared.event_store import (
    AnsweredBefore,
    EventStore,
    IdempotencyKey,
    IdempotencyKeyReused,
    PostgresEventStore,
    VersionConflict,
)
from shared.memory_event_store import MemoryEventStore
from shared.runtime import migrate_service
from tests.house import fresh_database

SERVICE = "requirements"
REPLICAS = 8


class Counted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.counted"
    number: int


class Uncounted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.uncounted"


MAPPER = EventMapper([Counted, Uncounted])
ACTOR = Actor(subject="person-1", kind="person", issuer="https://issuer.test")


def counted(stream: str, version: int, number: int = 0) -> Event:
    """One event of a stream."""
    return Event(
        id=f"{stream}-{version}-{number}",
        stream=stream,
        version=version,
        name=Counted.TOPIC,
        schema=1,
        actor=ACTOR,
        reason="counted in a test",
        correlation="c",
        causation=None,
        data=Counted(number=number),
    )


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, server_url: str) -> AsyncIterator[EventStore]:
    """Each implementation of the port, empty."""
    if request.param == "memory":
        yield MemoryEventStore(service=SERVICE, mapper=MAPPER, clock=lambda: datetime.now(UTC))
        return
    async with fresh_database(server_url) as url:
        await migrate_service(url, service=SERVICE)
        async with asyncpg.create_pool(url, min_size=1, max_size=10) as pool:
            yield PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER)


@pytest.fixture(params=["memory", "postgres"])
async def replicas(request: pytest.FixtureRequest, server_url: str) -> AsyncIterator[Sequence[EventStore]]:
    """One store as several processes reach it: nothing in common but the database. Memory is only ever in one process."""
    if request.param == "memory":
        yield [MemoryEventStore(service=SERVICE, mapper=MAPPER, clock=lambda: datetime.now(UTC))] * REPLICAS
        return
    async with fresh_database(server_url) as url, contextlib.AsyncExitStack() as pools:
        await migrate_service(url, service=SERVICE)
        yield [
            PostgresEventStore(
                pool=await pools.enter_async_context(asyncpg.create_pool(url, min_size=2, max_size=2)),
                service=SERVICE,
                mapper=MAPPER,
            )
            for _ in range(REPLICAS)
        ]


async def test_what_was_appended_is_loaded_again(store: EventStore) -> None:
    """A stream comes back in order of version, as it was decided."""
    events = [counted("a:s/1", 1, 10), counted("a:s/1", 2, 20)]
    receipt = await store.append(events, record="a:s/1", version=2, key=None)
    assert list(await store.load("a:s/1")) == events
    assert (receipt.record, receipt.version, receipt.position) == ("a:s/1", 2, "requirements:2")
    assert list(await store.load("a:s/other")) == []


async def test_the_stored_bytes_have_the_leaf_hash_that_the_receipt_promised(store: EventStore) -> None:
    """What the feed serves is what was promised, and it carries the place the store gave it."""
    receipt = await store.append([counted("a:s/1", 1)], record="a:s/1", version=1, key=None)
    (recorded,) = await store.read(after=0, limit=10)
    assert recorded.leaf_hash == receipt.events[0].leaf_hash == leaf_hash_of(recorded.raw)
    content = recorded.content()
    assert (content["service"], content["position"], content["system"]) == (SERVICE, 1, "s")
    assert datetime.fromisoformat(content["recorded_at"]) == recorded.recorded_at == receipt.events[0].recorded_at


async def test_every_ai_system_has_a_chain_of_its_own(store: EventStore) -> None:
    """Count and previous hash per AI system let a reader see that nothing of it is left out."""
    for stream in ("a:s/1", "a:t/1", "a:s/2", "log::x", "a:s/3"):
        await store.append([counted(stream, 1)], record=stream, version=1, key=None)
    events = await store.read(after=0, limit=10)
    of_s = [event for event in events if event.system == "s"]
    assert [event.content()["system_sequence"] for event in of_s] == [1, 2, 3]
    assert [event.content()["system_previous"] for event in of_s] == [None, of_s[0].leaf_hash, of_s[1].leaf_hash]
    assert events[3].content()["system"] is None


async def test_a_version_that_is_taken_conflicts_and_nothing_of_the_command_is_stored(store: EventStore) -> None:
    """All events of a command or none, over several streams too."""
    await store.append([counted("a:s/1", 1)], record="a:s/1", version=1, key=None)
    with pytest.raises(VersionConflict):
        await store.append([counted("a:s/2", 1), counted("a:s/1", 1)], record="a:s/2", version=1, key=None)
    assert await store.head() == 1
    assert list(await store.load("a:s/2")) == []


async def test_a_version_with_a_hole_conflicts(store: EventStore) -> None:
    """Versions of a stream are contiguous."""
    with pytest.raises(VersionConflict):
        await store.append([counted("a:s/1", 2)], record="a:s/1", version=2, key=None)


async def test_a_repeated_key_is_answered_with_the_first_receipt(store: EventStore) -> None:
    """Failed but persisted: the client that repeats finds what happened the first time."""
    key = IdempotencyKey(subject="person-1", key="k", fingerprint="f")
    first = await store.append([counted("a:s/1", 1)], record="a:s/1", version=1, key=key)
    with pytest.raises(AnsweredBefore) as answered:
        await store.append([counted("a:s/1", 2)], record="a:s/1", version=2, key=key)
    assert answered.value.receipt == first == await store.answer(key)
    assert await store.head() == 1


async def test_a_key_of_another_request_is_refused(store: EventStore) -> None:
    """One key names one request."""
    await store.append([], record="a:s/1", version=0, key=IdempotencyKey(subject="person-1", key="k", fingerprint="f"))
    other = IdempotencyKey(subject="person-1", key="k", fingerprint="g")
    with pytest.raises(IdempotencyKeyReused):
        await store.answer(other)
    with pytest.raises(IdempotencyKeyReused):
        await store.append([counted("a:s/1", 1)], record="a:s/1", version=1, key=other)
    assert await store.answer(IdempotencyKey(subject="person-2", key="k", fingerprint="g")) is None


async def test_a_command_without_events_is_answered_too(store: EventStore) -> None:
    """A repeat that changes nothing has a receipt without events at the position reached so far."""
    await store.append([counted("a:s/1", 1)], record="a:s/1", version=1, key=None)
    key = IdempotencyKey(subject="person-1", key="k", fingerprint="f")
    receipt = await store.append([], record="a:s/1", version=1, key=key)
    assert (receipt.events, receipt.position) == ((), "requirements:1")
    assert await store.answer(key) == receipt


async def test_a_tail_reader_misses_nothing_while_eight_writers_append(replicas: Sequence[EventStore]) -> None:
    """Positions have no holes in commit order and one chain, also when one writer saves 300 events at a time."""
    seen: list[RecordedEvent] = []
    seen_on_the_way = 0
    done = asyncio.Event()

    async def write(writer: int, store: EventStore) -> None:
        batch = 300 if writer == 0 else 1
        for number in range(4 if writer == 0 else 40):
            events = [counted(f"a:s/{writer}", number * batch + one + 1) for one in range(batch)]
            await store.append(events, record=f"a:s/{writer}", version=events[-1].version, key=None)
            await asyncio.sleep(0)  # memory never waits by itself

    async def tail(store: EventStore) -> None:
        nonlocal seen_on_the_way
        chosen = random.Random(1)
        while not (done.is_set() and len(seen) == await store.head()):
            seen.extend(await store.read(after=seen[-1].position if seen else 0, limit=chosen.randint(1, 500)))
            seen_on_the_way += len(seen) > 0 and not done.is_set()
            await asyncio.sleep(0)

    reader = asyncio.create_task(tail(replicas[0]))
    await asyncio.gather(*(write(writer, store) for writer, store in enumerate(replicas)))
    done.set()
    await asyncio.wait_for(reader, 60)
    count = 4 * 300 + 7 * 40
    assert [event.position for event in seen] == list(range(1, count + 1))
    assert seen_on_the_way > 0, "the reader came only when all was written"
    times = [event.recorded_at for event in seen]
    assert times == sorted(times)
    assert [event.content()["system_sequence"] for event in seen] == list(range(1, count + 1))
    previous = [event.content()["system_previous"] for event in seen]
    assert previous == [None, *(event.leaf_hash for event in seen[:-1])]


async def test_a_key_that_all_replicas_are_asked_for_at_once_is_carried_out_once(
    replicas: Sequence[EventStore],
) -> None:
    """A client that has no patience repeats its request elsewhere: one stores it, the others find its answer."""
    key = IdempotencyKey(subject="person-1", key="k", fingerprint="f")
    results = await asyncio.gather(
        *(store.append([counted("a:s/1", 1)], record="a:s/1", version=1, key=key) for store in replicas),
        return_exceptions=True,
    )
    receipts = [result.receipt if isinstance(result, AnsweredBefore) else result for result in results]
    assert sum(isinstance(result, AnsweredBefore) for result in results) == len(replicas) - 1
    assert receipts == [await replicas[0].answer(key)] * len(replicas)
    assert await replicas[0].head() == 1


async def test_one_of_the_racing_writers_wins(replicas: Sequence[EventStore]) -> None:
    """The same version of a stream is given once."""
    results = await asyncio.gather(
        *(
            store.append([counted("a:s/1", 1, n)], record="a:s/1", version=1, key=None)
            for n, store in enumerate(replicas)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(result, VersionConflict) for result in results) == len(replicas) - 1
    assert await replicas[0].head() == 1


async def test_the_table_refuses_change(server_url: str) -> None:
    """A seat belt: even the owner of the table cannot update, delete or truncate by mistake."""
    async with fresh_database(server_url) as url:
        await migrate_service(url, service=SERVICE)
        async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
            postgres = PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER)
            await postgres.append([counted("a:s/1", 1)], record="a:s/1", version=1, key=None)
            for statement in ("UPDATE {0} SET name = 'x'", "DELETE FROM {0}", "TRUNCATE {0}"):
                with pytest.raises(asyncpg.RaiseError, match="append-only"):
                    await pool.execute(statement.format("requirements.event"))
