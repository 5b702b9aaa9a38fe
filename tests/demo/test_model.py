"""The model of the demo: its manifest decides every score, and the same training gives the same manifest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from demo.flights import Flights, read_flights
from demo.model import (
    WATCHED_CATEGORIES,
    WATCHED_NUMBERS,
    OneSidedFlights,
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


def test_the_digest_does_not_depend_on_the_number_of_threads() -> None:
    """Threads add in another order; a machine with more of them must not make another version of the same model.

    On all flights of the months: with fewer rows the library would use one thread anyway.
    """
    digests = set()
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            digests.add(trained(read_flights()).digest)
    assert len(digests) == 1


def test_a_flight_has_the_same_score_alone_and_among_others(flights: Flights, model: TrainedModel) -> None:
    """Bit by bit: what production scored hour by hour can be scored again as a month."""
    march = flights.in_months([3])
    march = march.where(march.departed)
    by_hour = np.concatenate([model.scores(hour) for hour in march.hours()])
    np.testing.assert_array_equal(by_hour, model.scores(march))


def test_the_threshold_finds_the_share_of_late_flights_asked_for_and_is_the_highest_that_does(
    flights: Flights, model: TrainedModel
) -> None:
    """On the flights it was chosen on; the next late flight above it would be missed."""
    february = flights.in_months([2])
    february = february.where(february.arrived)
    late_scores = model.scores(february)[february.late]
    assert np.mean(late_scores >= model.threshold) >= 0.75
    assert np.mean(late_scores > model.threshold + 1e-8) < 0.75


def test_months_without_late_flights_are_refused(flights: Flights) -> None:
    """No months, and punctual flights only, name the side that is missing."""
    january = flights.in_months([1])
    punctual = january.where(january.arr_delay <= 0)
    for training, tuning, field in ((january, january.in_months([2]), "/tuning"), (punctual, january, "/flights")):
        with pytest.raises(OneSidedFlights) as refused:
            train(name="late-arrival", version="1", flights=training, tuning=tuning, seed=7, recall_goal=0.75)
        assert [error.field for error in refused.value.fields] == [field]


def test_probabilities_are_calibrated_on_a_month_it_has_not_seen(flights: Flights, model: TrainedModel) -> None:
    """The mean score is near the share of late flights; without an intercept, say, it would not be."""
    march = flights.in_months([3])
    march = march.where(march.arrived)
    assert abs(model.scores(march).mean() - march.late.mean()) < 0.05


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
