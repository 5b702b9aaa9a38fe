"""Histories for tests of the trace: events by name, folded in any order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from services.traceability.domain.trace import Trace, apply

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "d" * 64

Happened = tuple[str, str, dict[str, Any]]
"""Stored name, stream, data."""


def folded(*events: Happened, system: str = "loans") -> Trace:
    """The trace after these events, an hour apart."""
    trace = Trace(system=system)
    for number, (name, stream, data) in enumerate(events, start=1):
        content = {"service": name.partition(".")[0], "position": number, "name": name, "stream": stream, "data": data}
        apply(trace, position=number, recorded_at=BEGAN + timedelta(hours=number), content=content)
    return trace


def requirement(key: str = "REQ-1", revision: int = 1) -> Happened:
    """A requirement revision that came into force."""
    data = {"key": key, "revision": revision, "title": key, "criteria": [criterion()]}
    return "requirements.requirement-approved", f"requirement:loans/{key}", data


def criterion() -> dict[str, Any]:
    """One acceptance criterion."""
    return {"key": "C1", "metric": "recall", "slice": "overall"}


def case_for(*requirements: tuple[str, int], key: str = "TC-1") -> list[Happened]:
    """An approved test case for requirement revisions."""
    named = [{"key": name, "revision": revision} for name, revision in requirements]
    stream, data = f"test-case:loans/{key}", {"key": key, "revision": 1, "requirements": named}
    return [("verification.test-case-defined", stream, data), ("verification.test-case-approved", stream, data)]


def verification(
    key: str = "VER-1",
    *,
    requirement: str = "REQ-1",
    revision: int = 1,
    outcome: str = "met",
    version: str = "1",
    digest: str = DIGEST,
) -> list[Happened]:
    """A verification that was recorded and approved."""
    stream = f"verification:loans/{key}"
    recorded = {
        "key": key, "requirement": requirement, "requirement_revision": revision, "test_case": "TC-1", "model": "m",
        "version": version, "model_digest": digest, "outcome": outcome,
    }  # fmt: skip
    approved = {"key": key, "requirement": requirement, "model_digest": digest, "outcome": outcome}
    return [
        ("verification.verification-recorded", stream, recorded),
        ("verification.verification-approved", stream, approved),
    ]


def suspect(key: str = "VER-1") -> Happened:
    """Something under the verification changed."""
    data = {"key": key, "explanation": "the dataset was withdrawn"}
    return "verification.verification-marked-suspect", f"verification:loans/{key}", data


def model(version: str = "1", digest: str = DIGEST) -> Happened:
    """A registered model version."""
    data = {"model": "m", "version": version, "digest": digest}
    return "releases.model-version-registered", f"model-version:loans/m@{version}", data


def release(key: str = "R-1", digest: str = DIGEST, *, emergency: bool = False) -> list[Happened]:
    """A release that went out."""
    stream = f"release:loans/{key}"
    opened = {"key": key, "model": "m", "version": "1", "model_digest": digest, "environment": "production"}
    deployed = {"key": key, "emergency": emergency, "model_digest": digest}
    return [("releases.release-candidate-opened", stream, opened), ("releases.release-deployed", stream, deployed)]


def plan(digest: str = DIGEST) -> list[Happened]:
    """A monitoring plan at work."""
    stream, data = "monitoring-plan:loans/P-1", {"key": "P-1", "model_digest": digest}
    return [("drift.monitoring-plan-defined", stream, data), ("drift.monitoring-plan-activated", stream, data)]


def complete() -> list[Happened]:
    """A history without any gap."""
    return [requirement(), *case_for(("REQ-1", 1)), model(), *verification(), *plan(), *release()]


def codes(found: Sequence[Any]) -> list[str]:
    """The codes of gaps, in their order."""
    return [gap.code for gap in found]
