"""AcceptanceCriterion: a condition fixed before the result (EU AI Act, 9(8); ISO/IEC 42001, A.6.2.4).

It names the metric, the threshold, the dataset version, the slice, how uncertainty enters the verdict and how many rows it needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from shared.errors import FieldError, Invalid

Comparator = Literal[">=", ">", "<=", "<"]
DecisionRule = Literal["point", "confidence bound"]
EvidenceGrade = Literal["recomputed", "attested", "claimed"]

METRICS = frozenset(
    {
        "accuracy", "recall", "specificity", "precision", "f1", "false_positive_rate", "auroc", "average_precision",
        "brier_score", "log_loss", "expected_calibration_error", "calibration_slope", "calibration_intercept",
        "mean_absolute_error", "root_mean_squared_error",
    }
)  # fmt: skip
"""Keys of the metric catalogue that verification keeps; a contract test holds the two together."""

UNIT_INTERVAL_METRICS = METRICS - {
    "log_loss", "calibration_slope", "calibration_intercept", "mean_absolute_error", "root_mean_squared_error",
}  # fmt: skip
"""Metrics whose values lie from 0 to 1."""


CRITERIA_MAX = 200
"""Criteria of one requirement."""


class InvalidCriterion(Invalid):
    """A criterion breaks a rule; the field and the rule are named."""


class AcceptanceCriterion(msgspec.Struct, frozen=True, kw_only=True):
    """`slice` is `overall` or `column=value`; `level` is the one-sided confidence level of a bound, None for `point`.

    `least_evidence` is the weakest way in which the metric may have been computed: recomputed (by us, from predictions),
    attested (signed by a known party) or claimed.
    """

    key: str
    metric: str
    comparator: Comparator
    threshold: float
    unit: str
    dataset: str
    dataset_version: str
    slice: str
    decision_rule: DecisionRule
    level: float | None
    method: str
    minimum_sample_size: int
    sample_size_rationale: str
    least_evidence: EvidenceGrade


def check_criteria(criteria: Sequence[AcceptanceCriterion]) -> None:
    """Raises InvalidCriterion with all broken rules; pointers are `/criteria/<index>/<field>`."""
    broken = _too_many(criteria, field="/criteria") + [
        FieldError(field=f"/criteria/{index}/{field}", rule=rule)
        for index, criterion in enumerate(criteria)
        for field, rule in _broken_rules(criterion)
    ]
    keys = [criterion.key for criterion in criteria]
    broken += [
        FieldError(field=f"/criteria/{index}/key", rule="every criterion of a requirement has its own key")
        for index, key in enumerate(keys)
        if keys.index(key) < index
    ]
    _refuse(broken)


def check_revised_criterion(criterion: AcceptanceCriterion, *, revised: Sequence[AcceptanceCriterion]) -> None:
    """Raises InvalidCriterion if it, or the list `revised` that it leads to, breaks a rule; pointers are `/criterion/<field>`."""
    broken = [FieldError(field=f"/criterion/{field}", rule=rule) for field, rule in _broken_rules(criterion)]
    _refuse(broken + _too_many(revised, field="/criterion"))


def _too_many(criteria: Sequence[AcceptanceCriterion], *, field: str) -> list[FieldError]:
    few = len(criteria) <= CRITERIA_MAX
    return [] if few else [FieldError(field=field, rule=f"at most {CRITERIA_MAX} criteria")]


def _refuse(broken: Sequence[FieldError]) -> None:
    if broken:
        raise InvalidCriterion(
            "An acceptance criterion breaks a rule: " + "; ".join(f"{e.field}: {e.rule}" for e in broken[:5]),
            why="A criterion must be decidable before the first result is seen.",
            next_step="Mend the fields in `errors`.",
            fields=tuple(broken),
        )


def _broken_rules(criterion: AcceptanceCriterion) -> list[tuple[str, str]]:
    broken = []
    if criterion.metric not in METRICS:
        broken.append(("metric", "one of " + ", ".join(sorted(METRICS))))
    if not math.isfinite(criterion.threshold):
        broken.append(("threshold", "a finite number"))
    elif criterion.metric in UNIT_INTERVAL_METRICS and not 0 <= criterion.threshold <= 1:
        broken.append(("threshold", f"from 0 to 1 for {criterion.metric}"))
    if criterion.decision_rule == "point" and criterion.level is not None:
        broken.append(("level", "null when the decision rule is point"))
    if criterion.decision_rule == "confidence bound" and not (criterion.level and 0.5 < criterion.level < 1):
        broken.append(("level", "above 0.5 and below 1 for a confidence bound"))
    if criterion.minimum_sample_size < 1:
        broken.append(("minimum_sample_size", "at least 1"))
    if criterion.slice != "overall" and not all(criterion.slice.partition("=")[::2]):
        broken.append(("slice", "overall, or column=value"))
    return broken
