"""Names by Kafka: what the tables tell, a moment later; what is erased goes from memory, topic and disk."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from shared import people_topic
from shared.directory import Directory, Names, SplitNames, TableNames
from shared.kafka_client import Topics
from shared.kafka_settings import KafkaSettings, Patience
from shared.people_topic import PeopleRelay, PeopleTopics
from tests.asyncapi import require_message
from tests.kafka_broker import KafkaBroker
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES
from tests.shared.kafka.relays import records_in

SOURCE, OTHER = SOURCES
PATIENCE = Patience(request_s=5.0, delivery_s=8.0)
PATIENCE_S = 60.0
NAME, SALT = "Grace Hopper of the Navy", "a-salt-that-is-nowhere-else"


def directory_of(stores: Stores, service: str = SOURCE) -> Directory:
    salts = itertools.count()
    return Directory(pool=stores.pool, service=service, new_salt=lambda: f"{SALT}-{service}-{next(salts)}")


def relay_of(stores: Stores, kafka: KafkaSettings, service: str = SOURCE) -> PeopleRelay:
    return PeopleRelay(service=service, dsn=stores.url, kafka=kafka, patience=PATIENCE, look_s=0.1)


@contextlib.asynccontextmanager
async def at_work(*work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(one()) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 -- it lies outside
            await asyncio.sleep(0.05)


async def until_known(names: Names, *commitments: str) -> None:
    async def there() -> bool:
        return set(await names.people(commitments)) == set(commitments)

    await until(there)


async def until_forgotten(names: Names, commitment: str) -> None:
    async def gone() -> bool:
        return not await names.people([commitment])

    await until(gone)


@pytest.mark.parametrize("kind", ["table", "topic", "split"])
async def test_names_are_told_and_forgotten(stores: Stores, kafka: KafkaSettings, kind: str) -> None:
    """The contract of all: entries of all services, whose subject they are, and none that was erased. Split: one is near."""
    one, other = directory_of(stores), directory_of(stores, OTHER)
    topics = PeopleTopics(kafka=kafka, services=[SOURCE] if kind == "split" else SOURCES, patience=PATIENCE)
    kinds: dict[str, Names] = {
        "table": TableNames(pool=stores.pool, services=SOURCES),
        "topic": topics,
        "split": SplitNames(near=TableNames(pool=stores.pool, services=[OTHER]), far=topics),
    }
    names = kinds[kind]
    async with at_work(topics.run, *(relay_of(stores, kafka, service).run for service in SOURCES)):
        grace = await one.commitment(subject="person-1", name=NAME)
        again = await other.commitment(subject="person-1", name=NAME)
        ben = await other.commitment(subject="person-2", name="Ben")
        await until_known(names, grace, again, ben)
        assert (await names.people([ben, "unknown"]))[ben].name == "Ben"
        assert sorted(await names.holding("person-1")) == sorted(SOURCES)
        await one.erase("person-1")
        await until_forgotten(names, grace)
        assert await names.holding("person-1") == [OTHER]
        assert set(await names.people([grace, again, ben])) == {again, ben}


async def test_an_erased_name_is_in_no_file_of_the_topic(
    stores: Stores, kafka: KafkaSettings, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once Kafka has compacted, which here it does at once: neither name nor salt."""
    soon = {
        "max.compaction.lag.ms": "100",
        "segment.ms": "100",
        "file.delete.delay.ms": "100",
        "delete.retention.ms": "100",
    }
    monkeypatch.setattr(people_topic, "TOPIC_CONFIG", {**people_topic.TOPIC_CONFIG, **soon})
    directory = directory_of(stores)
    names = PeopleTopics(kafka=kafka, services=[SOURCE], patience=PATIENCE)
    files = broker.folder / "data"
    async with at_work(names.run, relay_of(stores, kafka).run):
        commitment = await directory.commitment(subject="person-1", name=NAME)
        await until_known(names, commitment)
        assert found(files, kafka.people_topic(SOURCE), NAME, SALT) == {NAME, SALT}
        await directory.erase("person-1")
        await until_forgotten(names, commitment)
        numbers = itertools.count()
        others = Directory(pool=stores.pool, service=SOURCE, new_salt=lambda: f"another-{next(numbers)}")

        async def compacted() -> bool:
            # A segment is closed, and then compacted, only when something is appended.
            await others.commitment(subject=f"other-{next(numbers)}", name="Ben")
            return not await asyncio.to_thread(found, files, kafka.people_topic(SOURCE), NAME, SALT)

        await until(compacted)


