"""One window judged: the cases that mislead other tools, and what the detector remembers.

The reference is 10,000 rows of N(0, 1); the tolerance a PSI of 0.01, which is a shift of a tenth of a standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from services.drift.domain.detector import alarm_threshold
from services.drift.domain.histogram import Floats
from services.drift.domain.reference_profile import ReferenceProfile, count_rows, profile_reference, split_counts
from services.drift.domain.window_verdict import (
    QUIET_WINDOWS,
    FeatureMemory,
    FeatureWindow,
    judge_feature,
    mean_evidence,
    outcome_of,
    remember,
)

HOURLY_BUDGET = alarm_threshold(window_s=3600, false_alarms_per_week=1.0)
PROFILE = profile_reference(
    model_digest="d" * 64,
    kinds={"x": "numeric"},
    columns={"x": np.random.default_rng(2).normal(0, 1, 10_000)},
    chunks=None,
)
LEVELS = ["AA", "B6", "UA"]
CARRIERS = profile_reference(
    model_digest="d" * 64,
    kinds={"carrier": "categorical"},
    columns={"carrier": (["AA"] * 6 + ["B6"] * 3 + ["UA"]) * 1000},
    chunks=None,
)


def judged(
    values: Floats | list[str | None],
    memory: FeatureMemory | None = None,
    *,
    profile: ReferenceProfile = PROFILE,
    feeds: bool = True,
    tolerance: float = 0.01,
) -> FeatureWindow:
    """The verdict on a window of these values."""
    feature = profile.features[0]
    counted = count_rows(
        profile=profile, columns={feature.name: values}, panes=np.zeros(len(values), dtype=np.int64), pane_count=1
    )
    ((counts, missing),) = split_counts(widths=profile.widths, counts=counted[0])
    return judge_feature(
        reference=feature,
        counts=counts,
        missing=missing,
        memory=memory or FeatureMemory(),
        tolerance=tolerance,
        feeds_detector=feeds,
    )


def normal(count: int, shift: float = 0.0) -> Floats:
    """A window of production."""
    return np.random.default_rng(17).normal(shift, 1, count)


def with_outlier(values: Floats) -> Floats:
    """The first value is absurd."""
    return np.concatenate([[1e9], values[1:]])


def with_missing(values: Floats, share: float) -> Floats:
    """The first values are missing."""
    return np.where(np.arange(len(values)) < share * len(values), math.nan, values)


@pytest.mark.parametrize(
    "values",
    [
        normal(2000),
        with_outlier(normal(2000)),
        np.concatenate([normal(1999), [math.inf]]),
        normal(30),
        normal(2000, 0.05),
    ],
    ids=["no drift", "one outlier of 1e9", "one infinity", "30 rows", "less than the tolerance"],
)
def test_no_drift_is_no_alarm(values: Floats) -> None:
    """Not by an outlier, not by an infinity, not by few rows, not by a trifle."""
    assert judged(values).evidence < 2


@pytest.mark.parametrize(
    ("values", "channel"),
    [
        (normal(2000, 1.0), "values"),
        (with_outlier(normal(2000, 1.0)), "values"),
        (with_missing(normal(2000), 0.3), "missing"),
        (np.concatenate([normal(1900), np.full(100, 6.0)]), "above"),
        (np.concatenate([normal(1900), np.full(100, -math.inf)]), "below"),
    ],
    ids=["a shift", "a shift and one outlier", "30 % missing", "5 % far above", "5 % minus infinity"],
)
def test_drift_is_an_alarm_in_its_first_window(values: Floats, channel: str) -> None:
    """An outlier does not hide a shift, and missing values are a finding."""
    window = judged(values)
    assert window.evidence >= HOURLY_BUDGET
    assert window.channel_p_values[channel] == min(p for p in window.channel_p_values.values() if p is not None)


def test_unseen_categories_are_found_and_one_is_no_alarm() -> None:
    """5 % of a level that the reference has not."""
    known: list[str | None] = [*(["AA"] * 6 + ["B6"] * 3 + ["UA"])] * 100
    assert judged(known, profile=CARRIERS).evidence < 2
    assert judged([*known[:-1], "ZZ"], profile=CARRIERS).evidence < 2
    drifted = judged([*known[:-50], *["ZZ"] * 50], profile=CARRIERS)
    assert drifted.evidence >= HOURLY_BUDGET
    assert drifted.counts[-1] == 50


def test_few_rows_are_insufficient_data_and_go_on_to_the_next_window() -> None:
    """Four rows test nothing; with those of the windows after it they do, and then they are forgotten."""
    memory, windows = FeatureMemory(), []
    for _ in range(4):
        windows.append(judged(normal(4), memory))
        memory = remember(memory=memory, window=windows[-1], feeds_detector=True)
    assert [(window.outcome, window.tested_rows) for window in windows] == [
        ("insufficient data", 4),
        ("insufficient data", 8),
        ("tested", 12),
        ("insufficient data", 4),
    ]
    assert windows[-1].p_value is None
    assert outcome_of(features=[windows[-1]], threshold=168) == "insufficient data"


def test_a_window_without_values_says_so() -> None:
    """Everything missing: no statistic of the values, and the share of missing ones is the alarm."""
    window = judged(np.full(500, math.nan))
    assert (window.n, window.missing, window.psi, window.p_value) == (0, 500, None, None)
    assert window.evidence >= HOURLY_BUDGET


def test_a_constant_is_watched_by_its_shares() -> None:
    """It has no shape to compare; leaving the constant is still seen."""
    constant = profile_reference(
        model_digest="d" * 64, kinds={"x": "numeric"}, columns={"x": np.full(1000, 7.0)}, chunks=None
    )
    assert judged(np.full(500, 7.0), profile=constant).outcome == "tested"
    assert judged(np.full(500, 7.0), profile=constant).evidence < 2
    assert judged(np.full(500, 8.0), profile=constant).evidence >= HOURLY_BUDGET


def test_windows_that_share_rows_change_no_evidence() -> None:
    """Their statistics are shown, their evidence stays what it was."""
    memory = FeatureMemory(evidence={"values": 3.0})
    window = judged(normal(2000, 1.0), memory, feeds=False)
    assert window.p_value is not None
    assert window.p_value < 1e-6
    assert window.channel_evidence["values"] == 3.0
    assert remember(memory=memory, window=window, feeds_detector=False) is memory


def test_small_drifts_gather_evidence_over_windows() -> None:
    """A fifth of a standard deviation, 500 rows a window: one window is not enough, a few are."""
    generator, memory, windows, evidence = np.random.default_rng(23), FeatureMemory(), 0, 0.0
    while windows < 20 and evidence < HOURLY_BUDGET:
        window = judged(generator.normal(0.2, 1, 500), memory, tolerance=0.0025)
        memory = remember(memory=memory, window=window, feeds_detector=True)
        windows, evidence = windows + 1, mean_evidence([window])
    assert 1 < windows <= 8


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_muted_feature_stays_silent_until_the_difference_is_gone(shift: float) -> None:
    """While the difference lasts it stays muted; after quiet windows in a row it is watched again."""
    memory = FeatureMemory(quiet_windows=0)
    for _ in range(QUIET_WINDOWS):
        window = judged(normal(2000, shift), memory)
        assert window.evidence == 0
        memory = remember(memory=memory, window=window, feeds_detector=True)
    assert (memory.quiet_windows is None) == (shift == 0.0)


ALL_CASES: dict[str, Callable[[], Floats]] = {
    "empty": lambda: np.array([]),
    "huge": lambda: np.full(100, 1e308),
    "tiny": lambda: np.full(100, 5e-324),
    "infinite": lambda: np.full(100, -math.inf),
}


@pytest.mark.parametrize("case", ALL_CASES)
def test_every_number_in_a_verdict_is_finite(case: str) -> None:
    """JSON has no NaN: an event can always be written and read again."""
    window = judged(ALL_CASES[case]())
    numbers = [window.psi, window.psi_debiased, window.chi_square, window.evidence, *window.channel_p_values.values()]
    assert all(number is None or math.isfinite(number) for number in numbers)
