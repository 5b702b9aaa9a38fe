"""Event-time windows made of panes: rows are counted once per pane, and a window is the sum of its panes.

Everything here is whole seconds since 1970 in UTC. A pane is as long as the slide and starts at a multiple of it; a window starts
with a pane and has `window_s` / `slide_s` of them. Windows that start at multiples of `window_s` share no rows: only they feed the
detector, because the evidence of windows that share rows must not be multiplied.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(seconds: int) -> datetime:
    """The time so many seconds after 1970 began."""
    return _EPOCH + timedelta(seconds=seconds)


class WindowShape(msgspec.Struct, frozen=True, kw_only=True):
    """Length, slide and allowed lateness in seconds; the slide divides the length."""

    window_s: int
    slide_s: int
    lateness_s: int

    def starts(self, pane: int) -> range:
        """The starts of all windows that the pane belongs to."""
        return range(pane - self.window_s + self.slide_s, pane + self.slide_s, self.slide_s)

    def panes(self, start: int) -> range:
        """The starts of the panes of a window."""
        return range(start, start + self.window_s, self.slide_s)

    def feeds_detector(self, start: int) -> bool:
        """Whether the window is one of those that share no rows."""
        return start % self.window_s == 0

    def is_late(self, pane: int, watermark: int | None) -> bool:
        """Whether a window of the pane may have closed: its rows can then no longer be counted everywhere."""
        return watermark is not None and pane + self.slide_s <= watermark

    def due(self, *, panes: Collection[int], watermark: int, closed_through: int | None) -> list[int]:
        """The starts of the windows that can close now, in order: they have rows, ended by the watermark, and are not closed."""
        starts = {start for pane in panes for start in self.starts(pane)}
        return sorted(
            start
            for start in starts
            if start + self.window_s <= watermark and (closed_through is None or start + self.window_s > closed_through)
        )

    def empty_between(self, *, closed_through: int | None, start: int) -> int:
        """How many windows without rows lie between the last closed one and the one that starts at `start`."""
        if closed_through is None:
            return 0
        return max(0, (start + self.window_s - closed_through) // self.slide_s - 1)

    def can_forget(self, pane: int, closed_through: int) -> bool:
        """Whether all windows of the pane are closed."""
        return pane + self.window_s <= closed_through
