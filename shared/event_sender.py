"""Sends events and pulses of one service to Kafka for one relay. It blocks, so it is called on threads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from kafka.errors import MessageSizeTooLargeError

from shared import tracing
from shared.cloud_event import dataref_of, headers_of, source_of
from shared.feed import Pulse
from shared.kafka_client import (
    RECORD_BYTES_MAX,
    KafkaAway,
    Topics,
    end_producer,
    kafka_errors,
    open_producer,
)
from shared.kafka_settings import KafkaSettings, Patience

VALUE_BYTES_MAX = RECORD_BYTES_MAX - (64 << 10)
"""What is left of a record for the value, after key, headers and framing."""

_log = logging.getLogger(__name__)


class TopicReplaced(KafkaAway):
    """The topic holds less than was acknowledged: somebody deleted it, or the cluster lost records."""


class StoredEvent(msgspec.Struct, frozen=True):
    """What a record is made of: position, stream, time in milliseconds since 1970, hex leaf hash and stored bytes."""

    position: int
    stream: str
    time_ms: int
    leaf_hash: str
    raw: bytes


@dataclass(frozen=True)
class Sent:
    """Events on their way since `began`, in order, each with the library's future."""

    events: Sequence[StoredEvent]
    futures: Sequence[Any]
    began: int


class EventSender:
    """One producer. After the first failure it is of no use: end it and open another one.

    `too_large` are positions whose records the broker refused for their size; `settle` adds to them.
    """

    def __init__(
        self, *, service: str, epoch: int, kafka: KafkaSettings, patience: Patience, too_large: set[int]
    ) -> None:
        self._service = service
        self._topic = kafka.event_topic(service)
        self._pulse_topic = kafka.pulse_topic
        self._source = source_of(service).encode()
        self._epoch = b"%d" % epoch
        self._patience = patience
        self._too_large = too_large
        self._topics = Topics.of(kafka, patience)
        try:
            self._topics.ensure([service])
            self._producer = open_producer(kafka, patience)
        except BaseException:
            self._topics.close()
            raise

    def end(self) -> int:
        """How many records the topic has had. Raises KafkaAway."""
        return self._topics.end(self._topic)

    def send(self, events: Sequence[StoredEvent]) -> Sent:
        """Hands them to the producer in order. Raises KafkaAway."""
        with kafka_errors():
            return Sent(events, [self._send(event) for event in events], tracing.now())

    def _send(self, event: StoredEvent) -> Any:
        headers = headers_of(event.raw, source=self._source, leaf_hash=event.leaf_hash, epoch=self._epoch)
        value = event.raw
        if len(value) > VALUE_BYTES_MAX or event.position in self._too_large:
            _log.error(
                "%s:%d has %d bytes, more than a record may; only its address goes to %s",
                self._service, event.position, len(value), self._topic,
            )  # fmt: skip
            headers.append(dataref_of(self._service, event.position))
            value = b""
        return self._producer.send(
            self._topic,
            key=event.stream.encode(),
            value=value,
            headers=headers,
            partition=0,
            timestamp_ms=event.time_ms,
        )

    def settle(self, sent: Sent) -> tuple[int, KafkaAway | None]:
        """Waits for all of them: the position up to which they were acknowledged without a hole, and why not all were."""
        acknowledged = sent.events[0].position - 1
        for event, future in zip(sent.events, sent.futures, strict=True):
            try:
                with kafka_errors():
                    offset: int = future.get(self._patience.delivery_s * 2).offset
            except KafkaAway as error:
                if isinstance(error.__cause__, MessageSizeTooLargeError):
                    self._too_large.add(event.position)
                return acknowledged, error
            if offset < event.position - 1:
                return acknowledged, TopicReplaced(f"{self._topic} gave {event.position} the offset {offset}")
            acknowledged = event.position
        tracing.told_sent(((event.raw, event.leaf_hash) for event in sent.events), topic=self._topic, began=sent.began)
        return acknowledged, None

    def send_pulse(self, pulse: Pulse) -> None:
        """Hands it to the producer; one that is lost is followed by the next."""
        value = msgspec.json.encode({"at": pulse.at, "head": pulse.head, "reacted": pulse.reacted})
        with kafka_errors():
            self._producer.send(
                self._pulse_topic,
                key=self._service.encode(),
                value=value,
                headers=[("ce_epoch", self._epoch)],
                partition=0,
            )

    def abort(self) -> None:
        """Ends it at once, from any thread; whoever waits in `settle` is told."""
        end_producer(self._producer)

    def close(self) -> None:
        """Gives everything back, when no other thread uses it any more."""
        end_producer(self._producer)
        self._topics.close()
