from __future__ import annotations

import dataclasses

import pytest

from services.verification.domain.measures import CELLS
from services.verification.domain.metrics import CATALOGUE, UnknownMetric, find_metric
from shared.errors import FieldError


def test_catalogue_holds_what_criteria_name() -> None:
    """Classification, ranking, probability, calibration and regression each have their metrics."""
    assert set(CATALOGUE) >= {
        "accuracy",
        "recall",
        "specificity",
        "precision",
        "f1",
        "false_positive_rate",
        "auroc",
        "average_precision",
        "brier_score",
        "log_loss",
        "expected_calibration_error",
        "calibration_slope",
        "calibration_intercept",
        "mean_absolute_error",
        "root_mean_squared_error",
    }
    assert all(metric.key == key and metric.definition_version >= 1 for key, metric in CATALOGUE.items())


def test_ideal_is_the_end_that_direction_points_to() -> None:
    """A higher-is-better metric is ideal at the top of its range, a lower-is-better one at the bottom."""
    for metric in CATALOGUE.values():
        if metric.direction != "target":
            assert metric.ideal == metric.range[1 if metric.direction == "higher" else 0]


def test_metrics_of_counts_name_their_cells() -> None:
    """Exactly the metrics that counts suffice for have successes and trials."""
    assert set(CELLS) == {metric.key for metric in CATALOGUE.values() if metric.inputs == "counts"}


def test_calibration_error_owns_up() -> None:
    """Bins and bias stand in the definition, since both decide the number."""
    definition = find_metric(key="expected_calibration_error").definition
    assert "10 bins of equal width" in definition
    assert "biased upward" in definition


def test_a_metric_does_not_change() -> None:
    """A definition is fixed; another one is another version."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_metric(key="recall").definition = "TP"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        ("sensitivity", "recall"),
        ("AUC", "auroc"),
        ("Brier-Score", "brier_score"),
        ("acuracy", "accuracy"),
        ("ece", "expected"),
    ],
)
def test_unknown_metric_offers_near_ones(asked: str, offered: str) -> None:
    """A typo or another field's word is answered with the key that was probably meant."""
    with pytest.raises(UnknownMetric) as caught:
        find_metric(key=asked, field="/criteria/0/metric")
    assert offered in caught.value.next_step
    assert caught.value.fields == (FieldError("/criteria/0/metric", "is the key of a metric of the catalogue"),)
    assert caught.value.reason == "unknown-metric"


def test_unlike_anything_offers_everything_and_echoes_little() -> None:
    """A key of absurd size is not sent back, and all keys are offered."""
    with pytest.raises(UnknownMetric) as caught:
        find_metric(key="?" * 100_000)
    assert len(caught.value.what) < 200
    assert all(key in caught.value.next_step for key in CATALOGUE)
