"""Rows of production by a real Kafka: shared by a group, counted once, and never held up by a record that nobody can take."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from services.drift import feature_topic
from services.drift.application.ingestion import Ingestion
from services.drift.feature_records import UnreadableRecord, read_record
from services.drift.feature_topic import READER, FeatureTopic, RecordsOutOfReach
from services.drift.main import Drift
from shared import kafka_client
from shared.dead_letters import letters_of
from shared.kafka_client import KafkaAway, Topics, end_producer, kafka_errors, open_producer, partition_of
from shared.kafka_settings import KafkaSettings, Patience
from shared.runtime import utc_now
from tests.asyncapi import require_message
from tests.drift.test_ingestion import part, second_plan
from tests.drift.traffic import HOUR, PLANS, SYSTEM, Staff, rows, watching
from tests.house import TestHouse
from tests.kafka_broker import KafkaBroker

PATIENCE = Patience(session_s=6.0)
PATIENCE_S = 60.0
DAY = 24 * HOUR
HEADERS = {"system": SYSTEM, "plan": "MP-1"}

Message = tuple[bytes, Mapping[str, str]]


def member(house: TestHouse, kafka: KafkaSettings, subject: str) -> FeatureTopic:
    """One consumer of the group, as a process of drift has it."""
    service = house.house.services["drift"]
    assert isinstance(service.application, Drift)
    return FeatureTopic(
        kafka=kafka, subject=subject, ingestion=service.application.ingestion, pool=service.foundation.pool,
        clock=utc_now, patience=PATIENCE, retry_s=0.1,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def consuming(*members: FeatureTopic) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(one.run()) for one in members]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def send(kafka: KafkaSettings, messages: Sequence[Message], *, partition: int | None = None) -> None:
    """All of them, acknowledged, over all partitions of the topic, or to one."""

    def produce() -> None:
        producer = open_producer(kafka, Patience())
        for number, (value, headers) in enumerate(messages):
            told = [(name, text.encode()) for name, text in headers.items()]
            producer.send(kafka.features_topic, key=b"%d" % number, value=value, headers=told, partition=partition)
        producer.flush()
        end_producer(producer)

    await asyncio.to_thread(produce)


def as_rows(columns: Mapping[str, Any], **more: Any) -> Message:
    return json.dumps({**columns, **more}).encode(), HEADERS


def as_inference(batch: Mapping[str, Any]) -> Message:
    """The same rows as a request of the Open Inference Protocol v2."""
    count = batch["rows"]
    tensors = [
        {"name": "event_time", "shape": [count], "datatype": "FP64", "data": batch["event_time"]},
        {"name": "x", "shape": [count, 1], "datatype": "FP64", "data": [[value] for value in batch["features"]["x"]]},
        {"name": "y", "shape": [count], "datatype": "FP32", "data": batch["features"]["y"]},
        {"name": "carrier", "shape": [count], "datatype": "BYTES", "data": batch["features"]["carrier"]},
    ]
    return json.dumps({"inputs": tensors, "parameters": {"anything": 1}}).encode(), HEADERS


def split(batch: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    return [
        part(dict(batch), list(range(batch["rows"]))[begin : begin + size]) for begin in range(0, batch["rows"], size)
    ]


async def taken(house: TestHouse, plan: str = "MP-1") -> int:
    """Rows of the plan that were counted."""
    pool = house.house.services["drift"].foundation.pool
    rows_taken: int = await pool.fetchval("SELECT coalesce(sum(accepted), 0) FROM taken_batch WHERE plan = $1", plan)
    return rows_taken


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 -- it lies outside
            await asyncio.sleep(0.05)


async def until_taken(house: TestHouse, number: int) -> None:
    async def there() -> bool:
        return await taken(house) >= number

    await until(there)


async def until_letters(house: TestHouse, number: int) -> None:
    async def there() -> bool:
        return len(await letters(house)) >= number

    await until(there)


async def both_windows(staff: Staff) -> list[list[dict[str, Any]]]:
    """The closed windows of MP-1 and MP-2, without the plan's name."""
    for key in ("MP-1", "MP-2"):
        later = rows(np.random.default_rng(9), hours=1, first_hour=60)
        await staff.producer.post(f"{PLANS}/{key}:ingest", batch="later", **later)
    pages = [(await staff.reviewer.get(f"{PLANS}/{key}/windows", page_size=100))["items"] for key in ("MP-1", "MP-2")]
    return [[{name: value for name, value in one.items() if name != "plan"} for one in page] for page in pages]


