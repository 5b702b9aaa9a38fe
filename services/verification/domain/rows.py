"""Rows as a metric needs them, read from what a run brings, and the errors of reading.

    EmptySlice        a slice without rows
    InvalidRows       labels, scores or predictions on which the metric is not defined
    InvalidParameter  a level, seed, number of resamples, decision threshold or count outside its range
    UndefinedMetric   good rows without a value, as recall has none without a positive

All are Invalid and name field and rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import FieldError, Invalid

from .measures import Floats
from .metrics import Metric

ROWS_MAX = 10_000_000


class EmptySlice(Invalid):
    """A slice without rows measures nothing."""


class InvalidRows(Invalid):
    """Labels, scores or predictions are not what the metric is defined on."""


class InvalidParameter(Invalid):
    """A level, seed, number of resamples, decision threshold or count is out of its range."""


class UndefinedMetric(Invalid):
    """The metric has no value on these rows."""


@dataclass(frozen=True)
class Rows:
    """Labels and a model's outputs (classes, scores or values, as the metric's `inputs` says), each shape (rows,)."""

    labels: Floats
    outputs: Floats

    @property
    def smaller_class(self) -> int:
        """Rows of the rarer class, for labels 0 and 1."""
        positives = int(self.labels.sum())
        return min(positives, self.labels.size - positives)


def require_rows(*, slice_name: str, rows: int, field: str = "/labels") -> None:
    """Raises EmptySlice unless the slice has rows: the check for the door, where a run is recorded."""
    if rows == 0:
        raise EmptySlice(
            f"slice {slice_name[:64]!r} has no rows",
            why="a metric of nothing proves nothing",
            next_step="check the slice's name and the dataset, or record the run without this slice",
            fields=(FieldError(field, "has at least one row"),),
        )


def require_level(*, level: float, field: str = "level") -> None:
    """Raises InvalidParameter unless a one-sided confidence level is inside (0.5, 1)."""
    if not 0.5 < level < 1.0:
        raise invalid_parameter(field=field, rule="is a one-sided confidence level, above 0.5 and below 1")


def read_rows(
    *,
    metric: Metric,
    labels: ArrayLike,
    scores: ArrayLike | None,
    predictions: ArrayLike | None,
    decision_threshold: float | None,
) -> Rows:
    """Rows from exactly one of scores and predictions, whichever the metric is computed from."""
    if (scores is None) == (predictions is None):
        raise invalid_rows(field="scores", rule="or predictions: exactly one of the two is given")
    if predictions is not None and metric.inputs != "scores":
        return read_outputs(metric=metric, labels=labels, field="predictions", outputs=predictions)
    if scores is None or metric.inputs == "values":
        wanted = "scores" if metric.inputs == "scores" else "predictions"
        raise invalid_rows(field=wanted, rule=f"are what {metric.key} is computed from")
    if metric.inputs == "counts" and decision_threshold is None:
        raise invalid_parameter(
            field="decision_threshold", rule=f"comes with scores for {metric.key}, which counts classes"
        )
    return read_outputs(
        metric=metric, labels=labels, field="scores", outputs=scores, decision_threshold=decision_threshold
    )


def read_outputs(
    *,
    metric: Metric,
    labels: ArrayLike,
    field: str,
    outputs: ArrayLike,
    decision_threshold: float | None = None,
    threshold_field: str = "decision_threshold",
) -> Rows:
    """Rows from the one column `outputs`, named `field`; with a threshold a metric of counts makes classes of it."""
    truth, column = _read_column("labels", labels), _read_column(field, outputs)
    require_rows(slice_name="overall", rows=truth.size)
    if truth.size != column.size:
        raise invalid_rows(field=field, rule=f"has one entry for each of the {truth.size} labels, not {column.size}")
    if metric.inputs != "values":
        _require_each("labels", np.isin(truth, (0.0, 1.0)), "is 0 or 1")
    if metric.inputs == "counts":
        column = _read_classes(field, column, threshold_field, decision_threshold)
    if metric.inputs == "scores":
        _require_scores(metric, field, column)
    return Rows(labels=truth, outputs=column)


def invalid_rows(*, field: str, rule: str) -> InvalidRows:
    return InvalidRows(
        f"/{field} {rule}",
        why="a metric is defined on complete, finite rows only",
        next_step="correct the rows and send them again; nothing was recorded",
        fields=(FieldError(f"/{field}", rule),),
    )


def invalid_parameter(*, field: str, rule: str) -> InvalidParameter:
    return InvalidParameter(
        f"/{field} {rule}",
        why="this number decides the estimate, its bound or the verdict",
        next_step=f"send another {field}; nothing was recorded",
        fields=(FieldError(f"/{field}", rule),),
    )


def undefined_metric(*, metric: Metric, field: str, rule: str) -> UndefinedMetric:
    return UndefinedMetric(
        f"{metric.key} has no value on these rows",
        why=f"{metric.key} is: {metric.definition}",
        next_step="choose a slice in which it is defined, or leave this slice inconclusive",
        fields=(FieldError(f"/{field}", rule),),
    )


def _read_column(field: str, values: ArrayLike) -> Floats:
    rule = "is one column of numbers"
    try:
        column = np.asarray(values)
    except ValueError:
        raise invalid_rows(field=field, rule=rule) from None
    if column.ndim != 1 or (column.size > 0 and column.dtype.kind not in "biuf"):
        raise invalid_rows(field=field, rule=rule)
    if column.size > ROWS_MAX:
        raise invalid_rows(field=field, rule=f"has at most {ROWS_MAX:,} rows")
    numbers = column.astype(np.float64)
    _require_each(field, np.isfinite(numbers), "is a finite number")
    return numbers


def _read_classes(field: str, column: Floats, threshold_field: str, threshold: float | None) -> Floats:
    if threshold is None:
        _require_each(field, np.isin(column, (0.0, 1.0)), "is 0 or 1")
        return column
    if not isfinite(threshold):
        raise invalid_parameter(field=threshold_field, rule="is a finite number")
    return (column >= threshold).astype(np.float64)


def _require_scores(metric: Metric, field: str, scores: Floats) -> None:
    if metric.key in ("calibration_slope", "calibration_intercept"):
        _require_each(field, (scores > 0.0) & (scores < 1.0), "is above 0 and below 1, else its logit is infinite")
    elif metric.kind != "ranking":
        _require_each(field, (scores >= 0.0) & (scores <= 1.0), "is a probability, 0 to 1")


def _require_each(field: str, good: NDArray[np.bool_], rule: str) -> None:
    if not good.all():
        raise invalid_rows(field=f"{field}/{int(np.argmin(good))}", rule=rule)
