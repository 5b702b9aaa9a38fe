"""The relay on a real broker: the same bytes in the same order, whatever happens to the broker, the relay and its topic."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest

from shared.cloud_event import position_in
from shared.event import leaf_hash_of
from shared.kafka_client import Topics
from shared.kafka_settings import KafkaSettings, Patience
from tests.asyncapi import require_headers, require_message
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES
from tests.shared.kafka.relays import (
    IMPATIENCE,
    PATIENCE_S,
    SOURCE,
    assert_whole,
    in_order_once,
    records_in,
    records_of,
    relay_of,
    relaying,
    until_relayed,
)


async def test_a_record_is_the_stored_event_in_cloud_events_binary_mode(stores: Stores, kafka: KafkaSettings) -> None:
    """Value, key, headers and time as documented, ten headers at most."""
    await stores.counter.count(7)
    async with relaying(relay_of(stores, kafka)):
        await until_relayed(stores, 1)
    (record,) = await assert_whole(stores, kafka)
    (event,) = await stores.feed.read(service=SOURCE, after=0, limit=1)
    headers = {name: value.decode() for name, value in record.headers}
    require_headers(headers, trait="cloudEvent")
    content = json.loads(record.value)
    assert record.key == event.stream.encode()
    assert record.timestamp == int(event.recorded_at.timestamp() * 1000)
    assert datetime.fromisoformat(headers.pop("ce_time")) == event.recorded_at
    assert headers == {
        "ce_specversion": "1.0",
        "content-type": "application/json",
        "ce_id": content["id"],
        "ce_source": "urn:prooftrail:requirements",
        "ce_type": "requirements.counted",
        "ce_position": "1",
        "ce_leafhash": leaf_hash_of(record.value),
        "ce_epoch": "1",
        "traceparent": f"00-{'c' * 32}-{event.leaf_hash[:16]}-01",
    }
    assert len(record.headers) <= 10


async def test_pulses_are_as_the_asyncapi_document_says(stores: Stores, kafka: KafkaSettings) -> None:
    """Of every service under its name, in one topic."""
    topics = Topics.of(kafka, Patience())
    await asyncio.to_thread(topics.ensure, SOURCES)
    topics.close()
    heard: dict[bytes, Any] = {}
    async with relaying(*(relay_of(stores, kafka, service) for service in SOURCES)), asyncio.timeout(PATIENCE_S):
        while len(heard) < len(SOURCES):
            heard = {record.key: record for record in await records_in(kafka, kafka.pulse_topic)}
    assert set(heard) == {service.encode() for service in SOURCES}
    for record in heard.values():
        headers = {name: value.decode() for name, value in record.headers}
        require_message(headers, json.loads(record.value), channel="pulseTopic", message="pulse")


async def test_it_sends_what_was_there_and_what_comes(stores: Stores, kafka: KafkaSettings) -> None:
    """Several batches that wait, and single events while it runs."""
    counter = stores.counter
    for _ in range(6):
        await counter.count(*range(500))
    async with relaying(relay_of(stores, kafka)):
        await until_relayed(stores, 3000)
        for number in range(20):
            await counter.count(number)
        await until_relayed(stores, 3020)
    assert len(await assert_whole(stores, kafka)) == len(await records_of(kafka)) == 3020


async def test_a_second_relay_waits_and_takes_over_at_the_position(stores: Stores, kafka: KafkaSettings) -> None:
    """Two at once send each event once; the successor has the next epoch."""
    first, second = relay_of(stores, kafka), relay_of(stores, kafka)
    counter = stores.counter
    async with relaying(second):
        async with relaying(first):
            for number in range(30):
                await counter.count(number)
            await until_relayed(stores, 30)
        await counter.count(30)
        await until_relayed(stores, 31)
    records = await records_of(kafka)
    assert [position_in(record.headers) for record in records] == list(range(1, 32))
    assert [int(dict(record.headers)["ce_epoch"]) for record in records][-1] == max(first.epoch, second.epoch)


async def test_a_leader_whose_connection_is_ended_is_replaced(stores: Stores, kafka: KafkaSettings) -> None:
    """Again and again under load; nothing is lost or out of order, and no epoch comes back."""
    counter = stores.counter
    async with relaying(relay_of(stores, kafka), relay_of(stores, kafka)):
        for round_number in range(6):
            await counter.count(*range(300))
            await stores.pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'prooftrail relay requirements'"
                " AND datname = current_database()"
            )
            await counter.count(round_number)
        await until_relayed(stores, 1806)
    taken = await assert_whole(stores, kafka)
    epochs = [int(dict(record.headers)["ce_epoch"]) for record in taken]
    assert epochs == sorted(epochs)


@pytest.mark.parametrize("recreated_by_others", [False, True])
async def test_a_deleted_topic_gets_everything_again(
    stores: Stores, kafka: KafkaSettings, *, recreated_by_others: bool
) -> None:
    """Also when nothing happens that would have to be sent, and when somebody else has made an empty one already."""
    counter = stores.counter
    await counter.count(*range(400))
    async with relaying(relay_of(stores, kafka, patience=IMPATIENCE)):
        await until_relayed(stores, 400)
        topics = Topics.of(kafka, Patience())
        await asyncio.to_thread(topics.delete, kafka.event_topic(SOURCE))
        if recreated_by_others:
            await asyncio.to_thread(topics.ensure, [SOURCE])
        await counter.count(*range(100))
        async with asyncio.timeout(PATIENCE_S):
            while len(in_order_once(await records_of_or_none(kafka))) < 500:  # noqa: ASYNC110 -- they are in Kafka
                await asyncio.sleep(0.1)
        topics.close()
        await until_relayed(stores, 500)
    await assert_whole(stores, kafka)


async def records_of_or_none(kafka: KafkaSettings) -> list[object]:
    topics = Topics.of(kafka, Patience())
    try:
        await asyncio.to_thread(topics.end, kafka.event_topic(SOURCE))
    except ConnectionError:
        return []
    finally:
        topics.close()
    return await records_of(kafka)


async def test_an_event_that_no_record_can_hold_is_told_by_its_address(stores: Stores, kafka: KafkaSettings) -> None:
    """A cluster of one's own may allow less than we ask for; nothing is skipped and nothing stands still."""
    topics = Topics.of(kafka, Patience())
    await asyncio.to_thread(topics.make, kafka.event_topic(SOURCE), {"max.message.bytes": "2000"})
    topics.close()
    counter = stores.counter
    await counter.count(1)
    await counter.tell_long(4000)
    await counter.count(3)
    async with relaying(relay_of(stores, kafka)):
        await until_relayed(stores, 3)
    taken = in_order_once(await records_of(kafka))
    assert [bool(record.value) for record in taken] == [True, False, True]
    require_headers({name: value.decode() for name, value in taken[1].headers}, trait="cloudEvent")
    assert dict(taken[1].headers)["ce_dataref"] == b"/v1/requirements/events?from_position=1&page_size=1"


