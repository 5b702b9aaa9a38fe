"""One-sided confidence bounds: Wilson's for proportions, the bootstrap's for everything else.

Every bound rests on independent rows. Each of a pair (lower, upper) holds alone at its level; together they are a
two-sided interval at 2 level - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf, isfinite, sqrt
from statistics import NormalDist
from types import MappingProxyType
from typing import Literal

import numpy as np

from .measures import Floats
from .metrics import Metric
from .rows import Rows, invalid_parameter, require_level

Bounds = tuple[float, float]
Method = Literal["wilson", "bootstrap"]

RESAMPLES_DEFAULT = 2_000
RESAMPLES_MAX = 100_000
TAIL_RESAMPLES_MIN = 10
SEED_MAX = 2**53 - 1
ROWS_FOR_BOOTSTRAP_MIN = 30
CLASS_ROWS_FOR_BOOTSTRAP_MIN = 20
# A score without skill, among endless rows of the other class, places each row uniformly: variance 1/12, a third of the
# 1/4 of a coin. So no ranking is credited with more than three times the rows of its smaller class.
EFFECTIVE_SIZE_PER_ROW_MAX = 3.0

METHODS: Mapping[Method, str] = MappingProxyType(
    {
        "wilson": "one-sided Wilson score bound (Wilson 1927; Agresti and Coull 1998)",
        "bootstrap": "one-sided bootstrap bound over rows: percentile, or the score bound of that spread if wider",
    }
)
TOO_OFTEN_UNDEFINED = "the metric is undefined in too many resamples for a bound at this level"
WITHOUT_SPREAD = "every resample gives the same value, so the bootstrap says nothing of what may lie beyond it"

_BIASED_UPWARD = frozenset({"expected_calibration_error"})
_OVER_ALL_ROWS = frozenset({"accuracy", "brier_score", "log_loss", "expected_calibration_error"})
_SPREAD_LEAST = 1e-12


@dataclass(frozen=True)
class Resampling:
    """How a bootstrap was drawn: the one-sided level it serves, its seed and its number of resamples."""

    level: float
    seed: int
    resamples: int


def read_resampling(*, level: float, seed: int | None, resamples: int | None) -> Resampling:
    """Checks the three; `resamples` None chooses 2,000, or more for a tail that holds ten. Raises InvalidParameter."""
    require_level(level=level)
    if seed is None or not 0 <= seed <= SEED_MAX:
        raise invalid_parameter(field="seed", rule=f"is an integer from 0 to {SEED_MAX}, needed for a bootstrap bound")
    least = min(RESAMPLES_MAX, int(TAIL_RESAMPLES_MIN / (1.0 - level)) + 1)
    chosen = max(RESAMPLES_DEFAULT, least) if resamples is None else resamples
    if not 1 <= chosen <= RESAMPLES_MAX or _tail(level, chosen) < TAIL_RESAMPLES_MIN:
        rule = f"is at most {RESAMPLES_MAX:,} and leaves {TAIL_RESAMPLES_MIN} beyond a bound at level {level}"
        raise invalid_parameter(field="resamples", rule=rule)
    return Resampling(level=level, seed=seed, resamples=chosen)


def wilson_bounds(*, proportion: float, trials: float, level: float) -> Bounds:
    """The p with |proportion - p| = z sqrt(p (1 - p) / trials), z the normal quantile of `level` in (0.5, 1).

    Wilson, JASA 22 (1927); Agresti and Coull, The American Statistician 52 (1998). The risk of a one-sided bound beyond
    the truth swings around 1 - level (Cai, JSPI 131, 2005). At 0.95 and truths from 0.1 the lower bound's is at most
    0.10 with 30 trials, 0.08 with 100, 0.07 with 400; below, where one success decides, up to 0.20. The upper bound's
    mirrors it. `trials` > 0 may be a fractional effective size.
    """
    z = NormalDist().inv_cdf(level)
    share = z * z / trials
    centre = (proportion + share / 2.0) / (1.0 + share)
    half = z * sqrt(proportion * (1.0 - proportion) / trials + share / (4.0 * trials)) / (1.0 + share)
    lower = 0.0 if proportion <= 0.0 else max(0.0, centre - half)
    upper = 1.0 if proportion >= 1.0 else min(1.0, centre + half)
    return lower, upper


def percentile_bounds(*, replicates: Floats, level: float) -> Bounds:
    """The order statistics that cut (1 - level) off each end; an undefined (NaN) replicate counts against both bounds.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Percentile rather than BCa: BCa is
    undefined where all replicates lie on one side of the estimate, as they do for the calibration error of a good
    model, and its correction vanishes at the sizes that decide. Infinite where too many replicates are undefined.
    """
    tail = _tail(level, replicates.size)
    low = np.sort(np.where(np.isnan(replicates), -np.inf, replicates))
    high = np.sort(np.where(np.isnan(replicates), np.inf, replicates))
    return float(low[tail - 1]), float(high[-tail])


def score_bounds(*, value: float, replicates: Floats, size_max: float, level: float) -> Bounds:
    """Wilson's bounds for a value in (0, 1) at its effective size.

    The effective size is value (1 - value) / variance of the replicates (Kish, Survey Sampling, 1965), at most
    `size_max`. Near 0 and 1 the percentile bound alone is too hopeful: for an AUROC of 0.98 with 30 to 50 positives its
    lower bound lies beyond the truth in about 15 cases of 100 instead of 5.
    """
    size = min(size_max, value * (1.0 - value) / float(np.nanvar(replicates)))
    return wilson_bounds(proportion=value, trials=size, level=level)


def bootstrap_bounds(*, metric: Metric, rows: Rows, value: float, replicates: Floats, level: float) -> Bounds | str:
    """The more cautious of percentile (for a biased metric also mirrored) and score bounds, or why there are none."""
    if without_spread(value=value, replicates=replicates):
        return WITHOUT_SPREAD
    bounds = unbiased_bounds(metric=metric, value=value, replicates=replicates, level=level)
    if metric.range == (0.0, 1.0) and 0.0 < value < 1.0:
        size_max = EFFECTIVE_SIZE_PER_ROW_MAX * rows.smaller_class if metric.kind == "ranking" else inf
        bounds = more_cautious(bounds, score_bounds(value=value, replicates=replicates, size_max=size_max, level=level))
    return clip(bounds=bounds, least=metric.range[0], greatest=metric.range[1])


def unbiased_bounds(*, metric: Metric, value: float, replicates: Floats, level: float) -> Bounds:
    """Percentile bounds around the value; for a metric biased upward widened to their mirror image at the value.

    Davison and Hinkley, Bootstrap Methods and their Application (1997), 5.2. Every resample repeats the bias that the
    rows already have, so the plain lower bound of a good model's calibration error lies above the truth.
    """
    lower, upper = more_cautious(percentile_bounds(replicates=replicates, level=level), (value, value))
    if metric.key not in _BIASED_UPWARD:
        return lower, upper
    return more_cautious((lower, upper), (2.0 * value - upper, 2.0 * value - lower))


def more_cautious(first: Bounds, second: Bounds) -> Bounds:
    """The lower of the lower bounds and the upper of the upper ones."""
    return min(first[0], second[0]), max(first[1], second[1])


def clip(*, bounds: Bounds, least: float | None, greatest: float | None) -> Bounds | str:
    """Bounds inside the metric's range, or why there are none: an end that stays infinite proves nothing."""
    lower = bounds[0] if least is None else max(least, bounds[0])
    upper = bounds[1] if greatest is None else min(greatest, bounds[1])
    return (lower, upper) if isfinite(lower) and isfinite(upper) else TOO_OFTEN_UNDEFINED


def too_few(*, metric: Metric, rows: Rows) -> str | None:
    """Why these rows are too few for any bootstrap bound, or None."""
    if rows.labels.size < ROWS_FOR_BOOTSTRAP_MIN:
        return f"a bootstrap bound needs at least {ROWS_FOR_BOOTSTRAP_MIN} rows; here are {rows.labels.size}"
    least = CLASS_ROWS_FOR_BOOTSTRAP_MIN
    if metric.kind == "regression" or metric.key in _OVER_ALL_ROWS or rows.smaller_class >= least:
        return None
    return f"a bootstrap bound needs at least {least} rows of each class; the smaller has {rows.smaller_class}"


def without_spread(*, value: float, replicates: Floats) -> bool:
    """Whether the replicates differ by no more than rounding."""
    defined = replicates[np.isfinite(replicates)]
    return defined.size > 0 and float(np.std(defined)) <= _SPREAD_LEAST * abs(value)


def _tail(level: float, resamples: int) -> int:
    return floor((resamples + 1) * (1.0 - level) + 1e-9)
