"""Tests against a tolerance: the null is "the true PSI is at most delta", not "nothing changed at all".

Without a tolerance every large window drifts. Two corrections keep the promise that a small p-value is as rare as it says:
neighbouring cells are merged until each expects five rows, and the tolerance is widened by what a finite reference does not
know. Every function is one-sided: a large statistic is evidence of drift.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from .histogram import Floats, Integers

EXPECTED_ROWS_MIN = 5.0
REFERENCE_LEVEL = 0.9
"""How sure we are that the reference is no further from the truth than the widening allows."""

P_VALUE_MIN = 1e-12
"""Below it the distribution functions carry no digits; a p-value is never reported smaller."""


def merge_cells(*, expected: Floats, ordered: bool) -> Integers:
    """The group of every cell, so that each group expects EXPECTED_ROWS_MIN rows; fewer than two groups test nothing.

    Neighbours are merged when the cells have an order, otherwise the rarest first (W. G. Cochran, 1954).
    """
    order = np.arange(len(expected)) if ordered else np.argsort(expected, kind="stable")
    groups = np.zeros(len(expected), dtype=np.int64)
    group, total = 0, 0.0
    for cell in order:
        if total >= EXPECTED_ROWS_MIN:
            group, total = group + 1, 0.0
        groups[cell] = group
        total += float(expected[cell])
    if total < EXPECTED_ROWS_MIN and group > 0:
        groups[groups == group] = group - 1
    return groups


def sum_groups(*, counts: Integers, groups: Integers) -> Integers:
    """The counts of the groups."""
    return np.bincount(groups, weights=counts, minlength=int(groups.max()) + 1).astype(np.int64)


def widen_tolerance(*, tolerance: float, reference_rows: float, degrees_of_freedom: int) -> float:
    """delta' = (sqrt(delta) + sqrt(chi2_{0.9, B-1} / m))^2: the tolerance around a reference of m rows.

    The same reference judges every window, so its own sampling error never averages out. PSI is near the square of a distance
    (for small differences), and distances add up by the triangle inequality.
    """
    quantile = float(special.chdtri(degrees_of_freedom, 1 - REFERENCE_LEVEL))
    return (math.sqrt(tolerance) + math.sqrt(quantile / reference_rows)) ** 2


def tolerance_p_value(
    *, statistic: float, degrees_of_freedom: int, tolerance: float, effective_rows: float
) -> float:  # fmt: skip
    """P(X2 >= statistic) when the distance is the tolerance: noncentral chi-square with noncentrality n_eff * delta'.

    `effective_rows` is nm/(n+m), over the overdispersion. Source: P. B. Patnaik, The non-central chi-square and F-distributions
    and their applications, 1949; as scipy.stats.ncx2.sf.
    """
    p_value = 1.0 - float(special.chndtr(statistic, degrees_of_freedom, effective_rows * tolerance))
    return min(1.0, max(P_VALUE_MIN, p_value))


@lru_cache(maxsize=4096)
def share_upper_bound(*, count: int, rows: int, overdispersion: float) -> float:
    """The upper bound of a share at REFERENCE_LEVEL from `count` of `rows` (C. Clopper and E. S. Pearson, 1934)."""
    if count >= rows:
        return 1.0
    k, m = count / overdispersion, rows / overdispersion
    return float(special.betaincinv(k + 1, m - k, REFERENCE_LEVEL))


@lru_cache(maxsize=4096)
def share_limit(*, share: float, tolerance: float) -> float:
    """The larger share whose PSI against `share`, in two cells, is the tolerance; by bisection."""

    def distance(other: float) -> float:
        return (other - share) * (math.log(other / share) - math.log((1 - other) / (1 - share)))

    if not 0 < share < 1:
        return share
    low, high = share, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle >= 1.0 or distance(middle) > tolerance:
            high = middle
        else:
            low = middle
    return low


def share_p_value(*, count: int, rows: int, limit: float, overdispersion: float) -> float:
    """P(K >= count) for K binomial of `rows` and `limit`, exact for overdispersion 1, otherwise with rows that count less.

    P(K >= k) is the regularised incomplete beta function I_limit(k, n - k + 1); as scipy.stats.binom.sf(k - 1, n, limit).
    """
    if count == 0 or limit >= 1:
        return 1.0
    k, n = count / overdispersion, rows / overdispersion
    return max(P_VALUE_MIN, float(special.betainc(k, n - k + 1, limit)))
