"""Topics that are not there: not yet, because their service has never run, or no more. Who reads them makes none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.feed import FeedAway
from shared.kafka_client import Topics, open_consumer
from shared.kafka_feed import KafkaFeed
from shared.kafka_settings import KafkaSettings, Patience
from shared.people_topic import PeopleTopics
from shared.projection import ProjectionRunner, SourceLost
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES, Tally
from tests.shared.kafka.relays import IMPATIENCE, PATIENCE_S, relay_of, relaying, until_relayed
from tests.shared.kafka.test_people_topic import at_work, directory_of, relay_of as names_relay_of, until_known
from tests.shared.test_feed_contract import listening

SOURCE, OTHER = SOURCES


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 -- it lies outside
            await asyncio.sleep(0.05)


async def topics_there(kafka: KafkaSettings) -> set[str]:
    def look() -> set[str]:
        consumer = open_consumer(kafka, (), Patience())
        found: set[str] = consumer.topics()
        consumer.close()
        return {topic for topic in found if topic.startswith(kafka.topic_prefix)}

    return await asyncio.to_thread(look)


async def delete(kafka: KafkaSettings, topic: str) -> None:
    topics = Topics.of(kafka, Patience())
    await asyncio.to_thread(topics.delete, topic)
    topics.close()

    async def gone() -> bool:
        return topic not in await topics_there(kafka)

    await until(gone)


async def test_a_service_that_never_ran_has_told_nothing_until_it_runs(
    stores: Stores, kafka: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are followed meanwhile; whose topic is missing is said, and it is read once its service has made it."""
    await stores.counter_of(SOURCE).count(1, 2)
    await stores.counter_of(OTHER).count(3)
    feed = KafkaFeed(kafka=kafka, services=SOURCES, patience=IMPATIENCE)
    projection = ProjectionRunner(pool=stores.pool, feed=feed, projection=Tally(sources=SOURCES))

    async def taken(expected: dict[str, int]) -> None:
        async def there() -> bool:
            return await projection.positions() == expected

        await until(there)

    assert await feed.head(service=OTHER) == 0
    await projection.prepare()
    async with listening(feed), at_work(projection.run), relaying(relay_of(stores, kafka, SOURCE)):
        await taken({SOURCE: 2, OTHER: 0})
        assert f"not there yet: {kafka.event_topic(OTHER)} of {OTHER}" in caplog.text
        assert await topics_there(kafka) == {kafka.event_topic(SOURCE), kafka.pulse_topic}
        async with relaying(relay_of(stores, kafka, OTHER)):
            await taken({SOURCE: 2, OTHER: 1})
    await feed.close()


async def test_names_of_a_service_that_never_ran_come_when_it_runs(
    stores: Stores, kafka: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of others are known meanwhile, and stay."""
    near = await directory_of(stores, SOURCE).commitment(subject="person-1", name="Grace")
    far = await directory_of(stores, OTHER).commitment(subject="person-2", name="Ben")
    names = PeopleTopics(kafka=kafka, services=SOURCES, patience=IMPATIENCE)
    async with at_work(names.run, names_relay_of(stores, kafka, SOURCE).run):
        await until_known(names, near)
        assert await names.people([far]) == {}
        assert f"not there yet: {kafka.people_topic(OTHER)} of {OTHER}" in caplog.text
        assert kafka.people_topic(OTHER) not in await topics_there(kafka)
        async with at_work(names_relay_of(stores, kafka, OTHER).run):
            await until_known(names, near, far)


async def test_a_rebuild_does_not_throw_away_what_cannot_be_read_now(stores: Stores, kafka: KafkaSettings) -> None:
    """Somebody deleted the topic: the tables stay as they are, until its relay has filled it again."""
    await stores.counter_of(SOURCE).count(1, 2, 3)
    async with relaying(relay_of(stores, kafka, patience=IMPATIENCE)), projecting(stores, kafka) as projection:
        await until_relayed(stores, 3)
        await projection.prepare()
        before = await projection.state()
    assert before.positions == {SOURCE: 3}
    await delete(kafka, kafka.event_topic(SOURCE))
    async with projecting(stores, kafka) as projection:
        with pytest.raises(SourceLost, match=f"{SOURCE} told 3 events before and tells none now"):
            await projection.rebuild()
        assert await projection.state() == before
        async with relaying(relay_of(stores, kafka, patience=IMPATIENCE)):

            async def rebuilt() -> bool:
                with contextlib.suppress(FeedAway):
                    await projection.rebuild()
                    return (await projection.state()).positions == before.positions
                return False

            await until(rebuilt)
        assert await projection.state() == before


@contextlib.asynccontextmanager
async def projecting(stores: Stores, kafka: KafkaSettings) -> AsyncIterator[ProjectionRunner]:
    """As the command that rebuilds does it: nobody listens to the feed."""
    feed = KafkaFeed(kafka=kafka, services=[SOURCE], patience=IMPATIENCE)
    try:
        yield ProjectionRunner(pool=stores.pool, feed=feed, projection=Tally(sources=[SOURCE]))
    finally:
        await feed.close()


async def test_pulses_are_heard_again_when_their_topic_was_deleted(stores: Stores, kafka: KafkaSettings) -> None:
    """Each relay may make it again."""
    feed = KafkaFeed(kafka=kafka, services=[SOURCE], patience=IMPATIENCE)

    async def beat_and_hear() -> None:
        """A pulse that is later than all before."""
        at = await stores.pool.fetchval(f"UPDATE {SOURCE}.pulse SET at = clock_timestamp() RETURNING at")

        async def heard() -> bool:
            return bool((await feed.pulse(service=SOURCE)).at >= at)

        await until(heard)

    async with relaying(relay_of(stores, kafka, patience=IMPATIENCE)), listening(feed):
        await beat_and_hear()
        topics = Topics.of(kafka, Patience())
        await asyncio.to_thread(topics.delete, kafka.pulse_topic)
        topics.close()
        await beat_and_hear()
    await feed.close()
