"""People, signatures and records for the tests of releases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, TypeVar

import msgspec

from services.releases.domain import gate, model_version, sign_off
from services.releases.domain.evidence import CriterionInput, Evidence, Standing, evidence_digest
from services.releases.domain.gate import GateInputs
from services.releases.domain.model_version import Component, Manifest, ModelVersionRegistered
from services.releases.domain.release import Release, ReleaseCandidateOpened
from shared.event import Actor, Fact, Signature, digest_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL_DIGEST = "d" * 64
DATA_DIGEST = "e" * 64
RECORD = "release:flight-delay/R-1"

StateType = TypeVar("StateType")


def given(evolve: Callable[[StateType | None, Fact], StateType], *facts: Fact) -> StateType:
    """The state after these facts."""
    state: StateType | None = reduce(evolve, facts, None)
    assert state is not None
    return state


def person(name: str) -> Actor:
    """Somebody signed in."""
    return Actor(subject=name, kind="person", issuer="tests", auth_time=NOW)


def signed(name: str, content: bytes, *, meaning: str = "approval", at: datetime = NOW) -> Signature:
    """The signature of the person over the content."""
    digest = digest_of(content)
    return Signature(signer=person(name), meaning=meaning, signed_at=at, digest=digest, covers=(digest,))


def registered(version: str = "1", **changes: Any) -> ModelVersionRegistered:
    """A model version whose weights follow from its number."""
    manifest = Manifest(
        components=(Component(kind="weights", name="booster", digest=digest_of(version.encode())),), hosted=None
    )
    fact = ModelVersionRegistered(
        model="delay",
        version=version,
        digest=model_version.manifest_digest(manifest),
        manifest_digest_verifiable=True,
        manifest=manifest,
        training_dataset="flights",
        training_dataset_version="january",
        code_revision="abc",
        parent=None,
        author="ada",
        why="first",
    )
    return msgspec.structs.replace(fact, **changes)


def opened(**changes: Any) -> ReleaseCandidateOpened:
    """A candidate by ada for production, the first one there."""
    fact = ReleaseCandidateOpened(
        key="R-1",
        author="ada",
        model="delay",
        version="1",
        model_digest=MODEL_DIGEST,
        environment="production",
        previous=None,
        change_request=None,
        required_roles=("approver", "releaser"),
        verifications=("V-1",),
        waivers=(),
        changes=(),
    )
    return msgspec.structs.replace(fact, **changes)


EVIDENCE = (Evidence(requirement="REQ-1", revision=1, verifications=("V-1",), waiver=None),)


def sign_off_signature(release: Release, *, role: Any, name: str, evidence: Sequence[Evidence] = EVIDENCE) -> Signature:
    """What the person sends back after having been shown the release."""
    content = sign_off.signable_bytes(release, role=role, evidence=evidence, record=RECORD)
    return signed(name, content, meaning=sign_off.MEANINGS[role])


def requirement(key: str = "REQ-1", *, standing: Standing | None = None, **changes: Any) -> gate.RequirementInput:
    """A requirement with one criterion that V-1 meets."""
    met = Standing(met=(f"C1 flights@march {DATA_DIGEST}",), used=("V-1",))
    found = gate.RequirementInput(
        key=key,
        revision=1,
        criteria=(CriterionInput(key="C1", dataset="flights@march"),),
        standing=standing or met,
    )
    return msgspec.structs.replace(found, **changes)


def source(service: str, **changes: Any) -> gate.SourceInput:
    """A source that is alive and fully read."""
    reacted = 10 if service == "verification" else None
    found = gate.SourceInput(service=service, head=10, position=10, alive_at=NOW, reacted=reacted)
    return msgspec.structs.replace(found, **changes)


def inputs(**changes: Any) -> GateInputs:
    """Everything is there: the gate allows R-1, signed off in both roles over its one requirement."""
    requirements = changes.get("requirements", (requirement(),))
    found = GateInputs(
        system="flight-delay",
        environment="production",
        model_digest=MODEL_DIGEST,
        at=NOW,
        sources=(
            source("releases", alive_at=None),
            source("drift"),
            source("requirements"),
            source("verification"),
        ),
        model_versions=(gate.ModelVersionInput(model="delay", version="1", withdrawn=False),),
        requirements=requirements,
        datasets={"flights@march": DATA_DIGEST},
        monitoring_plans=(gate.MonitoringPlanInput(key="MP-1", approved=True),),
        release=release_input(()),
        newest=None,
        previous=None,
        change=None,
        waivers=(),
    )
    changed = msgspec.structs.replace(found, **changes)
    if "release" in changes or changed.release is None:
        return changed
    evidence = gate.decide(changed).evidence
    signed_off = tuple(sign_off_input(role, evidence) for role in ("approver", "releaser"))
    return msgspec.structs.replace(changed, release=release_input(signed_off))


def release_input(sign_offs: tuple[gate.SignOffInput, ...], **changes: Any) -> gate.ReleaseInput:
    """R-1 as the gate reads it."""
    found = gate.ReleaseInput(
        key="R-1",
        status="candidate",
        previous=None,
        required_roles=("approver", "releaser"),
        change_request=None,
        sign_offs=sign_offs,
    )
    return msgspec.structs.replace(found, **changes)


def sign_off_input(role: str, evidence: Sequence[Evidence], **changes: Any) -> gate.SignOffInput:
    """A sign-off over the evidence."""
    found = gate.SignOffInput(role=role, evidence_digest=evidence_digest(evidence), declined=False, waiver=None)
    return msgspec.structs.replace(found, **changes)


def later(**time: float) -> datetime:
    """A moment after NOW."""
    return NOW + timedelta(**time)
