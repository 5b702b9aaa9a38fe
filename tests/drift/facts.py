"""Facts of drift for the tests of its aggregates, and the fold that given/when/then stands on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from typing import TypeVar

import msgspec
import numpy as np

from services.drift.domain import drift_signal, monitoring_plan
from services.drift.domain.drift_signal import DriftSignal, DriftSignalRaised
from services.drift.domain.monitoring_plan import Definition, MonitoringPlan, MonitoringPlanDefined, WatchedFeature
from services.drift.domain.reference_profile import ReferenceProfile, profile_reference
from shared.event import Actor, Fact, Signature, digest_of

StateType = TypeVar("StateType")

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = 3600

PROFILE: ReferenceProfile = profile_reference(
    model_digest="d" * 64,
    kinds={"x": "numeric", "y": "numeric"},
    columns={
        "x": np.random.default_rng(1).normal(0, 1, 5000),
        "y": np.random.default_rng(2).normal(0, 1, 5000),
    },
    chunks=None,
)

DEFINITION = Definition(
    model="delay",
    version="1",
    model_digest="d" * 64,
    features=(WatchedFeature(name="x", kind="numeric"), WatchedFeature(name="y", kind="numeric")),
    window_s=HOUR,
    slide_s=HOUR,
    lateness_s=0,
    tolerance=0.01,
    false_alarms_per_week=1.0,
    owner="person:olga",
    days_to_triage=2.0,
)


def person(name: str) -> Actor:
    """Somebody who signed in."""
    return Actor(subject=f"person:{name}", kind="person", issuer="tests", auth_time=NOW)


ASSISTANT = Actor(subject="service:assistant", kind="service", issuer="tests")


def folded(evolve: Callable[[StateType | None, Fact], StateType], *facts: Fact) -> StateType | None:
    """The state after these facts, None after none."""
    state: StateType | None = reduce(evolve, facts, None)
    return state


def defined(definition: Definition = DEFINITION, author: str = "person:ada") -> MonitoringPlanDefined:
    """The first fact of a plan."""
    return MonitoringPlanDefined(key="MP-1", author=author, **msgspec.structs.asdict(definition))


def referenced(*facts: Fact) -> tuple[Fact, ...]:
    """The facts and a reference profile by the same author."""
    plan = folded(monitoring_plan.evolve, *facts)
    return (*facts, *set_reference(plan))


def set_reference(plan: MonitoringPlan | None, author: str = "person:ada") -> tuple[Fact, ...]:
    """The decision to set the profile of these tests."""
    return tuple(
        monitoring_plan.set_reference(
            plan, author=author, digest=PROFILE.digest, rows=PROFILE.rows, chunks=0, features=PROFILE.features
        )
    )


def signature_over(plan: MonitoringPlan | None, by: str = "ben", digest: str | None = None) -> Signature:
    """What a person signs after reading the plan."""
    seen = digest or digest_of(monitoring_plan.signable_bytes(monitoring_plan.existing(plan)))
    return Signature(signer=person(by), meaning="approval", signed_at=NOW, digest=seen, covers=(seen,))


def approved() -> tuple[Fact, ...]:
    """An approved plan."""
    facts = referenced(defined())
    plan = folded(monitoring_plan.evolve, *facts)
    return (*facts, *monitoring_plan.approve(plan, signature=signature_over(plan)))


def active() -> tuple[Fact, ...]:
    """An approved plan that watches production."""
    facts = approved()
    plan = folded(monitoring_plan.evolve, *facts)
    return (*facts, *monitoring_plan.activate(plan, environment="production", release="R-1"))


RAISED = DriftSignalRaised(
    key="MP-1-S1",
    plan="MP-1",
    model="delay",
    version="1",
    model_digest="d" * 64,
    environment="production",
    release="R-1",
    features=(),
    evidence=200.0,
    threshold=168.0,
    window_start=NOW,
    window_end=NOW,
    owner="person:olga",
    triage_until=NOW,
)


def signal_in(status: str) -> DriftSignal:
    """A signal with this status, reached by its own facts."""
    raised = folded(drift_signal.evolve, RAISED)
    steps: dict[str, list[Callable[[DriftSignal | None], object]]] = {
        "open": [],
        "acknowledged": [lambda signal: drift_signal.acknowledge(signal, by=person("rita"))],
        "dismissed": [lambda signal: drift_signal.dismiss(signal, by=person("rita"))],
        "escalated": [lambda signal: drift_signal.escalate(signal, to="change request", by=person("rita"))],
        "resolved": [
            lambda signal: drift_signal.escalate(signal, to="change request", by=person("rita")),
            lambda signal: drift_signal.resolve(signal, change_request="CR-1"),
        ],
    }
    for step in steps[status]:
        for fact in step(raised):  # type: ignore[attr-defined]
            raised = drift_signal.evolve(raised, fact)
    assert raised is not None
    assert raised.status == status
    return raised
