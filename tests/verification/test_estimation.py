from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st

from services.verification.domain.estimation import (
    ConfusionCounts,
    Estimate,
    bound_counted,
    estimate,
    estimate_from_counts,
    estimate_nothing,
)
from services.verification.domain.metrics import CATALOGUE, find_metric
from services.verification.domain.rows import EmptySlice, InvalidParameter, InvalidRows, UndefinedMetric, require_rows
from shared.errors import FieldError, Invalid

from .samples import calibrated_rows

COUNTS = ConfusionCounts(true_positives=40, false_positives=10, true_negatives=120, false_negatives=30)


@pytest.mark.parametrize(
    ("key", "successes", "trials"),
    [
        ("accuracy", 160, 200),
        ("recall", 40, 70),
        ("specificity", 120, 130),
        ("precision", 40, 50),
        ("false_positive_rate", 10, 130),
        ("f1", 40, 80),
    ],
)
def test_counts_are_enough_for_proportions(key: str, successes: int, trials: int) -> None:
    """n is what the metric rests on, not the rows that were read."""
    found = estimate_from_counts(metric=find_metric(key=key), counts=COUNTS)
    assert (found.successes, found.trials, found.n, found.rows) == (successes, trials, trials, 200)
    assert found.lower is None
    assert found.value == (80 / 120 if key == "f1" else successes / trials)


@pytest.mark.parametrize("key", ["accuracy", "recall", "f1"])
def test_rows_and_their_counts_say_the_same(key: str) -> None:
    """Scores cut at the threshold, predicted classes and their confusion matrix give one Estimate."""
    labels, scores = calibrated_rows(rows=300, seed=1, tied=True)
    metric, classes = find_metric(key=key), scores >= 0.4
    counts = ConfusionCounts(
        true_positives=int(np.sum(classes & (labels == 1))),
        false_positives=int(np.sum(classes & (labels == 0))),
        true_negatives=int(np.sum(~classes & (labels == 0))),
        false_negatives=int(np.sum(~classes & (labels == 1))),
    )
    expected = estimate_from_counts(metric=metric, counts=counts, level=0.9)
    assert estimate(metric=metric, labels=labels, scores=scores, decision_threshold=0.4, level=0.9) == expected
    assert estimate(metric=metric, labels=labels.astype(bool), predictions=classes, level=0.9) == expected


def test_f1_bounds_agree_with_resampled_matrices() -> None:
    """Bounds through the overlap are those of 100,000 drawn confusion matrices, within a twentieth of their width."""
    found = estimate_from_counts(metric=find_metric(key="f1"), counts=COUNTS, level=0.95)
    drawn = np.random.default_rng(2).multinomial(200, np.array([40, 10, 120, 30]) / 200.0, size=100_000)
    replicates = 2 * drawn[:, 0] / (2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 3])
    lower, upper = np.quantile(replicates, [0.05, 0.95])
    assert found.lower == pytest.approx(lower, abs=(upper - lower) / 20)
    assert found.upper == pytest.approx(upper, abs=(upper - lower) / 20)


def test_f1_without_a_true_positive_is_zero() -> None:
    """Nothing found among what was there or was called is the worst score, not an undefined one."""
    counts = ConfusionCounts(true_positives=0, false_positives=3, true_negatives=9, false_negatives=2)
    found = estimate_from_counts(metric=find_metric(key="f1"), counts=counts, level=0.95)
    assert (found.value, found.lower) == (0.0, 0.0)


@given(st.sampled_from(sorted(CATALOGUE)), st.integers(0, 10**6))
def test_results_are_plain_and_survive_the_codec(key: str, seed: int) -> None:
    """Events embed an Estimate: it holds only finite python numbers and reads back as it was."""
    metric = CATALOGUE[key]
    labels, scores = calibrated_rows(rows=120, seed=seed)
    outputs: dict[str, Any] = {"scores": scores} if metric.inputs == "scores" else {"predictions": scores}
    if metric.inputs == "counts":
        outputs = {"scores": scores, "decision_threshold": 0.3}
    found = estimate(metric=metric, labels=labels, level=0.9, seed=seed, resamples=200, **outputs)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Estimate) == found
    assert all(type(number) is float for number in (found.value, found.lower, found.upper) if number is not None)
    assert (found.lower is None) == (found.withheld is not None)
    assert type(found.n) is int


def attempt(key: str, labels: Any, **given_arguments: Any) -> Callable[[], object]:
    return lambda: estimate(metric=find_metric(key=key), labels=labels, **given_arguments)


