from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import logit
from sklearn import metrics as peer
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from services.verification.domain.measures import statistic_of
from services.verification.domain.metrics import find_metric
from services.verification.domain.resampling import bootstrap

from .samples import Floats, calibrated_rows

PEERS_OF_CLASSES: dict[str, Callable[..., Any]] = {
    "accuracy": peer.accuracy_score,
    "recall": peer.recall_score,
    "specificity": lambda labels, classes, **weights: peer.recall_score(labels, classes, pos_label=0, **weights),
    "precision": peer.precision_score,
    "f1": peer.f1_score,
    "false_positive_rate": lambda labels, classes, **weights: (
        1.0 - peer.recall_score(labels, classes, pos_label=0, **weights)
    ),
}
PEERS_OF_SCORES: dict[str, Callable[..., Any]] = {
    "auroc": peer.roc_auc_score,
    "average_precision": peer.average_precision_score,
    "brier_score": peer.brier_score_loss,
    "log_loss": peer.log_loss,
    "mean_absolute_error": peer.mean_absolute_error,
    "root_mean_squared_error": peer.root_mean_squared_error,
}


def measured(key: str, labels: Floats, outputs: Floats, weights: Floats | None = None) -> float:
    row = np.ones(labels.size) if weights is None else weights
    return float(statistic_of(metric=find_metric(key=key), labels=labels, outputs=outputs)(row[None, :])[0])


def resample(rows: int) -> Floats:
    """Weights of one resample, many of them zero, as the bootstrap uses them."""
    return np.bincount(np.random.default_rng(7).integers(0, rows, rows), minlength=rows).astype(np.float64)


@pytest.mark.parametrize("key", PEERS_OF_CLASSES)
@pytest.mark.parametrize("resampled", [False, True])
def test_metrics_of_classes_agree_with_scikit_learn(key: str, resampled: bool) -> None:
    """The same number on the rows as they are and on a resample."""
    labels, scores = calibrated_rows(rows=700, seed=1)
    classes = (scores >= 0.4).astype(np.float64)
    weights = resample(700) if resampled else np.ones(700)
    expected = PEERS_OF_CLASSES[key](labels, classes, sample_weight=weights)
    assert measured(key, labels, classes, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("key", PEERS_OF_SCORES)
@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_metrics_of_scores_agree_with_scikit_learn(key: str, resampled: bool, tied: bool) -> None:
    """The same number with and without ties, on the rows as they are and on a resample."""
    labels, scores = calibrated_rows(rows=700, seed=2, tied=tied)
    weights = resample(700) if resampled else np.ones(700)
    expected = PEERS_OF_SCORES[key](labels, scores, sample_weight=weights)
    assert measured(key, labels, scores, weights) == pytest.approx(expected, rel=1e-9)


def test_log_loss_of_certain_errors_is_finite() -> None:
    """A score of 0 for what then happens costs 52 ln 2, as the definition's clipping says."""
    assert measured("log_loss", np.array([1.0]), np.array([0.0])) == pytest.approx(52.0 * np.log(2.0))


def test_calibration_error_by_hand() -> None:
    """Bins close on the left: 0.1 and 0.19 share one, 0.9 and 1.0 the last."""
    labels, scores = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.1, 0.19, 0.9, 1.0])
    in_second, in_last = abs((0 + 1) / 2 - (0.1 + 0.19) / 2), abs((1 + 0) / 2 - (0.9 + 1.0) / 2)
    assert measured("expected_calibration_error", labels, scores) == pytest.approx((in_second + in_last) / 2.0)


def test_calibration_error_agrees_with_scikit_learn_bins() -> None:
    """The curve of scikit-learn, weighted by the rows of its bins, gives the same error."""
    labels, scores = calibrated_rows(rows=900, seed=3)
    observed, predicted = peer_curve(labels, scores)
    shares = np.histogram(scores, bins=np.linspace(0.0, 1.0, 11))[0] / 900.0
    expected = float(np.sum(shares[shares > 0] * np.abs(observed - predicted)))
    assert measured("expected_calibration_error", labels, scores) == pytest.approx(expected)


