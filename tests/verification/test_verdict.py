from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from services.verification.domain.bounds import wilson_bounds
from services.verification.domain.estimation import (
    ConfusionCounts,
    Estimate,
    bound_counted,
    estimate,
    estimate_from_counts,
    estimate_nothing,
)
from services.verification.domain.measures import from_proportion
from services.verification.domain.metrics import CATALOGUE, find_metric
from services.verification.domain.rows import InvalidParameter
from services.verification.domain.verdict import Comparator, CriterionRule, Verdict, decide

from .samples import calibrated_rows

COMPARATORS: tuple[Comparator, ...] = (">=", ">", "<=", "<")


def recall_of(successes: int, trials: int) -> Estimate:
    counts = ConfusionCounts(
        true_positives=successes, false_positives=0, true_negatives=0, false_negatives=trials - successes
    )
    return estimate_from_counts(metric=find_metric(key="recall"), counts=counts)


def bound_rule(comparator: Comparator, threshold: float, *, level: float = 0.95, minimum: int = 1) -> CriterionRule:
    return CriterionRule(
        comparator=comparator,
        threshold=threshold,
        decision_rule="confidence bound",
        level=level,
        minimum_sample_size=minimum,
    )


def point_rule(comparator: Comparator, threshold: float, *, minimum: int = 1) -> CriterionRule:
    return CriterionRule(comparator=comparator, threshold=threshold, decision_rule="point", minimum_sample_size=minimum)


def drawn_rules(draw: st.DrawFn) -> CriterionRule:
    level = draw(st.sampled_from([0.8, 0.95, 0.99]))
    threshold, comparator = draw(st.floats(0.0, 1.0)), draw(st.sampled_from(COMPARATORS))
    return bound_rule(comparator, threshold, level=level, minimum=draw(st.integers(1, 300)))


RULES = st.composite(drawn_rules)()


def drawn_estimates(draw: st.DrawFn) -> Estimate:
    trials = draw(st.integers(1, 2_000))
    return recall_of(draw(st.integers(0, trials)), trials)


RECALLS = st.composite(drawn_estimates)()


@pytest.mark.parametrize(
    ("comparator", "threshold", "outcome"),
    [
        (">=", 0.75, "met"),
        (">=", 0.79, "inconclusive"),
        (">=", 0.81, "inconclusive"),
        (">=", 0.85, "not met"),
        ("<=", 0.85, "met"),
        ("<=", 0.81, "inconclusive"),
        ("<=", 0.79, "inconclusive"),
        ("<=", 0.75, "not met"),
    ],
)
def test_a_bound_decides_only_beyond_doubt(comparator: Comparator, threshold: float, outcome: str) -> None:
    """800 of 1,000 lies between 0.778 and 0.820 at 95 %."""
    verdict = decide(rule=bound_rule(comparator, threshold), estimate=recall_of(800, 1_000))
    assert verdict.outcome == outcome
    assert verdict.bound == pytest.approx(0.77839 if comparator == ">=" else 0.82002, abs=1e-4)
    assert verdict.n == 1_000


@pytest.mark.parametrize(("comparator", "outcome"), [(">=", "met"), (">", "not met"), ("<=", "met"), ("<", "not met")])
def test_a_point_on_the_threshold(comparator: Comparator, outcome: str) -> None:
    """The comparator says what equality is."""
    verdict = decide(rule=point_rule(comparator, 0.8), estimate=recall_of(8, 10))
    assert (verdict.outcome, verdict.bound, verdict.n_needed) == (outcome, None, None)


def test_a_bound_on_the_threshold() -> None:
    """A lower bound exactly on the threshold satisfies >= and leaves > in doubt; mirrored for the upper one."""
    found = bound_counted(estimate=recall_of(45, 50), level=0.95)
    assert found.lower is not None
    assert found.upper is not None
    on_a_bound = (
        bound_rule(">=", found.lower),
        bound_rule(">", found.lower),
        bound_rule("<=", found.upper),
        bound_rule("<", found.upper),
    )
    outcomes = [decide(rule=rule, estimate=found).outcome for rule in on_a_bound]
    assert outcomes == ["met", "inconclusive", "met", "inconclusive"]
    assert decide(rule=bound_rule(">=", found.upper), estimate=found).outcome == "inconclusive"
    assert decide(rule=bound_rule(">", found.upper), estimate=found).outcome == "not met"


@pytest.mark.parametrize("rule", [point_rule(">=", 0.5, minimum=50), bound_rule(">=", 0.5, minimum=50)])
def test_too_small_a_sample_is_inconclusive(rule: CriterionRule) -> None:
    """49 perfect answers do not replace the 50 that were asked for."""
    verdict = decide(rule=rule, estimate=recall_of(49, 49))
    assert (verdict.outcome, verdict.n_needed, verdict.n_still_needed) == ("inconclusive", 50, 1)
    assert "at least 50" in verdict.explanation
    assert decide(rule=rule, estimate=recall_of(50, 50)).outcome == "met"