ROWS_REFUSED: list[tuple[str, type[Invalid], str, Callable[[], object]]] = [
    ("no rows", EmptySlice, "/labels", attempt("auroc", [], scores=[])),
    ("no rows of classes", EmptySlice, "/labels", attempt("recall", [], predictions=[])),
    ("lengths", InvalidRows, "/scores", attempt("auroc", [0, 1], scores=[0.1])),
    ("no outputs", InvalidRows, "/scores", attempt("auroc", [0, 1])),
    ("both outputs", InvalidRows, "/scores", attempt("recall", [0, 1], scores=[0.1, 0.2], predictions=[0, 1])),
    ("classes for scores", InvalidRows, "/scores", attempt("auroc", [0, 1], predictions=[0, 1])),
    ("scores for values", InvalidRows, "/predictions", attempt("mean_absolute_error", [0, 1], scores=[0, 1])),
    ("nan score", InvalidRows, "/scores/1", attempt("auroc", [0, 1], scores=[0.1, float("nan")])),
    ("infinite score", InvalidRows, "/scores/0", attempt("auroc", [0, 1], scores=[float("inf"), 0.2])),
    ("nan label", InvalidRows, "/labels/0", attempt("auroc", [float("nan"), 1], scores=[0.1, 0.2])),
    ("third class", InvalidRows, "/labels/1", attempt("auroc", [0, 2], scores=[0.1, 0.2])),
    ("a class between", InvalidRows, "/predictions/0", attempt("recall", [0, 1], predictions=[0.5, 1])),
    ("not a probability", InvalidRows, "/scores/1", attempt("brier_score", [0, 1], scores=[0.1, 1.2])),
    ("infinite logit", InvalidRows, "/scores/0", attempt("calibration_slope", [0, 1], scores=[0.0, 0.3])),
    ("words", InvalidRows, "/labels", attempt("auroc", ["no", "yes"], scores=[0.1, 0.2])),
    ("objects", InvalidRows, "/scores", attempt("auroc", [0, 1], scores=[None, 0.2])),
    ("a table", InvalidRows, "/scores", attempt("auroc", [0, 1], scores=[[0.1, 0.2]])),
    ("ragged", InvalidRows, "/scores", attempt("auroc", [0, 1], scores=[[0.1], [0.2, 0.3]])),
    ("a number", InvalidRows, "/labels", attempt("auroc", 1, scores=[0.1])),
    ("one class", UndefinedMetric, "/labels", attempt("auroc", [1, 1], scores=[0.1, 0.2])),
    ("no positive", UndefinedMetric, "/labels", attempt("recall", [0, 0], predictions=[0, 1])),
    ("no positive to rank", UndefinedMetric, "/labels", attempt("average_precision", [0, 0], scores=[0.1, 0.2])),
    ("nothing predicted", UndefinedMetric, "/labels", attempt("precision", [0, 1], predictions=[0, 0])),
    ("separated", UndefinedMetric, "/labels", attempt("calibration_slope", [0, 0, 1, 1], scores=[0.1, 0.2, 0.8, 0.9])),
    ("all scores equal", UndefinedMetric, "/labels", attempt("calibration_slope", [0, 1, 1], scores=[0.3, 0.3, 0.3])),
    ("overflow", UndefinedMetric, "/labels", attempt("root_mean_squared_error", [0.0], predictions=[1e300])),
    ("no threshold", InvalidParameter, "/decision_threshold", attempt("recall", [0, 1], scores=[0.1, 0.2])),
    (
        "nan threshold",
        InvalidParameter,
        "/decision_threshold",
        attempt("recall", [0, 1], scores=[0.1, 0.2], decision_threshold=float("nan")),
    ),
    ("level", InvalidParameter, "/level", attempt("recall", [0, 1], predictions=[0, 1], level=0.5)),
    ("no seed", InvalidParameter, "/seed", attempt("auroc", [0, 1], scores=[0.1, 0.2], level=0.95)),
]


@pytest.mark.parametrize(
    ("error", "field", "asked"), [case[1:] for case in ROWS_REFUSED], ids=[case[0] for case in ROWS_REFUSED]
)
def test_bad_rows_are_refused_by_name(error: type[Invalid], field: str, asked: Callable[[], object]) -> None:
    """Each gives a typed error that names the field, the rule and what to do."""
    with pytest.raises(error) as caught:
        asked()
    assert caught.value.fields[0].field == field
    assert caught.value.fields[0].rule
    assert caught.value.why
    assert caught.value.next_step


