"""How far two histograms are apart: statistics of counts, each with its formula."""

from __future__ import annotations

import numpy as np
from scipy import special

from .histogram import Floats, Integers


def smoothed_shares(counts: Integers) -> Floats:
    """Shares under Jeffreys' prior, (c + 1/2) / (N + B/2): no cell is empty and no arbitrary epsilon decides.

    Source: H. Jeffreys, An invariant form for the prior probability in estimation problems, 1946.
    """
    shares: Floats = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def population_stability_index(*, reference: Integers, window: Integers) -> float:
    """PSI = sum (q - p) ln(q / p) over smoothed shares p (reference) and q (window): KL(p|q) + KL(q|p), in nats.

    Source: H. Jeffreys, 1946; the name is that of credit scoring (N. Siddiqi, Credit Risk Scorecards, 2006).
    """
    p, q = smoothed_shares(reference), smoothed_shares(window)
    return float(np.sum((q - p) * np.log(q / p)))


def debiased_stability_index(*, reference: Integers, window: Integers) -> float:
    """PSI less its mean when nothing drifts, (B - 1)(1/n + 1/m): comparable between sample sizes; may be below 0.

    Source: B. Yurdakul and J. Naranjo, Statistical properties of the population stability index, 2020.
    """
    bias = (len(window) - 1) * (1 / int(window.sum()) + 1 / int(reference.sum()))
    return population_stability_index(reference=reference, window=window) - bias


def chi_square(*, reference: Integers, window: Integers) -> tuple[float, int]:
    """Pearson's statistic of two samples and its degrees of freedom; cells that are empty in both do not count.

    X2 = nm/(n+m) sum (h/n - H/m)^2 / ((h + H)/(n + m)), which is chi-square with B - 1 degrees when both have one law.
    Source: K. Pearson, 1900; as scipy.stats.chi2_contingency with correction=False.
    """
    pooled = reference + window
    h, big_h = window[pooled > 0], reference[pooled > 0]
    n, m = int(h.sum()), int(big_h.sum())
    if n == 0 or m == 0 or len(h) < 2:
        return 0.0, 0
    difference = h / n - big_h / m
    return float(n * m * np.sum(difference * difference / (h + big_h))), len(h) - 1


def chi_square_p_value(*, statistic: float, degrees_of_freedom: int) -> float:
    """P(X2 >= statistic) when nothing drifts; 1 without degrees of freedom."""
    return float(special.chdtrc(degrees_of_freedom, statistic)) if degrees_of_freedom else 1.0
