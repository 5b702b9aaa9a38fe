"""Metrics as functions of row weights, so that one formula gives the estimate and every bootstrap replicate of it.

A `Statistic` takes weights of shape (replicates, rows), in the order of the rows as they were given, and returns shape
(replicates,). All weights one is the estimate on the rows; multinomial weights are a resample. NaN: undefined for those
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .metrics import ECE_BINS, LOG_LOSS_CLIP, Metric

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]

TRUE_NEGATIVE, FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE = range(4)

# metric: (cells of the confusion matrix that are successes, cells that are trials)
CELLS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = MappingProxyType(
    {
        "accuracy": (
            (TRUE_POSITIVE, TRUE_NEGATIVE),
            (TRUE_NEGATIVE, FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE),
        ),
        "recall": ((TRUE_POSITIVE,), (TRUE_POSITIVE, FALSE_NEGATIVE)),
        "specificity": ((TRUE_NEGATIVE,), (TRUE_NEGATIVE, FALSE_POSITIVE)),
        "precision": ((TRUE_POSITIVE,), (TRUE_POSITIVE, FALSE_POSITIVE)),
        "f1": ((TRUE_POSITIVE,), (TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE)),
        "false_positive_rate": ((FALSE_POSITIVE,), (FALSE_POSITIVE, TRUE_NEGATIVE)),
    }
)

_NEWTON_STEPS_MAX = 25
_NEWTON_STEP_LAST = 1e-5


def confusion_cells(*, labels: Floats, predictions: Floats) -> Integers:
    """The cell of each row, 0 to 3, from labels and predicted classes that are 0 or 1."""
    return (2 * labels + predictions).astype(np.int64)


def from_proportion(*, metric: str, proportion: float) -> float:
    """The metric's value at a proportion of successes: F1 is 2 J / (1 + J) of the overlap J, others are it."""
    return 2.0 * proportion / (1.0 + proportion) if metric == "f1" else proportion


def statistic_of(*, metric: Metric, labels: Floats, outputs: Floats) -> Statistic:
    """The metric as a function of row weights; `outputs` are predicted classes, scores or values (`metric.inputs`)."""
    if metric.inputs == "counts":
        return _share(metric.key, labels, outputs)
    return _STATISTICS[metric.key](labels, outputs)


def _share(metric: str, labels: Floats, predictions: Floats) -> Statistic:
    cells = confusion_cells(labels=labels, predictions=predictions)
    successes, trials = (np.isin(cells, chosen).astype(np.float64) for chosen in CELLS[metric])

    def statistic(weights: Floats) -> Floats:
        proportion = _divide(weights @ successes, weights @ trials)
        return 2.0 * proportion / (1.0 + proportion) if metric == "f1" else proportion

    return statistic


