"""What a metric is on these rows, and how far from it the truth may lie.

    rows --estimate--> Estimate(value, n, lower, upper)
    counts of a confusion matrix --estimate_from_counts--> the same, for the metrics that need no more

The errors are those of `rows`, each naming field and rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose, isfinite
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from .bounds import Bounds, Method, Resampling, bootstrap_bounds, read_resampling, too_few, wilson_bounds
from .measures import CELLS, confusion_cells, from_proportion, statistic_of
from .metrics import Metric, find_metric
from .resampling import bootstrap
from .rows import Rows, invalid_parameter, read_rows, require_level, require_rows, undefined_metric

_UNDEFINED_UNLESS: Mapping[str, str] = MappingProxyType(
    {
        "recall": "holds at least one positive",
        "specificity": "holds at least one negative",
        "precision": "comes with at least one predicted positive",
        "f1": "holds at least one positive, or one is predicted",
        "false_positive_rate": "holds at least one negative",
        "auroc": "holds both classes",
        "average_precision": "holds at least one positive",
        "calibration_slope": "holds both classes, which the scores, not all equal, do not separate without error",
        "calibration_intercept": "holds both classes",
        "mean_absolute_error": "lies near enough to the predictions for a finite error",
        "root_mean_squared_error": "lies near enough to the predictions for a finite error",
    }
)


class ConfusionCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Rows by label and predicted class; "positive" is class 1."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) < 0:
                raise invalid_parameter(field=name, rule="is a count, 0 or more")

    @property
    def cells(self) -> tuple[int, int, int, int]:
        """The four counts in the order of the cells of `measures`."""
        return self.true_negatives, self.false_positives, self.false_negatives, self.true_positives


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A metric on one slice. `value` is None exactly when there is nothing to measure (n = 0).

    `n`: the observations that carry the metric: its trials (recall: the positives) or else the rows. `rows`: all rows
    read. `lower`, `upper`: one-sided bounds, each at `level`; None where none were asked for or, see `withheld`, none
    can be given.
    """

    metric: str
    definition_version: int
    value: float | None
    n: int
    rows: int
    successes: int | None = None
    trials: int | None = None
    level: float | None = None
    lower: float | None = None
    upper: float | None = None
    method: Method | None = None
    resamples: int | None = None
    seed: int | None = None
    withheld: str | None = None

    def __post_init__(self) -> None:
        broken = _broken_rule(self)
        if broken is not None:
            raise invalid_parameter(field=broken[0], rule=broken[1])


def _broken_rule(estimate: Estimate) -> tuple[str, str] | None:
    for name in ("value", "level", "lower", "upper"):
        number = getattr(estimate, name)
        if number is not None and not isfinite(number):
            return name, "is a finite number"
    if not 0 <= estimate.n <= estimate.rows or (estimate.value is None) != (estimate.n == 0):
        return "n", "is between 0 and rows, and 0 exactly when there is no value"
    if (estimate.lower is None) != (estimate.upper is None) or (estimate.lower is not None and estimate.level is None):
        return "lower", "comes with upper and level, or not at all"
    if (estimate.successes is None) != (estimate.trials is None):
        return "trials", "comes with successes, or not at all"
    if estimate.successes is not None and not 0 <= estimate.successes <= estimate.n == estimate.trials:
        return "successes", "is between 0 and trials, and trials is n"
    if (
        estimate.successes is not None
        and estimate.value is not None
        and not isclose(estimate.value, _counted_value(estimate))
    ):
        return "value", "is what successes and trials say"
    return None


def _counted_value(estimate: Estimate) -> float:
    return from_proportion(metric=estimate.metric, proportion=(estimate.successes or 0) / estimate.n)


def estimate_nothing(*, metric: Metric, rows: int = 0) -> Estimate:
    """The estimate of a slice in which nothing carries the metric; `decide` calls it inconclusive."""
    return Estimate(metric=metric.key, definition_version=metric.definition_version, value=None, n=0, rows=rows)


