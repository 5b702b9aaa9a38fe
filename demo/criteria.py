"""What the demo's model must achieve: fixed a priori, as a quality lead would ask, before anything is measured."""

from __future__ import annotations

from typing import Any

from demo.flights import DatasetVersion

SLICE = "origin"
"""The column that the recall criteria are sliced by."""


def requirements(test: DatasetVersion, least_slice_rows: int) -> list[dict[str, Any]]:
    """The three requirements with their criteria, fixed a priori: what a quality lead would ask of such a model."""
    common = {
        "classification": "initial",
        "controls": ["A.6.2.2", "A.6.2.4", "EU AI Act 9(8)"],
        "evaluation_approach": "On sequestered flights of a later month, from the predictions themselves.",
    }
    origins = sorted(set(test.flights.origin.tolist()))
    recall = [_criterion(test, "recall", ">=", 0.70, least=least_slice_rows, key="overall")]
    recall += [
        _criterion(test, "recall", ">=", 0.65, least=least_slice_rows, key=origin, part=f"{SLICE}={origin}")
        for origin in origins
    ]
    return [
        {
            **common,
            "key": "REQ-1",
            "title": "Tells late flights from punctual ones",
            "statement": "The area under the ROC curve is at least 0.85, with 95 % confidence.",
            "rationale": "Below that a warning is little better than the departure board.",
            "quality_characteristic": "functional correctness",
            "criteria": [_criterion(test, "auroc", ">=", 0.85, least=least_slice_rows, key="overall")],
        },
        {
            **common,
            "key": "REQ-2",
            "title": "Finds late flights, at every airport",
            "statement": "Recall is at least 0.70 overall and 0.65 at each airport, each with 95 % confidence.",
            "rationale": "A missed delay costs a connection, wherever the passenger starts.",
            "quality_characteristic": "functional correctness; fairness across places",
            "criteria": recall,
        },
        {
            **common,
            "key": "REQ-3",
            "title": "Its probabilities mean what they say",
            "statement": "The expected calibration error is at most 0.05, with 95 % confidence.",
            "rationale": "Passengers are told the probability.",
            "quality_characteristic": "functional appropriateness",
            "criteria": [
                _criterion(test, "expected_calibration_error", "<=", 0.05, least=least_slice_rows, key="overall")
            ],
        },
    ]


def _criterion(
    test: DatasetVersion, metric: str, comparator: str, threshold: float, *, least: int, key: str, part: str = "overall"
) -> dict[str, Any]:
    return {
        "key": key,
        "metric": metric,
        "comparator": comparator,
        "threshold": threshold,
        "unit": "1",
        "dataset": test.name,
        "dataset_version": test.version,
        "slice": part,
        "decision_rule": "confidence bound",
        "level": 0.95,
        "method": "Wilson score for proportions, bootstrap otherwise",
        "minimum_sample_size": least,
        "sample_size_rationale": "With this many the bound lies within about three percentage points of the estimate.",
        "least_evidence": "recomputed",
    }
