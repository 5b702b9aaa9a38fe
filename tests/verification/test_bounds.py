from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from services.verification.domain.bounds import percentile_bounds, read_resampling, wilson_bounds
from services.verification.domain.estimation import Estimate, estimate
from services.verification.domain.measures import statistic_of
from services.verification.domain.metrics import find_metric
from services.verification.domain.resampling import bootstrap
from services.verification.domain.rows import InvalidParameter

from .samples import Floats, calibrated_rows, ranked_rows

LEVELS = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def bounded(key: str, labels: Floats, scores: Floats, *, resamples: int = 2_000, seed: int = 3) -> Estimate:
    return estimate(
        metric=find_metric(key=key), labels=labels, scores=scores, level=0.95, seed=seed, resamples=resamples
    )


@pytest.mark.parametrize("level", [0.75, 0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 9), (812, 1_000), (3, 100_000)]
)
def test_wilson_agrees_with_scipy(successes: int, trials: int, level: float) -> None:
    """Each one-sided bound is that of scipy's binomial test of that side."""
    lower, upper = wilson_bounds(proportion=successes / trials, trials=trials, level=level)
    for alternative, bound in (("greater", lower), ("less", upper)):
        interval = stats.binomtest(successes, trials, alternative=alternative).proportion_ci(level, method="wilson")
        assert bound == pytest.approx(interval.low if alternative == "greater" else interval.high, abs=1e-12)


@given(st.floats(0.0, 1.0), st.integers(1, 10**6), st.integers(1, 10**6), LEVELS)
def test_more_trials_never_widen_wilson(proportion: float, fewer: int, further: int, level: float) -> None:
    """At the same proportion a larger sample never makes a bound worse."""
    near, far = (wilson_bounds(proportion=proportion, trials=n, level=level) for n in (fewer + further, fewer))
    assert near[0] >= far[0] - 1e-12
    assert near[1] <= far[1] + 1e-12


@given(st.integers(1, 500), st.data(), LEVELS)
def test_wilson_bounds_enclose_and_mirror(trials: int, data: st.DataObject, level: float) -> None:
    """The bounds lie around the proportion, inside [0, 1], and failures have the mirrored ones."""
    successes = data.draw(st.integers(0, trials))
    lower, upper = wilson_bounds(proportion=successes / trials, trials=trials, level=level)
    mirrored = wilson_bounds(proportion=(trials - successes) / trials, trials=trials, level=level)
    assert 0.0 <= lower <= successes / trials <= upper <= 1.0
    assert mirrored[0] == pytest.approx(1.0 - upper, abs=1e-12)
    assert mirrored[1] == pytest.approx(1.0 - lower, abs=1e-12)


