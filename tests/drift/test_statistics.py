"""Every statistic against an independent implementation: scipy.stats, or the defining property."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from scipy import integrate, stats

from services.drift.domain.detector import EVIDENCE_MAX, advance_evidence, alarm_threshold, e_value
from services.drift.domain.divergence import (
    chi_square,
    chi_square_p_value,
    debiased_stability_index,
    population_stability_index,
    smoothed_shares,
)
from services.drift.domain.tolerance import (
    EXPECTED_ROWS_MIN,
    P_VALUE_MIN,
    merge_cells,
    share_limit,
    share_p_value,
    share_upper_bound,
    sum_groups,
    tolerance_p_value,
    widen_tolerance,
)

EXACT = 1e-12
HISTOGRAMS = st.integers(2, 12).flatmap(
    lambda cells: st.tuples(*(st.lists(st.integers(0, 5000), min_size=cells, max_size=cells) for _ in range(2)))
)


@given(HISTOGRAMS)
def test_psi_is_the_sum_of_both_divergences(histograms: tuple[list[int], list[int]]) -> None:
    """KL(p|q) + KL(q|p) of the smoothed shares, by scipy."""
    reference, window = (np.array(counts) for counts in histograms)
    p, q = smoothed_shares(reference), smoothed_shares(window)
    expected = stats.entropy(p, q) + stats.entropy(q, p)
    assert population_stability_index(reference=reference, window=window) == pytest.approx(
        expected, rel=EXACT, abs=EXACT
    )


def test_psi_of_equal_shares_is_zero_and_an_empty_cell_is_no_catastrophe() -> None:
    """Smoothing by half a row keeps the logarithm finite without an arbitrary epsilon."""
    assert population_stability_index(reference=np.array([500, 500]), window=np.array([500, 500])) == 0.0
    assert population_stability_index(reference=np.array([500, 500, 0]), window=np.array([500, 499, 1])) < 0.01


def test_the_debiased_index_is_near_zero_when_nothing_drifts() -> None:
    """Its mean over windows of one law is 0 up to sampling error, for windows small and large."""
    generator = np.random.default_rng(11)
    shares = np.full(10, 0.1)
    for n in (200, 2000):
        values = [
            debiased_stability_index(
                reference=generator.multinomial(10_000, shares), window=generator.multinomial(n, shares)
            )
            for _ in range(400)
        ]
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values)) + 0.1 * 9 / n


@given(HISTOGRAMS)
def test_chi_square_is_that_of_a_contingency_table(histograms: tuple[list[int], list[int]]) -> None:
    """Against scipy.stats.chi2_contingency without correction, on the cells that are not empty in both."""
    reference, window = (np.array(counts) for counts in histograms)
    used = reference + window > 0
    statistic, degrees = chi_square(reference=reference, window=window)
    if reference.sum() == 0 or window.sum() == 0 or used.sum() < 2:
        assert (statistic, degrees) == (0.0, 0)
        return
    expected = stats.chi2_contingency(np.array([reference[used], window[used]]), correction=False)
    assert degrees == expected.dof
    assert statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    p_value = chi_square_p_value(statistic=statistic, degrees_of_freedom=degrees)
    assert p_value == pytest.approx(stats.chi2.sf(statistic, degrees), abs=EXACT)


@given(st.floats(0.01, 500), st.integers(1, 40), st.floats(1e-6, 1), st.floats(1, 2000))
def test_the_tolerance_test_is_a_noncentral_chi_square(x: float, degrees: int, tolerance: float, rows: float) -> None:
    """Against scipy.stats.ncx2.sf, never below the smallest p-value that we report."""
    ours = tolerance_p_value(statistic=x, degrees_of_freedom=degrees, tolerance=tolerance, effective_rows=rows)
    expected = max(P_VALUE_MIN, float(stats.ncx2.sf(x, degrees, rows * tolerance)))
    assert ours == pytest.approx(expected, abs=EXACT)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(1e-4, 0.9))
def test_the_share_test_is_the_exact_binomial_tail(count: int, rows: int, limit: float) -> None:
    """Against scipy.stats.binom.sf."""
    if count > rows:
        return
    ours = share_p_value(count=count, rows=rows, limit=limit, overdispersion=1.0)
    assert ours == pytest.approx(max(P_VALUE_MIN, float(stats.binom.sf(count - 1, rows, limit))), abs=EXACT)


def test_overdispersed_rows_count_less() -> None:
    """The same excess is weaker evidence when rows come in bursts."""
    alone = share_p_value(count=30, rows=500, limit=0.03, overdispersion=1.0)
    assert alone < share_p_value(count=30, rows=500, limit=0.03, overdispersion=4.0) < 1


@given(st.integers(0, 200), st.integers(1, 5000))
def test_the_upper_bound_of_a_share_is_clopper_and_pearsons(count: int, rows: int) -> None:
    """Against scipy.stats.binomtest."""
    count = min(count, rows)
    expected = stats.binomtest(count, rows, alternative="less").proportion_ci(0.9, method="exact").high
    assert share_upper_bound(count=count, rows=rows, overdispersion=1.0) == pytest.approx(expected, abs=EXACT)


@given(st.floats(1e-5, 0.99), st.floats(1e-4, 0.5))
@example(0.984375, 0.5)
def test_a_share_may_rise_until_two_cells_are_a_tolerance_apart(share: float, tolerance: float) -> None:
    """The PSI of the limit against the share, in two cells, is the tolerance, as closely as there are numbers below 1."""

    def psi(other: float) -> float:
        return (other - share) * (math.log(other / share) - math.log((1 - other) / (1 - share)))

    limit = share_limit(share=share, tolerance=tolerance)
    assert share <= limit < 1
    assert psi(limit) <= tolerance * (1 + 1e-6)
    beyond = limit * (1 + 1e-9) if limit < 0.999 else math.nextafter(limit, 1)
    assert beyond >= 1 or psi(beyond) >= tolerance * (1 - 1e-6)


@given(st.lists(st.floats(0, 40), min_size=1, max_size=15), st.booleans())
def test_merged_cells_expect_enough_rows_and_lose_none(expected: list[float], ordered: bool) -> None:
    """Groups of five expected rows or more, or one group for everything; ordered cells only merge with neighbours."""
    groups = merge_cells(expected=np.array(expected), ordered=ordered)
    totals = np.bincount(groups, weights=expected)
    assert len(groups) == len(expected)
    assert groups.max() == 0 or totals.min() >= EXPECTED_ROWS_MIN
    if ordered:
        assert (np.diff(groups) >= 0).all()
    counts = np.arange(len(expected))
    assert sum_groups(counts=counts, groups=groups).sum() == counts.sum()


def test_the_tolerance_widens_with_an_uncertain_reference() -> None:
    """(sqrt(delta) + sqrt(chi2_0.9 / m))^2, by scipy's quantile; a reference without end widens nothing."""
    widened = widen_tolerance(tolerance=0.01, reference_rows=10_000, degrees_of_freedom=9)
    assert widened == pytest.approx((0.1 + math.sqrt(stats.chi2.ppf(0.9, 9) / 10_000)) ** 2, rel=EXACT)
    assert widen_tolerance(tolerance=0.01, reference_rows=1e15, degrees_of_freedom=9) == pytest.approx(0.01, rel=1e-5)


