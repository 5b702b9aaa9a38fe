"""AcceptanceCriterion: what makes it decidable before the first result is seen."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from services.requirements.domain.acceptance_criterion import (
    CRITERIA_MAX,
    METRICS,
    UNIT_INTERVAL_METRICS,
    InvalidCriterion,
    check_criteria,
    check_revised_criterion,
)
from tests.requirements.samples import CRITERION, criterion

BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("metric", {"metric": "vibes"}),
    ("metric", {"metric": ""}),
    ("threshold", {"threshold": math.nan}),
    ("threshold", {"threshold": math.inf}),
    ("threshold", {"threshold": -math.inf}),
    ("threshold", {"threshold": 1.0000001}),
    ("threshold", {"threshold": -0.0000001}),
    ("threshold", {"metric": "log_loss", "threshold": math.nan}),
    ("level", {"level": None}),
    ("level", {"level": 0.5}),
    ("level", {"level": 1.0}),
    ("level", {"level": math.nan}),
    ("level", {"decision_rule": "point", "level": 0.95}),
    ("minimum_sample_size", {"minimum_sample_size": 0}),
    ("minimum_sample_size", {"minimum_sample_size": -1}),
    ("slice", {"slice": ""}),
    ("slice", {"slice": "carrier"}),
    ("slice", {"slice": "carrier="}),
    ("slice", {"slice": "=UA"}),
]
WHOLE: list[dict[str, Any]] = [
    {},
    {"threshold": 0.0},
    {"threshold": 1.0},
    {"metric": "mean_absolute_error", "threshold": 12.5, "unit": "minutes", "comparator": "<="},
    {"decision_rule": "point", "level": None},
    {"minimum_sample_size": 1},
    {"slice": "carrier=UA"},
    {"slice": "formula=a=b"},
]


@pytest.mark.parametrize(("field", "changes"), BROKEN)
def test_a_broken_rule_is_named_with_its_field(field: str, changes: dict[str, Any]) -> None:
    """The same rules hold for a draft and for a criterion that is revised."""
    with pytest.raises(InvalidCriterion) as refused:
        check_criteria([CRITERION, criterion(key="C2", **changes)])
    assert [error.field for error in refused.value.fields] == [f"/criteria/1/{field}"]
    assert refused.value.fields[0].rule
    with pytest.raises(InvalidCriterion) as refused:
        check_revised_criterion(criterion(**changes), revised=[CRITERION])
    assert [error.field for error in refused.value.fields] == [f"/criterion/{field}"]


@pytest.mark.parametrize("changes", WHOLE, ids=str)
def test_a_whole_criterion_passes(changes: dict[str, Any]) -> None:
    """The limits of the rules are inside them."""
    check_criteria([criterion(**changes)])


def test_every_broken_rule_is_told_at_once() -> None:
    """Nobody mends a form field by field."""
    with pytest.raises(InvalidCriterion) as refused:
        check_criteria([criterion(metric="vibes", minimum_sample_size=0), criterion(key="C2", slice="x")])
    assert {error.field for error in refused.value.fields} == {
        "/criteria/0/metric", "/criteria/0/minimum_sample_size", "/criteria/1/slice",
    }  # fmt: skip


def test_every_criterion_has_its_own_key() -> None:
    """Verdicts are given by key."""
    with pytest.raises(InvalidCriterion) as refused:
        check_criteria([CRITERION, criterion(key="C2"), criterion(threshold=0.9)])
    assert [error.field for error in refused.value.fields] == ["/criteria/2/key"]


def test_a_requirement_has_a_bounded_number_of_criteria() -> None:
    """As many as the limit, and not one more."""
    full = [criterion(key=f"C{number}") for number in range(CRITERIA_MAX)]
    check_criteria(full)
    with pytest.raises(InvalidCriterion) as refused:
        check_criteria([*full, criterion(key="one-more")])
    assert [error.field for error in refused.value.fields] == ["/criteria"]


@given(st.sampled_from(sorted(METRICS)), st.floats(allow_nan=True, allow_infinity=True))
def test_a_threshold_is_one_that_the_metric_can_reach(metric: str, threshold: float) -> None:
    """Finite, and from 0 to 1 for a proportion."""
    reachable = math.isfinite(threshold) and (metric not in UNIT_INTERVAL_METRICS or 0 <= threshold <= 1)
    if reachable:
        check_criteria([criterion(metric=metric, threshold=threshold)])
        return
    with pytest.raises(InvalidCriterion):
        check_criteria([criterion(metric=metric, threshold=threshold)])
