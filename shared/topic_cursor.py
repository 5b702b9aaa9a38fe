"""Reads the events of one service from its topic, from any position on, in order and without holes. It blocks.

Records may come twice and out of order: after a failure a relay sends again from its stored position, and a leader that was
replaced may still have records on their way. So a cursor goes by position: what it has handed out it drops, what comes early it
keeps for a while. A position that does not come is a gap: it is told as an error and filled from the producer's feed, or nothing
after it is handed out.

Where is a position? Each leader makes sure that a record's offset is not below its position - 1, since everything before it was
acknowledged before. From there on the search jumps by as many records as positions are missing, which is exact inside a run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import metrics

from shared.cloud_event import position_in
from shared.event import RecordedEvent
from shared.kafka_client import KafkaAway, end_consumer, kafka_errors, partition_of
from shared.topic_records import Elsewhere, read_record

EARLY_EVENTS_MAX = 5_000
"""How many events that came early are kept; more before the missing one, and it is filled."""
GAP_SECONDS = 5.0
"""How long a missing event may still come, once the topic has no more to read: a relay that failed needs a second or two."""
WAIT_SECONDS = 0.25
PROBES_MAX = 32
FILL_EVENTS_MAX = 200
TAIL_RECORDS = 200
"""How many of the last records are read to learn the last position: what a relay sends again is not at the end for long."""

_log = logging.getLogger(__name__)
_gaps = metrics.get_meter("prooftrail").create_counter(
    "prooftrail.feed.gaps",
    unit="{event}",
    description="Events that were missing in the topic and read from the producer",
)


def tell_no_gap_yet(service: str) -> None:
    """From 0 on every gap is an increase, which an alarm can see."""
    _gaps.add(0, {"service": service})


Fill = Callable[[str, int, int], Sequence[RecordedEvent]]
"""Reads events from the producer's own feed: service, position after which, how many at most. Raises OSError."""


