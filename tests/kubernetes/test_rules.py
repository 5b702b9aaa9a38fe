"""What wakes somebody at night: every alert rule can be read, and asks only for figures that there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

CHECKOUT = Path(__file__).parents[2]
RULES = CHECKOUT / "deploy" / "k8s" / "components" / "prometheus" / "rules.yaml"
SECONDS_MAX = 120


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def figures_of(expression: str) -> set[str]:
    """The names of metrics in it. ValueError when Prometheus would refuse it."""
    found: set[str] = set()

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            part = part.vector_selector
        if isinstance(part, promql_parser.VectorSelector):
            assert part.name, f"a figure without a name in {expression}"
            found.add(part.name)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.fixture(scope="module")
def registered() -> set[str]:
    """Names under which Prometheus keeps what the code registers."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kubernetes.registered_metrics"],
        cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip
    return {sample.name for family in text_string_to_metric_families(done.stdout) for sample in family.samples}


def test_every_rule_asks_for_figures_that_are_registered(registered: set[str]) -> None:
    """Else it would keep silent for ever."""
    asked = {rule["alert"]: figures_of(rule["expr"]) for rule in alerts()}
    assert len(asked) == len(alerts()) > 0
    assert {name: figures - registered for name, figures in asked.items() if figures - registered} == {}
    assert all(asked.values())


def test_every_rule_is_for_somebody() -> None:
    """How bad it is, and in words what is so."""
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]


def test_figures_are_found_wherever_they_stand() -> None:
    """Also in a range within a function within an aggregate."""
    expression = 'sum by (a) (rate(one{b="c"}[5m])) > 0.5 * max_over_time(two[1h:5m]) unless three'
    assert figures_of(expression) == {"one", "two", "three"}


def test_an_expression_that_cannot_be_read_is_found() -> None:
    """Prometheus would load none of the rules beside it."""
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        figures_of("max by (service (prooftrail_log_forks) > 0")
