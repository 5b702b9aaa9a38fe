"""The last events of one service in memory: a run without holes, bounded in number and bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from shared.event import RecordedEvent

EVENTS_MAX = 4_000
BYTES_MAX = 16 << 20


class RecentEvents:
    """Grows at its end; what it has forgotten, or never saw, is read from the topic."""

    def __init__(self, *, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._events: deque[RecordedEvent] = deque()
        self._bytes = 0

    def add(self, event: RecordedEvent) -> None:
        """The next one is kept, one from before is known, one beyond a hole begins a new run."""
        if self._events and event.position <= self._events[-1].position:
            return
        if self._events and event.position > self._events[-1].position + 1:
            self._events.clear()
            self._bytes = 0
        self._events.append(event)
        self._bytes += len(event.raw)
        while len(self._events) > self._events_max or (self._bytes > self._bytes_max and len(self._events) > 1):
            self._bytes -= len(self._events.popleft().raw)

    def after(self, position: int, *, limit: int) -> Sequence[RecordedEvent]:
        """Up to `limit` events from the one after `position` on; empty if that one is not here."""
        if not self._events or not self._events[0].position <= position + 1 <= self._events[-1].position:
            return ()
        start = position + 1 - self._events[0].position
        return list(islice(self._events, start, start + limit))
