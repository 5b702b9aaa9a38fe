"""The decision rule: a criterion is met, not met or inconclusive, and never met on doubt.

                        point            confidence bound, comparator >= (<= mirrors it)
    n < minimum         inconclusive     inconclusive
    met                 value holds      the lower bound holds
    not met             otherwise        even the upper bound does not hold
    inconclusive        -                otherwise, and where no bound can be given

Both bounds are one-sided and at the criterion's level.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from math import ceil, isfinite
from types import MappingProxyType
from typing import Literal

import msgspec

from .bounds import wilson_bounds
from .estimation import Estimate, bound_counted
from .measures import from_proportion
from .rows import invalid_parameter, require_level

Comparator = Literal[">=", ">", "<=", "<"]
Outcome = Literal["met", "not met", "inconclusive"]
DecisionRule = Literal["point", "confidence bound"]

OBSERVATIONS_MAX = 10**12

_HOLDS: Mapping[Comparator, Callable[[float, float], bool]] = MappingProxyType(
    {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
)


class CriterionRule(msgspec.Struct, frozen=True, kw_only=True):
    """What an acceptance criterion fixed before the run. `level`, one-sided, belongs to the confidence bound alone."""

    comparator: Comparator
    threshold: float
    decision_rule: DecisionRule
    level: float | None = None
    minimum_sample_size: int

    def __post_init__(self) -> None:
        if self.comparator not in _HOLDS:
            raise invalid_parameter(field="comparator", rule=f"is one of {' '.join(_HOLDS)}")
        if self.decision_rule not in ("point", "confidence bound"):
            raise invalid_parameter(field="decision_rule", rule="is point or confidence bound")
        if not isfinite(self.threshold):
            raise invalid_parameter(field="threshold", rule="is a finite number")
        if not 1 <= self.minimum_sample_size <= OBSERVATIONS_MAX:
            raise invalid_parameter(field="minimum_sample_size", rule=f"is between 1 and {OBSERVATIONS_MAX}")
        if (self.level is None) != (self.decision_rule == "point"):
            raise invalid_parameter(field="level", rule="is given for a confidence bound, and only for that")
        if self.level is not None:
            require_level(level=self.level)

    def holds(self, *, value: float) -> bool:
        """Whether `value` stands on the right side of the threshold."""
        return _HOLDS[self.comparator](value, self.threshold)

    @property
    def wants_high(self) -> bool:
        return self.comparator in (">=", ">")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`bound`: the one that must hold, None for a point rule or where none could be given.

    `n_needed`: for an inconclusive verdict, how many observations in all (not only further ones) would make it met if
    the estimate stayed; None where it is decided, or where no number of them would.
    """

    outcome: Outcome
    estimate: Estimate
    bound: float | None
    n: int
    n_needed: int | None
    explanation: str

    @property
    def n_still_needed(self) -> int | None:
        """Observations still missing."""
        return None if self.n_needed is None else max(0, self.n_needed - self.n)


def decide(*, rule: CriterionRule, estimate: Estimate) -> Verdict:
    """The verdict on one criterion.

    A counted estimate is bounded here, at the rule's level; any other must have been estimated at that level, else
    InvalidParameter. An estimate without bounds (a claimed value) is inconclusive under a confidence bound.
    """
    if estimate.value is None:
        return _inconclusive(estimate, None, rule.minimum_sample_size, _too_few(rule, estimate))
    if rule.level is None:
        return _decide_by_point(rule, estimate, estimate.value)
    return _decide_by_bound(rule, _at_level(estimate, rule.level), estimate.value, rule.level)


def observations_needed(*, rule: CriterionRule, estimate: Estimate) -> int | None:
    """The least n at which the bound would hold with the estimate unchanged; None where no n would, or beyond 10^12.

    Counted: exact, the smallest number of trials whose Wilson bound at the observed proportion holds. Otherwise the
    distance from estimate to bound is taken to shrink with 1 / sqrt(n).
    """
    value, bound = estimate.value, _deciding_bound(rule, estimate)
    if value is None or bound is None or rule.level is None or not rule.holds(value=value):
        return None
    if rule.holds(value=bound):
        return estimate.n
    if estimate.successes is not None:
        return _trials_needed(rule, estimate, rule.level)
    if value == rule.threshold:
        return None
    needed = estimate.n * (abs(value - bound) / abs(value - rule.threshold)) ** 2
    return max(estimate.n + 1, ceil(needed)) if needed <= OBSERVATIONS_MAX else None