def found(folder: Path, topic: str, *words: str) -> set[str]:
    """Which of the words are in any file of the topic's partitions, deleted ones included that are still there."""
    content = b""
    for file in folder.glob(f"**/{topic}-*/*"):
        with contextlib.suppress(FileNotFoundError):
            content += file.read_bytes()
    return {word for word in words if word.encode() in content}


async def test_who_was_away_forgets_what_was_erased_meanwhile(
    stores: Stores, kafka: KafkaSettings, broker: KafkaBroker
) -> None:
    """Erased while the broker is down: known until it is back, then no more."""
    directory = directory_of(stores)
    names = PeopleTopics(kafka=kafka, services=[SOURCE], patience=PATIENCE)
    async with at_work(names.run, relay_of(stores, kafka).run):
        grace = await directory.commitment(subject="person-1", name=NAME)
        await until_known(names, grace)
        await asyncio.to_thread(broker.stop)
        await directory.erase("person-1")
        ben = await directory.commitment(subject="person-2", name="Ben")
        assert set(await names.people([grace, ben])) == {grace}
        await asyncio.to_thread(broker.start)
        await until_known(names, ben)
        await until_forgotten(names, grace)


async def test_a_topic_that_was_deleted_is_filled_again(stores: Stores, kafka: KafkaSettings) -> None:
    """With the names and without what was erased; a reader that comes then knows all of it."""
    directory = directory_of(stores)
    async with at_work(relay_of(stores, kafka).run):
        first = PeopleTopics(kafka=kafka, services=[SOURCE], patience=PATIENCE)
        async with at_work(first.run):
            grace = await directory.commitment(subject="person-1", name=NAME)
            ben = await directory.commitment(subject="person-2", name="Ben")
            await until_known(first, grace, ben)
            await directory.erase("person-1")
            await until_forgotten(first, grace)
        await require_documented(kafka)
        topics = Topics.of(kafka, PATIENCE)
        await asyncio.to_thread(topics.delete, kafka.people_topic(SOURCE))
        topics.close()
        second = PeopleTopics(kafka=kafka, services=[SOURCE], patience=PATIENCE)
        async with at_work(second.run):
            await until_known(second, ben)
            assert await second.people([grace]) == {}


async def require_documented(kafka: KafkaSettings) -> None:
    """Entries and tombstones are what the AsyncAPI document says."""
    records = await records_in(kafka, kafka.people_topic(SOURCE))
    assert {record.value is None for record in records} == {True, False}
    for record in records:
        payload = None if record.value is None else json.loads(record.value)
        require_message(dict(record.headers), payload, channel=f"{SOURCE}PeopleTopic", message="person")


async def test_of_two_relays_one_leads_and_the_other_takes_over(stores: Stores, kafka: KafkaSettings) -> None:
    """The second waits for the lock, and sends what came since."""
    directory = directory_of(stores)
    names = PeopleTopics(kafka=kafka, services=[SOURCE], patience=PATIENCE)
    async with at_work(names.run, relay_of(stores, kafka).run):
        async with at_work(relay_of(stores, kafka).run):
            await until_known(names, await directory.commitment(subject="person-1", name=NAME))
        await stores.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'prooftrail names %'"
        )
        await until_known(names, await directory.commitment(subject="person-2", name="Ben"))
