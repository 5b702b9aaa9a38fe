"""The public contract of this service: the facts it stores and publishes, by stored name."""

from __future__ import annotations

from shared.erasure import erasure_fact
from shared.event import Fact
from shared.log.facts import log_facts

from .domain import evaluation_run, test_case, verification

SERVICE = "verification"

FACTS: tuple[type[Fact], ...] = (
    *test_case.FACTS,
    *evaluation_run.FACTS,
    *verification.FACTS,
    *log_facts(SERVICE),
    erasure_fact(SERVICE),
)
