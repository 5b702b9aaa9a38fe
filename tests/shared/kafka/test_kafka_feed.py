"""The feed out of Kafka when the topic is not as it should be: repeated, disordered, with holes, damaged, deleted, cut off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from shared import kafka_feed, topic_cursor
from shared.event import RecordedEvent
from shared.event_sender import EventSender, StoredEvent
from shared.kafka_client import KafkaAway, Topics, end_producer, open_producer
from shared.kafka_feed import KafkaFeed, no_fill
from shared.kafka_settings import KafkaSettings, Patience
from shared.topic_cursor import Fill
from shared.topic_records import NEVER
from tests.kafka_broker import KafkaBroker
from tests.kafka_broker.proxy import TcpProxy
from tests.shared.conftest import Stores
from tests.shared.kafka.relays import (
    IMPATIENCE,
    PATIENCE,
    PATIENCE_S,
    SOURCE,
    assert_whole,
    relay_of,
    relayed,
    relaying,
    until_relayed,
)


@dataclass
class Producer:
    """What a gap is filled from; it knows what it was asked."""

    events: Sequence[RecordedEvent]
    asked: list[tuple[int, int]] = field(default_factory=list)

    def read(self, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        self.asked.append((after, limit))
        return self.events[after : after + limit]


@contextlib.asynccontextmanager
async def reading(
    kafka: KafkaSettings, fill: Fill = no_fill, *, patience: Patience = PATIENCE
) -> AsyncIterator[KafkaFeed]:
    """A feed at work."""
    feed = KafkaFeed(kafka=kafka, services=[SOURCE], fill=fill, patience=patience)
    task = asyncio.create_task(feed.listen())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await feed.close()


async def events_of(stores: Stores, number: int) -> Sequence[RecordedEvent]:
    """So many new events in the store."""
    await stores.counter.count(*range(number))
    return await stores.feed.read(service=SOURCE, after=0, limit=number)


def as_stored(event: RecordedEvent) -> StoredEvent:
    return StoredEvent(
        event.position, event.stream, int(event.recorded_at.timestamp() * 1000), event.leaf_hash, event.raw
    )


async def send_as_is(kafka: KafkaSettings, *runs: Sequence[RecordedEvent]) -> None:
    """Puts runs of events into the topic in this order, as leaders one after the other would."""

    def send() -> None:
        sender = EventSender(service=SOURCE, epoch=1, kafka=kafka, patience=PATIENCE, too_large=set())
        sent = sender.send([as_stored(event) for run in runs for event in run])
        for future in sent.futures:
            future.get(PATIENCE_S)
        sender.close()

    await asyncio.to_thread(send)


async def read_to(feed: KafkaFeed, position: int, *, after: int = 0, limit: int = 500) -> list[RecordedEvent]:
    """What a follower gets until it is at the position."""
    seen: list[RecordedEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        while after + len(seen) < position:
            events = await feed.read(service=SOURCE, after=after + len(seen), limit=limit)
            seen += events
            if not events:
                await feed.changed(service=SOURCE, after=after + len(seen))
    return seen


async def test_what_a_leader_sends_again_is_dropped(stores: Stores, kafka: KafkaSettings) -> None:
    """Runs that overlap, and one that was sent long before and arrives last."""
    events = await events_of(stores, 60)
    await send_as_is(kafka, events[:30], events[10:40], events[:5], events[40:], events[20:50])
    async with reading(kafka) as feed:
        assert await read_to(feed, 60) == events
        for after in (0, 9, 29, 30, 41, 59):
            assert await read_to(feed, 60, after=after, limit=7) == events[after:]


async def test_what_comes_before_its_turn_waits_for_it(stores: Stores, kafka: KafkaSettings) -> None:
    """A batch that failed was sent again after the one that followed it."""
    events = await events_of(stores, 60)
    await send_as_is(kafka, events[:20], events[40:50], events[20:])
    async with reading(kafka) as feed:
        assert await read_to(feed, 60) == events
        assert await read_to(feed, 60, after=19) == events[19:]


async def test_a_missing_event_comes_while_one_waits(stores: Stores, kafka: KafkaSettings) -> None:
    """Nothing after it is handed out before it."""
    events = await events_of(stores, 30)
    await send_as_is(kafka, events[:10], events[20:])
    async with reading(kafka) as feed:
        assert await read_to(feed, 10) == events[:10]
        following = asyncio.create_task(read_to(feed, 30, after=10))
        await asyncio.sleep(0.3)
        assert not following.done()
        await send_as_is(kafka, events[10:])
        assert await following == events[10:]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is believed soon."""
    monkeypatch.setattr(topic_cursor, "GAP_SECONDS", 0.2)