def _decide_by_point(rule: CriterionRule, estimate: Estimate, value: float) -> Verdict:
    if estimate.n < rule.minimum_sample_size:
        return _inconclusive(estimate, None, rule.minimum_sample_size, _too_few(rule, estimate))
    outcome: Outcome = "met" if rule.holds(value=value) else "not met"
    return _decided(outcome, estimate, None, f"{_says(rule, estimate, value)}, {_required(rule)}: {outcome}")


def _decide_by_bound(rule: CriterionRule, estimate: Estimate, value: float, level: float) -> Verdict:
    bound, generous = _deciding_bound(rule, estimate), _generous_bound(rule, estimate)
    needed = observations_needed(rule=rule, estimate=estimate)
    if estimate.n < rule.minimum_sample_size:
        return _inconclusive(estimate, bound, max(rule.minimum_sample_size, needed or 0), _too_few(rule, estimate))
    says = _says(rule, estimate, value)
    if bound is None or generous is None:
        why = estimate.withheld or "it was not computed from rows or counts"
        return _inconclusive(estimate, None, None, f"{says} has no bound at level {level:g}: {why}")
    says += f", {_side(rule)} bound {_show(bound, rule)} at level {level:g}, {_required(rule)}"
    if rule.holds(value=bound):
        return _decided("met", estimate, bound, f"{says}: met")
    if not rule.holds(value=generous):
        return _decided(
            "not met", estimate, bound, f"{says}: not met, even by the opposite bound {_show(generous, rule)}"
        )
    return _inconclusive(estimate, bound, needed, f"{says}: inconclusive, {_hope(rule, value, needed)}")


def _at_level(estimate: Estimate, level: float) -> Estimate:
    if estimate.successes is not None:
        return bound_counted(estimate=estimate, level=level)
    if estimate.level is not None and estimate.level != level:
        raise invalid_parameter(field="level", rule=f"of the estimate is the criterion's {level}, not {estimate.level}")
    return estimate


def _trials_needed(rule: CriterionRule, estimate: Estimate, level: float) -> int | None:
    share = (estimate.successes or 0) / estimate.n

    def reaches(trials: int) -> bool:
        bounds = wilson_bounds(proportion=share, trials=trials, level=level)
        return rule.holds(value=from_proportion(metric=estimate.metric, proportion=bounds[0 if rule.wants_high else 1]))

    short, enough = estimate.n, OBSERVATIONS_MAX
    if not reaches(enough):
        return None
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if reaches(middle) else (middle, enough)
    return enough


def _deciding_bound(rule: CriterionRule, estimate: Estimate) -> float | None:
    return estimate.lower if rule.wants_high else estimate.upper


def _generous_bound(rule: CriterionRule, estimate: Estimate) -> float | None:
    return estimate.upper if rule.wants_high else estimate.lower


def _decided(outcome: Outcome, estimate: Estimate, bound: float | None, explanation: str) -> Verdict:
    return Verdict(
        outcome=outcome, estimate=estimate, bound=bound, n=estimate.n, n_needed=None, explanation=explanation
    )


def _inconclusive(estimate: Estimate, bound: float | None, needed: int | None, explanation: str) -> Verdict:
    return Verdict(
        outcome="inconclusive",
        estimate=estimate,
        bound=bound,
        n=estimate.n,
        n_needed=needed,
        explanation=explanation,
    )


def _too_few(rule: CriterionRule, estimate: Estimate) -> str:
    return f"{estimate.metric} rests on {estimate.n} observations, at least {rule.minimum_sample_size} are required"


def _says(rule: CriterionRule, estimate: Estimate, value: float) -> str:
    return f"{estimate.metric} {_show(value, rule)} on {estimate.n} observations"


def _required(rule: CriterionRule) -> str:
    return f"required {rule.comparator} {rule.threshold}"


def _hope(rule: CriterionRule, value: float, needed: int | None) -> str:
    if not rule.holds(value=value):
        return "and the estimate itself is on the wrong side: more rows like these would not make it met"
    if needed is None:
        return "and at this estimate no practicable number of rows would make it met"
    return f"about {needed} observations would make it met at this estimate"


def _side(rule: CriterionRule) -> str:
    return "lower" if rule.wants_high else "upper"


def _show(value: float, rule: CriterionRule) -> str:
    short = f"{value:.6g}"
    return short if float(short) != rule.threshold or value == rule.threshold else repr(value)
