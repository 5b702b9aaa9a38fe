"""The e-detector: it turns the p-values of one window after the other into an alarm whose false-alarm rate is a promise.

Each channel of each feature has its evidence M, a Shiryaev-Roberts statistic over e-values. A mean of such detectors is one too,
under any dependence between them, so the alarm looks at the mean. If every p-value is valid given the past, the expected number
of windows to a false alarm is at least the threshold.
Source: J. Shin, A. Ramdas and A. Rinaldo, E-detectors: a nonparametric framework for sequential change detection, 2023.
"""

from __future__ import annotations

import math

SECONDS_A_WEEK = 604_800
EVIDENCE_MAX = 1e15
"""Evidence grows without end while drift lasts; more than this says nothing new, and a cap can only delay an alarm."""

_SERIES_BELOW = 1e-3


def e_value(p_value: float) -> float:
    """e = (1 - p + p ln p) / (p ln^2 p), whose mean is at most 1 under the null; from 1/2 (p = 1) upwards.

    It is the integral over k of k p^(k-1) (V. Vovk and R. Wang, E-values: calibration, combination and applications, 2021).
    With u = -ln p it is (e^u - 1 - u) / u^2, near u = 0 by its series.
    """
    u = -math.log(p_value)
    if u < _SERIES_BELOW:
        return 0.5 + u / 6 + u * u / 24
    return (math.expm1(u) - u) / (u * u)


def advance_evidence(*, evidence: float, e: float) -> float:
    """M_t = (M_{t-1} + 1) e_t, at most EVIDENCE_MAX (Shiryaev-Roberts: every start of the drift is a candidate)."""
    return min(EVIDENCE_MAX, (evidence + 1.0) * e)


def alarm_threshold(*, window_s: int, false_alarms_per_week: float) -> float:
    """The evidence at which the budget is kept: windows a week over false alarms a week, at least 1."""
    return max(1.0, SECONDS_A_WEEK / window_s / false_alarms_per_week)