def test_absurdly_many_rows_are_refused() -> None:
    """A view that claims ten million rows and one is not copied first."""
    labels = np.broadcast_to(np.array([1.0]), (10_000_001,))
    with pytest.raises(InvalidRows) as caught:
        estimate(metric=find_metric(key="brier_score"), labels=labels, scores=labels)
    assert caught.value.fields == (FieldError("/labels", "has at most 10,000,000 rows"),)


def test_an_empty_slice_is_refused_at_the_door() -> None:
    """The recording edge names the slice that has no rows."""
    require_rows(slice_name="carrier=HA", rows=1)
    with pytest.raises(EmptySlice) as caught:
        require_rows(slice_name="carrier=ZZ", rows=0, field="/measurements/3/slice")
    assert "carrier=ZZ" in caught.value.what
    assert caught.value.fields[0].field == "/measurements/3/slice"


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([0.0, 1.0] * 14, [0.2, 0.7] * 14, "at least 30 rows"),
        ([0.0] * 100 + [1.0] * 19, [0.2] * 119, "at least 20 rows of each class"),
        ([0.0] * 50 + [1.0] * 50, [0.2] * 50 + [0.7] * 50, "every resample gives the same value"),
    ],
)
def test_a_bootstrap_that_proves_nothing_gives_no_bound(labels: list[float], scores: list[float], says: str) -> None:
    """Few rows, or a result without spread such as a perfect ranking, have a value and a reason instead of a bound."""
    found = estimate(metric=find_metric(key="auroc"), labels=labels, scores=scores, level=0.95, seed=1)
    assert found.value is not None
    assert (found.lower, found.upper) == (None, None)
    assert says in (found.withheld or "")


def test_equal_losses_have_no_spread_despite_rounding() -> None:
    """Losses that differ only in the last digit of their sum say nothing of rows not seen."""
    found = estimate(
        metric=find_metric(key="mean_absolute_error"), labels=[0.0] * 99, predictions=[0.1] * 99, level=0.95, seed=1
    )
    assert found.withheld is not None


def test_counts_do_not_suffice_for_a_ranking() -> None:
    """AUROC cannot be computed from a confusion matrix."""
    with pytest.raises(InvalidParameter) as caught:
        estimate_from_counts(metric=find_metric(key="auroc"), counts=COUNTS)
    assert caught.value.fields[0].field == "/counts"


def test_negative_counts_are_refused() -> None:
    """A count is 0 or more, from a caller and from a decoder alike."""
    with pytest.raises(InvalidParameter) as caught:
        ConfusionCounts(true_positives=1, false_positives=-1, true_negatives=1, false_negatives=1)
    assert caught.value.fields[0].field == "/false_positives"


def test_an_empty_confusion_matrix_is_an_empty_slice() -> None:
    """Counts that are all 0 are a slice without rows."""
    counts = ConfusionCounts(true_positives=0, false_positives=0, true_negatives=0, false_negatives=0)
    with pytest.raises(EmptySlice):
        estimate_from_counts(metric=find_metric(key="accuracy"), counts=counts)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("value", {"value": float("nan")}),
        ("lower", {"lower": float("-inf"), "upper": 1.0, "level": 0.9}),
        ("lower", {"lower": 0.1, "level": 0.9}),
        ("lower", {"lower": 0.1, "upper": 0.9}),
        ("n", {"n": -1}),
        ("n", {"n": 11}),
        ("n", {"value": None}),
        ("trials", {"successes": 3}),
        ("successes", {"successes": 11, "trials": 10}),
        ("successes", {"successes": 5, "trials": 9}),
        ("value", {"successes": 9, "trials": 10}),
    ],
)
def test_an_estimate_that_contradicts_itself_cannot_be_written(field: str, wrong: dict[str, Any]) -> None:
    """A claimed value comes in through the same record, so the record checks itself."""
    sound: dict[str, Any] = {"metric": "recall", "definition_version": 1, "value": 0.5, "n": 10, "rows": 10}
    assert Estimate(**sound).value == 0.5
    with pytest.raises(InvalidParameter) as caught:
        Estimate(**(sound | wrong))
    assert caught.value.fields[0].field == f"/{field}"


def test_only_counts_can_be_bounded_afterwards() -> None:
    """A claimed AUROC has no counts, and a slice without positives no trials."""
    claimed = Estimate(metric="auroc", definition_version=1, value=0.9, n=100, rows=100)
    for without in (claimed, estimate_nothing(metric=find_metric(key="recall"), rows=4)):
        with pytest.raises(InvalidParameter) as caught:
            bound_counted(estimate=without, level=0.95)
        assert caught.value.fields[0].field == "/trials"
