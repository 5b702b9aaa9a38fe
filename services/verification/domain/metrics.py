"""Catalogue of the metrics that an acceptance criterion may name.

Words follow ISO/IEC TS 4213 where it has them. A definition never changes under its version: another formula, binning
or clipping is a new `definition_version`, and what was verified under the old one becomes suspect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

from shared.errors import FieldError, Invalid

Kind = Literal["proportion", "overlap", "ranking", "probability", "calibration", "regression"]
Direction = Literal["higher", "lower", "target"]
Inputs = Literal["counts", "scores", "values"]

ECE_BINS = 10
LOG_LOSS_CLIP = 2.0**-52


class UnknownMetric(Invalid):
    """The catalogue has no metric of this key."""


@dataclass(frozen=True)
class Metric:
    """One measure of performance.

    `direction`: better is "higher", "lower" or nearest the "target" `ideal`. `range` is (least, greatest), None where
    open. `inputs`: "counts" of a confusion matrix suffice; "scores" of the positive class row by row; real "values" row
    by row.
    """

    key: str
    name: str
    kind: Kind
    direction: Direction
    ideal: float
    range: tuple[float | None, float | None]
    inputs: Inputs
    definition: str
    source: str
    definition_version: int = 1


_UNIT = (0.0, 1.0)
_TS_4213 = "ISO/IEC TS 4213:2022"

_METRICS = (
    Metric(
        key="accuracy",
        name="Accuracy",
        kind="proportion",
        direction="higher",
        ideal=1.0,
        range=_UNIT,
        inputs="counts",
        definition="(TP + TN) / (TP + FP + TN + FN)",
        source=_TS_4213,
    ),
    Metric(
        key="recall",
        name="Recall (sensitivity, true positive rate)",
        kind="proportion",
        direction="higher",
        ideal=1.0,
        range=_UNIT,
        inputs="counts",
        definition="TP / (TP + FN)",
        source=_TS_4213,
    ),
    Metric(
        key="specificity",
        name="Specificity (true negative rate)",
        kind="proportion",
        direction="higher",
        ideal=1.0,
        range=_UNIT,
        inputs="counts",
        definition="TN / (TN + FP)",
        source=_TS_4213,
    ),
    Metric(
        key="precision",
        name="Precision (positive predictive value)",
        kind="proportion",
        direction="higher",
        ideal=1.0,
        range=_UNIT,
        inputs="counts",
        definition="TP / (TP + FP)",
        source=_TS_4213,
    ),
    Metric(
        key="f1",
        name="F1 score",
        kind="overlap",
        direction="higher",
        ideal=1.0,
        range=_UNIT,
        inputs="counts",
        definition="2 TP / (2 TP + FP + FN), which is 2 J / (1 + J) of the overlap J = TP / (TP + FP + FN)",
        source=f"{_TS_4213}; van Rijsbergen, Information Retrieval (1979)",
    ),
    Metric(
        key="false_positive_rate",
        name="False positive rate (fall-out)",
        kind="proportion",
        direction="lower",
        ideal=0.0,
        range=_UNIT,
        inputs="counts",
        definition="FP / (FP + TN)",
        source=_TS_4213,
    ),
    Metric(
        key="auroc",
        name="Area under the receiver operating characteristic curve",
        kind="ranking",
        direction="higher",
        ideal=1.0,
        range=_UNIT,
        inputs="scores",
        definition="share of pairs (positive, negative) whose positive scores higher; an equal pair counts one half",
        source=f"{_TS_4213}; Hanley and McNeil, Radiology 143 (1982)",
    ),
    Metric(
        key="average_precision",
        name="Average precision",
        kind="ranking",
        direction="higher",
        ideal=1.0,
        range=_UNIT,
        inputs="scores",
        definition=(
            "sum over the distinct scores, falling, of (increase of recall) x (precision at that score), "
            "without interpolation"
        ),
        source="Su, Yuan and Zhu, ICTIR (2015)",
    ),
    Metric(
        key="brier_score",
        name="Brier score",
        kind="probability",
        direction="lower",
        ideal=0.0,
        range=_UNIT,
        inputs="scores",
        definition="mean of (score - label)^2 with labels 0 and 1, scores in [0, 1]",
        source="Brier, Monthly Weather Review 78 (1950)",
    ),
    Metric(
        key="log_loss",
        name="Log loss (cross entropy)",
        kind="probability",
        direction="lower",
        ideal=0.0,
        range=(0.0, None),
        inputs="scores",
        definition="mean of -ln(score of the true class), that score clipped to [2^-52, 1 - 2^-52]",
        source="Good, Journal of the Royal Statistical Society B 14 (1952)",
    ),
    Metric(
        key="expected_calibration_error",
        name="Expected calibration error",
        kind="calibration",
        direction="lower",
        ideal=0.0,
        range=_UNIT,
        inputs="scores",
        definition=(
            "sum over 10 bins of equal width, [0, 0.1), [0.1, 0.2), ... [0.9, 1], of (share of rows in the bin) x "
            "|mean label - mean score|; biased upward: noise in a bin counts as error, so few rows look ill calibrated"
        ),
        source="Naeini, Cooper and Hauskrecht, AAAI (2015)",
    ),
    Metric(
        key="calibration_slope",
        name="Calibration slope",
        kind="calibration",
        direction="target",
        ideal=1.0,
        range=(None, None),
        inputs="scores",
        definition="b of the maximum likelihood fit logit P(label = 1) = a + b logit(score), scores inside (0, 1)",
        source="Cox, Biometrika 45 (1958)",
    ),
    Metric(
        key="calibration_intercept",
        name="Calibration intercept (calibration in the large)",
        kind="calibration",
        direction="target",
        ideal=0.0,
        range=(None, None),
        inputs="scores",
        definition="a of the maximum likelihood fit logit P(label = 1) = a + logit(score), scores inside (0, 1)",
        source="Cox, Biometrika 45 (1958)",
    ),
    Metric(
        key="mean_absolute_error",
        name="Mean absolute error",
        kind="regression",
        direction="lower",
        ideal=0.0,
        range=(0.0, None),
        inputs="values",
        definition="mean of |prediction - label|, in the unit of the label",
        source="Willmott and Matsuura, Climate Research 30 (2005)",
    ),
    Metric(
        key="root_mean_squared_error",
        name="Root mean squared error",
        kind="regression",
        direction="lower",
        ideal=0.0,
        range=(0.0, None),
        inputs="values",
        definition="square root of the mean of (prediction - label)^2, in the unit of the label",
        source="Willmott and Matsuura, Climate Research 30 (2005)",
    ),
)

CATALOGUE: Mapping[str, Metric] = MappingProxyType({metric.key: metric for metric in _METRICS})

_OTHER_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "sensitivity": "recall",
        "true_positive_rate": "recall",
        "tpr": "recall",
        "true_negative_rate": "specificity",
        "positive_predictive_value": "precision",
        "f1_score": "f1",
        "fpr": "false_positive_rate",
        "fall_out": "false_positive_rate",
        "auc": "auroc",
        "roc_auc": "auroc",
        "pr_auc": "average_precision",
        "ap": "average_precision",
        "brier": "brier_score",
        "cross_entropy": "log_loss",
        "ece": "expected_calibration_error",
        "mae": "mean_absolute_error",
        "rmse": "root_mean_squared_error",
    }
)

_ECHO_CHARACTERS_MAX = 64


def find_metric(*, key: str, field: str = "/metric") -> Metric:
    """Looks a metric up by its exact key; UnknownMetric names the nearest keys, and `field` as a JSON pointer."""
    metric = CATALOGUE.get(key)
    if metric is None:
        raise UnknownMetric(
            f"there is no metric {key[:_ECHO_CHARACTERS_MAX]!r}",
            why="a criterion names a metric of the catalogue, so that its formula is fixed before the run",
            next_step=f"use one of: {', '.join(_near_keys(key) or tuple(CATALOGUE))}",
            fields=(FieldError(field, "is the key of a metric of the catalogue"),),
        )
    return metric


def _near_keys(key: str) -> tuple[str, ...]:
    word = key[:_ECHO_CHARACTERS_MAX].strip().lower().replace("-", "_").replace(" ", "_")
    near = get_close_matches(word, [*CATALOGUE, *_OTHER_WORDS], n=3, cutoff=0.6)
    return tuple(dict.fromkeys(_OTHER_WORDS.get(found, found) for found in near))