STEPS = ("read", "sent", "acknowledged", "moved")


@pytest.mark.parametrize("step", STEPS)
async def test_a_relay_that_ends_at_any_step_repeats_at_most_what_was_on_its_way(
    stores: Stores, kafka: KafkaSettings, step: str
) -> None:
    """Cut off there, as by a crash; its successor begins at the stored position."""
    counter = stores.counter
    await counter.count(*range(50))
    await cut_off(stores, kafka, step)
    await counter.count(*range(50))
    async with relaying(relay_of(stores, kafka)):
        await until_relayed(stores, 100)
    await assert_whole(stores, kafka)
    assert len(await records_of(kafka)) <= 150


class CutOffError(BaseException):
    """The process ends here."""


async def cut_off(stores: Stores, kafka: KafkaSettings, step: str) -> None:
    def end(at: str) -> None:
        if at == step:
            raise CutOffError

    with pytest.raises(CutOffError):
        await relay_of(stores, kafka, at_step=end).run()


async def test_services_have_topics_of_their_own(stores: Stores, kafka: KafkaSettings) -> None:
    """Two relays beside one another do not meet."""
    await stores.counter_of(SOURCES[0]).count(1, 2)
    await stores.counter_of(SOURCES[1]).count(3)
    async with relaying(relay_of(stores, kafka, SOURCES[0]), relay_of(stores, kafka, SOURCES[1])):
        await until_relayed(stores, 2, SOURCES[0])
        await until_relayed(stores, 1, SOURCES[1])
    assert len(await assert_whole(stores, kafka, SOURCES[0])) == 2
    assert len(await assert_whole(stores, kafka, SOURCES[1])) == 1
