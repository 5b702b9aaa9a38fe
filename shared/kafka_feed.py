"""The feed of services that run elsewhere: their events and pulses out of Kafka.

One consumer follows the ends of all topics: it wakes those who wait and keeps the last events in memory. Whoever is further behind
reads through a cursor of its own, from any position on. No correctness rests on offsets or groups: positions are stored by those
who read, with their effects, and a service whose pulse does not come is silent, whatever the reason.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.event import RecordedEvent
from shared.feed import POLL_SECONDS, Pulse
from shared.kafka_client import (
    KafkaAway,
    TopicMissing,
    end_consumer,
    kafka_errors,
    open_reader,
    opened,
    require_no_new_topic,
)
from shared.kafka_settings import KafkaSettings, Patience
from shared.recent_events import RecentEvents
from shared.topic_cursor import Fill, TopicCursor, tell_no_gap_yet
from shared.topic_records import NEVER, Elsewhere, read_pulses, read_record

CURSORS_MAX = 4
"""How many readers of one service may be behind at the same time, each with a connection."""
CURSOR_IDLE_SECONDS = 30.0
RECENT_RECORDS = 500
"""How far back the consumer of the ends begins."""
POLL_MILLISECONDS = 500
NO_PULSE = Pulse(at=NEVER, head=0, reacted={})

_log = logging.getLogger(__name__)

AnswerType = TypeVar("AnswerType")


def no_fill(service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
    """Without a way to the producers a gap stays a gap."""
    raise KafkaAway(
        f"{service}:{after + 1} is missing and PROOFTRAIL_FEED_URL does not say where {service} can be asked"
    )


@dataclass(frozen=True)
class Parsed:
    """What some records hold: events by service in the order of the topic, and the last pulses."""

    events: Mapping[str, list[RecordedEvent | Elsewhere]]
    pulses: Mapping[str, Pulse]


class KafkaFeed:
    """Events and pulses of the services, read from Kafka. `fill` asks a producer for events that its topic lacks.

    `at_step` is told each step, for tests, from any thread.
    """

    def __init__(
        self,
        *,
        kafka: KafkaSettings,
        services: Sequence[str],
        fill: Fill = no_fill,
        patience: Patience | None = None,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._kafka = kafka
        self._services = tuple(services)
        self._fill = fill
        self._patience = patience or kafka.patience
        self._at_step = at_step
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="kafka feed")
        self._live = False
        self._heads = dict.fromkeys(services, 0)
        self._recent = {service: RecentEvents() for service in services}
        self._pulses: dict[str, Pulse] = {}
        self._signals: dict[str, asyncio.Event] = {}
        self._used: list[TopicCursor] = []
        self._cursors: dict[str, list[TopicCursor]] = {service: [] for service in services}
        for service in services:
            tell_no_gap_yet(service)

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        events = self._recent[service].after(after, limit=limit)
        if events or (self._live and after >= self._heads[service]):
            return events
        cursor = self._cursor(service, after)
        return await self._on_thread(functools.partial(cursor.read, after, limit, self._heads[service]), using=cursor)

    async def changed(self, *, service: str, after: int) -> None:
        """Without a living connection it returns all the same, so that the reader looks for itself."""
        while self._heads[service] <= after:
            signal = self._signals.setdefault(service, asyncio.Event())
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the signal.
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await signal.wait()
            except TimeoutError:
                if not self._live:
                    return
                # The topic may end with what a replaced leader sent late, and hold what is next before that.
                self._advance(service, self._pulses.get(service, NO_PULSE).head)

    async def head(self, *, service: str) -> int:
        if not self._live:
            cursor = self._cursor(service, -1)
            try:
                position = await self._on_thread(cursor.end, using=cursor)
            except TopicMissing as nothing_told:
                _log.warning("%s", nothing_told)
                position = 0
            self._heads[service] = max(position, self._heads[service])
        return self._heads[service]

    async def pulse(self, *, service: str) -> Pulse:
        heard = self._pulses.get(service, NO_PULSE)
        return Pulse(at=heard.at, head=max(heard.head, self._heads[service]), reacted=heard.reacted)

    async def listen(self) -> None:
        """Runs for ever: follows the ends of the topics, and connects again when that breaks."""
        told = ""
        while True:
            try:
                await self._follow_ends()
            except OSError as error:
                if told != str(error):
                    _log.warning("the feed follows Kafka anew: %s", error)
                told = str(error)
            finally:
                self._live = False
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """Gives the connections back."""
        for cursors in self._cursors.values():
            for cursor in cursors:
                await self._on_thread(cursor.close)
        self._threads.shutdown(wait=False)

    async def _follow_ends(self) -> None:
        """On a thread of its own: a consumer is not used by two at once, and is ended after its last call."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka feed ends")
        try:
            consumer = await opened(thread, self._open_ends, close=end_consumer)
            try:
                self._take(await asyncio.wrap_future(thread.submit(self._read_to_ends, consumer)))
                self._live = True
                looked_at = time.monotonic()
                while True:
                    self._take(await asyncio.wrap_future(thread.submit(self._poll, consumer)))
                    await self._on_thread(self._close_idle_cursors)
                    if time.monotonic() > looked_at + POLL_SECONDS:
                        await asyncio.wrap_future(thread.submit(require_no_new_topic, consumer, self._owners))
                        looked_at = time.monotonic()
            finally:
                thread.submit(end_consumer, consumer)
        finally:
            thread.shutdown(wait=False)

    def _open_ends(self) -> Any:
        return open_reader(self._kafka, self._owners, self._patience)

    def _read_to_ends(self, consumer: Any) -> Parsed:
        """What the topics end with now: from then on it is known how far each service is."""
        deadline = time.monotonic() + 3 * self._patience.request_s
        with kafka_errors():
            partitions = list(consumer.assignment())
            begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            for partition, end in ends.items():
                consumer.seek(partition, max(begins[partition], end - RECENT_RECORDS))
            records: list[Any] = []
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                records += [record for some in consumer.poll(timeout_ms=100).values() for record in some]
                if time.monotonic() > deadline:
                    raise KafkaAway("the ends of the topics cannot be read")
        return self._parsed(records)

    def _poll(self, consumer: Any) -> Parsed:
        with kafka_errors():
            polled = consumer.poll(timeout_ms=POLL_MILLISECONDS)
        return self._parsed(record for records in polled.values() for record in records)

    @property
    def _topics(self) -> Mapping[str, str]:
        """The service of each topic of events."""
        return {self._kafka.event_topic(service): service for service in self._services}

    @property
    def _owners(self) -> Mapping[str, str]:
        """Who makes each of the topics that are read."""
        return {**self._topics, self._kafka.pulse_topic: "every service"}

    def _parsed(self, records: Iterable[Any]) -> Parsed:
        topics, pulses = self._topics, list[Any]()
        events: dict[str, list[RecordedEvent | Elsewhere]] = {}
        for record in records:
            service = topics.get(record.topic)
            if service is None:
                pulses.append(record)
            elif (found := read_record(record, service=service)) is not None:
                events.setdefault(service, []).append(found)
        return Parsed(events, read_pulses(pulses))

    def _take(self, parsed: Parsed) -> None:
        self._at_step("ends read")
        for service, found in parsed.events.items():
            for event in found:
                if isinstance(event, RecordedEvent):
                    self._recent[service].add(event)
            self._advance(service, max(event.position for event in found))
        for service, pulse in parsed.pulses.items():
            known = self._pulses.get(service)
            if known is None or pulse.at >= known.at:
                self._pulses[service] = pulse

    def _advance(self, service: str, position: int) -> None:
        if position > self._heads[service]:
            self._heads[service] = position
            self._signals.pop(service, asyncio.Event()).set()

    def _cursor(self, service: str, after: int) -> TopicCursor:
        """The one that stands there, or a new one, or the one that was not used for the longest time."""
        cursors = self._cursors[service]
        free = [cursor for cursor in cursors if cursor not in self._used]
        standing = next((cursor for cursor in free if cursor.next == after + 1), None)
        if standing is not None:
            return standing
        if len(cursors) == CURSORS_MAX:
            return min(free or cursors, key=lambda cursor: cursor.used_at)
        topic = self._kafka.event_topic(service)
        cursor = TopicCursor(
            service=service,
            topic=topic,
            open_consumer=lambda: open_reader(self._kafka, {topic: service}, self._patience),
            fill=self._fill,
            at_step=self._at_step,
        )
        cursors.append(cursor)
        return cursor

    def _close_idle_cursors(self) -> None:
        before = time.monotonic() - CURSOR_IDLE_SECONDS
        for cursors in self._cursors.values():
            for cursor in [one for one in cursors if one.used_at < before and one not in self._used]:
                cursor.close()

    async def _on_thread(self, call: Callable[[], AnswerType], *, using: TopicCursor | None = None) -> AnswerType:
        """The call on a thread. Somebody who gives up waiting does not free the cursor: the thread is still at it."""
        if using is not None:
            self._used.append(using)
        running = self._threads.submit(call)
        if using is not None:
            running.add_done_callback(lambda _: self._used.remove(using))
        return await asyncio.wrap_future(running)
