"""Judges one window: the statistics of every feature, what each channel's test says, and how much evidence has gathered.

A window with too few rows for a test is "insufficient data", never "no drift": its counts go on to the next window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from .detector import advance_evidence, e_value
from .divergence import chi_square, debiased_stability_index, population_stability_index
from .histogram import Integers
from .reference_profile import CHANNELS, Channel, FeatureReference, channel_counts
from .tolerance import (
    merge_cells,
    share_limit,
    share_p_value,
    share_upper_bound,
    sum_groups,
    tolerance_p_value,
    widen_tolerance,
)

FeatureOutcome: TypeAlias = Literal["tested", "insufficient data"]
WindowOutcome: TypeAlias = Literal["within tolerance", "insufficient data", "beyond tolerance"]

QUIET_P_VALUE = 0.5
QUIET_WINDOWS = 3
"""A dismissed difference counts as gone after so many windows in a row without a sign of it."""


class FeatureWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in one window. `counts` are by value cell; `n` is the rows with a value; PSI is of this window alone.

    The test of the values is of `tested_rows`: this window's and those of windows before it that were too small; `tolerance` is
    the widened one, `p_value` what it says. By channel there is a p-value (None if untested) and the evidence after this window,
    whose mean is `evidence`. `quiet_windows` is None unless the feature is muted by a dismissal.
    """

    name: str
    n: int
    missing: int
    counts: tuple[int, ...]
    psi: float | None
    psi_debiased: float | None
    outcome: FeatureOutcome
    tested_rows: int
    chi_square: float | None
    degrees_of_freedom: int
    tolerance: float | None
    p_value: float | None
    channel_p_values: Mapping[str, float | None]
    channel_evidence: Mapping[str, float]
    evidence: float
    quiet_windows: int | None


class FeatureMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What the detector remembers of a feature: evidence by channel, counts that were too few, and whether it is muted."""

    evidence: Mapping[str, float] = {}
    pending: tuple[int, ...] = ()
    quiet_windows: int | None = None


class _ValuesTest(msgspec.Struct, frozen=True, kw_only=True):
    outcome: FeatureOutcome
    rows: int
    chi_square: float | None = None
    degrees_of_freedom: int = 0
    tolerance: float | None = None
    p_value: float | None = None


def judge_feature(
    *,
    reference: FeatureReference,
    counts: Integers,
    missing: int,
    memory: FeatureMemory,
    tolerance: float,
    feeds_detector: bool,
) -> FeatureWindow:
    """The statistics and tests of one feature. A window that shares rows with others changes no evidence."""
    values = _test_values(reference, counts, memory, tolerance)
    advances = feeds_detector and memory.quiet_windows is None
    n = int(counts.sum())
    baseline = np.array(reference.counts)
    p_values: dict[str, float | None] = {
        channel: values.p_value
        if channel == "values"
        else _share_p_value(reference, channel, counts, missing, tolerance)
        for channel in CHANNELS[reference.kind]
    }
    evidence = {
        channel: _evidence(p_value, before=memory.evidence.get(channel, 0.0), advances=advances)
        for channel, p_value in p_values.items()
    }
    return FeatureWindow(
        name=reference.name,
        n=n,
        missing=missing,
        counts=tuple(int(count) for count in counts),
        psi=population_stability_index(reference=baseline, window=counts) if n else None,
        psi_debiased=debiased_stability_index(reference=baseline, window=counts) if n else None,
        outcome=values.outcome,
        tested_rows=values.rows,
        chi_square=values.chi_square,
        degrees_of_freedom=values.degrees_of_freedom,
        tolerance=values.tolerance,
        p_value=values.p_value,
        channel_p_values=p_values,
        channel_evidence=evidence,
        evidence=sum(evidence.values()) / len(evidence),
        quiet_windows=_quiet_windows(memory, p_values, values.outcome, feeds_detector),
    )


def _test_values(reference: FeatureReference, counts: Integers, memory: FeatureMemory, tolerance: float) -> _ValuesTest:
    baseline = np.array(reference.counts)
    total = counts + np.array(memory.pending, dtype=np.int64) if memory.pending else counts
    n, m = int(total.sum()), int(baseline.sum())
    if np.count_nonzero(baseline) < 2:
        # A constant has no shape to test; that it stays constant is what the share channels watch.
        return _ValuesTest(outcome="tested", rows=n)
    groups = merge_cells(expected=n * baseline / m, ordered=reference.kind == "numeric")
    if groups.max() == 0:
        return _ValuesTest(outcome="insufficient data", rows=n)
    statistic, degrees = chi_square(
        reference=sum_groups(counts=baseline, groups=groups), window=sum_groups(counts=total, groups=groups)
    )
    phi = reference.overdispersion["values"]
    widened = widen_tolerance(tolerance=tolerance, reference_rows=m / phi, degrees_of_freedom=degrees)
    p_value = tolerance_p_value(
        statistic=statistic / phi,
        degrees_of_freedom=degrees,
        tolerance=widened,
        effective_rows=n * m / (n + m) / phi,
    )
    return _ValuesTest(
        outcome="tested",
        rows=n,
        chi_square=statistic,
        degrees_of_freedom=degrees,
        tolerance=widened,
        p_value=p_value,
    )


def _share_p_value(
    reference: FeatureReference, channel: Channel, counts: Integers, missing: int, tolerance: float
) -> float:
    baseline = np.array(reference.counts)
    before = int(channel_counts(channel=channel, counts=baseline, missing=np.array(reference.missing)))
    now = int(channel_counts(channel=channel, counts=counts, missing=np.array(missing)))
    phi = reference.overdispersion[channel]
    bound = share_upper_bound(count=before, rows=int(baseline.sum()) + reference.missing, overdispersion=phi)
    limit = share_limit(share=bound, tolerance=tolerance)
    return share_p_value(count=now, rows=int(counts.sum()) + missing, limit=limit, overdispersion=phi)


def _evidence(p_value: float | None, *, before: float, advances: bool) -> float:
    """Without a test, or while the feature is muted, nothing is added to the evidence (a muted one begins at 0)."""
    return advance_evidence(evidence=before, e=e_value(p_value)) if advances and p_value is not None else before


def _quiet_windows(
    memory: FeatureMemory, p_values: Mapping[str, float | None], outcome: FeatureOutcome, feeds_detector: bool
) -> int | None:
    if memory.quiet_windows is None or outcome == "insufficient data" or not feeds_detector:
        return memory.quiet_windows
    quiet = all(p_value is None or p_value >= QUIET_P_VALUE for p_value in p_values.values())
    after = memory.quiet_windows + 1 if quiet else 0
    return None if after >= QUIET_WINDOWS else after


def remember(*, memory: FeatureMemory, window: FeatureWindow, feeds_detector: bool) -> FeatureMemory:
    """What the detector remembers after the window."""
    if not feeds_detector:
        return memory
    pending: tuple[int, ...] = ()
    if window.outcome == "insufficient data":
        before = memory.pending or (0,) * len(window.counts)
        pending = tuple(old + new for old, new in zip(before, window.counts, strict=True))
    return FeatureMemory(
        evidence=window.channel_evidence,
        pending=pending,
        quiet_windows=window.quiet_windows,
    )


def mean_evidence(features: Sequence[FeatureWindow]) -> float:
    """The mean over features: the number that the alarm looks at."""
    return sum(feature.evidence for feature in features) / len(features)


def outcome_of(*, features: Sequence[FeatureWindow], threshold: float) -> WindowOutcome:
    """Beyond tolerance at the threshold; otherwise within tolerance only if every feature could be tested."""
    if mean_evidence(features) >= threshold:
        return "beyond tolerance"
    if any(feature.outcome == "insufficient data" for feature in features):
        return "insufficient data"
    return "within tolerance"
