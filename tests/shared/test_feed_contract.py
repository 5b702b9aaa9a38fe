"""What every feed promises, whether it reads the stores, Kafka, both, or one of them up to some positions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

import pytest

from shared.event import RecordedEvent
from shared.feed import Feed, StoreFeed
from shared.kafka_client import Topics
from shared.kafka_feed import KafkaFeed
from shared.past_feed import PastFeed
from shared.projection import ProjectionRunner
from shared.split_feed import SplitFeed
from tests.shared.conftest import Stores
from tests.shared.counting import READER, SOURCES, Tally
from tests.shared.kafka.relays import PATIENCE, PATIENCE_S, relay_of, relaying

SOURCE, OTHER = SOURCES


@pytest.fixture(params=["store", "kafka", "split", "past"])
async def feed(request: pytest.FixtureRequest, stores: Stores) -> AsyncIterator[Feed]:
    """A feed that nobody listens to yet. Split: one source is near, the other in Kafka. Past: as of a time that never comes."""
    near = StoreFeed(pool=stores.pool, dsn=stores.url)
    if request.param == "store":
        yield near
        return
    if request.param == "past":
        yield PastFeed(feed=near, positions=dict.fromkeys(SOURCES, 10**9))
        return
    kafka, far = request.getfixturevalue("kafka"), SOURCES if request.param == "kafka" else (SOURCE,)
    topics = Topics.of(kafka, PATIENCE)
    # A topic that appears makes the feed connect again, which wakes everybody.
    await asyncio.to_thread(topics.ensure, far)
    await asyncio.to_thread(topics.close)
    reading = KafkaFeed(kafka=kafka, services=far, patience=PATIENCE)
    async with relaying(*(relay_of(stores, kafka, source) for source in far)):
        yield reading if request.param == "kafka" else SplitFeed(own=[OTHER], near=near, far=reading)
        await reading.close()


@contextlib.asynccontextmanager
async def listening(feed: Feed) -> AsyncIterator[None]:
    """The feed as a process runs it; it must not end by itself."""
    task = asyncio.create_task(feed.listen())
    try:
        yield
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 -- it lies outside
            await asyncio.sleep(0.02)


async def until_head(feed: Feed, position: int, service: str = SOURCE) -> None:
    async def there() -> bool:
        return await feed.head(service=service) >= position

    await until(there)


async def taken(feed: Feed, *, after: int, limit: int) -> list[RecordedEvent]:
    """As many events as asked for, or all there are: one reading may give fewer."""
    events: list[RecordedEvent] = []
    while more := await feed.read(service=SOURCE, after=after + len(events), limit=limit - len(events)):
        events += more
        if len(events) == limit:
            break
    return events


async def test_events_are_those_of_the_store_in_order_from_any_position(feed: Feed, stores: Stores) -> None:
    """The same bytes, hashes and times; as many as asked for; nothing above the head."""
    counter = stores.counter
    for number in range(30):
        await counter.count(number, key="ab"[number % 2])
    expected = await stores.feed.read(service=SOURCE, after=0, limit=100)
    async with listening(feed):
        await until_head(feed, 30)
        for after, limit in ((0, 100), (0, 7), (7, 7), (29, 5), (12, 1)):
            assert await taken(feed, after=after, limit=limit) == expected[after : after + limit]
        assert list(await feed.read(service=SOURCE, after=30, limit=5)) == []
        assert list(await feed.read(service=OTHER, after=0, limit=5)) == []


async def test_it_reads_without_a_listener(feed: Feed, stores: Stores) -> None:
    """For a rebuild before anything runs."""
    assert await feed.head(service=OTHER) == 0
    await stores.counter.count(*range(40))
    await until_head(feed, 40)
    found = [event.position for event in await feed.read(service=SOURCE, after=10, limit=20)]
    assert found == list(range(11, 31))


async def test_those_who_wait_are_woken(feed: Feed, stores: Stores) -> None:
    """All of them, and each finds what it was woken for."""
    counter = stores.counter
    async with listening(feed), asyncio.timeout(PATIENCE_S):
        for position in range(3):
            waiters = [asyncio.create_task(feed.changed(service=SOURCE, after=position)) for _ in range(3)]
            await counter.count(1)
            await asyncio.gather(*waiters)
            found = await feed.read(service=SOURCE, after=position, limit=9)
            assert [event.position for event in found] == [position + 1]


async def test_what_is_there_is_not_waited_for_and_others_are_not_woken(feed: Feed, stores: Stores) -> None:
    """One service has news; who waits for another waits on, and can give up."""
    await stores.counter.count(1, 2)
    async with listening(feed), asyncio.timeout(PATIENCE_S):
        await feed.changed(service=SOURCE, after=0)
        await feed.changed(service=SOURCE, after=1)
        other = asyncio.create_task(feed.changed(service=OTHER, after=0))
        await stores.counter_of(SOURCE).count(3, key="b")
        await feed.changed(service=SOURCE, after=2)
        assert not other.done()
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other


async def test_a_pulse_tells_life_head_and_reactions(feed: Feed, stores: Stores) -> None:
    """A service that never lived is as old as the world: nobody trusts a copy of it."""
    async with listening(feed):
        assert (await feed.pulse(service=SOURCE)).at.year == 1
        await stores.counter.count(1, 2, 3)
        await stores.pool.execute(f"INSERT INTO {SOURCE}.reaction_position VALUES ('drift', 5), ('releases', 6)")
        await stores.pool.execute(f"UPDATE {SOURCE}.pulse SET at = now()")
        at = await stores.pool.fetchval(f"SELECT at FROM {SOURCE}.pulse")

        async def told() -> bool:
            pulse = await feed.pulse(service=SOURCE)
            return (pulse.at, pulse.head, pulse.reacted) == (at, 3, {"drift": 5, "releases": 6})

        await until(told)
        await stores.pool.execute(f"UPDATE {SOURCE}.pulse SET at = now() + interval '1 second'")

        async def later() -> bool:
            newest: datetime = (await feed.pulse(service=SOURCE)).at
            return bool(newest > at)

        await until(later)


async def test_readers_at_different_places_do_not_disturb_each_other(feed: Feed, stores: Stores) -> None:
    """From the beginning, from the middle and live, all at once, while events come."""
    counter = stores.counter
    for _ in range(12):
        await counter.count(*range(500))

    async def follow(after: int) -> list[int]:
        seen: list[int] = []
        while len(seen) < 6500 - after:
            events = await feed.read(service=SOURCE, after=after + len(seen), limit=500)
            seen += [event.position for event in events]
            if not events:
                await feed.changed(service=SOURCE, after=after + len(seen))
        return seen

    async with listening(feed), asyncio.timeout(PATIENCE_S):
        followers = [asyncio.create_task(follow(after)) for after in (0, 0, 2500, 5990)]
        for _ in range(5):
            await counter.count(*range(100))
        for follower, after in zip(followers, (0, 0, 2500, 5990), strict=True):
            assert await follower == list(range(after + 1, 6501))


async def test_a_projection_ends_in_the_same_state_and_applies_nothing_twice(feed: Feed, stores: Stores) -> None:
    """Its process is ended again and again while it follows; what it rebuilds is the same."""
    counter = stores.counter
    projection = ProjectionRunner(pool=stores.pool, feed=feed, projection=Tally(sources=SOURCES))
    await projection.prepare()
    async with listening(feed):
        for number in range(8):
            following = asyncio.create_task(projection.run())
            await counter.count(*range(200))
            await stores.counter_of(OTHER).count(1, 2, key=f"k{number}")
            await asyncio.sleep(0.02 * number)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        following = asyncio.create_task(projection.run())
        await projection.wait({SOURCE: 1600, OTHER: 16}, timeout_s=PATIENCE_S)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    rows = await stores.pool.fetch(f"SELECT source, position FROM {READER}_projection.applied ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [(OTHER, n) for n in range(1, 17)] + [(SOURCE, n) for n in range(1, 1601)]
    before = await projection.state_digest()
    await projection.rebuild()
    assert await projection.state_digest() == before