async def test_rows_by_kafka_make_the_windows_that_they_make_over_http(
    drift_house: TestHouse, kafka: KafkaSettings
) -> None:
    """Both formats, two members, one of which goes away while records come: every row once."""
    staff = await watching(drift_house, lateness_s=DAY)
    await second_plan(drift_house, staff, lateness_s=DAY)
    batch = rows(np.random.default_rng(8), hours=24)
    parts = split(batch, 30)
    messages = [as_rows(one) if number % 2 else as_inference(one) for number, one in enumerate(parts)]
    for number, (value, headers) in enumerate(messages):
        message = "rows" if number % 2 else "inferenceRequest"
        require_message(headers, json.loads(value), channel="featuresTopic", message=message)
    counts = [CountedIngestion(member(drift_house, kafka, "").ingestion) for _ in range(2)]
    members = [
        replace(member(drift_house, kafka, staff.producer.subject), ingestion=cast("Ingestion", one)) for one in counts
    ]
    async with consuming(*members) as tasks:
        await until_shared(kafka, 2)
        await send(kafka, messages[: len(messages) // 2])

        async def both_took_some() -> bool:
            return all(one.batches for one in counts)

        await until(both_took_some)
        tasks[0].cancel()
        await send(kafka, messages[len(messages) // 2 :])
        await until_taken(drift_house, batch["rows"])
    assert await taken(drift_house) == batch["rows"]
    await staff.producer.post(f"{PLANS}/MP-2:ingest", batch="whole", **batch)
    by_kafka, over_http = await both_windows(staff)
    assert len(by_kafka) == 24
    assert by_kafka == over_http


@dataclass
class CountedIngestion:
    """Takes rows, and counts how often."""

    real: Ingestion
    batches: int = 0

    async def ingest_rows(self, **rows: Any) -> None:
        await self.real.ingest_rows(**rows)
        self.batches += 1


async def until_shared(kafka: KafkaSettings, number: int) -> None:
    """So many members have partitions."""

    def members() -> int:
        topics = Topics.of(kafka, Patience())
        try:
            with kafka_errors():
                (group,) = topics._admin().describe_groups([kafka.features_group]).values()
        except KafkaAway:
            return 0
        finally:
            topics.close()
        return len(group["members"]) if group["group_state"] == "Stable" else 0

    async def shared() -> bool:
        return await asyncio.to_thread(members) == number

    await until_topic(kafka)
    await until(shared)


async def until_topic(kafka: KafkaSettings) -> None:
    """A member has made it: until then the producer would not know its partitions."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            producer = await asyncio.to_thread(open_producer, kafka, Patience())
            found = await asyncio.to_thread(producer.partitions_for, kafka.features_topic)
            await asyncio.to_thread(end_producer, producer)
            if found:
                return
            await asyncio.sleep(0.1)


async def test_what_was_stored_and_not_committed_comes_again_and_counts_once(
    drift_house: TestHouse, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka is lost between effect and commit, three times."""
    staff = await watching(drift_house, lateness_s=DAY)
    lost, real = [KafkaAway("lost before the commit")] * 3, kafka_client.commit

    def commit(consumer: Any) -> None:
        if lost:
            raise lost.pop()
        real(consumer)

    async def committed() -> bool:
        return not lost

    monkeypatch.setattr(feature_topic, "commit", commit)
    parts = split(rows(np.random.default_rng(3), hours=4), 20)
    async with consuming(member(drift_house, kafka, staff.producer.subject)):
        await until_topic(kafka)
        await send(kafka, [as_rows(one) for one in parts])
        await until_taken(drift_house, 240)
        await until(committed)
    assert await taken(drift_house) == 240
    assert await letters(drift_house) == []


async def letters(house: TestHouse) -> list[str]:
    found = await letters_of(house.house.services["drift"].foundation.pool, service="drift")
    return [letter.error for letter in found if letter.reader == READER]


async def test_a_record_that_cannot_be_taken_is_put_aside(drift_house: TestHouse, kafka: KafkaSettings) -> None:
    """Each for its own reason, all in partitions with good records, which are taken."""
    staff = await watching(drift_house, lateness_s=DAY)
    good = split(rows(np.random.default_rng(3), hours=4), 20)
    value, _ = as_rows(good[0], batch="used")
    bad: list[Message] = [
        (b"\xff no json", HEADERS),
        (value, {"plan": "MP-1"}),
        (value, {**HEADERS, "system": "somebody-elses"}),
        (value, {**HEADERS, "plan": "MP-9"}),
        as_rows({**good[0], "rows": 7}),
        (json.dumps({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3, 4]}]}).encode(), HEADERS),
    ]  # fmt: skip
    async with consuming(member(drift_house, kafka, staff.producer.subject)):
        await until_topic(kafka)
        await send(kafka, [*bad[:3], *(as_rows(one) for one in good), *bad[3:]])
        await until_taken(drift_house, 240)
        await until_letters(drift_house, len(bad))
    assert await taken(drift_house) == 240
    reasons = sorted(error.partition(":")[0] for error in await letters(drift_house))
    assert reasons == sorted(["UnreadableRecord"] * 3 + ["AiSystemNotFound", "MonitoringPlanMissing", "InvalidRows"]), (
        await letters(drift_house)
    )


async def test_whoever_holds_no_role_tells_no_rows(drift_house: TestHouse, kafka: KafkaSettings) -> None:
    """The subject of the topic is held to the rights of its role, as over HTTP."""
    await watching(drift_house, lateness_s=DAY)
    async with consuming(member(drift_house, kafka, "service-of-nobody")):
        await until_topic(kafka)
        await send(kafka, [as_rows(rows(np.random.default_rng(3)))])
        await until_letters(drift_house, 1)
    assert [error.partition(":")[0] for error in await letters(drift_house)] == ["AiSystemNotFound"]
    assert await taken(drift_house) == 0


async def test_it_goes_on_when_the_broker_is_back(
    drift_house: TestHouse, kafka: KafkaSettings, broker: KafkaBroker
) -> None:
    """Stopped and started again between two records."""
    staff = await watching(drift_house, lateness_s=DAY)
    first, second = split(rows(np.random.default_rng(3), hours=2), 60)
    async with consuming(member(drift_house, kafka, staff.producer.subject)):
        await until_topic(kafka)
        await send(kafka, [as_rows(first)])
        await until_taken(drift_house, 60)
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(broker.start)
        await send(kafka, [as_rows(second)])
        await until_taken(drift_house, 120)
    assert await taken(drift_house) == 120


async def delete_topic(kafka: KafkaSettings) -> None:
    """Returns when it is gone; by then a member may have made another."""
    topics = Topics.of(kafka, Patience())

    def identity() -> Any:
        (found,) = topics._admin().describe_topics([kafka.features_topic])
        return found["error_code"] or found["topic_id"]

    async def gone() -> bool:
        return bool(await asyncio.to_thread(identity) != before)

    before = await asyncio.to_thread(identity)
    await asyncio.to_thread(topics.delete, kafka.features_topic)
    await until(gone)
    topics.close()


async def test_a_topic_that_was_deleted_is_made_again_and_its_new_rows_count(
    drift_house: TestHouse, kafka: KafkaSettings
) -> None:
    """Other rows at an offset that was there before, and the same rows that a caller sends anew."""
    staff = await watching(drift_house, lateness_s=DAY)
    first, second = split(rows(np.random.default_rng(3), hours=2), 60)
    async with consuming(member(drift_house, kafka, staff.producer.subject)):
        await until_topic(kafka)
        await send(kafka, [as_rows(first)], partition=0)
        await until_taken(drift_house, 60)
        await delete_topic(kafka)
        await until_topic(kafka)
        await send(kafka, [as_rows(second), as_rows(first)], partition=0)
        await until_taken(drift_house, 180)
    assert await taken(drift_house) == 180
    assert await letters(drift_house) == []


async def test_what_was_put_aside_is_taken_once_its_cause_is_mended(
    drift_house: TestHouse, kafka: KafkaSettings
) -> None:
    """A plan that is there by now; a second replay changes nothing, and what still cannot be taken stays."""
    staff = await watching(drift_house, lateness_s=DAY)
    early, other = split(rows(np.random.default_rng(3), hours=2), 60)
    consumer = member(drift_house, kafka, staff.producer.subject)
    async with consuming(consumer):
        await until_topic(kafka)
        value, _ = as_rows(early)
        await send(kafka, [(value, {**HEADERS, "plan": "MP-2"}), (b"no rows", HEADERS), as_rows(other)], partition=0)
        await until_letters(drift_house, 2)
        await until_taken(drift_house, 60)
    await second_plan(drift_house, staff, lateness_s=DAY)
    for _ in range(2):
        await consumer.replay()
        assert [error.partition(":")[0] for error in await letters(drift_house)] == ["UnreadableRecord"]
        assert await taken(drift_house, "MP-2") == 60
    assert await taken(drift_house) == 60


@pytest.mark.parametrize("lost", ["cut", "made anew", "deleted"])
async def test_what_kafka_lost_stays_put_aside(drift_house: TestHouse, kafka: KafkaSettings, lost: str) -> None:
    """Also where another record has its offset now: that one is taken for what it is, never for the one that is lost."""
    staff = await watching(drift_house, lateness_s=DAY)
    (batch,) = split(rows(np.random.default_rng(3)), 60)
    consumer = member(drift_house, kafka, staff.producer.subject)
    async with consuming(consumer):
        await until_topic(kafka)
        await send(kafka, [(b"no rows", HEADERS)], partition=0)
        await until_letters(drift_house, 1)
    if lost == "cut":
        topics = Topics.of(kafka, Patience())
        await asyncio.to_thread(topics._admin().delete_records, {partition_of(kafka.features_topic): 1})
        topics.close()
    else:
        await delete_topic(kafka)
    if lost == "made anew":
        async with consuming(consumer):
            await until_topic(kafka)
            await send(kafka, [as_rows(batch)], partition=0)
            await until_taken(drift_house, 60)
    for _ in range(2):
        await consumer.replay()
        (error,) = await letters(drift_house)
        assert error.startswith("RecordGone: Kafka has it no more. It was put aside for: UnreadableRecord: ")
    assert await taken(drift_house) == (60 if lost == "made anew" else 0)


async def test_a_replay_without_kafka_says_so(
    drift_house: TestHouse, kafka: KafkaSettings, broker: KafkaBroker
) -> None:
    """The letters stay as they are; without any, nothing is asked."""
    staff = await watching(drift_house, lateness_s=DAY)
    consumer = member(drift_house, kafka, staff.producer.subject)
    async with consuming(consumer):
        await until_topic(kafka)
        await send(kafka, [(b"no rows", HEADERS)])
        await until_letters(drift_house, 1)
    before = await letters(drift_house)
    await asyncio.to_thread(broker.stop)
    with pytest.raises(RecordsOutOfReach):
        await replace(consumer, patience=Patience(request_s=1.0)).replay()
    assert await letters(drift_house) == before
    await drift_house.house.services["drift"].foundation.pool.execute("DELETE FROM drift.dead_letter")
    await consumer.replay()


def told(value: Any, **headers: str) -> Any:
    return read_record(
        json.dumps(value).encode(), headers={**HEADERS, **headers}, place="t/3/7/12500", time_s=12.5
    ).batch


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "data": data, "shape": [len(data)] if shape is None else shape}