@pytest.mark.parametrize(("trials", "worst"), [(30, 0.10), (100, 0.08), (400, 0.07), (2_000, 0.07)])
def test_wilson_keeps_its_level(trials: int, worst: float) -> None:
    """Over all outcomes: the risk of a lower bound above the truth is 5 % on average and never above what we say."""
    lower = np.array([wilson_bounds(proportion=k / trials, trials=trials, level=0.95)[0] for k in range(trials + 1)])
    truths = np.sort(np.concatenate((np.linspace(0.1, 0.999, 500), lower[lower > 0.1] - 1e-12)))
    chances = stats.binom.pmf(np.arange(trials + 1)[:, None], trials, truths[None, :])
    risks = ((lower[:, None] > truths[None, :]) * chances).sum(axis=0)
    assert 0.05 < risks.max() <= worst
    assert 0.03 < risks[: len(risks) // 2].mean() < 0.06


@pytest.mark.parametrize("key", ["auroc", "brier_score", "expected_calibration_error", "log_loss"])
def test_percentiles_agree_with_scipy(key: str) -> None:
    """Replicates of our draw and of scipy's bootstrap have the same tails, within their noise."""
    labels, scores = calibrated_rows(rows=150, seed=8)
    metric = find_metric(key=key)
    ours = bootstrap(
        statistic=statistic_of(metric=metric, labels=labels, outputs=scores), rows=150, resamples=4_000, seed=5
    )

    def of_rows(rows: Floats) -> float:
        of_drawn = statistic_of(metric=metric, labels=labels[rows], outputs=scores[rows])
        return float(of_drawn(np.ones((1, rows.size)))[0])

    theirs = stats.bootstrap(
        (np.arange(150),),
        of_rows,
        n_resamples=4_000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(6),
    ).bootstrap_distribution
    noise = 5.0 * float(theirs.std()) * np.sqrt(2 * 0.05 * 0.95 / 4_000) / 0.103
    lower, upper = percentile_bounds(replicates=ours, level=0.95)
    assert lower == pytest.approx(np.quantile(theirs, 0.05), abs=noise)
    assert upper == pytest.approx(np.quantile(theirs, 0.95), abs=noise)


def test_percentiles_are_order_statistics() -> None:
    """Of 1 to 1999 in any order, (1999 + 1) x 5 % = 100 replicates lie at or beyond each bound."""
    replicates = np.random.default_rng(1).permutation(np.arange(1.0, 2_000.0))
    assert percentile_bounds(replicates=replicates, level=0.95) == (100.0, 1_900.0)


def test_undefined_replicates_count_against_both_bounds() -> None:
    """A resample without a value may have had any."""
    replicates = np.concatenate((np.arange(1.0, 1_960.0), np.full(40, np.nan)))
    lower, upper = percentile_bounds(replicates=replicates, level=0.95)
    assert (lower, upper) == (60.0, 1_900.0)
    replicates[:100] = np.nan
    assert percentile_bounds(replicates=replicates, level=0.95) == (-np.inf, np.inf)


def delong_error(labels: Floats, scores: Floats) -> float:
    """Standard error of the AUROC after DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), from mid-ranks."""
    of_positives, of_negatives = scores[labels == 1.0], scores[labels == 0.0]
    wins = (of_positives[:, None] > of_negatives).astype(float) + 0.5 * (of_positives[:, None] == of_negatives)
    by_positive, by_negative = wins.mean(axis=1), wins.mean(axis=0)
    return float(np.sqrt(by_positive.var(ddof=1) / by_positive.size + by_negative.var(ddof=1) / by_negative.size))


@pytest.mark.parametrize("tied", [False, True])
def test_auroc_bounds_agree_with_delong(tied: bool) -> None:
    """On 3,000 rows both bounds lie 1.645 DeLong standard errors away, within a tenth of that distance."""
    labels, scores = calibrated_rows(rows=3_000, seed=9, tied=tied)
    found = bounded("auroc", labels, scores)
    distance = stats.norm.ppf(0.95) * delong_error(labels, scores)
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.lower == pytest.approx(found.value - distance, abs=distance / 10.0)
    assert found.upper == pytest.approx(found.value + distance, abs=distance / 10.0)


@pytest.mark.parametrize(
    ("positives", "negatives", "auroc"), [(30, 90, 0.75), (40, 120, 0.95), (150, 450, 0.85), (25, 250, 0.95)]
)
def test_auroc_bound_keeps_its_level(positives: int, negatives: int, auroc: float) -> None:
    """Of 1,000 samples at most 7.5 % have a lower bound above the true AUROC, also with few positives and near 1."""
    distance = float(stats.norm.ppf(auroc) * np.sqrt(2.0))
    found = [
        bounded(
            "auroc",
            *ranked_rows(positives=positives, negatives=negatives, distance=distance, seed=seed),
            resamples=400,
            seed=seed,
        )
        for seed in range(1_000)
    ]
    beyond = [one for one in found if one.lower is not None and one.lower > auroc]
    assert len(beyond) <= 75
    assert all((one.lower is None) == (one.withheld is not None) for one in found)


def test_brier_bounds_keep_their_level() -> None:
    """Of 1,000 samples of 200 rows each bound misses the true score in 3 to 7.5 %."""
    truth = 2.0 * 4.0 / (6.0 * 7.0)
    found = [
        bounded("brier_score", *calibrated_rows(rows=200, seed=seed), resamples=400, seed=seed) for seed in range(1_000)
    ]
    above = sum(one.lower is not None and one.lower > truth for one in found)
    below = sum(one.upper is not None and one.upper < truth for one in found)
    assert 30 <= above <= 75
    assert 30 <= below <= 75


def test_calibration_error_of_a_perfect_model_is_not_held_against_it() -> None:
    """The true error is 0; the lower bound undoes most of the bias: few rows do not refute a strict threshold."""
    found = [
        bounded("expected_calibration_error", *calibrated_rows(rows=300, seed=seed), resamples=400, seed=seed)
        for seed in range(60)
    ]
    assert np.mean([one.value for one in found]) > 0.03
    assert np.mean([one.lower for one in found]) < 0.015
    assert all(one.lower is not None and one.upper is not None and one.lower <= one.upper for one in found)


@given(st.integers(0, 10**6), LEVELS)
def test_a_bound_is_a_function_of_its_seed(seed: int, level: float) -> None:
    """The same rows and seed give the same Estimate, bit by bit."""
    labels, scores = calibrated_rows(rows=60, seed=12)
    metric = find_metric(key="brier_score")
    first, second = (
        estimate(metric=metric, labels=labels, scores=scores, level=level, seed=seed, resamples=1_000) for _ in range(2)
    )
    assert first == second
    assert first.lower is not None
    assert first.upper is not None
    assert first.lower < first.upper


@pytest.mark.parametrize("level", [0.5, 1.0, 0.0, -1.0, float("nan"), float("inf")])
def test_a_level_outside_its_range_is_refused(level: float) -> None:
    """Half is no confidence, one is no statistics."""
    with pytest.raises(InvalidParameter) as caught:
        read_resampling(level=level, seed=1, resamples=None)
    assert caught.value.fields[0].field == "/level"


@pytest.mark.parametrize(("level", "resamples"), [(0.95, 2_000), (0.995, 2_000), (0.999, 10_000)])
def test_resamples_grow_with_the_level(level: float, resamples: int) -> None:
    """A tail of a thousandth needs ten thousand resamples."""
    assert read_resampling(level=level, seed=1, resamples=None).resamples == resamples


@pytest.mark.parametrize(("level", "resamples"), [(0.95, 0), (0.95, 100), (0.95, 100_001), (0.99999, None)])
def test_resamples_without_a_tail_are_refused(level: float, resamples: int | None) -> None:
    """Ten resamples lie beyond a bound, and there is an end to their number."""
    with pytest.raises(InvalidParameter) as caught:
        read_resampling(level=level, seed=1, resamples=resamples)
    assert caught.value.fields[0].field == "/resamples"


@pytest.mark.parametrize("seed", [None, -1, 2**53])
def test_a_bootstrap_needs_a_seed(seed: int | None) -> None:
    """Chance comes from the edge, as a number that every reader of JSON keeps."""
    with pytest.raises(InvalidParameter) as caught:
        read_resampling(level=0.95, seed=seed, resamples=None)
    assert caught.value.fields[0].field == "/seed"