def test_too_small_a_sample_needs_what_the_bound_needs_too() -> None:
    """Where the least sample would leave the bound in doubt, the larger number is named."""
    verdict = decide(rule=bound_rule(">=", 0.8, minimum=50), estimate=recall_of(35, 40))
    assert verdict.outcome == "inconclusive"
    assert verdict.n_needed is not None
    assert verdict.n_needed > 50


@pytest.mark.parametrize("rule", [point_rule(">=", 0.0), bound_rule(">=", 0.0, minimum=30)])
def test_an_empty_slice_is_inconclusive(rule: CriterionRule) -> None:
    """Nothing measured meets nothing, not even a threshold that everything meets."""
    verdict = decide(rule=rule, estimate=estimate_nothing(metric=find_metric(key="recall"), rows=7))
    assert (verdict.outcome, verdict.n, verdict.n_needed) == ("inconclusive", 0, rule.minimum_sample_size)
    assert "0 observations" in verdict.explanation


def test_a_claimed_value_has_no_bound() -> None:
    """A number without rows or counts passes a point rule at most."""
    claimed = Estimate(metric="auroc", definition_version=1, value=0.99, n=10_000, rows=10_000)
    verdict = decide(rule=bound_rule(">=", 0.6), estimate=claimed)
    assert (verdict.outcome, verdict.bound, verdict.n_needed) == ("inconclusive", None, None)
    assert "not computed from rows or counts" in verdict.explanation
    assert decide(rule=point_rule(">=", 0.6), estimate=claimed).outcome == "met"


def test_a_withheld_bound_is_inconclusive_and_says_why() -> None:
    """A perfect ranking of a hundred rows is no proof."""
    perfect = estimate(metric=find_metric(key="auroc"), labels=[0, 1] * 50, scores=[0.1, 0.9] * 50, level=0.95, seed=1)
    verdict = decide(rule=bound_rule(">=", 0.6), estimate=perfect)
    assert verdict.outcome == "inconclusive"
    assert "every resample gives the same value" in verdict.explanation


def test_a_bound_of_another_level_is_refused() -> None:
    """The bootstrap was drawn for the criterion's level or does not count."""
    labels, scores = calibrated_rows(rows=100, seed=1)
    metric = find_metric(key="brier_score")
    found = estimate(metric=metric, labels=labels, scores=scores, level=0.9, seed=1)
    with pytest.raises(InvalidParameter) as caught:
        decide(rule=bound_rule("<=", 0.5, level=0.95), estimate=found)
    assert caught.value.fields[0].field == "/level"


def test_counts_are_bounded_at_the_level_of_the_rule() -> None:
    """The verdict carries the bounds it was decided by, whatever level the estimate came with."""
    loose = bound_counted(estimate=recall_of(80, 100), level=0.6)
    verdict = decide(rule=bound_rule(">=", 0.7, level=0.99), estimate=loose)
    assert verdict.estimate == bound_counted(estimate=recall_of(80, 100), level=0.99)
    assert verdict.bound == verdict.estimate.lower


@pytest.mark.parametrize(
    ("metric", "comparator", "threshold", "outcome"),
    [
        ("auroc", ">=", 0.55, "met"),
        ("auroc", ">=", 0.9, "not met"),
        ("brier_score", "<=", 0.3, "met"),
        ("brier_score", "<=", 0.1, "not met"),
        ("expected_calibration_error", "<=", 0.15, "met"),
        ("calibration_slope", ">=", 0.5, "met"),
        ("calibration_slope", "<=", 1.5, "met"),
        ("log_loss", "<", 0.3, "not met"),
    ],
)
def test_bootstrapped_metrics_are_decided_alike(
    metric: str, comparator: Comparator, threshold: float, outcome: str
) -> None:
    """A calibrated model on 600 rows passes what it should and fails what it should."""
    labels, scores = calibrated_rows(rows=600, seed=5)
    found = estimate(metric=CATALOGUE[metric], labels=labels, scores=scores, level=0.95, seed=1)
    assert decide(rule=bound_rule(comparator, threshold), estimate=found).outcome == outcome


def test_a_bootstrapped_need_shrinks_with_the_root() -> None:
    """A bound 0.04 away that must be 0.02 away takes four times the rows."""
    found = Estimate(
        metric="auroc", definition_version=1, value=0.80, n=500, rows=500, level=0.95, lower=0.76, upper=0.83
    )
    verdict = decide(rule=bound_rule(">=", 0.78), estimate=found)
    assert verdict.outcome == "inconclusive"
    assert verdict.n_needed in {2_000, 2_001}
    assert verdict.n_still_needed in {1_500, 1_501}


@pytest.mark.parametrize("threshold", [0.80, 0.82, 0.80 - 1e-12])
def test_what_no_sample_would_show_is_not_promised(threshold: float) -> None:
    """On the threshold, beyond it or too near to it, no practicable number of rows helps."""
    found = Estimate(
        metric="auroc", definition_version=1, value=0.80, n=500, rows=500, level=0.95, lower=0.76, upper=0.83
    )
    verdict = decide(rule=bound_rule(">=", threshold), estimate=found)
    assert (verdict.outcome, verdict.n_needed, verdict.n_still_needed) == ("inconclusive", None, None)


