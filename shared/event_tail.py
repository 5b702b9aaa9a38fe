"""The newest events of one service in memory, and pages of the older ones: read once, whoever asks for them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from shared.event import RecordedEvent

PAGE_EVENTS = 200
PAGES_BYTES_MAX = 16 << 20
TAIL_EVENTS_MAX = 5_000
TAIL_BYTES_MAX = 16 << 20

ReadAfter = Callable[[int, int], Awaitable[Sequence[RecordedEvent]]]
"""Takes a position and a limit: the events above it, in order, without holes."""


class Tail:
    """The events above `start` up to `end`. Positions have no holes, so a position is an index."""

    def __init__(self, *, events_max: int = TAIL_EVENTS_MAX, bytes_max: int = TAIL_BYTES_MAX) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._events: list[RecordedEvent] = []
        self._bytes = 0
        self.start = 0

    @property
    def end(self) -> int:
        """The position of the newest event."""
        return self.start + len(self._events)

    def restart(self, *, at: int) -> None:
        """Holds nothing; the next event is the one above `at`."""
        self._events, self._bytes, self.start = [], 0, at

    def extend(self, events: Sequence[RecordedEvent]) -> None:
        """Takes the events that follow `end`, and lets the oldest go that are too many."""
        self._events.extend(events)
        self._bytes += _size(events)
        gone = max(0, len(self._events) - self._events_max)
        self._bytes -= _size(self._events[:gone])
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._events[gone].raw)
            gone += 1
        del self._events[:gone]
        self.start += gone

    def after(self, position: int, *, limit: int) -> Sequence[RecordedEvent] | None:
        """Up to `limit` events above the position; None if the first of them is not held any more."""
        if position < self.start:
            return None
        first = position - self.start
        return self._events[first : first + limit]


class Pages:
    """Pages of PAGE_EVENTS events. One is read at a time, and those read last are kept: full pages never change."""

    def __init__(self, read: ReadAfter, *, bytes_max: int = PAGES_BYTES_MAX) -> None:
        self._read = read
        self._bytes_max = bytes_max
        self._kept: OrderedDict[int, Sequence[RecordedEvent]] = OrderedDict()
        self._bytes = 0
        self._reading = asyncio.Lock()

    async def after(self, position: int) -> Sequence[RecordedEvent]:
        """The events above the position up to the end of its page."""
        number = position // PAGE_EVENTS
        async with self._reading:
            page = self._kept.get(number)
            if page is None:
                page = await self._read(number * PAGE_EVENTS, PAGE_EVENTS)
                self._keep(number, page)
            else:
                self._kept.move_to_end(number)
        return page[position - number * PAGE_EVENTS :]

    def _keep(self, number: int, page: Sequence[RecordedEvent]) -> None:
        if len(page) == PAGE_EVENTS:
            self._kept[number] = page
            self._bytes += _size(page)
        while self._bytes > self._bytes_max:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(events: Sequence[RecordedEvent]) -> int:
    return sum(len(event.raw) for event in events)
