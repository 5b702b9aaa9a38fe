"""The public contract of this service: the facts it stores and publishes, by stored name."""

from __future__ import annotations

from shared.erasure import erasure_fact
from shared.event import Fact
from shared.log.facts import log_facts

from .domain import drift_signal, monitoring_plan

SERVICE = "drift"

FACTS: tuple[type[Fact], ...] = (
    *monitoring_plan.FACTS,
    *drift_signal.FACTS,
    *log_facts(SERVICE),
    erasure_fact(SERVICE),
)