@pytest.mark.usefixtures("hasty")
async def test_a_gap_is_filled_by_the_producer_and_told(
    stores: Stores, kafka: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what is missing is asked for."""
    events = await events_of(stores, 600)
    await send_as_is(kafka, events[:10], events[310:])
    producer = Producer(events)
    async with reading(kafka, producer.read) as feed:
        assert await read_to(feed, 600) == events
    assert producer.asked == [(10, 200), (210, 100)]
    assert "requirements:11 to 310 are missing" in caplog.text


@pytest.mark.usefixtures("hasty")
async def test_without_a_producer_a_gap_stops_the_reader(stores: Stores, kafka: KafkaSettings) -> None:
    """Waiting is better than a copy with a hole."""
    events = await events_of(stores, 30)
    await send_as_is(kafka, events[:10], events[20:])
    async with reading(kafka) as feed:
        assert await read_to(feed, 10) == events[:10]
        with pytest.raises(KafkaAway, match="requirements:11 is missing"):
            await read_to(feed, 30, after=10)
        assert await read_to(feed, 30, after=20) == events[20:]


async def test_damaged_and_foreign_records_are_no_events(
    stores: Stores, kafka: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A flipped byte, somebody else's record, another position in the headers: the producer has the true ones."""
    events = await events_of(stores, 6)
    await send_as_is(kafka, events[:1])

    def send_damaged() -> None:
        producer = open_producer(kafka, PATIENCE)
        for position, raw, leaf_hash in (
            (2, events[1].raw.replace(b"counted", b"counteD", 1), events[1].leaf_hash),
            (3, b"no event", events[2].leaf_hash),
            (4, events[4].raw, events[4].leaf_hash),
        ):
            headers = [("ce_position", b"%d" % position), ("ce_leafhash", leaf_hash.encode())]
            producer.send(kafka.event_topic(SOURCE), value=raw, headers=headers, partition=0)
        producer.send(kafka.event_topic(SOURCE), value=b"{}", partition=0)
        producer.flush()
        end_producer(producer)

    await asyncio.to_thread(send_damaged)
    await send_as_is(kafka, events[4:])
    producer = Producer(events)
    async with reading(kafka, producer.read) as feed:
        assert await read_to(feed, 6) == events
    assert producer.asked == [(1, 1), (2, 1), (3, 1)]
    assert caplog.text.count("is not the event it names") >= 3


async def test_an_event_that_is_elsewhere_is_fetched(stores: Stores, kafka: KafkaSettings) -> None:
    """Its record has only its address."""
    counter = stores.counter
    topics = Topics.of(kafka, PATIENCE)
    await asyncio.to_thread(topics.make, kafka.event_topic(SOURCE), {"max.message.bytes": "2000"})
    topics.close()
    await counter.count(1)
    await counter.tell_long(4000)
    events = await stores.feed.read(service=SOURCE, after=0, limit=9)
    producer = Producer(events)
    async with relaying(relay_of(stores, kafka)), reading(kafka, producer.read) as feed:
        assert await read_to(feed, 2) == events
    assert producer.asked == [(1, 1)]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader finds at the end of the topic when it starts is little."""
    monkeypatch.setattr(kafka_feed, "RECENT_RECORDS", 20)


@pytest.mark.usefixtures("hasty", "forgetful")
@pytest.mark.parametrize("seed", range(int(os.environ.get("CHAOS_SEEDS", "5"))))
async def test_any_schedule_of_leaders_gives_the_store(stores: Stores, kafka: KafkaSettings, seed: int) -> None:
    """Leaders that send again, skip what failed, and arrive late, in an order drawn by chance; read from anywhere."""
    chance = random.Random(seed)
    events = await events_of(stores, 400)
    await send_as_is(kafka, *(events[start:end] for start, end in schedule(chance, len(events)) if start < end))
    await stores.pool.execute(f"UPDATE {SOURCE}.relay SET position = 400; UPDATE {SOURCE}.pulse SET at = now()")
    async with relaying(relay_of(stores, kafka)), reading(kafka) as feed:
        await until_heard(feed)
        for after in (0, *(chance.randrange(400) for _ in range(5))):
            assert await read_to(feed, 400, after=after, limit=chance.choice((7, 500))) == events[after:]


@pytest.mark.usefixtures("hasty", "forgetful")
async def test_a_search_that_ends_in_what_came_late_is_made_again(stores: Stores, kafka: KafkaSettings) -> None:
    """From 361 on it finds the last run, which ends before the end; the rest lies before it."""
    events = await events_of(stores, 400)
    runs = [(0, 48), (42, 97), (128, 140), (87, 129), (0, 48), (127, 201), (187, 224), (48, 96), (214, 323), (321, 400)]
    late = [(94, 97), (187, 224), (214, 260), (321, 386)]
    await send_as_is(kafka, *(events[start:end] for start, end in runs + late))
    await stores.pool.execute(f"UPDATE {SOURCE}.relay SET position = 400; UPDATE {SOURCE}.pulse SET at = now()")
    async with relaying(relay_of(stores, kafka)), reading(kafka) as feed:
        await until_heard(feed)
        assert await read_to(feed, 400, after=361) == events[361:]


def schedule(chance: random.Random, number: int) -> Iterator[tuple[int, int]]:
    """From and to where leaders one after the other send: two batches each, of which any may arrive, late, or never."""
    acknowledged, late = 0, list[tuple[int, int]]()
    while acknowledged < number:
        start = max(0, acknowledged - chance.randrange(20))
        middle = min(number, start + chance.randrange(1, 80))
        first, second = (start, middle), (middle, min(number, middle + chance.randrange(80)))
        arriving = [run for run in (first, second) if chance.random() < 0.7]
        yield from arriving
        if first in arriving:
            acknowledged = max(acknowledged, second[1] if second in arriving else middle)
        late += [run for run in (first, second) if chance.random() < 0.3]
        if late and chance.random() < 0.3:
            yield late.pop(0)
    yield from late


async def test_what_an_old_leader_sends_last_hides_nothing(stores: Stores, kafka: KafkaSettings) -> None:
    """Much that is known already lies at the end of the topic, more than a reader that starts looks back."""
    events = await events_of(stores, 1200)
    await send_as_is(kafka, events, events[:900])
    await stores.pool.execute(f"UPDATE {SOURCE}.relay SET position = 1200; UPDATE {SOURCE}.pulse SET at = now()")
    async with relaying(relay_of(stores, kafka)), reading(kafka) as feed:
        await until_heard(feed)
        assert await read_to(feed, 1200, after=900) == events[900:]


async def until_heard(feed: KafkaFeed) -> None:
    """Until it has read the ends of the topics, the pulse among them."""
    async with asyncio.timeout(PATIENCE_S):
        while (await feed.pulse(service=SOURCE)).at == NEVER:  # noqa: ASYNC110 -- another task reads
            await asyncio.sleep(0.02)


async def test_it_follows_a_topic_that_is_deleted_and_made_again(stores: Stores, kafka: KafkaSettings) -> None:
    """Whoever follows goes on where it was."""
    counter = stores.counter
    async with (
        relaying(relay_of(stores, kafka, patience=IMPATIENCE)),
        reading(kafka, patience=IMPATIENCE) as feed,
    ):
        await counter.count(*range(300))
        seen = await read_on_to(feed, 300)
        topics = Topics.of(kafka, PATIENCE)
        await asyncio.to_thread(topics.delete, kafka.event_topic(SOURCE))
        topics.close()
        await counter.count(*range(50))
        seen += await read_on_to(feed, 350, after=300)
        await counter.count(*range(50))
        seen += await read_on_to(feed, 400, after=350)
        assert await read_on_to(feed, 400) == seen
    assert seen == await stores.feed.read(service=SOURCE, after=0, limit=400)


@pytest.mark.parametrize("trouble", ["stop", "pause"])
async def test_it_follows_through_trouble_of_the_broker(
    stores: Stores, kafka: KafkaSettings, broker: KafkaBroker, trouble: str
) -> None:
    """Stopped in order and started again; paused for longer than the relay tries to deliver. Until then the service is silent."""
    counter = stores.counter
    async with (
        relaying(relay_of(stores, kafka, patience=IMPATIENCE)),
        reading(kafka, patience=IMPATIENCE) as feed,
    ):
        await counter.count(*range(300))
        seen = await read_on_to(feed, 300)
        await until_relayed(stores, 300)
        await asyncio.to_thread(broker.stop if trouble == "stop" else broker.pause)
        for _ in range(5):
            await counter.count(*range(100))
            await asyncio.sleep((IMPATIENCE.delivery_s + 1.0) / 5)
        await stores.pool.execute(f"UPDATE {SOURCE}.pulse SET at = now()")
        assert await relayed(stores) == 300
        assert (await feed.pulse(service=SOURCE)).at.year == 1
        await asyncio.to_thread(broker.start if trouble == "stop" else broker.resume)
        seen += await read_on_to(feed, 800, after=300)
        await until_relayed(stores, 800)
    assert seen == await stores.feed.read(service=SOURCE, after=0, limit=800)
    await assert_whole(stores, kafka)


async def test_it_follows_through_trouble_of_the_network(
    stores: Stores, kafka: KafkaSettings, broker: KafkaBroker
) -> None:
    """Relay and reader reach the broker through a proxy that delays, cuts, and lets connections stand half open."""
    counter = stores.counter
    through = KafkaSettings(bootstrap=(broker.proxied,), topic_prefix=kafka.topic_prefix)
    async with (
        TcpProxy.between(broker.ports["PROXY"], broker.ports["PROXIED"]) as proxy,
        relaying(relay_of(stores, through, patience=IMPATIENCE)),
        reading(through, patience=IMPATIENCE) as feed,
    ):
        following = asyncio.create_task(read_on_to(feed, 1000))
        for _ in range(2):
            proxy.delay_s = 0.05
            await counter.count(*range(200))
            proxy.cut()
            proxy.delay_s = 0.0
            await counter.count(*range(200))
            proxy.swallow = True
            await counter.count(*range(100))
            await asyncio.sleep(IMPATIENCE.delivery_s)
            proxy.swallow = False
            proxy.cut()
        await until_relayed(stores, 1000)
        assert await following == await stores.feed.read(service=SOURCE, after=0, limit=1000)


async def read_on_to(feed: KafkaFeed, position: int, *, after: int = 0) -> list[RecordedEvent]:
    """As a follower does that tries again when Kafka is away."""
    seen: list[RecordedEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        while (at := after + len(seen)) < position:
            try:
                events = await feed.read(service=SOURCE, after=at, limit=100)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            seen += events
            if not events:
                await feed.changed(service=SOURCE, after=at)
    return seen
