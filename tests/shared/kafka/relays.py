"""Relays at work, and what is in their topics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from shared.cloud_event import position_in
from shared.feed import StoreFeed
from shared.kafka_client import open_consumer, partition_of
from shared.kafka_settings import KafkaSettings, Patience
from shared.relay import Pace, Relay
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES

SOURCE = SOURCES[0]
PATIENCE_S = 60.0
"""How long a test waits for what must come; nothing is measured."""
PACE = Pace(retry_s=0.1, pulse_s=0.2, check_s=0.5, database_s=30.0)
PATIENCE = Patience(request_s=30.0, delivery_s=60.0, reconnect_max_s=0.2)
"""Where nothing is meant to fail: a machine that is busy is no fault of Kafka."""
IMPATIENCE = Patience(request_s=2.0, delivery_s=3.0, reconnect_max_s=0.2)
"""Where the test takes Kafka away: whoever uses this tries again, as followers and relays do."""


def relay_of(
    stores: Stores,
    kafka: KafkaSettings,
    service: str = SOURCE,
    *,
    at_step: Callable[[str], None] = lambda _: None,
    patience: Patience = PATIENCE,
) -> Relay:
    """A relay in a hurry."""
    feed = StoreFeed(pool=stores.pool, dsn=stores.url)
    return Relay(service=service, dsn=stores.url, feed=feed, kafka=kafka, pace=PACE, patience=patience, at_step=at_step)


@contextlib.asynccontextmanager
async def relaying(*relays: Relay) -> AsyncIterator[None]:
    """The relays run until the block ends; they must not have ended by themselves."""
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


async def until_relayed(stores: Stores, position: int, service: str = SOURCE) -> None:
    """Returns once the position is acknowledged."""
    async with asyncio.timeout(PATIENCE_S):
        while await relayed(stores, service) < position:  # noqa: ASYNC110 -- the position is in the database
            await asyncio.sleep(0.02)


async def relayed(stores: Stores, service: str = SOURCE) -> int:
    position: int = await stores.pool.fetchval(f"SELECT position FROM {service}.relay")
    return position


async def records_of(kafka: KafkaSettings, service: str = SOURCE) -> list[Any]:
    """Every record that the topic holds now."""
    return await records_in(kafka, kafka.event_topic(service))


async def records_in(kafka: KafkaSettings, topic: str) -> list[Any]:
    """The same of any topic with one partition."""
    return await asyncio.to_thread(_records, kafka, topic)


def _records(kafka: KafkaSettings, topic: str) -> list[Any]:
    consumer = open_consumer(kafka, [topic], Patience())
    try:
        partition = partition_of(topic)
        end = consumer.end_offsets([partition])[partition]
        consumer.seek_to_beginning(partition)
        records: list[Any] = []
        while consumer.position(partition) < end:
            records += consumer.poll(timeout_ms=500).get(partition, [])
        return records
    finally:
        consumer.close()


def in_order_once(records: list[Any]) -> list[Any]:
    """What a reader by position takes of them: each position once, the next one above the last only."""
    taken: list[Any] = []
    for record in records:
        if position_in(record.headers) == len(taken) + 1:
            taken.append(record)
    return taken


async def assert_whole(stores: Stores, kafka: KafkaSettings, service: str = SOURCE) -> list[Any]:
    """A reader by position gets exactly what the store holds, byte for byte; gives the records it takes."""
    stored = [event.raw for event in await stores.feed.read(service=service, after=0, limit=10**6)]
    taken = in_order_once(await records_of(kafka, service))
    assert [record.value for record in taken] == stored
    return taken
