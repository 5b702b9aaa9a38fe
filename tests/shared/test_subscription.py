"""The fan-out by itself: whatever the tail holds and whenever somebody joins, everybody gets every event once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from shared.access import TABLES_SQL, Access
from shared.event import Actor, RecordedEvent
from shared.event_tail import PAGE_EVENTS, Pages, Tail
from shared.subscription import Delivery, StreamEnds, Subscriptions, TokenEnded, Wish
from tests.shared.conftest import Stores

SERVICE = "requirements"
SUBJECT = "person-2"
SUBSCRIBERS = 40


@contextlib.asynccontextmanager
async def _fan_out(stores: Stores, **settings: object) -> AsyncIterator[Subscriptions]:
    """Running, over stores in which the subject holds a role in the system that is counted in."""
    await stores.pool.execute(
        f"CREATE SCHEMA {SERVICE}_projection; SET search_path = {SERVICE}_projection; {TABLES_SQL}"
    )
    await _grant(stores)

    async def settled(_after: object) -> None:
        """Roles do not change by events here."""

    subscriptions = Subscriptions(
        service=SERVICE,
        names=["requirements.counted", "requirements.ignored"],
        feed=stores.feed,
        access=Access(pool=stores.pool, service=SERVICE),
        settled=settled,
        **settings,  # type: ignore[arg-type]
    )
    tasks = [asyncio.create_task(stores.feed.listen()), asyncio.create_task(subscriptions.run())]
    yield subscriptions
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _grant(stores: Stores, subject: str = SUBJECT) -> None:
    await stores.pool.execute(f"INSERT INTO {SERVICE}_projection.role_grant VALUES ('s', $1, 'auditor')", subject)


def _wish(after: int = 0, *, subject: str = SUBJECT, names: tuple[str, ...] = (), lasts_s: float = 60.0) -> Wish:
    actor = Actor(subject=subject, kind="person", issuer="tests")
    return Wish(actor=actor, after=after, systems=(), names=names, lasts_s=lasts_s)


async def _positions(subscriptions: Subscriptions, wish: Wish, *, until: int) -> list[int]:
    """The positions that a subscriber gets, until it has moved so far."""
    positions: list[int] = []
    async with contextlib.aclosing(await subscriptions.open(wish)) as deliveries:
        async for delivery in deliveries:
            positions += [event.position for event in delivery.events]
            if delivery.position >= until:
                break
    return positions


@pytest.mark.parametrize(("events_max", "bytes_max"), [(5_000, 1 << 24), (3, 1 << 24), (5_000, 2_000), (0, 1 << 24)])
async def test_everybody_gets_every_event_once(stores: Stores, events_max: int, bytes_max: int) -> None:
    """Some join before the first event, some while they come, some late; from anywhere, with a tail of any length."""
    chance = random.Random(7)
    counter, total = stores.counter, 3 * PAGE_EVENTS + 17
    tail = Tail(events_max=events_max, bytes_max=bytes_max)
    async with _fan_out(stores, tail=tail) as subscriptions:
        listening = [asyncio.create_task(_positions(subscriptions, _wish(), until=total))]
        starts, head = [0], 0
        while head < total:
            head += len((await counter.count(*range(min(chance.randint(1, 60), total - head)))).events)
            for _ in range(chance.randint(0, 3)):
                starts.append(chance.randint(0, head))
                listening.append(asyncio.create_task(_positions(subscriptions, _wish(starts[-1]), until=total)))
        got = await asyncio.gather(*listening)
        assert got == [list(range(start + 1, total + 1)) for start in starts]
        assert subscriptions.subscribers == 0


async def test_it_follows_only_while_somebody_listens(stores: Stores) -> None:
    """And whoever comes after a silence misses nothing of it."""
    counter = stores.counter
    async with _fan_out(stores) as subscriptions:
        for round_number in range(1, 4):
            await counter.count(1, 2, 3)
            assert await _positions(subscriptions, _wish(), until=3 * round_number) == list(
                range(1, 3 * round_number + 1)
            )
            await asyncio.sleep(0)


async def test_a_role_that_is_taken_ends_seeing(stores: Stores) -> None:
    """At once for what is told afterwards; one without a role gets positions and no events."""
    counter = stores.counter
    async with _fan_out(stores, heartbeat_s=0.05) as subscriptions:
        assert await _positions(subscriptions, _wish(subject="nobody"), until=0) == []
        await counter.count(1)
        assert await _positions(subscriptions, _wish(subject="nobody"), until=1) == []
        deliveries = await subscriptions.open(_wish())
        assert [event.position for event in (await anext(deliveries)).events] == [1]
        await stores.pool.execute(f"DELETE FROM {SERVICE}_projection.role_grant")
        await counter.count(2)
        assert await _until(deliveries, 2) == []
        await _grant(stores)
        await counter.count(3)
        assert await _until(deliveries, 3) == [3]
        await deliveries.aclose()


async def test_only_the_names_that_were_asked_for(stores: Stores) -> None:
    """The position moves over the others."""
    await stores.counter.count(1)
    async with _fan_out(stores) as subscriptions:
        assert await _positions(subscriptions, _wish(names=("requirements.ignored",)), until=1) == []
        assert await _positions(subscriptions, _wish(names=("requirements.counted",)), until=1) == [1]


async def test_it_ends_with_the_process_and_with_the_token(stores: Stores) -> None:
    """Each tells its own reason."""
    async with _fan_out(stores) as subscriptions:
        short = await subscriptions.open(_wish(lasts_s=0.05))
        await anext(short)
        with pytest.raises(TokenEnded):
            await anext(short)
        long = await subscriptions.open(_wish())
        await anext(long)
        subscriptions.end()
        with pytest.raises(StreamEnds):
            await anext(long)
        with pytest.raises(StreamEnds):
            await subscriptions.open(_wish())


async def test_a_database_that_is_away_only_delays(stores: Stores) -> None:
    """Those who listen are served again when it is back."""
    counter = stores.counter
    async with _fan_out(stores) as subscriptions:
        deliveries = await subscriptions.open(_wish())
        assert await _until(deliveries, 0) == []
        await stores.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
        await counter.count(1, 2)
        assert await _until(deliveries, 2) == [1, 2]
        await deliveries.aclose()


async def test_old_pages_are_read_once(stores: Stores) -> None:
    """However many want them at the same time."""
    await stores.counter.count(*range(PAGE_EVENTS + 5))
    reads: list[int] = []

    async def read(after: int, limit: int) -> list[RecordedEvent]:
        reads.append(after)
        return list(await stores.feed.read(service=SERVICE, after=after, limit=limit))

    pages = Pages(read)
    found = await asyncio.gather(*(pages.after(position) for position in range(SUBSCRIBERS)))
    assert [events[0].position for events in found] == list(range(1, SUBSCRIBERS + 1))
    assert reads == [0]
    assert len(await pages.after(PAGE_EVENTS)) == len(await pages.after(PAGE_EVENTS)) == 5
    assert reads == [0, PAGE_EVENTS, PAGE_EVENTS]  # a page that is not full yet may grow


async def _until(deliveries: AsyncGenerator[Delivery, None], position: int) -> list[int]:
    positions: list[int] = []
    async for delivery in deliveries:
        positions += [event.position for event in delivery.events]
        if delivery.position >= position:
            break
    return positions
