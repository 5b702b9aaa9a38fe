"""Rows of production that arrive by Kafka: a group of consumers shares the partitions of the topic `<prefix>.features`.

Failure table of one record
    the rows cannot be taken       a dead letter with the reason (reader `features`); the partition goes on
    database or Kafka away         nothing is committed; the group begins again behind the last record that was
    ended before the commit        the record comes again, to this member or another; a batch counts once under its name
    topic deleted                  its records are lost; a member makes it again, and the group begins with what it then holds

A record is named after topic, partition, offset and time: of a topic that was made anew, the offsets alone are not new.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg

from shared.command import CommandContext, TooMuchContention
from shared.dead_letters import DeadLetter, bring_back, letters_of, put_aside
from shared.errors import NotFound, ProoftrailError, Unavailable
from shared.event import Actor
from shared.figures import FEATURES_LAG
from shared.kafka_client import (
    KafkaAway,
    Topics,
    commit,
    end_consumer,
    lag_of,
    open_consumer,
    open_member,
    opened,
    polled,
    record_at,
    topic_identity,
)
from shared.kafka_settings import KafkaSettings, Patience
from shared.telemetry import feature_records

from .application.ingestion import Ingestion
from .feature_records import read_record

READER = "features"
PARTITIONS = 6
"""Of a topic that we make; as many members of the group have work."""

TOPIC_CONFIG = {"cleanup.policy": "delete", "retention.ms": str(7 * 86_400_000)}
POLL_SECONDS = 0.5
RETRY_SECONDS = 1.0
PASSING = (OSError, Unavailable, TooMuchContention, asyncpg.PostgresError, asyncpg.InterfaceError)

AnswerType = TypeVar("AnswerType")

_log = logging.getLogger(__name__)


class RecordGone(NotFound):
    """Kafka does not hold a record any more that was put aside."""


class RecordsOutOfReach(Unavailable):
    """Records that were put aside cannot be fetched now."""


@dataclass(frozen=True, kw_only=True)
class FeatureTopic:
    """One member of the group. `subject` is whose rows they are: a service that holds a role in the AI systems."""

    kafka: KafkaSettings
    subject: str
    ingestion: Ingestion
    pool: asyncpg.Pool
    clock: Callable[[], datetime]
    patience: Patience
    retry_s: float = RETRY_SECONDS

    async def run(self) -> None:
        """Runs for ever."""
        told = ""
        while True:
            try:
                await self._be_member()
            except PASSING as error:
                if told != str(error):
                    _log.warning("rows of production wait in Kafka: %s: %s", type(error).__name__, error)
                told = str(error)
                await asyncio.sleep(self.retry_s)

    async def _be_member(self) -> None:
        """Until something fails."""
        threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="features")
        consumer: Any = None
        try:
            consumer = await opened(threads, self._open, close=end_consumer)
            identity = None
            while True:
                records = await _on(threads, functools.partial(polled, consumer, seconds=POLL_SECONDS))
                identity = identity or topic_identity(consumer, self.kafka.features_topic)
                if topic_identity(consumer, self.kafka.features_topic) != identity:
                    raise KafkaAway(f"{self.kafka.features_topic} was deleted")
                for record in records:
                    await self._take(record)
                if records:
                    await _on(threads, functools.partial(commit, consumer))
                FEATURES_LAG.tell(READER, (await _on(threads, functools.partial(lag_of, consumer)), {}))
        finally:
            FEATURES_LAG.tell(READER)
            if consumer is not None:
                threads.submit(end_consumer, consumer)
            threads.shutdown(wait=False)

    def _open(self) -> Any:
        topics = Topics.of(self.kafka, self.patience)
        try:
            topics.ensure_shared(self.kafka.features_topic, TOPIC_CONFIG, partitions=PARTITIONS)
        finally:
            topics.close()
        return open_member(
            self.kafka, self.kafka.features_topic, group=self.kafka.features_group, patience=self.patience
        )

    async def replay(self) -> None:
        """Takes again what was put aside and Kafka still holds; of the rest it says so. Raises RecordsOutOfReach."""
        letters = [letter for letter in await letters_of(self.pool, service="drift") if letter.reader == READER]
        try:
            if letters:
                await self._take_all_again(letters)
        except KafkaAway as error:
            raise RecordsOutOfReach(
                "Rows of production that were put aside cannot be fetched now.",
                why=str(error),
                next_step="Check KAFKA_BOOTSTRAP and the other KAFKA_ variables, start Kafka, and replay again.",
            ) from error

    async def _take_all_again(self, letters: Sequence[DeadLetter]) -> None:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="features replayed") as thread:
            consumer = await _on(thread, functools.partial(open_consumer, self.kafka, (), self.patience))
            try:
                for letter in letters:
                    await self._take_again(letter, await _on(thread, functools.partial(self._fetch, consumer, letter)))
            finally:
                await _on(thread, functools.partial(end_consumer, consumer))

    def _fetch(self, consumer: Any, letter: DeadLetter) -> Any:
        """The record of the letter, None where Kafka has no more or another one."""
        place, _, time_ms = letter.source.partition("@")
        topic, _, partition = place.rpartition("/")
        record = record_at(consumer, topic, int(partition), letter.position, seconds=self.patience.request_s)
        return record if record is not None and str(record.timestamp) == time_ms else None

    async def _take_again(self, letter: DeadLetter, record: Any) -> None:
        if record is not None:
            if await self._take(record):
                await bring_back(self.pool, letter)
        elif not letter.error.startswith(RecordGone.__name__):
            gone = RecordGone(f"Kafka has it no more. It was put aside for: {letter.error}")
            await self._put_aside(letter.source, letter.position, gone)

    async def _put_aside(self, source: str, offset: int, error: Exception) -> None:
        async with self.pool.acquire() as connection:
            await put_aside(connection, service="drift", source=source, position=offset, reader=READER, error=error)

    async def _take(self, record: Any) -> bool:
        """Whether its rows count now; if not, it is put aside."""
        place = f"{record.topic}/{record.partition}"
        try:
            told = read_record(
                record.value,
                headers={name: text.decode(errors="replace") for name, text in record.headers},
                place=f"{place}/{record.offset}/{record.timestamp}",
                time_s=record.timestamp / 1000,
            )
            await self.ingestion.ingest_rows(
                context=self._context(), system=told.system, key=told.plan, batch=told.batch
            )
        except PASSING:
            raise
        except (ProoftrailError, ValueError) as error:
            await self._put_aside(f"{place}@{record.timestamp}", record.offset, error)
            feature_records.add(1, {"outcome": "refused"})
            return False
        feature_records.add(1, {"outcome": "taken"})
        return True

    def _context(self) -> CommandContext:
        return CommandContext(
            actor=Actor(subject=self.subject, kind="service", issuer="kafka"),
            reason="rows of production by Kafka",
            at=self.clock(),
            correlation=uuid4().hex,
        )


async def _on(threads: ThreadPoolExecutor, call: Callable[[], AnswerType]) -> AnswerType:
    return await asyncio.get_running_loop().run_in_executor(threads, call)
