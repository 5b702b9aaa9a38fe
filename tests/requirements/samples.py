"""Criteria, contents and signatures for the tests of the domain, each whole; a test changes what it is about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from services.requirements.domain.acceptance_criterion import AcceptanceCriterion
from services.requirements.domain.requirement import Content
from shared.event import Actor, Signature

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)

CRITERION = AcceptanceCriterion(
    key="C1",
    metric="recall",
    comparator=">=",
    threshold=0.7,
    unit="1",
    dataset="flights",
    dataset_version="march",
    slice="overall",
    decision_rule="confidence bound",
    level=0.95,
    method="wilson",
    minimum_sample_size=500,
    sample_size_rationale="half width below 0.04",
    least_evidence="recomputed",
)

CONTENT = Content(
    title="Finds late flights",
    statement="Recall is at least 0.70.",
    rationale="A missed delay costs a connection.",
    quality_characteristic="functional correctness",
    controls=("A.6.2.4",),
    evaluation_approach="on sequestered flights",
    criteria=(CRITERION,),
)


def criterion(**changes: Any) -> AcceptanceCriterion:
    """A criterion that breaks no rule, but for the changes."""
    return msgspec.structs.replace(CRITERION, **changes)


def content(**changes: Any) -> Content:
    """Content that can be submitted, but for the changes."""
    return msgspec.structs.replace(CONTENT, **changes)


def signature(*, by: str, digest: str, meaning: str = "approval") -> Signature:
    """The signature of a person over a digest."""
    signer = Actor(subject=by, kind="person", issuer="https://issuer.test", auth_time=NOW)
    return Signature(signer=signer, meaning=meaning, signed_at=NOW, digest=digest, covers=(digest,))