def _auroc(labels: Floats, scores: Floats) -> Statistic:
    order, starts = _tie_groups(scores)
    positive = labels[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = np.take(weights, order, axis=1)
        positives = _sum_groups(sorted_weights * positive, starts)
        negatives = _sum_groups(sorted_weights, starts)
        negatives -= positives
        tied = np.einsum("ij,ij->i", positives, negatives)
        below = np.cumsum(negatives, axis=1, out=negatives)
        won = np.einsum("ij,ij->i", positives, below) - 0.5 * tied
        return _divide(won, positives.sum(axis=1) * below[:, -1])

    return statistic


def _average_precision(labels: Floats, scores: Floats) -> Statistic:
    order, starts = _tie_groups(-scores)
    positive = labels[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = np.take(weights, order, axis=1)
        positives = _sum_groups(sorted_weights * positive, starts)
        totals = _sum_groups(sorted_weights, starts)
        predicted = np.cumsum(totals, axis=1, out=totals)
        np.maximum(predicted, 1.0, out=predicted)
        found = np.cumsum(positives, axis=1)
        all_found = found[:, -1].copy()
        precision = np.divide(found, predicted, out=found)
        return _divide(np.einsum("ij,ij->i", positives, precision), all_found)

    return statistic


def _expected_calibration_error(labels: Floats, scores: Floats) -> Statistic:
    bins = np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, scores, side="right")
    excess = np.where(bins == np.arange(ECE_BINS)[:, None], labels - scores, 0.0).T.copy()
    return lambda weights: np.abs(weights @ excess).sum(axis=1) / weights.sum(axis=1)


def _mean(losses: Floats) -> Statistic:
    return lambda weights: (weights @ losses) / weights.sum(axis=1)


def _brier_score(labels: Floats, scores: Floats) -> Statistic:
    return _mean((scores - labels) ** 2)


def _log_loss(labels: Floats, scores: Floats) -> Statistic:
    true_class = np.where(labels == 1.0, scores, 1.0 - scores)
    return _mean(-np.log(np.clip(true_class, LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP)))


def _mean_absolute_error(labels: Floats, predictions: Floats) -> Statistic:
    return _mean(np.abs(predictions - labels))


def _root_mean_squared_error(labels: Floats, predictions: Floats) -> Statistic:
    mean_square = _mean((predictions - labels) ** 2)
    return lambda weights: np.sqrt(mean_square(weights))


def _calibration_slope(labels: Floats, scores: Floats) -> Statistic:
    log_odds = np.log(scores) - np.log1p(-scores)
    return _fit(log_odds - log_odds.mean(), labels, start=(0.0, 1.0), free_slope=True)


def _calibration_intercept(labels: Floats, scores: Floats) -> Statistic:
    return _fit(np.log(scores) - np.log1p(-scores), labels, start=(0.0, 1.0), free_slope=False)


def _fit(log_odds: Floats, labels: Floats, *, start: tuple[float, float], free_slope: bool) -> Statistic:
    """Newton's method for logit P = a + b x: slope b, or intercept a with b fixed. NaN where it does not converge."""

    def newton(weights: Floats, intercept: Floats, slope: Floats) -> Floats:
        last = np.full(intercept.shape, np.inf)
        for _ in range(_NEWTON_STEPS_MAX):
            step_a, step_b = _newton_step(log_odds, labels, weights, intercept, slope, free_slope)
            intercept, slope, last = intercept + step_a, slope + step_b, np.maximum(np.abs(step_a), np.abs(step_b))
            if not np.any(last > _NEWTON_STEP_LAST):
                break
        return np.where(last <= _NEWTON_STEP_LAST, slope if free_slope else intercept, np.nan)

    def statistic(weights: Floats) -> Floats:
        replicates = weights.shape[0]
        with np.errstate(all="ignore"):
            return newton(weights, np.full(replicates, start[0]), np.full(replicates, start[1]))

    return statistic


def _newton_step(
    x: Floats, labels: Floats, weights: Floats, intercept: Floats, slope: Floats, free_slope: bool
) -> tuple[Floats, Floats]:
    probability = 1.0 / (1.0 + np.exp(-(intercept[:, None] + slope[:, None] * x)))
    residual = weights * (labels - probability)
    spread = weights * probability * (1.0 - probability)
    gradient_a, curve_aa = residual.sum(axis=1), spread.sum(axis=1)
    if not free_slope:
        return gradient_a / curve_aa, np.zeros_like(slope)
    gradient_b, curve_ab, curve_bb = residual @ x, spread @ x, spread @ (x * x)
    determinant = curve_aa * curve_bb - curve_ab**2
    step_a = (curve_bb * gradient_a - curve_ab * gradient_b) / determinant
    return step_a, (curve_aa * gradient_b - curve_ab * gradient_a) / determinant


_STATISTICS: Mapping[str, Callable[[Floats, Floats], Statistic]] = MappingProxyType(
    {
        "auroc": _auroc,
        "average_precision": _average_precision,
        "brier_score": _brier_score,
        "log_loss": _log_loss,
        "expected_calibration_error": _expected_calibration_error,
        "calibration_slope": _calibration_slope,
        "calibration_intercept": _calibration_intercept,
        "mean_absolute_error": _mean_absolute_error,
        "root_mean_squared_error": _root_mean_squared_error,
    }
)


def _tie_groups(scores: Floats) -> tuple[Integers, Integers]:
    """The stable ascending order, and where in it each group of equal scores starts."""
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1])))
    return order, starts


def _sum_groups(weights: Floats, starts: Integers) -> Floats:
    if starts.size == weights.shape[1]:
        return weights
    summed: Floats = np.add.reduceat(weights, starts, axis=1)
    return summed


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    ratio: Floats = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0.0)
    return ratio