def test_tensors_are_columns() -> None:
    """Named after its place and time without an id; all rows at the record's time without times."""
    batch = told({"inputs": [tensor("x", "INT32", [1, 2]), tensor("b", "BOOL", [True, None])]}, environment="canary")
    assert (batch.batch, batch.rows, batch.event_time, batch.environment) == ("t/3/7/12500", 2, [12.5, 12.5], "canary")
    assert batch.features == {"x": [1, 2], "b": [True, None]}
    named = told({"id": "req-1", "inputs": [tensor("x", "FP16", [[1.5]], [1, 1]), tensor("event_time", "INT64", [7])]})
    assert (named.batch, named.event_time, named.features) == ("req-1", [7], {"x": [1.5]})


@pytest.mark.parametrize(
    "value",
    [
        None, [], 7, {"inputs": 1}, {"inputs": [{"name": "x"}]},
        {"inputs": [tensor("x", "FP64", [1.0], [2])]}, {"inputs": [tensor("x", "FP64", [1.0], [])]},
        {"inputs": [tensor("x", "FP64", ["1.0"])]}, {"inputs": [tensor("x", "BYTES", [1])]},
        {"inputs": [tensor("x", "BOOL", [1])]}, {"inputs": [tensor("x", "INT64", [True])]},
        {"inputs": [tensor("x", "STRING", ["a"])]}, {"rows": 1}, {"rows": 1, "event_time": [1], "features": {}, "more": 1},
    ],
)  # fmt: skip
def test_what_tells_no_rows_is_refused(value: Any) -> None:
    """With a typed error that names field and rule."""
    with pytest.raises(UnreadableRecord) as refused:
        told(value)
    assert refused.value.fields


def test_a_record_without_value_is_refused() -> None:
    """A tombstone in a topic that somebody compacts."""
    with pytest.raises(UnreadableRecord):
        read_record(None, headers=HEADERS, place="t/0/0", time_s=0.0)
