"""Two versions of a model measured on the same rows."""

from __future__ import annotations

from math import isfinite

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from .bounds import (
    WITHOUT_SPREAD,
    Bounds,
    Resampling,
    clip,
    read_resampling,
    too_few,
    unbiased_bounds,
    without_spread,
)
from .estimation import value_on
from .measures import Floats, statistic_of
from .metrics import Metric
from .resampling import bootstrap
from .rows import Rows, invalid_parameter, read_outputs

LEVEL_DEFAULT = 0.95


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Metric of version B minus that of version A; bounds one-sided, each at `level`, None if `withheld`."""

    metric: str
    definition_version: int
    value: float
    lower: float | None
    upper: float | None
    level: float
    n: int
    resamples: int
    seed: int
    withheld: str | None = None

    def __post_init__(self) -> None:
        for name in ("value", "lower", "upper", "level"):
            number = getattr(self, name)
            if number is not None and not isfinite(number):
                raise invalid_parameter(field=name, rule="is a finite number")


def compare(
    *,
    metric: Metric,
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    seed: int,
    decision_threshold_a: float | None = None,
    decision_threshold_b: float | None = None,
    level: float = LEVEL_DEFAULT,
    resamples: int | None = None,
) -> Difference:
    """Version B minus version A on the same rows, by a paired bootstrap: both see the same resamples.

    For a metric of counts give each version's threshold, or predicted classes as scores without one; for a metric of
    "values" give predicted values. Bounds are percentile bounds. Raises EmptySlice, InvalidRows, InvalidParameter,
    UndefinedMetric.
    """
    drawn = read_resampling(level=level, seed=seed, resamples=resamples)
    rows_a = _read_version(metric, labels, "a", scores_a, decision_threshold_a)
    rows_b = _read_version(metric, labels, "b", scores_b, decision_threshold_b)
    value = value_on(metric=metric, rows=rows_b) - value_on(metric=metric, rows=rows_a)
    bounds = too_few(metric=metric, rows=rows_a) or _paired_bounds(metric, rows_a, rows_b, value, drawn)
    lower, upper = (None, None) if isinstance(bounds, str) else bounds
    return Difference(
        metric=metric.key,
        definition_version=metric.definition_version,
        value=value,
        lower=lower,
        upper=upper,
        level=level,
        n=int(rows_a.labels.size),
        resamples=drawn.resamples,
        seed=drawn.seed,
        withheld=bounds if isinstance(bounds, str) else None,
    )


def _read_version(metric: Metric, labels: ArrayLike, version: str, scores: ArrayLike, threshold: float | None) -> Rows:
    return read_outputs(
        metric=metric,
        labels=labels,
        field=f"scores_{version}",
        outputs=scores,
        decision_threshold=threshold,
        threshold_field=f"decision_threshold_{version}",
    )


def _paired_bounds(metric: Metric, rows_a: Rows, rows_b: Rows, value: float, drawn: Resampling) -> Bounds | str:
    if np.array_equal(rows_a.outputs, rows_b.outputs):
        return 0.0, 0.0
    statistic_a = statistic_of(metric=metric, labels=rows_a.labels, outputs=rows_a.outputs)
    statistic_b = statistic_of(metric=metric, labels=rows_b.labels, outputs=rows_b.outputs)

    def difference(weights: Floats) -> Floats:
        gained: Floats = statistic_b(weights) - statistic_a(weights)
        return gained

    replicates = bootstrap(statistic=difference, rows=rows_a.labels.size, resamples=drawn.resamples, seed=drawn.seed)
    if without_spread(value=value, replicates=replicates):
        return WITHOUT_SPREAD
    bounds = unbiased_bounds(metric=metric, value=value, replicates=replicates, level=drawn.level)
    in_unit = metric.range == (0.0, 1.0)
    return clip(bounds=bounds, least=-1.0 if in_unit else None, greatest=1.0 if in_unit else None)
