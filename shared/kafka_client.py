"""What relay and feed ask of the library kafka-python, with settings that keep order and lose nothing. Everything here blocks.

The library's defaults differ in what matters: topics that make themselves, offsets that commit themselves, reading from the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.net.compat import KafkaNetClient

from shared.feed import FeedAway
from shared.kafka_settings import KafkaSettings, Patience

RECORD_BYTES_MAX = 8 << 20
"""A record with key and headers. An event is far smaller: a request has at most 1 MiB."""
PULSE_RETENTION_MS = 600_000

# The library tells of every try to connect; what matters to a person is told by those who use it.
logging.getLogger("kafka").setLevel(logging.CRITICAL)

EVENT_TOPIC_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(RECORD_BYTES_MAX),
    # A record has the time of its event; a clock that was ahead must not stop the relay.
    "message.timestamp.after.max.ms": str(2**63 - 1),
}
PULSE_TOPIC_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": str(PULSE_RETENTION_MS),
    "segment.ms": str(PULSE_RETENTION_MS),
}

UNFORESEEN = (AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError, struct.error)
"""What a library raises that met what it did not expect. Whoever relays or follows tries again rather than end for good."""

Made = TypeVar("Made")

_log = logging.getLogger(__name__)
_QUIET = {"allow_auto_create_topics": False, "metrics_enabled": False}


class KafkaAway(FeedAway):
    """Kafka does not answer, or refuses. It may pass: the stores keep everything until then."""


class TopicMissing(KafkaAway):
    """A topic is not there, or we may not see it. Its owner makes it when it runs; nobody else has to, or may."""

    @classmethod
    def of(cls, topics: Iterable[str], owners: Mapping[str, str]) -> TopicMissing:
        """Names the topics, and whose they are."""
        named = ", ".join(f"{topic} of {owners[topic]}" for topic in sorted(topics))
        return cls(f"not there yet: {named}, which makes it when it runs")


def partition_of(topic: str) -> TopicPartition:
    """The one partition of a topic of ours."""
    return TopicPartition(topic, 0)


@contextlib.contextmanager
def kafka_errors() -> Iterator[None]:
    """Raises KafkaAway for what the library raises: its own errors, and those that it did not foresee."""
    try:
        yield
    except KafkaError as error:
        raise KafkaAway(f"{type(error).__name__}: {error}") from error
    except UNFORESEEN as error:
        _log.exception("the library for Kafka failed in a way of its own")
        raise KafkaAway(f"{type(error).__name__}: {error}") from error


async def opened(threads: Executor, make: Callable[[], Made], *, close: Callable[[Made], object]) -> Made:
    """What is made on a thread. If whoever waits for it gives up, it is closed there when it is made."""
    making = threads.submit(make)
    try:
        return await asyncio.wrap_future(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda done: _close_made(done, close))
        raise


def _close_made(done: Future[Made], close: Callable[[Made], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        close(done.result())


def open_producer(kafka: KafkaSettings, patience: Patience) -> Any:
    """A producer that keeps order: idempotent, acknowledged by all replicas in sync. Raises KafkaAway."""
    with kafka_errors():
        return KafkaProducer(
            **kafka.client(),
            **_connecting(patience),
            **_QUIET,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=int(patience.delivery_s * 1000),
            max_block_ms=int(patience.request_s * 1000),
            # One batch a partition is on its way at a time, so its size is the throughput.
            batch_size=1 << 20,
            linger_ms=5,
            max_request_size=RECORD_BYTES_MAX,
        )


def end_consumer(consumer: Any) -> None:
    """Ends it. Not while another thread uses it."""
    with kafka_errors():
        consumer.close(autocommit=False, timeout_ms=1000)


def end_producer(producer: Any) -> None:
    """Ends it at once; what it has not sent yet fails. Never blocks long."""
    # close() first waits for what is on its way and, when that takes longer than it may, leaves the sender running.
    producer._sender.force_close()
    with contextlib.suppress(KafkaError):
        producer.close(timeout=5)


def open_consumer(kafka: KafkaSettings, topics: Iterable[str], patience: Patience) -> Any:
    """A consumer without group that is assigned the one partition of each topic. Raises KafkaAway."""
    with kafka_errors(), _ended_on_failure() as client:
        consumer = KafkaConsumer(
            **kafka.client(),
            kafka_client=client,
            **_connecting(patience),
            **_QUIET,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=2000,
            max_partition_fetch_bytes=4 << 20,
            fetch_max_wait_ms=min(500, int(patience.request_s * 500)),
        )
        consumer.assign([partition_of(topic) for topic in topics])
        return consumer


def open_reader(kafka: KafkaSettings, owners: Mapping[str, str], patience: Patience) -> Any:
    """A consumer of those topics in `owners`, each with who makes it, that are there; the others are told.

    Raises TopicMissing when none is there, and KafkaAway.
    """
    consumer = open_consumer(kafka, (), patience)
    try:
        there = _topics_there(consumer, owners)
        if missing := owners.keys() - there:
            reason = TopicMissing.of(missing, owners)
            if not there:
                raise reason
            _log.warning("%s", reason)
        consumer.assign([partition_of(topic) for topic in there])
    except BaseException:
        end_consumer(consumer)
        raise
    return consumer


def require_no_new_topic(consumer: Any, owners: Mapping[str, str]) -> None:
    """Raises KafkaAway once a topic is there that was missing when the reader was opened: it has to be opened anew."""
    known = {partition.topic for partition in consumer.assignment()}
    if known != owners.keys() and (new := _topics_there(consumer, owners) - known):
        raise KafkaAway(f"{', '.join(sorted(new))} is there now")


def _topics_there(consumer: Any, wanted: Iterable[str]) -> set[str]:
    with kafka_errors():
        there: set[str] = consumer.topics()
    return there.intersection(wanted)


def open_member(kafka: KafkaSettings, topic: str, *, group: str, patience: Patience) -> Any:
    """A consumer that shares the partitions of the topic with the other members of the group. Raises KafkaAway."""
    with kafka_errors(), _ended_on_failure() as client:
        return KafkaConsumer(
            topic,
            **kafka.client(),
            kafka_client=client,
            **_connecting(patience),
            **_QUIET,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=100,
            session_timeout_ms=int(patience.session_s * 1000),
            heartbeat_interval_ms=int(patience.session_s * 250),
        )


def polled(consumer: Any, *, seconds: float) -> list[Any]:
    """The next records, those of each partition in order. Raises KafkaAway."""
    with kafka_errors():
        return [record for records in consumer.poll(timeout_ms=int(seconds * 1000)).values() for record in records]


def record_at(consumer: Any, topic: str, partition: int, offset: int, *, seconds: float) -> Any:
    """The record that is there, None if none is there any more. Raises KafkaAway, also when `seconds` were not enough."""
    place = TopicPartition(topic, partition)
    deadline = time.monotonic() + seconds
    with kafka_errors():
        if partition not in consumer.partitions_for_topic(topic):
            return None
        if not consumer.beginning_offsets([place])[place] <= offset < consumer.end_offsets([place])[place]:
            return None
        consumer.assign([place])
        consumer.seek(place, offset)
        while time.monotonic() < deadline:
            for record in consumer.poll(timeout_ms=500, max_records=1).get(place, []):
                return record if record.offset == offset else None
    raise KafkaAway(f"{topic}/{partition}/{offset} did not come in {seconds:.0f} seconds")


def lag_of(consumer: Any) -> int:
    """How many records its partitions hold behind where it is, as far as it has heard."""
    ends = {partition: consumer.highwater(partition) for partition in consumer.assignment()}
    with kafka_errors():
        return sum(max(0, end - consumer.position(partition)) for partition, end in ends.items() if end is not None)


def topic_identity(consumer: Any, topic: str) -> Any:
    """Another one when the topic was made anew, as far as the consumer has heard."""
    return consumer._cluster.topic_id(topic)


def commit(consumer: Any) -> None:
    """What was polled is done. Raises KafkaAway, also when another member has the partitions now."""
    with kafka_errors():
        consumer.commit()


@contextlib.contextmanager
def _ended_on_failure() -> Iterator[Callable[..., Any]]:
    """Gives what makes the client of a consumer: one that does not find Kafka leaves its thread behind otherwise."""
    made: list[Any] = []

    def make(**configuration: Any) -> Any:
        made.append(KafkaNetClient(**configuration))
        return made[-1]

    try:
        yield make
    except BaseException:
        for client in made:
            client.close()
            client._manager._net.stop()
        raise


def _connecting(patience: Patience) -> dict[str, Any]:
    return {
        "request_timeout_ms": int(patience.request_s * 1000),
        "bootstrap_timeout_ms": int(patience.request_s * 1000),
        "reconnect_backoff_max_ms": int(patience.reconnect_max_s * 1000),
    }


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Makes the topics that are missing and looks how long they are. Calls from several threads take turns."""

    kafka: KafkaSettings
    patience: Patience
    _opened: list[Any]
    _turn: threading.Lock

    @classmethod
    def of(cls, kafka: KafkaSettings, patience: Patience) -> Topics:
        """Connects when it is used first."""
        return cls(kafka=kafka, patience=patience, _opened=[], _turn=threading.Lock())

    def ensure(self, services: Sequence[str]) -> None:
        """Makes the topics of the services' events and of the pulses, where they are missing. Raises KafkaAway."""
        wanted = {self.kafka.event_topic(service): EVENT_TOPIC_CONFIG for service in services}
        wanted[self.kafka.pulse_topic] = PULSE_TOPIC_CONFIG
        with self._turn, kafka_errors():
            missing = set(wanted) - set(self._admin().list_topics())
            for topic in sorted(missing):
                self._make(topic, wanted[topic])
            if missing:
                self._admin().wait_for_topics(sorted(missing), timeout_ms=int(self.patience.request_s * 1000))

    def ensure_shared(self, topic: str, configuration: Mapping[str, str], *, partitions: int) -> None:
        """Makes a topic whose partitions a group shares, unless there is one, with however many. Raises KafkaAway."""
        with self._turn, kafka_errors():
            if topic not in self._admin().list_topics():
                self._make(topic, configuration, partitions)
                self._admin().wait_for_topics([topic], timeout_ms=int(self.patience.request_s * 1000))

    def make(self, topic: str, configuration: Mapping[str, str]) -> None:
        """Makes the topic with one partition, unless there is one. Raises KafkaAway."""
        with self._turn, kafka_errors():
            self._make(topic, configuration)

    def _make(self, topic: str, configuration: Mapping[str, str], partitions: int = 1) -> None:
        new = NewTopic(topic, partitions, self.kafka.replication, topic_configs=dict(configuration))
        with contextlib.suppress(TopicAlreadyExistsError):
            self._admin().create_topics([new])

    def delete(self, topic: str) -> None:
        """Deletes the topic with all its records. Raises KafkaAway."""
        with self._turn, kafka_errors():
            self._admin().delete_topics([topic])

    def end(self, topic: str) -> int:
        """The offset that the next record of the topic will get. Raises KafkaAway, also when there is no such topic."""
        partition = partition_of(topic)
        with self._turn, kafka_errors():
            found = self._admin().list_partition_offsets(
                {partition: OffsetSpec.LATEST}, timeout_ms=int(self.patience.request_s * 1000)
            )
        offset: int = found[partition].offset
        return offset

    def close(self) -> None:
        """Ends the connection."""
        with self._turn, contextlib.suppress(KafkaError):
            while self._opened:
                self._opened.pop().close()

    def _admin(self) -> Any:
        if not self._opened:
            with _ended_on_failure() as client:
                admin = KafkaAdminClient(**self.kafka.client(), kafka_client=client, **_connecting(self.patience))
            self._opened.append(admin)
        return self._opened[0]