@given(
    st.sampled_from(["recall", "f1"]),
    st.integers(1, 800),
    st.integers(1, 800),
    st.sampled_from(COMPARATORS),
    st.floats(0.05, 0.95),
)
def test_the_need_is_the_smallest(
    metric: str, successes: int, failures: int, comparator: Comparator, share: float
) -> None:
    """With the threshold between estimate and bound: at n_needed trials the same proportion is met, at one fewer not."""
    counts = ConfusionCounts(true_positives=successes, false_positives=0, true_negatives=0, false_negatives=failures)
    found = estimate_from_counts(metric=find_metric(key=metric), counts=counts, level=0.95)
    side = 0 if comparator in (">=", ">") else 1
    bound = (found.lower, found.upper)[side] or 0.0
    rule = bound_rule(comparator, bound + share * ((found.value or 0.0) - bound))
    verdict = decide(rule=rule, estimate=found)
    assert verdict.outcome == "inconclusive"
    assert verdict.n_needed is not None
    enough, short = (
        wilson_bounds(proportion=successes / (successes + failures), trials=trials, level=0.95)[side]
        for trials in (verdict.n_needed, verdict.n_needed - 1)
    )
    assert verdict.n_needed > found.n
    assert rule.holds(value=from_proportion(metric=metric, proportion=enough))
    assert not rule.holds(value=from_proportion(metric=metric, proportion=short))


@given(RULES, RECALLS, st.floats(0.0, 1.0))
def test_a_stricter_threshold_never_helps(rule: CriterionRule, found: Estimate, by: float) -> None:
    """Raising the bar turns no verdict into a better one."""
    stricter = msgspec.structs.replace(rule, threshold=rule.threshold + (by if rule.wants_high else -by))
    rank = ("not met", "inconclusive", "met").index
    before, after = (decide(rule=one, estimate=found).outcome for one in (rule, stricter))
    assert rank(after) <= rank(before)


@given(RULES, RECALLS)
def test_met_by_the_bound_is_met_by_the_point(rule: CriterionRule, found: Estimate) -> None:
    """The bound is the more cautious rule: it never meets, nor refuses, what the point estimate does not."""
    verdict = decide(rule=rule, estimate=found)
    by_point = decide(rule=msgspec.structs.replace(rule, decision_rule="point", level=None), estimate=found).outcome
    assert verdict.outcome in {by_point, "inconclusive"}


@given(RULES, RECALLS)
def test_a_higher_level_decides_less(rule: CriterionRule, found: Estimate) -> None:
    """More confidence asked never turns an inconclusive verdict into a decided one."""
    surer = decide(rule=msgspec.structs.replace(rule, level=0.999), estimate=found).outcome
    assert surer in {decide(rule=rule, estimate=found).outcome, "inconclusive"}


@given(RULES, RECALLS)
def test_a_verdict_is_the_same_when_repeated_and_read_back(rule: CriterionRule, found: Estimate) -> None:
    """Events embed verdicts: rule, estimate and verdict read back as they were, and decide the same."""
    verdict = decide(rule=rule, estimate=found)
    stored = msgspec.json.encode((rule, found, verdict))
    rule_again, found_again, verdict_again = msgspec.json.decode(stored, type=tuple[CriterionRule, Estimate, Verdict])
    assert decide(rule=rule_again, estimate=found_again) == verdict == verdict_again


def test_the_explanation_does_not_round_onto_the_threshold() -> None:
    """A value that prints like the threshold but misses it is printed in full."""
    claimed = Estimate(metric="auroc", definition_version=1, value=0.79999999, n=100, rows=100)
    verdict = decide(rule=point_rule(">=", 0.8), estimate=claimed)
    assert verdict.outcome == "not met"
    assert "0.79999999" in verdict.explanation


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("comparator", {"comparator": "=="}),
        ("threshold", {"threshold": float("nan")}),
        ("threshold", {"threshold": float("inf")}),
        ("decision_rule", {"decision_rule": "bayes"}),
        ("level", {"level": None}),
        ("level", {"level": 0.5}),
        ("level", {"level": 1.0}),
        ("level", {"decision_rule": "point"}),
        ("minimum_sample_size", {"minimum_sample_size": 0}),
        ("minimum_sample_size", {"minimum_sample_size": 10**13}),
    ],
)
def test_a_rule_that_decides_nothing_cannot_be_written(field: str, wrong: dict[str, Any]) -> None:
    """Each is refused with the field and its rule."""
    sound: dict[str, Any] = {
        "comparator": ">=",
        "threshold": 0.8,
        "decision_rule": "confidence bound",
        "level": 0.95,
        "minimum_sample_size": 50,
    }
    assert CriterionRule(**sound).wants_high
    with pytest.raises(InvalidParameter) as caught:
        CriterionRule(**(sound | wrong))
    assert caught.value.fields[0].field == f"/{field}"
