"""The public contract of this service: the facts it stores and publishes, by stored name."""

from __future__ import annotations

from shared.erasure import erasure_fact
from shared.event import Fact
from shared.log.facts import log_facts

from .domain import change_plan, change_request, model_version, nonconformity, release, waiver

SERVICE = "releases"

FACTS: tuple[type[Fact], ...] = (
    *model_version.FACTS,
    *change_plan.FACTS,
    *change_request.FACTS,
    *release.FACTS,
    *waiver.FACTS,
    *nonconformity.FACTS,
    *log_facts(SERVICE),
    erasure_fact(SERVICE),
)