class TopicCursor:
    """`next` is the position that it hands out next. Calls from several threads take turns."""

    def __init__(
        self,
        *,
        service: str,
        topic: str,
        open_consumer: Callable[[], Any],
        fill: Fill,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.next = 0
        self.used_at = 0.0
        self._service = service
        self._partition = partition_of(topic)
        self._open_consumer = open_consumer
        self._fill = fill
        self._at_step = at_step
        self._consumer: Any = None
        self._early: dict[int, RecordedEvent | Elsewhere] = {}
        self._head = 0
        self._missing_since = 0.0
        self._searched_for = 0
        self._lacks_until = 0
        self._turn = threading.Lock()

    def read(self, after: int, limit: int, head: int) -> list[RecordedEvent]:
        """Up to `limit` events above `after`; none if none came within WAIT_SECONDS. Raises KafkaAway.

        `head` is how far the service is known to be: what is missing up to there is searched for again.
        """
        with self._turn, kafka_errors():
            try:
                self._head = head
                return self._read(after, limit)
            except BaseException:
                self._end()
                raise

    def end(self) -> int:
        """The last position in the topic, as far as its last records tell. Raises KafkaAway."""
        with self._turn, kafka_errors():
            try:
                return self._last_position()
            except BaseException:
                self._end()
                raise

    def close(self) -> None:
        """Gives the connection back; the next read opens another."""
        with self._turn:
            self._end()

    def _end(self) -> None:
        if self._consumer is not None:
            end_consumer(self._consumer)
        self._consumer = None
        self._early.clear()

    def _read(self, after: int, limit: int) -> list[RecordedEvent]:
        self.used_at = time.monotonic()
        if self._consumer is None or after + 1 != self.next:
            self._searched_for, self._lacks_until = 0, 0
            self._go_to(after + 1)
        events: list[RecordedEvent] = []
        deadline = time.monotonic() + WAIT_SECONDS
        while len(events) < limit:
            if self._hand_out(events, limit):
                continue
            if self.next < self._lacks_until:
                self._fill_gap()
                continue
            left = 0.0 if events else max(0.0, deadline - time.monotonic())
            if not self._take(self._poll(left)):
                if events or left == 0.0:
                    break
                self._look_for_gap()
            elif len(self._early) >= EARLY_EVENTS_MAX:
                self._close_gap()
        return events

    def _hand_out(self, events: list[RecordedEvent], limit: int) -> bool:
        """Moves what is next from what came early to `events`; whether it moved any."""
        moved = False
        while len(events) < limit and (found := self._early.pop(self.next, None)) is not None:
            if isinstance(found, Elsewhere):
                found = self._filled(1)[0]
            events.append(found)
            self.next += 1
            self._missing_since, moved = 0.0, True
        return moved

    def _poll(self, seconds: float) -> list[Any]:
        records: list[Any] = self._consumer.poll(timeout_ms=int(seconds * 1000)).get(self._partition, [])
        return records

    def _take(self, records: list[Any]) -> bool:
        """Keeps what has not been handed out; whether there was anything."""
        for record in records:
            position = position_in(record.headers)
            if position is not None and position < self.next:
                continue
            found = read_record(record, service=self._service)
            if found is None:
                continue
            if found.position == self.next or len(self._early) < EARLY_EVENTS_MAX:
                self._keep(found)
        self._at_step("polled")
        return bool(records)

    def _keep(self, found: RecordedEvent | Elsewhere) -> None:
        if found.position not in self._early or isinstance(self._early[found.position], Elsewhere):
            self._early[found.position] = found

    def _look_for_gap(self) -> None:
        """The topic has no more now: what is missing may still come from its leader, for a moment."""
        if not self._early and self.next > self._head:
            self._missing_since = 0.0
            return
        if not self._missing_since:
            self._missing_since = time.monotonic()
        if time.monotonic() - self._missing_since >= GAP_SECONDS:
            self._close_gap()

    def _close_gap(self) -> None:
        """Searches the topic once more, since it may be another one by now; then the producer is asked."""
        if self._searched_for != self.next:
            self._searched_for = self.next
            self._go_to(self.next)
            return
        if not self._early:
            return  # nothing that came later says that it is lost: its relay is behind
        self._lacks_until = min(self._early)
        _log.error(
            "%s:%d to %d are missing in their topic; reading them from the producer",
            self._service, self.next, self._lacks_until - 1,
        )  # fmt: skip

    def _fill_gap(self) -> None:
        filled = self._filled(min(self._lacks_until - self.next, FILL_EVENTS_MAX))
        _gaps.add(len(filled), {"service": self._service})
        self._early |= {event.position: event for event in filled}

    def _filled(self, limit: int) -> Sequence[RecordedEvent]:
        events = self._fill(self._service, self.next - 1, limit)
        self._at_step("filled")
        if not events or events[0].position != self.next:
            raise KafkaAway(f"{self._service}:{self.next} is neither in the topic nor in the producer's feed")
        return events

    def _go_to(self, position: int) -> None:
        """Sets the consumer so that it will come to the position, as near before it as can be found."""
        if self._consumer is None:
            self._consumer = self._open_consumer()
        self.next = position
        self._early.clear()
        self._missing_since = 0.0
        begin, end = self._bounds()
        near = min(max(position - 1, begin), end)
        offset, seen = near, set[int]()
        while begin <= offset < end and offset not in seen and len(seen) < PROBES_MAX:
            seen.add(offset)
            found = self._position_at(offset)
            if found == position:
                near = offset
                break
            offset = min(offset + position - found, end - 1) if found is not None else end
        self._consumer.seek(self._partition, near)
        self._at_step("searched")

    def _position_at(self, offset: int) -> int | None:
        self._consumer.seek(self._partition, offset)
        for _ in range(20):
            records = self._consumer.poll(timeout_ms=250, max_records=1).get(self._partition, [])
            if records:
                return position_in(records[0].headers)
        return None

    def _bounds(self) -> tuple[int, int]:
        begin = self._consumer.beginning_offsets([self._partition])[self._partition]
        end = self._consumer.end_offsets([self._partition])[self._partition]
        return begin, end

    def _last_position(self) -> int:
        if self._consumer is None:
            self._go_to(1)
        begin, end = self._bounds()
        last, offset = 0, max(begin, end - TAIL_RECORDS)
        self.next = 0  # wherever it was, it is not there any more
        self._consumer.seek(self._partition, offset)
        while offset < end:
            records = self._poll(1.0)
            if not records:
                break
            offset = records[-1].offset + 1
            last = max([last, *(position_in(record.headers) or 0 for record in records)])
        return last
