"""Rows of features as clients send them: columns of JSON values, checked as a whole before anything is counted.

Numbers may be null (missing), "NaN", "Infinity" or "-Infinity", which JSON cannot write otherwise. Categories are texts; whole
numbers, truth values and decimals are taken as their text, so that 3, 3.0 and "3" are one level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import numpy as np

from shared.errors import FieldError, Invalid

from .histogram import Floats
from .reference_profile import Column, FeatureKind

Value: TypeAlias = float | bool | str | None

LEVEL_LENGTH_MAX = 200
ERRORS_MAX = 20

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class InvalidRows(Invalid):
    """The columns are not rows of the plan's features; nothing of them was counted."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Checked rows: `times` in seconds since 1970, shape (rows,), or None if they came without; a column a feature."""

    count: int
    times: Floats | None
    columns: Mapping[str, Column]


def parse_rows(
    *,
    count: int,
    times: Sequence[float | str] | None,
    features: Mapping[str, Sequence[Value]],
    kinds: Mapping[str, FeatureKind],
    latest: float,
    values_max: int,
) -> Rows:
    """The rows as columns. InvalidRows names every broken field; a time may not be after `latest`."""
    errors = _shape_errors(count, times, features, kinds)
    if count * len(kinds) > values_max:
        errors.append(FieldError(field="/rows", rule=f"at most {values_max // len(kinds)} with {len(kinds)} features"))
    _refuse(errors)
    seconds = None if times is None else np.array([_seconds(time) for time in times], dtype=np.float64)
    errors += [] if seconds is None else _time_errors(seconds, latest)
    columns: dict[str, Column] = {}
    for name, kind in kinds.items():
        wrong = [index for index, value in enumerate(features[name]) if not _fits(value, kind)]
        rule = "a number, null, NaN, Infinity or -Infinity" if kind == "numeric" else "a short text or null"
        errors += [FieldError(field=f"/features/{name}/{index}", rule=rule) for index in wrong[:ERRORS_MAX]]
        if not wrong:
            columns[name] = (
                _numbers(features[name]) if kind == "numeric" else [_level(value) for value in features[name]]
            )
    _refuse(errors)
    return Rows(count=count, times=seconds, columns=columns)


def _shape_errors(
    count: int,
    times: Sequence[float | str] | None,
    features: Mapping[str, Sequence[Value]],
    kinds: Mapping[str, FeatureKind],
) -> list[FieldError]:
    errors = [
        FieldError(field=f"/features/{name}", rule="a feature of the plan") for name in features if name not in kinds
    ]
    errors += [
        FieldError(field=f"/features/{name}", rule="every feature of the plan")
        for name in kinds
        if name not in features
    ]
    errors += [
        FieldError(field=f"/features/{name}", rule=f"as many values as rows ({count})")
        for name, values in features.items()
        if name in kinds and len(values) != count
    ]
    if times is not None and len(times) != count:
        errors.append(FieldError(field="/event_time", rule=f"as many values as rows ({count})"))
    return errors


def _time_errors(seconds: Floats, latest: float) -> list[FieldError]:
    unreadable = np.flatnonzero(~(seconds >= 0))[:ERRORS_MAX]
    future = np.flatnonzero(seconds > latest)[:ERRORS_MAX]
    return [
        FieldError(field=f"/event_time/{index}", rule="seconds since 1970, or an ISO time with its zone")
        for index in unreadable
    ] + [FieldError(field=f"/event_time/{index}", rule="not in the future") for index in future]


def _refuse(errors: Sequence[FieldError]) -> None:
    if errors:
        raise InvalidRows(
            "The rows break a rule: " + "; ".join(f"{error.field}: {error.rule}" for error in errors[:5]),
            why="A batch is counted as a whole or not at all.",
            next_step="Mend the fields in `errors` and send the batch again.",
            fields=tuple(errors[:ERRORS_MAX]),
        )


def _seconds(time: float | str) -> float:
    """NaN if it is no time."""
    if not isinstance(time, str):
        return float(time)
    try:
        parsed = datetime.fromisoformat(time)
    except ValueError:
        return math.nan
    return parsed.timestamp() if parsed.tzinfo is not None else math.nan


def _fits(value: Value, kind: FeatureKind) -> bool:
    if value is None:
        return True
    if kind == "numeric":
        return value in _SPECIAL if isinstance(value, str) else not isinstance(value, bool)
    return not isinstance(value, str) or 0 < len(value) <= LEVEL_LENGTH_MAX


def _numbers(values: Sequence[Value]) -> Floats:
    return np.array(
        [math.nan if value is None else _SPECIAL[value] if isinstance(value, str) else value for value in values],
        dtype=np.float64,
    )


def _level(value: Value) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if float(value).is_integer() else repr(value)
