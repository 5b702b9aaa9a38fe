"""The model of the demo: the risk of arriving more than 15 minutes late, scored at departure, by logistic regression.

A trained model is its manifest: every number that decides its output, as JSON that a person can read. Its digest names the version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.linear_model import LogisticRegression

from demo.flights import Flights
from shared.event import canonical_bytes, digest_of

Floats = npt.NDArray[np.float64]

DELAY_KNOTS = (-10.0, 0.0, 10.0, 20.0, 30.0, 60.0)
"""Minutes at which the effect of the departure delay may bend."""

NUMERIC = ("distance", "wind_speed", "visib", "precip")
WATCHED_NUMBERS = ("dep_delay", "hour", "distance", "wind_speed", "visib", "precip", "score")
WATCHED_CATEGORIES = ("carrier", "origin")


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
        """The probability of arriving late, one for each flight."""
        inputs = _inputs(flights, self.manifest["preprocessing"])
        log_odds = inputs @ np.array(self.manifest["weights"]) + self.manifest["intercept"]
        scores: Floats = 1.0 / (1.0 + np.exp(-log_odds))
        return scores


def train(*, name: str, version: str, flights: Flights, tuning: Flights, seed: int, recall_goal: float) -> TrainedModel:
    """Fits on flights that arrived; chooses on `tuning` the highest threshold that still finds `recall_goal` of the late ones."""
    known = flights.where(flights.arrived)
    preprocessing = {
        "carriers": sorted(set(known.carrier.tolist())),
        "origins": sorted(set(known.origin.tolist())),
        "means": {column: float(np.nanmean(getattr(known, column))) for column in NUMERIC},
        "deviations": {column: float(np.nanstd(getattr(known, column))) or 1.0 for column in NUMERIC},
        "delay_knots": list(DELAY_KNOTS),
    }
    fitted = LogisticRegression(C=1.0, max_iter=400, random_state=seed).fit(_inputs(known, preprocessing), known.late)
    manifest = {
        "model": name,
        "kind": "logistic regression",
        "preprocessing": preprocessing,
        "weights": [float(weight) for weight in fitted.coef_[0]],
        "intercept": float(fitted.intercept_[0]),
        "threshold": 0.5,
        "trained_on_rows": len(known),
        "seed": seed,
        "scikit_learn": sklearn.__version__,
        "numpy": np.__version__,
        "code": code_revision(),
    }
    untuned = TrainedModel(name=name, version=version, manifest=manifest)
    known_tuning = tuning.where(tuning.arrived)
    late_scores = np.sort(untuned.scores(known_tuning)[known_tuning.late])
    threshold = float(late_scores[int((1 - recall_goal) * len(late_scores))])
    return TrainedModel(name=name, version=version, manifest={**manifest, "threshold": threshold})


def code_revision() -> str:
    """Hex SHA-256 of the source of model and data reading."""
    folder = Path(__file__).parent
    return digest_of(b"\x00".join((folder / file).read_bytes() for file in ("flights.py", "model.py")))


def _inputs(flights: Flights, preprocessing: Mapping[str, Any]) -> Floats:
    """One row a flight: hinges of the delay, hour of the day as circle, standardised numbers (missing: the mean), categories."""
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
    return np.column_stack(columns)


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