def estimate(
    *,
    metric: Metric,
    labels: ArrayLike,
    scores: ArrayLike | None = None,
    predictions: ArrayLike | None = None,
    decision_threshold: float | None = None,
    level: float | None = None,
    seed: int | None = None,
    resamples: int | None = None,
) -> Estimate:
    """The metric's value and, given a `level`, its bounds. The same arguments give the same Estimate, bit by bit.

    `labels`, shape (rows,): 0 or 1, or real for a metric of "values". Exactly one of `scores` (of the positive class; a
    row is predicted positive at score >= decision_threshold) and `predictions` (classes 0 or 1, or real values). `seed`
    is needed for a bootstrap only. Raises EmptySlice, InvalidRows, InvalidParameter, UndefinedMetric.
    """
    rows = read_rows(
        metric=metric, labels=labels, scores=scores, predictions=predictions, decision_threshold=decision_threshold
    )
    if metric.inputs == "counts":
        return estimate_from_counts(metric=metric, counts=count_outcomes(rows=rows), level=level)
    size = int(rows.labels.size)
    value = value_on(metric=metric, rows=rows)
    point = Estimate(metric=metric.key, definition_version=metric.definition_version, value=value, n=size, rows=size)
    if level is None:
        return point
    return _bound_by_bootstrap(metric, rows, point, value, read_resampling(level=level, seed=seed, resamples=resamples))


def estimate_from_counts(*, metric: Metric, counts: ConfusionCounts, level: float | None = None) -> Estimate:
    """The same from a confusion matrix; raises InvalidParameter for a metric that needs the rows themselves."""
    if metric.inputs != "counts":
        raise invalid_parameter(field="counts", rule=f"suffice for {', '.join(CELLS)}, not for {metric.key}")
    rows = sum(counts.cells)
    require_rows(slice_name="overall", rows=rows, field="/counts")
    successes, trials = (sum(counts.cells[cell] for cell in cells) for cells in CELLS[metric.key])
    if trials == 0:
        raise undefined_metric(metric=metric, field="labels", rule=_UNDEFINED_UNLESS[metric.key])
    counted = Estimate(
        metric=metric.key,
        definition_version=metric.definition_version,
        value=from_proportion(metric=metric.key, proportion=successes / trials),
        n=trials,
        rows=rows,
        successes=successes,
        trials=trials,
    )
    return counted if level is None else bound_counted(estimate=counted, level=level)


def bound_counted(*, estimate: Estimate, level: float) -> Estimate:
    """A counted estimate with the Wilson bounds of its successes among its trials at `level`.

    F1 rises with J = TP / (TP + FP + FN) and, given these trials, TP is binomial: its bounds are those of J carried
    over.
    """
    require_level(level=level)
    metric = find_metric(key=estimate.metric)
    if metric.inputs != "counts" or estimate.successes is None or not estimate.trials:
        raise invalid_parameter(field="trials", rule="are counted, at least one, for a metric of counts")
    share = estimate.successes / estimate.trials
    lower, upper = (
        from_proportion(metric=metric.key, proportion=bound)
        for bound in wilson_bounds(proportion=share, trials=estimate.trials, level=level)
    )
    return msgspec.structs.replace(estimate, level=level, lower=lower, upper=upper, method="wilson")


def count_outcomes(*, rows: Rows) -> ConfusionCounts:
    """The confusion matrix of rows whose outputs are predicted classes."""
    cells = np.bincount(confusion_cells(labels=rows.labels, predictions=rows.outputs), minlength=4)
    true_negatives, false_positives, false_negatives, true_positives = (int(count) for count in cells)
    return ConfusionCounts(
        true_positives=true_positives,
        false_positives=false_positives,
        true_negatives=true_negatives,
        false_negatives=false_negatives,
    )


def value_on(*, metric: Metric, rows: Rows) -> float:
    """The metric's value; raises UndefinedMetric where it has none."""
    with np.errstate(over="ignore"):
        statistic = statistic_of(metric=metric, labels=rows.labels, outputs=rows.outputs)
        value = float(statistic(np.ones((1, rows.labels.size)))[0])
    if not isfinite(value):
        raise undefined_metric(metric=metric, field="labels", rule=_UNDEFINED_UNLESS[metric.key])
    return value


def _bound_by_bootstrap(metric: Metric, rows: Rows, point: Estimate, value: float, drawn: Resampling) -> Estimate:
    bounds = too_few(metric=metric, rows=rows) or _bootstrap_bounds(metric, rows, value, drawn)
    withheld = bounds if isinstance(bounds, str) else None
    lower, upper = (None, None) if isinstance(bounds, str) else bounds
    return msgspec.structs.replace(
        point,
        level=drawn.level,
        lower=lower,
        upper=upper,
        method="bootstrap",
        resamples=drawn.resamples,
        seed=drawn.seed,
        withheld=withheld,
    )


def _bootstrap_bounds(metric: Metric, rows: Rows, value: float, drawn: Resampling) -> Bounds | str:
    statistic = statistic_of(metric=metric, labels=rows.labels, outputs=rows.outputs)
    replicates = bootstrap(statistic=statistic, rows=rows.labels.size, resamples=drawn.resamples, seed=drawn.seed)
    return bootstrap_bounds(metric=metric, rows=rows, value=value, replicates=replicates, level=drawn.level)
