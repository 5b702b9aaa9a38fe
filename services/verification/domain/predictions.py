"""Predictions as evidence: a CSV file from which we compute every metric ourselves (grade "recomputed").

UTF-8, one header line, then one line a row. Columns `label` (0 or 1; a real number for metrics of values) and `score` (the
probability of the positive class, or the predicted value), and any further columns to slice by. No quotes, no empty cells,
no commas inside cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import FieldError, Invalid

from .comparison import Difference, compare
from .estimation import Estimate, estimate, estimate_nothing
from .evaluation_run import Measurement
from .metrics import find_metric
from .rows import UndefinedMetric, require_rows

COLUMNS_MAX = 64
ROWS_MAX = 5_000_000
OVERALL = "overall"


class UnreadablePredictions(Invalid):
    """The predictions file breaks a rule; the line and the rule are named."""


class DifferentRows(Invalid):
    """Two runs can be compared only on the same rows in the same order."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """One figure to compute: a metric on a slice, with bounds at a level (None: no bounds)."""

    metric: str
    slice: str
    level: float | None


class Comparison(Difference, frozen=True, kw_only=True):
    """The difference of a metric between this run and another one on the same rows: this one minus the other."""

    other_run: str
    other_version: str


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Columns of equal length; `slices` maps a column's name to its text values."""

    labels: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    slices: Mapping[str, npt.NDArray[np.str_]]


def read_predictions(content: bytes) -> Predictions:
    """Parses the file; raises UnreadablePredictions."""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise _unreadable(f"/byte/{error.start}", "UTF-8") from None
    header = lines[0].split(",") if lines else []
    if header.count("label") != 1 or header.count("score") != 1 or len(set(header)) != len(header):
        raise _unreadable("/line/1", "one column label, one column score, and every name once")
    if len(header) > COLUMNS_MAX or len(lines) - 1 > ROWS_MAX:
        raise _unreadable("/", f"at most {COLUMNS_MAX} columns and {ROWS_MAX} rows")
    rows = [line.split(",") for line in lines[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or not all(row):
            raise _unreadable(f"/line/{number}", f"{len(header)} cells, none of them empty")
    require_rows(slice_name=OVERALL, rows=len(rows), field="/predictions")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Predictions(
        labels=_numbers("label", columns.pop("label")),
        scores=_numbers("score", columns.pop("score")),
        slices={name: np.array(values) for name, values in columns.items()},
    )


def measure(
    *, content: bytes, demands: Sequence[Demand], decision_threshold: float | None, seed: int
) -> tuple[Measurement, ...]:
    """Every demanded figure, computed from the predictions. A slice column that is not there is an error; an empty slice is not."""
    predictions = read_predictions(content)
    return tuple(_measured(predictions, demand, decision_threshold=decision_threshold, seed=seed) for demand in demands)


def compare_runs(
    *,
    content: bytes,
    other: bytes,
    demands: Sequence[Demand],
    thresholds: tuple[float | None, float | None],
    seed: int,
    other_run: str,
    other_version: str,
) -> tuple[Comparison, ...]:
    """The overall figures of two runs on the same rows, by paired bootstrap; `thresholds` are (this run's, the other's)."""
    ours, theirs = read_predictions(content), read_predictions(other)
    if not np.array_equal(ours.labels, theirs.labels):
        raise DifferentRows(
            "The two runs are not on the same rows.",
            why="A paired comparison needs the same rows in the same order, so the same labels.",
            next_step="Record the other version on the same dataset version, rows in the same order.",
            fields=(FieldError(field="/compare_with_run", rule="the same rows in the same order"),),
        )
    return tuple(
        Comparison(
            other_run=other_run,
            other_version=other_version,
            **msgspec.structs.asdict(
                compare(
                    metric=find_metric(key=demand.metric),
                    labels=ours.labels,
                    scores_a=theirs.scores,
                    scores_b=ours.scores,
                    seed=seed,
                    decision_threshold_a=thresholds[1],
                    decision_threshold_b=thresholds[0],
                )
            ),
        )
        for demand in demands
        if demand.slice == OVERALL
    )


def _measured(predictions: Predictions, demand: Demand, *, decision_threshold: float | None, seed: int) -> Measurement:
    metric = find_metric(key=demand.metric)
    mask = _mask(predictions, demand.slice)
    rows = int(mask.sum())
    if rows == 0:
        return _sliced(estimate_nothing(metric=metric), demand.slice)
    try:
        found = estimate(
            metric=metric,
            labels=predictions.labels[mask],
            scores=predictions.scores[mask],
            decision_threshold=decision_threshold,
            level=demand.level,
            seed=seed,
        )
    except UndefinedMetric:
        found = estimate_nothing(metric=metric, rows=rows)
    return _sliced(found, demand.slice)


def _sliced(found: Estimate, slice_name: str) -> Measurement:
    return Measurement(slice=slice_name, **msgspec.structs.asdict(found))


def _mask(predictions: Predictions, slice_name: str) -> npt.NDArray[np.bool_]:
    if slice_name == OVERALL:
        return np.ones(len(predictions.labels), dtype=np.bool_)
    column, _, value = slice_name.partition("=")
    if column not in predictions.slices:
        raise _unreadable("/line/1", f"a column {column}, which a criterion slices by")
    mask: npt.NDArray[np.bool_] = predictions.slices[column] == value
    return mask


def _numbers(name: str, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    try:
        values = np.array(texts, dtype=np.float64)
    except ValueError:
        wrong = next(number for number, text in enumerate(texts, start=2) if not _is_number(text))
        raise _unreadable(f"/line/{wrong}/{name}", "a number") from None
    if not np.isfinite(values).all():
        wrong = int(np.flatnonzero(~np.isfinite(values))[0]) + 2
        raise _unreadable(f"/line/{wrong}/{name}", "a finite number")
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unreadable(field: str, rule: str) -> UnreadablePredictions:
    return UnreadablePredictions(
        f"The predictions file breaks a rule at {field}: {rule}.",
        why="Metrics are computed from the file itself, so every row of it must be readable.",
        next_step="Write the file as the README of verification describes it, and store it again.",
        fields=(FieldError(field=field, rule=rule),),
    )
