"""The promise of the knob on seeded streams: no more false alarms than the budget, and a drift is found soon.

Counts are drawn from the multinomial law of the cells, which is what counting rows one by one would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from services.drift.domain.detector import alarm_threshold
from services.drift.domain.histogram import Floats
from services.drift.domain.reference_profile import FeatureReference, profile_reference
from services.drift.domain.window_verdict import (
    FeatureMemory,
    FeatureWindow,
    judge_feature,
    mean_evidence,
    remember,
)

FEATURES = 3
WEEK = 168


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Hourly windows of `rows` against a reference of `reference_rows`, all features of N(0, 1) then of N(shift, 1)."""

    rows: int
    reference_rows: int
    tolerance: float
    shift: float = 0.0

    def windows_to_alarm(self, *, seed: int, windows: int, drifted: int = FEATURES) -> list[int]:
        """The number of windows to each alarm; the detector begins again after one."""
        generator = np.random.default_rng(seed)
        references = [self._reference(generator) for _ in range(FEATURES)]
        threshold = alarm_threshold(window_s=3600, false_alarms_per_week=1.0)
        memories, alarms, since = [FeatureMemory()] * FEATURES, [], 0
        for _ in range(windows):
            judged = [
                self._judge(generator, reference, memory, self.shift if index < drifted else 0.0)
                for index, (reference, memory) in enumerate(zip(references, memories, strict=True))
            ]
            memories = [
                remember(memory=memory, window=window, feeds_detector=True)
                for memory, window in zip(memories, judged, strict=True)
            ]
            since += 1
            if mean_evidence(judged) >= threshold:
                alarms.append(since)
                memories, since = [FeatureMemory()] * FEATURES, 0
        return alarms

    def _reference(self, generator: np.random.Generator) -> FeatureReference:
        values = generator.normal(0, 1, self.reference_rows)
        profile = profile_reference(model_digest="d" * 64, kinds={"x": "numeric"}, columns={"x": values}, chunks=None)
        return profile.features[0]

    def _judge(
        self, generator: np.random.Generator, reference: FeatureReference, memory: FeatureMemory, shift: float
    ) -> FeatureWindow:
        counts = generator.multinomial(self.rows, _shares(reference, shift))
        return judge_feature(
            reference=reference, counts=counts, missing=0, memory=memory, tolerance=self.tolerance, feeds_detector=True
        )


def _shares(reference: FeatureReference, shift: float) -> Floats:
    edges = np.array([-np.inf, *(float.fromhex(edge) for edge in reference.edges), np.inf])
    masses = np.diff(stats.norm.cdf(edges, loc=shift))
    shares: Floats = masses / masses.sum()
    return shares


@pytest.mark.parametrize("rows", [50, 500, 5000])
@pytest.mark.parametrize("shift", [0.0, 0.1], ids=["nothing drifts", "at the tolerance"])
def test_null_streams_keep_the_budget(rows: int, shift: float) -> None:
    """Twelve weeks at one false alarm a week: at most twelve, also where the true PSI is the tolerance itself."""
    stream = Stream(rows=rows, reference_rows=10_000, tolerance=0.01, shift=shift)
    assert len(stream.windows_to_alarm(seed=rows, windows=12 * WEEK)) <= 12


@pytest.mark.parametrize(
    ("shift", "rows", "reference_rows", "tolerance", "windows"),
    [
        (0.5, 500, 10_000, 0.01, 1),
        (0.2, 500, 100_000, 0.0025, 8),
        (0.2, 5000, 100_000, 0.01, 1),
        (1.0, 50, 10_000, 0.01, 3),
    ],
)
def test_a_shift_of_one_feature_is_found_soon(
    shift: float, rows: int, reference_rows: int, tolerance: float, windows: int
) -> None:
    """In standard deviations, rows a window, and windows to the alarm at one false alarm a week."""
    stream = Stream(rows=rows, reference_rows=reference_rows, tolerance=tolerance, shift=shift)
    alarms = stream.windows_to_alarm(seed=31, windows=20, drifted=1)
    assert alarms
    assert alarms[0] <= windows
