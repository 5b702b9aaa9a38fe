"""Requirements accepts exactly the metrics that verification can measure, with the ranges that they have."""

from __future__ import annotations

from services.requirements.domain.acceptance_criterion import METRICS, UNIT_INTERVAL_METRICS
from services.verification.domain.metrics import CATALOGUE


def test_both_services_know_the_same_metrics() -> None:
    """A criterion that nobody could measure would never be met."""
    assert set(CATALOGUE) == METRICS


def test_a_threshold_is_held_to_the_range_of_its_metric() -> None:
    """Those from 0 to 1 in the catalogue are those that requirements holds to it."""
    assert {metric.key for metric in CATALOGUE.values() if metric.range == (0.0, 1.0)} == UNIT_INTERVAL_METRICS
