"""Printed names beyond one database: the directory of a service as a compacted topic, whose records are replaced and whose erased
entries become tombstones. A process reads those of the services that it does not run itself.

    key      commitment to the name
    value    JSON of subject, salt and name; null once the entry is erased

Kafka removes what a tombstone replaces within COMPACTION_LAG, and the tombstone a day later. Who was away begins anew from what the
topic still holds, so that nothing erased stays in its memory.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import asyncpg
import msgspec

from shared.database_connection import DatabaseConnection
from shared.directory import Person, PersonChange, changes_of
from shared.kafka_client import (
    KafkaAway,
    Topics,
    end_consumer,
    end_producer,
    kafka_errors,
    open_producer,
    open_reader,
    opened,
    polled,
    require_no_new_topic,
)
from shared.kafka_settings import KafkaSettings, Patience

COMPACTION_LAG_MS = 600_000
TOPIC_CONFIG = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": str(COMPACTION_LAG_MS),
    "segment.ms": str(COMPACTION_LAG_MS),
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "86400000",
}
CHANGES_MAX = 500
POLL_SECONDS = 0.5
LOOK_SECONDS = 1.0
RETRY_SECONDS = 1.0

AnswerType = TypeVar("AnswerType")

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True):
    subject: str
    salt: str
    name: str


class PeopleRelay:
    """Sends one service's directory to its topic; of several processes the one that holds the lock does.

    A leader begins with all entries: sent again they change nothing, and a topic that was deleted is whole again. Twice, since a
    leader before it may still have had an entry on its way that is erased by now.
    """

    def __init__(
        self,
        *,
        service: str,
        dsn: str,
        kafka: KafkaSettings,
        patience: Patience | None = None,
        look_s: float = LOOK_SECONDS,
    ) -> None:
        self._service, self._dsn, self._kafka = service, dsn, kafka
        self._patience, self._look_s = patience or kafka.patience, look_s
        self._topic = kafka.people_topic(service)

    async def run(self) -> None:
        """Runs for ever."""
        told = ""
        while True:
            try:
                await self._lead()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if told != str(error):
                    _log.warning("the names of %s wait to be sent: %s", self._service, error)
                told = str(error)
            await asyncio.sleep(min(RETRY_SECONDS, self._look_s))

    async def _lead(self) -> None:
        connection = await asyncpg.connect(
            self._dsn,
            connection_class=DatabaseConnection,
            server_settings={"application_name": f"prooftrail names {self._service}"},
        )
        threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"names {self._service}")
        topics, producer = Topics.of(self._kafka, self._patience), None
        try:
            lock = f"{self._service}.people"
            while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", lock):  # noqa: ASYNC110 -- another's
                await asyncio.sleep(self._look_s)
            await _on(threads, functools.partial(topics.ensure_shared, self._topic, TOPIC_CONFIG, partitions=1))
            producer = await opened(threads, lambda: open_producer(self._kafka, self._patience), close=end_producer)
            await self._send_all(connection, producer, topics, threads)
        finally:
            connection.terminate()
            if producer is not None:
                end_producer(producer)
            threads.submit(topics.close)
            threads.shutdown(wait=False)

    async def _send_all(
        self, connection: asyncpg.Connection, producer: Any, topics: Topics, threads: ThreadPoolExecutor
    ) -> None:
        number, end = 0, 0
        again_at: float | None = time.monotonic() + 2 * self._patience.delivery_s
        while True:
            changes = await changes_of(connection, service=self._service, after=number, limit=CHANGES_MAX)
            if changes:
                end = await _on(threads, functools.partial(self._send, producer, changes)) + 1
                number = changes[-1].number
            elif again_at is not None and time.monotonic() > again_at:
                number, again_at = 0, None
            else:
                if await _on(threads, functools.partial(topics.end, self._topic)) < end:
                    raise KafkaAway(f"{self._topic} is shorter than it was")
                await asyncio.sleep(self._look_s)

    def _send(self, producer: Any, changes: Sequence[PersonChange]) -> int:
        """Returns when all are acknowledged: the offset of the last one."""
        with kafka_errors():
            futures = [
                producer.send(self._topic, key=change.name_commitment.encode(), value=_value(change), partition=0)
                for change in changes
            ]
            offset: int = [future.get(self._patience.delivery_s * 2).offset for future in futures][-1]
        return offset


def _value(change: PersonChange) -> bytes | None:
    person = change.person
    return None if person is None else msgspec.json.encode(_Entry(person.subject, person.salt, person.name))


class PeopleTopics:
    """The directories of services that run elsewhere, as their topics tell them; kept in memory only."""

    def __init__(self, *, kafka: KafkaSettings, services: Collection[str], patience: Patience | None = None) -> None:
        self._kafka, self._patience = kafka, patience or kafka.patience
        self._topics = {kafka.people_topic(service): service for service in services}
        self._entries: dict[str, dict[str, Person]] = {service: {} for service in services}

    async def people(self, commitments: Collection[str]) -> dict[str, Person]:
        """The entries for the commitments that are there now."""
        return {
            commitment: entries[commitment]
            for entries in self._entries.values()
            for commitment in commitments
            if commitment in entries
        }

    async def holding(self, subject: str) -> list[str]:
        """The services whose directory has an entry of the subject."""
        return [
            service
            for service, entries in self._entries.items()
            if any(person.subject == subject for person in entries.values())
        ]

    async def run(self) -> None:
        """Follows the topics for ever; while Kafka is away, what was known stays known."""
        told = ""
        while True:
            try:
                await self._follow()
            except OSError as error:
                if told != str(error):
                    _log.warning("names of other services are read anew: %s", error)
                told = str(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="names")
        consumer: Any = None
        try:
            consumer = await opened(threads, self._open, close=end_consumer)
            ends = await _on(threads, functools.partial(_ends_of, consumer))
            fresh: dict[str, dict[str, Person]] = {service: {} for service in self._entries}
            while not await _on(threads, functools.partial(_is_behind_none, consumer, ends)):
                self._take(fresh, await _on(threads, functools.partial(polled, consumer, seconds=POLL_SECONDS)))
            self._entries = fresh
            while True:
                self._take(fresh, await _on(threads, functools.partial(polled, consumer, seconds=POLL_SECONDS)))
                await _on(threads, functools.partial(_require_same_topics, consumer, self._topics))
        finally:
            if consumer is not None:
                threads.submit(end_consumer, consumer)
            threads.shutdown(wait=False)

    def _open(self) -> Any:
        consumer = open_reader(self._kafka, self._topics, self._patience)
        with kafka_errors():
            consumer.seek_to_beginning()
        return consumer

    def _take(self, entries: dict[str, dict[str, Person]], records: Sequence[Any]) -> None:
        for record in records:
            known = entries[self._topics[record.topic]]
            commitment = (record.key or b"").decode(errors="replace")
            if record.value is None:
                known.pop(commitment, None)
                continue
            try:
                entry = msgspec.json.decode(record.value, type=_Entry)
            except msgspec.MsgspecError:
                _log.error("%s: the record at offset %d is no entry", record.topic, record.offset)
                continue
            known[commitment] = Person(name_commitment=commitment, **msgspec.structs.asdict(entry))


def _ends_of(consumer: Any) -> dict[Any, int]:
    with kafka_errors():
        ends: dict[Any, int] = consumer.end_offsets(list(consumer.assignment()))
    return ends


def _is_behind_none(consumer: Any, ends: dict[Any, int]) -> bool:
    with kafka_errors():
        return all(consumer.position(partition) >= end for partition, end in ends.items())


def _require_same_topics(consumer: Any, owners: Mapping[str, str]) -> None:
    """A topic that was deleted and made again ends before the place where we are."""
    require_no_new_topic(consumer, owners)
    if any(consumer.position(partition) > end for partition, end in _ends_of(consumer).items()):
        raise KafkaAway("a topic of names was made anew")


async def _on(threads: ThreadPoolExecutor, call: Callable[[], AnswerType]) -> AnswerType:
    return await asyncio.get_running_loop().run_in_executor(threads, call)
