"""The public contract of this service: the facts it stores and publishes, by stored name."""

from __future__ import annotations

from shared.erasure import erasure_fact
from shared.event import Fact
from shared.log.facts import log_facts

from .domain import pack_stream

SERVICE = "traceability"

FACTS: tuple[type[Fact], ...] = (*pack_stream.FACTS, *log_facts(SERVICE), erasure_fact(SERVICE))
