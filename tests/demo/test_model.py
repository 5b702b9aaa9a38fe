"""The model of the demo: its manifest decides every score, and the same training gives the same manifest."""

from __future__ import annotations

import json

import numpy as np
import pytest

from demo.flights import Flights, read_flights
from demo.model import (
    WATCHED_CATEGORIES,
    WATCHED_NUMBERS,
    TrainedModel,
    load_manifest,
    predictions_csv,
    train,
    watched_columns,
)


@pytest.fixture(scope="module")
def flights() -> Flights:
    """A tenth of the year."""
    return read_flights().sampled(share=0.1, seed=3)


@pytest.fixture(scope="module")
def model(flights: Flights) -> TrainedModel:
    """Trained on January, tuned on February."""
    return trained(flights)


def trained(flights: Flights) -> TrainedModel:
    """The model of the seed."""
    return train(
        name="late-arrival", version="1", flights=flights.in_months([1]), tuning=flights.in_months([2]), seed=7,
        recall_goal=0.75,
    )  # fmt: skip


def test_training_again_gives_the_same_digest(flights: Flights, model: TrainedModel) -> None:
    """A version can be made again from data, code and seed."""
    assert trained(flights).digest == model.digest


def test_the_manifest_alone_scores_like_the_model(flights: Flights, model: TrainedModel) -> None:
    """Nothing that decides the output is outside the digest."""
    march = flights.in_months([3])
    march = march.where(march.departed)
    read = load_manifest(model.manifest_bytes)
    np.testing.assert_array_equal(read.scores(march), model.scores(march))
    assert read.digest == model.digest


def test_changing_any_weight_changes_digest_and_scores(flights: Flights, model: TrainedModel) -> None:
    """The digest is a commitment to the behaviour."""
    changed = json.loads(model.manifest_bytes)
    changed["weights"][0] += 0.5
    other = load_manifest(json.dumps(changed).encode())
    march = flights.in_months([3])
    assert other.digest != model.digest
    assert not np.array_equal(other.scores(march), model.scores(march))


def test_scores_rank_late_flights_above_the_others(flights: Flights, model: TrainedModel) -> None:
    """On flights it has not seen; a useless model would give a half."""
    march = flights.in_months([3])
    march = march.where(march.arrived)
    scores = model.scores(march)
    late, punctual = scores[march.late], scores[~march.late]
    assert np.mean(late[:, None] > punctual[None, :]) > 0.85


def test_the_predictions_file_has_a_line_for_each_flight(flights: Flights, model: TrainedModel) -> None:
    """Label, score at full precision, and the slices."""
    march = flights.in_months([3])
    march = march.where(march.arrived)
    scores = model.scores(march)
    header, *lines = predictions_csv(march, scores, slices=("origin",)).decode().splitlines()
    assert header == "label,score,origin"
    assert [float(line.split(",")[1]) for line in lines] == scores.tolist()
    assert [line.split(",")[0] == "1" for line in lines] == march.late.tolist()


def test_watched_columns_are_of_one_length_and_tell_missing_from_zero(flights: Flights, model: TrainedModel) -> None:
    """A value that was not measured is None, which JSON can carry."""
    april = flights.in_months([4])
    columns = watched_columns(april, model.scores(april))
    assert set(columns) == {*WATCHED_NUMBERS, *WATCHED_CATEGORIES}
    assert {len(values) for values in columns.values()} == {len(april)}
    assert [value is None for value in columns["dep_delay"]] == np.isnan(april.dep_delay).tolist()
    json.dumps(columns, allow_nan=False)