def test_the_mean_e_value_is_one_under_the_null() -> None:
    """The integral of e(p) over uniform p; the tail below the smallest p-value is worth about 1 / ln."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", integrate.IntegrationWarning)
        mean, _ = integrate.quad(lambda u: e_value(math.exp(-u)) * math.exp(-u), 0, -math.log(P_VALUE_MIN), limit=200)
    assert mean == pytest.approx(1, abs=0.04)
    assert mean <= 1


@given(st.floats(P_VALUE_MIN, 1), st.floats(P_VALUE_MIN, 1))
def test_a_smaller_p_value_is_a_larger_e_value(one: float, other: float) -> None:
    """Down to 1/2 at p = 1, and without a jump where the series takes over."""
    low, high = min(one, other), max(one, other)
    assert e_value(low) >= e_value(high) * (1 - 1e-9) >= 0.5 * (1 - 1e-9)
    assert e_value(math.exp(-0.000999999)) == pytest.approx(e_value(math.exp(-0.001000001)), rel=1e-6)


def test_evidence_gathers_and_has_a_cap() -> None:
    """M = (M + 1) e; the cap keeps it a number that JSON can write."""
    assert advance_evidence(evidence=3.0, e=2.0) == 8.0
    assert advance_evidence(evidence=EVIDENCE_MAX, e=1e9) == EVIDENCE_MAX


def test_the_threshold_keeps_the_budget() -> None:
    """168 hourly windows a week and one false alarm a week need evidence of 168; half as many false alarms, twice that."""
    assert alarm_threshold(window_s=3600, false_alarms_per_week=1.0) == 168
    assert alarm_threshold(window_s=3600, false_alarms_per_week=0.5) == 336
    assert alarm_threshold(window_s=604_800, false_alarms_per_week=1.0) == 1
