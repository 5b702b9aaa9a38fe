from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy import stats

from services.verification.domain.comparison import Difference, compare
from services.verification.domain.metrics import find_metric
from services.verification.domain.rows import EmptySlice, InvalidParameter, InvalidRows

from .samples import Floats, calibrated_rows


def blurred(scores: Floats, *, seed: int) -> Floats:
    """The scores of a worse model: the same, with noise on their log odds."""
    noise = np.random.default_rng(seed).normal(size=scores.size)
    return 1.0 / (1.0 + np.exp(-(np.log(scores / (1.0 - scores)) + noise)))


@pytest.mark.parametrize("key", ["auroc", "average_precision", "brier_score", "log_loss", "recall", "f1"])
def test_the_better_version_shows(key: str) -> None:
    """On 2,000 rows the sharper model is better beyond doubt, whatever the metric, and the sign says which."""
    metric = find_metric(key=key)
    labels, sharp = calibrated_rows(rows=2_000, seed=1)
    cut = 0.4 if metric.inputs == "counts" else None
    found = compare(
        metric=metric,
        labels=labels,
        scores_a=blurred(sharp, seed=2),
        scores_b=sharp,
        decision_threshold_a=cut,
        decision_threshold_b=cut,
        seed=3,
    )
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower < found.value < found.upper
    assert (found.lower > 0.0) if metric.direction == "higher" else (found.upper < 0.0)


def test_pairing_agrees_with_scipy_and_is_sharper_than_two_samples() -> None:
    """For a mean the difference's spread is that of the paired losses, far below that of unpaired ones."""
    labels, scores_b = calibrated_rows(rows=500, seed=4)
    scores_a = np.clip(scores_b + 0.02, 0.0, 1.0)
    losses = [(scores - labels) ** 2 for scores in (scores_a, scores_b)]
    theirs = stats.bootstrap((losses[1] - losses[0],), np.mean, confidence_level=0.9, method="percentile", rng=5)
    found = compare(metric=find_metric(key="brier_score"), labels=labels, scores_a=scores_a, scores_b=scores_b, seed=6)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.value == pytest.approx(float(np.mean(losses[1] - losses[0])))
    assert found.lower == pytest.approx(theirs.confidence_interval.low, abs=width / 15)
    assert found.upper == pytest.approx(theirs.confidence_interval.high, abs=width / 15)
    assert width < (losses[0].std() + losses[1].std()) / np.sqrt(500)


def test_swapping_the_versions_mirrors_the_difference() -> None:
    """B minus A is minus (A minus B), bounds included, since both see the same resamples."""
    labels, sharp = calibrated_rows(rows=300, seed=7)
    metric, dull = find_metric(key="auroc"), blurred(sharp, seed=8)
    forth = compare(metric=metric, labels=labels, scores_a=dull, scores_b=sharp, seed=9)
    back = compare(metric=metric, labels=labels, scores_a=sharp, scores_b=dull, seed=9)
    assert back.value == -forth.value
    assert (back.lower, back.upper) == (-(forth.upper or 0.0), -(forth.lower or 0.0))


def test_a_version_does_not_differ_from_itself() -> None:
    """The same outputs on the same rows differ by exactly nothing."""
    labels, scores = calibrated_rows(rows=100, seed=10)
    found = compare(metric=find_metric(key="auroc"), labels=labels, scores_a=scores, scores_b=scores, seed=1)
    assert (found.lower, found.value, found.upper, found.withheld) == (0.0, 0.0, 0.0, None)


def test_two_perfect_versions_are_not_told_apart() -> None:
    """Different scores that both rank perfectly differ in no resample, which proves nothing of other rows."""
    labels = np.repeat([0.0, 1.0], 50)
    found = compare(
        metric=find_metric(key="auroc"), labels=labels, scores_a=labels, scores_b=labels + np.arange(100), seed=1
    )
    assert (found.value, found.lower) == (0.0, None)
    assert "every resample" in (found.withheld or "")


def test_a_difference_survives_the_codec() -> None:
    """Events embed it."""
    labels, scores = calibrated_rows(rows=60, seed=10)
    found = compare(
        metric=find_metric(key="log_loss"), labels=labels, scores_a=blurred(scores, seed=1), scores_b=scores, seed=1
    )
    assert msgspec.json.decode(msgspec.json.encode(found), type=Difference) == found
    assert type(found.value) is float


def test_few_rows_have_a_difference_without_bounds() -> None:
    """Under 30 rows the bootstrap gives no bound here either."""
    found = compare(
        metric=find_metric(key="brier_score"), labels=[0, 1], scores_a=[0.1, 0.2], scores_b=[0.1, 0.9], seed=1
    )
    assert found.value < 0.0
    assert "at least 30 rows" in (found.withheld or "")


def test_the_field_of_the_wrong_version_is_named() -> None:
    """The error says which of the two versions, or which of the other fields, is wrong."""
    auroc, recall = find_metric(key="auroc"), find_metric(key="recall")
    with pytest.raises(InvalidRows) as rows:
        compare(metric=auroc, labels=[0, 1], scores_a=[0.1, 0.2], scores_b=[0.1], seed=1)
    with pytest.raises(InvalidParameter) as threshold:
        compare(
            metric=recall,
            labels=[0, 1],
            scores_a=[0, 1],
            scores_b=[0.1, 0.2],
            decision_threshold_b=float("inf"),
            seed=1,
        )
    with pytest.raises(EmptySlice):
        compare(metric=auroc, labels=[], scores_a=[], scores_b=[], seed=1)
    assert rows.value.fields[0].field == "/scores_b"
    assert threshold.value.fields[0].field == "/decision_threshold_b"
