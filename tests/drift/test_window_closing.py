"""Closing windows: one standing signal, evidence that begins again after it, dismissed differences that stay muted."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from services.drift.domain import drift_signal, monitoring_plan
from services.drift.domain.drift_signal import DriftSignal
from services.drift.domain.histogram import Integers
from services.drift.domain.monitoring_plan import DriftWindowClosed, MonitoringPlan
from services.drift.domain.reference_profile import count_rows, split_counts
from services.drift.domain.window_closing import Closing, CountedWindow, close_window
from services.drift.published_events import FACTS
from shared.event import Event, EventMapper, Fact
from tests.drift.facts import DEFINITION, HOUR, NOW, PROFILE, active, defined, folded, person

RITA = person("rita")


def watching(**changes: object) -> MonitoringPlan:
    """A plan that watches production."""
    definition = msgspec.structs.replace(DEFINITION, **changes)
    facts = [
        defined(definition) if isinstance(fact, monitoring_plan.MonitoringPlanDefined) else fact for fact in active()
    ]
    return monitoring_plan.existing(folded(monitoring_plan.evolve, *facts))


def counted(hour: float, *, rows: int = 500, x: float = 0.0, y: float = 0.0) -> CountedWindow:
    """A window of normal rows with shifted means."""
    generator = np.random.default_rng(int(hour * 4) + 100)
    columns = {"x": generator.normal(x, 1, rows), "y": generator.normal(y, 1, rows)}
    counts: Integers = count_rows(profile=PROFILE, columns=columns, panes=np.zeros(rows, dtype=np.int64), pane_count=1)[
        0
    ]
    return CountedWindow(
        environment="production",
        start=int(hour * HOUR),
        rows=rows,
        late_rows=0,
        counts=split_counts(widths=PROFILE.widths, counts=counts),
    )


class Story:
    """A plan and its signal, window after window."""

    def __init__(self, plan: MonitoringPlan) -> None:
        self.plan, self.signal = plan, None
        self.facts: list[Fact] = []
        self._signal: DriftSignal | None = None

    def window(self, hour: float, *, rows: int = 500, x: float = 0.0, y: float = 0.0) -> Closing:
        """One more window."""
        closing = close_window(self.plan, counted=counted(hour, rows=rows, x=x, y=y), last_signal=self._signal, at=NOW)
        self.plan = monitoring_plan.evolve(self.plan, closing.window)
        self.facts.append(closing.window)
        if closing.raised is not None:
            self._signal = drift_signal.evolve(None, closing.raised)
        return closing

    def decide(self, *facts: Fact) -> None:
        """What was decided about the signal."""
        for fact in facts:
            self._signal = drift_signal.evolve(self._signal, fact)

    @property
    def standing(self) -> DriftSignal:
        """The signal raised last."""
        return drift_signal.existing(self._signal)


def test_a_shift_raises_one_signal_that_names_its_feature() -> None:
    """With effect, test, window and deadline."""
    story = Story(watching())
    assert story.window(0).raised is None
    raised = story.window(1, x=1.0).raised
    assert raised is not None
    assert (raised.key, raised.plan, raised.release) == ("MP-1-S1", "MP-1", "R-1")
    assert [(feature.name, feature.channel) for feature in raised.features] == [("x", "values")]
    assert raised.features[0].psi is not None
    assert raised.features[0].psi > 0.5
    assert raised.triage_until == NOW + timedelta(days=2)
    assert raised.window_end - raised.window_start == timedelta(hours=1)


def test_an_open_signal_is_not_raised_again() -> None:
    """Open stays open: later windows name the standing signal and raise none."""
    story = Story(watching())
    story.window(0, x=1.0)
    for hour in (1, 2, 3):
        closing = story.window(hour, x=1.0)
        assert closing.raised is None
        assert (closing.window.signal, closing.window.outcome) == ("MP-1-S1", "beyond tolerance")
    story.decide(*drift_signal.escalate(story.standing, to="change request", by=RITA))
    assert story.window(4, x=1.0).raised is None


def test_a_resolved_signal_lets_the_evidence_begin_again() -> None:
    """If production still drifts, that is a new signal."""
    story = Story(watching())
    story.window(0, x=1.0)
    story.decide(*drift_signal.escalate(story.standing, to="change request", by=RITA))
    story.decide(*drift_signal.resolve(story.standing, change_request="CR-1"))
    quiet = story.window(1).window
    assert (quiet.restarted, quiet.signal, quiet.outcome) == (True, None, "within tolerance")
    assert quiet.evidence < 2
    again = story.window(2, x=1.0)
    assert (again.window.restarted, again.window.signal) == (False, "MP-1-S2")


def test_a_dismissed_difference_is_not_raised_again_while_it_lasts() -> None:
    """The dismissed feature is muted, any other one still raises a signal."""
    story = Story(watching())
    story.window(0, x=1.0)
    story.decide(*drift_signal.dismiss(story.standing, by=RITA))
    for hour in range(1, 6):
        assert story.window(hour, x=1.0).raised is None
    raised = story.window(6, x=1.0, y=1.0).raised
    assert raised is not None
    assert [feature.name for feature in raised.features] == ["y"]


def test_a_dismissed_difference_that_went_and_came_back_is_raised() -> None:
    """Three quiet windows in a row, and the feature is watched again."""
    story = Story(watching())
    story.window(0, x=1.0)
    story.decide(*drift_signal.dismiss(story.standing, by=RITA))
    muted = [story.window(hour).window.features[0].quiet_windows for hour in (1, 2, 3)]
    assert muted == [1, 2, None]
    assert story.window(4, x=1.0).raised is not None


def test_windows_that_share_rows_raise_nothing() -> None:
    """Of windows that slide by a quarter hour only one in four feeds the detector."""
    story = Story(watching(slide_s=HOUR // 4))
    fed = [story.window(start / 4, x=1.0).window for start in range(1, 5)]
    assert [window.feeds_detector for window in fed] == [False, False, False, True]
    assert [window.raised for window in fed] == [False, False, False, True]


def test_an_empty_hour_is_told_by_the_next_window() -> None:
    """No event for nothing, and nothing is silent."""
    story = Story(watching())
    assert story.window(5).window.empty_before == 0
    assert story.window(8).window.empty_before == 2


@pytest.mark.parametrize("rows", [0, 3])
def test_too_few_rows_are_never_no_drift(rows: int) -> None:
    """The outcome says that it does not know."""
    story = Story(watching())
    assert story.window(0, rows=rows).window.outcome == "insufficient data"


WINDOWS = st.lists(st.tuples(st.sampled_from([0, 4, 60, 500]), st.sampled_from([0.0, 0.3, 1.0])), max_size=8)


@settings(max_examples=25)
@given(WINDOWS, st.sampled_from([HOUR, HOUR // 2]))
def test_replay_of_windows_equals_what_was_lived(windows: list[tuple[int, float]], slide_s: int) -> None:
    """The evidence, counts carried over and muted features are the fold of the stored bytes."""
    mapper, plan = EventMapper(FACTS), watching(slide_s=slide_s)
    story = Story(plan)
    for number, (rows, shift) in enumerate(windows):
        story.window(number * slide_s / HOUR, rows=rows, x=shift)
        if number == 4 and story.plan.watch("production").signal is not None:
            story.decide(*drift_signal.dismiss(story.standing, by=RITA))
    for version, fact in enumerate(story.facts, start=1):
        stored = mapper.to_stored_event(_event(fact, version))
        plan = monitoring_plan.evolve(plan, mapper.to_domain_event(stored).data)
    assert plan == story.plan


def _event(fact: Fact, version: int) -> Event:
    assert isinstance(fact, DriftWindowClosed)
    return Event(
        id=str(version),
        stream="monitoring-plan:flight-delay/MP-1",
        version=version,
        name=fact.TOPIC,
        schema=1,
        actor=RITA,
        reason="part of the test",
        correlation="c",
        causation=None,
        data=fact,
    )