def peer_curve(labels: Floats, scores: Floats) -> tuple[Floats, Floats]:
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="uniform")
    return observed, predicted


@pytest.mark.parametrize("resampled", [False, True])
def test_calibration_slope_agrees_with_scikit_learn(resampled: bool) -> None:
    """An unpenalised logistic regression on the log odds has the same slope."""
    labels, scores = calibrated_rows(rows=800, seed=4)
    weights = resample(800) if resampled else np.ones(800)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=500).fit(
        logit(scores)[:, None], labels, sample_weight=weights
    )
    assert measured("calibration_slope", labels, scores, weights) == pytest.approx(float(fit.coef_[0, 0]), rel=1e-5)


def test_calibration_intercept_makes_the_mean_right() -> None:
    """Shifting all log odds by the intercept makes the mean score the share of positives, the equation that it solves."""
    labels, scores = calibrated_rows(rows=800, seed=5)
    shift = measured("calibration_intercept", labels, scores**1.3)
    shifted = 1.0 / (1.0 + np.exp(-(logit(scores**1.3) + shift)))
    assert float(shifted.mean()) == pytest.approx(float(labels.mean()), abs=1e-9)
    assert shift > 0.1


@pytest.mark.parametrize("key", ["auroc", "calibration_slope", "calibration_intercept"])
def test_one_class_has_no_value(key: str) -> None:
    """A resample without a class is undefined, not zero and not one."""
    assert np.isnan(measured(key, np.ones(4), np.array([0.2, 0.4, 0.5, 0.9])))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auroc_counts_pairs(rows: list[tuple[bool, int]]) -> None:
    """The sorted sum equals the definition, counted pair by pair."""
    positives = [score for label, score in rows if label]
    negatives = [score for label, score in rows if not label]
    labels, scores = np.array([float(label) for label, _ in rows]), np.array([score / 5.0 for _, score in rows])
    pairs = [(p > q) + 0.5 * (p == q) for p in positives for q in negatives]
    value = measured("auroc", labels, scores)
    assert np.isnan(value) if not pairs else value == pytest.approx(sum(pairs) / len(pairs))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=25),
    st.sampled_from(["auroc", "average_precision", "brier_score", "expected_calibration_error", "log_loss"]),
)
def test_a_weight_is_a_repetition(rows: list[tuple[bool, int, int]], key: str) -> None:
    """A row of weight k counts as k rows, which is what a resample means."""
    labels, scores = np.array([float(row[0]) for row in rows]), np.array([row[1] / 6.0 for row in rows])
    times = np.array([row[2] for row in rows])
    if times.sum() == 0:
        times[0] = 1
    repeated = measured(key, np.repeat(labels, times), np.repeat(scores, times))
    assert measured(key, labels, scores, times.astype(np.float64)) == pytest.approx(repeated, nan_ok=True, abs=1e-12)


def test_a_resample_draws_every_row_alike() -> None:
    """Each resample has as many draws as rows, and over many of them no row is favoured (5 standard errors)."""
    collected: list[Floats] = []

    def keep(weights: Floats) -> Floats:
        collected.append(weights.copy())
        drawn: Floats = weights.sum(axis=1)
        return drawn

    totals = bootstrap(statistic=keep, rows=50, resamples=4_000, seed=11)
    weights = np.concatenate(collected)
    assert np.all(totals == 50.0)
    assert np.all(np.abs(weights.mean(axis=0) - 1.0) < 5.0 * np.sqrt(0.98 / 4_000))
    assert weights.var() == pytest.approx(0.98, rel=0.02)


def test_the_draws_of_a_seed_are_written_down() -> None:
    """The first draws of seed 42, fixed here: a bound of an old verdict can be repeated with any later numpy."""
    first: list[Floats] = []

    def keep(weights: Floats) -> Floats:
        first.append(weights.copy())
        return weights[:, 0]

    bootstrap(statistic=keep, rows=8, resamples=3, seed=42)
    assert first[0].astype(int).tolist() == [
        [2, 0, 0, 2, 0, 2, 2, 0],
        [1, 1, 0, 0, 1, 2, 2, 1],
        [0, 2, 1, 1, 2, 0, 1, 1],
    ]
