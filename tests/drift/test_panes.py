"""Windows of event time: which rows they have, when they close, what is late."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from services.drift.domain.panes import WindowShape, moment

HOURLY = WindowShape(window_s=3600, slide_s=3600, lateness_s=600)
SLIDING = WindowShape(window_s=3600, slide_s=900, lateness_s=0)


@given(st.integers(1, 12), st.integers(1, 100), st.integers(0, 10_000))
def test_a_pane_belongs_to_exactly_the_windows_that_have_it(panes: int, slide_s: int, number: int) -> None:
    """The two directions agree: windows of a pane, panes of a window."""
    shape = WindowShape(window_s=panes * slide_s, slide_s=slide_s, lateness_s=0)
    pane = number * slide_s
    near = range(pane - 2 * shape.window_s, pane + 2 * shape.window_s, slide_s)
    assert list(shape.starts(pane)) == [start for start in near if pane in shape.panes(start)]


def test_windows_close_in_order_once_the_watermark_has_passed_their_end() -> None:
    """Only windows with rows, and none that is closed already."""
    panes = [0, 3600, 3 * 3600]
    assert HOURLY.due(panes=panes, watermark=3599, closed_through=None) == []
    assert HOURLY.due(panes=panes, watermark=4 * 3600, closed_through=None) == [0, 3600, 3 * 3600]
    assert HOURLY.due(panes=panes, watermark=4 * 3600, closed_through=2 * 3600) == [3 * 3600]


def test_empty_windows_are_counted_between_those_with_rows() -> None:
    """A silent hour leaves no event, but the next window tells of it."""
    assert HOURLY.empty_between(closed_through=None, start=7 * 3600) == 0
    assert HOURLY.empty_between(closed_through=3600, start=3600) == 0
    assert HOURLY.empty_between(closed_through=3600, start=3 * 3600) == 2


@given(st.integers(0, 50), st.integers(0, 20_000))
def test_rows_that_are_not_late_meet_only_open_windows(number: int, watermark: int) -> None:
    """So every window that should have a row has it, or the row is counted as late."""
    pane = number * SLIDING.slide_s
    ends = [start + SLIDING.window_s for start in SLIDING.starts(pane)]
    assert SLIDING.is_late(pane, watermark) == any(end <= watermark for end in ends)
    assert not SLIDING.is_late(pane, None)


@given(st.integers(0, 50), st.integers(0, 20_000))
def test_a_pane_is_kept_while_a_window_needs_it(number: int, closed_through: int) -> None:
    """It goes when its last window is closed."""
    pane = number * SLIDING.slide_s
    ends = [start + SLIDING.window_s for start in SLIDING.starts(pane)]
    assert SLIDING.can_forget(pane, closed_through) == all(end <= closed_through for end in ends)


def test_windows_that_feed_the_detector_share_no_rows() -> None:
    """One in four of windows that slide by a quarter."""
    starts = [start for start in range(0, 36_000, 900) if SLIDING.feeds_detector(start)]
    assert starts == list(range(0, 36_000, 3600))


def test_seconds_are_counted_from_1970_in_utc() -> None:
    """The end of a window is the same number again."""
    assert moment(1_364_774_400).isoformat() == "2013-04-01T00:00:00+00:00"
    assert int(moment(1_364_774_400).timestamp()) == 1_364_774_400


@pytest.mark.parametrize(("watermark", "late"), [(3599, False), (3600, True)])
def test_a_row_is_late_from_the_moment_its_window_may_close(watermark: int, late: bool) -> None:
    """Not a second earlier."""
    assert HOURLY.is_late(0, watermark) is late
