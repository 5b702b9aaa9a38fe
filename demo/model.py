"""The model of the demo: the risk of arriving more than 15 minutes late, scored at departure, by logistic regression.

A trained model is its manifest: every number that decides its output, as JSON that a person can read. Its digest names the version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from demo.flights import Flights
from shared.errors import FieldError, Invalid
from shared.event import canonical_bytes, digest_of

Floats = npt.NDArray[np.float64]

DELAY_KNOTS = (-10.0, 0.0, 10.0, 20.0, 30.0, 60.0)
"""Minutes at which the effect of the departure delay may bend."""

DECIMALS, SCALE = 9, 1e9
"""To how many decimals the parameters are kept: fewer than the last bits in which processors and thread counts differ."""

NUMERIC = ("distance", "wind_speed", "visib", "precip")
WATCHED_NUMBERS = ("dep_delay", "hour", "distance", "wind_speed", "visib", "score")
WATCHED_CATEGORIES = ("carrier", "origin")


class OneSidedFlights(Invalid):
    """Flights to learn from must include late and punctual arrivals."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """One immutable version: `manifest` decides every score."""

    name: str
    version: str
    manifest: Mapping[str, Any]

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest as canonical JSON."""
        return canonical_bytes(self.manifest)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest's bytes."""
        return digest_of(self.manifest_bytes)

    @property
    def threshold(self) -> float:
        """A flight with at least this score is called late."""
        return float(self.manifest["threshold"])

    def scores(self, flights: Flights) -> Floats:
        """The probability of arriving late, shape (flights,). A flight's score does not depend on the flights beside it."""
        log_odds = np.full(len(flights), self.manifest["intercept"], dtype=np.float64)
        # Column by column: a matrix product adds in an order, and so rounds in a way, that depends on the number of rows.
        for column, weight in zip(
            _inputs(flights, self.manifest["preprocessing"]), self.manifest["weights"], strict=True
        ):
            log_odds += weight * column
        scores: Floats = 1.0 / (1.0 + np.exp(-log_odds))
        return scores


def train(*, name: str, version: str, flights: Flights, tuning: Flights, seed: int, recall_goal: float) -> TrainedModel:
    """Fits on flights that arrived; chooses on `tuning` the highest threshold that still finds `recall_goal` of the late ones.

    The seed is that of the sample the flights are; fitting has no chance in it. Raises OneSidedFlights.
    """
    known, known_tuning = (_arrivals(part, field) for part, field in ((flights, "flights"), (tuning, "tuning")))
    preprocessing = {
        "carriers": sorted(set(known.carrier.tolist())),
        "origins": sorted(set(known.origin.tolist())),
        "means": {column: _kept(np.nanmean(getattr(known, column))) for column in NUMERIC},
        "deviations": {column: _kept(np.nanstd(getattr(known, column))) or 1.0 for column in NUMERIC},
        "delay_knots": list(DELAY_KNOTS),
    }
    weights, intercept = _fit(np.column_stack(_inputs(known, preprocessing)), known.late)
    manifest = {
        "model": name,
        "kind": "logistic regression",
        "preprocessing": preprocessing,
        "weights": weights,
        "intercept": intercept,
        "threshold": 0.5,
        "trained_on_rows": len(known),
        "seed": seed,
        "scikit_learn": sklearn.__version__,
        "numpy": np.__version__,
        "code": code_revision(),
    }
    untuned = TrainedModel(name=name, version=version, manifest=manifest)
    threshold = _threshold(untuned.scores(known_tuning)[known_tuning.late], recall_goal)
    return TrainedModel(name=name, version=version, manifest={**manifest, "threshold": threshold})


def _arrivals(flights: Flights, field: str) -> Flights:
    known = flights.where(flights.arrived)
    if 0 < known.late.sum() < len(known):
        return known
    raise OneSidedFlights(
        f"The model cannot learn from the {field} given: {int(known.late.sum())} of {len(known)} arrivals are late.",
        why="A risk is learned from flights that were late and flights that were not.",
        next_step="Choose months from 1 to 12, or a larger share of the flights.",
        fields=(FieldError(field=f"/{field}", rule="have at least one late and one punctual arrival"),),
    )


def _fit(inputs: Floats, late: npt.NDArray[np.bool_]) -> tuple[list[float], float]:
    """Weights and intercept by Newton's method, run to convergence on one thread: the same on every machine, as far as kept."""
    with threadpool_limits(limits=1):
        fitted = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(inputs, late)
    return [_kept(weight) for weight in fitted.coef_[0]], _kept(fitted.intercept_[0])


def _threshold(late_scores: Floats, recall_goal: float) -> float:
    """Rounded down, so that the flight whose score it is stays found."""
    chosen = float(np.sort(late_scores)[int((1 - recall_goal) * len(late_scores))])
    return floor(chosen * SCALE) / SCALE


def _kept(number: float) -> float:
    return round(float(number), DECIMALS)


def code_revision() -> str:
    """Hex SHA-256 of the source of model and data reading."""
    folder = Path(__file__).parent
    return digest_of(b"\x00".join((folder / file).read_bytes() for file in ("flights.py", "model.py")))


def _inputs(flights: Flights, preprocessing: Mapping[str, Any]) -> list[Floats]:
    """Columns of shape (flights,): hinges of delay, hour as circle, standardised numbers (missing: the mean), categories."""
    delay = np.nan_to_num(flights.dep_delay)
    columns = [delay / 60.0, *(np.maximum(delay - knot, 0) / 60.0 for knot in preprocessing["delay_knots"])]
    angle = 2 * np.pi * flights.hour / 24
    columns += [np.sin(angle), np.cos(angle)]
    for name in NUMERIC:
        mean, deviation = preprocessing["means"][name], preprocessing["deviations"][name]
        values = getattr(flights, name)
        columns.append((np.where(np.isnan(values), mean, values) - mean) / deviation)
    columns += [(flights.carrier == carrier).astype(float) for carrier in preprocessing["carriers"]]
    columns += [(flights.origin == origin).astype(float) for origin in preprocessing["origins"]]
    return columns


def predictions_csv(flights: Flights, scores: Floats, *, slices: Sequence[str]) -> bytes:
    """The evidence of a run: label, score and the slice columns, one row a flight with a known outcome."""
    rows = [["label", "score", *slices]]
    columns = [getattr(flights, name).tolist() for name in slices]
    for label, score, *values in zip(flights.late.tolist(), scores.tolist(), *columns, strict=True):
        rows.append([str(int(label)), repr(score), *map(str, values)])
    return ("\n".join(",".join(row) for row in rows) + "\n").encode()


def watched_columns(flights: Flights, scores: Floats) -> dict[str, list[Any]]:
    """What production sends to monitoring: the features and the score, None where a value is missing."""
    numbers = {name: scores if name == "score" else getattr(flights, name) for name in WATCHED_NUMBERS}
    return {
        **{name: [None if value != value else value for value in values.tolist()] for name, values in numbers.items()},
        **{name: getattr(flights, name).tolist() for name in WATCHED_CATEGORIES},
    }


def load_manifest(content: bytes) -> TrainedModel:
    """The model version that a manifest is."""
    manifest = msgspec.json.decode(content)
    return TrainedModel(name=manifest["model"], version="loaded", manifest=manifest)
