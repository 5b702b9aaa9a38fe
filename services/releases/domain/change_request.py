"""ChangeRequest: the governed way of a change from its cause to its end (ISO/IEC 42001, 6.3 and 8.1; ISO 13485, 7.3.9).

A person classifies it and another one approves it. A predetermined change stands on an approved plan that names the modification;
a criterion of that plan that is not met ends the change. Only an escalated drift signal opens a request for a signal, under a key
derived from it: one signal, one change request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound, Refused
from shared.event import Fact, Signature, canonical_bytes

from .change_plan import ChangePlan
from .derived_key import derived_key
from .signature_rules import require_digest, require_other_person

Cause = Literal["retraining", "drift signal", "requirement change", "incident", "other"]
Classification = Literal["predetermined", "not substantial", "substantial"]
Status = Literal["submitted", "assessed", "approved", "rejected", "implemented", "verified", "closed"]
End = Literal["verified", "rejected"]
FindingOutcome = Literal["met", "not met", "inconclusive", "unverified"]


class ChangeRequestMissing(NotFound):
    """There is no such change request."""


class ChangeRequestExists(Conflict):
    """The key is taken by a change request with other content."""


class ChangeNotInState(Conflict):
    """The verb does not fit the status of the change request."""


class OnlyEscalationOpens(Refused):
    """A change request for a drift signal comes from the escalation of the signal, not from a person."""


class PlanDoesNotAllow(Refused):
    """A predetermined change needs an approved plan that names the modification, for the same model."""


class PlanNotExpected(Invalid):
    """Only a predetermined change stands on a plan."""


class CriteriaUndecided(Conflict):
    """A criterion of the plan has no verdict yet."""


class EvidenceDoesNotCount(Conflict):
    """A verification that was named is not an approved, met one of exactly the candidate."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one criterion: `verification` is the key of the record that says so, None without one."""

    criterion: str
    requirement: str
    outcome: FindingOutcome
    verification: str | None


class ChangeRequestSubmitted(Fact, frozen=True, kw_only=True):
    """`signal` is the drift signal that caused it; `baseline` and `candidate` are versions of `model`, if known."""

    TOPIC: ClassVar[str] = "releases.change-request-submitted"
    key: str
    author: str
    cause: Cause
    signal: str | None
    model: str | None
    baseline: str | None
    candidate: str | None
    impact_assessment: str


class ChangeClassified(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.change-classified"
    key: str
    author: str
    classification: Classification
    plan: str | None
    modification: str | None
    impact_assessment: str


class ChangeApproved(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.change-approved"
    key: str
    signature: Signature


class ChangeRejected(Fact, frozen=True, kw_only=True):
    """By a person's signature, or because of the findings against the plan's criteria: then it is terminal by itself."""

    TOPIC: ClassVar[str] = "releases.change-rejected"
    key: str
    findings: tuple[Finding, ...]
    signature: Signature | None


class ChangeImplemented(Fact, frozen=True, kw_only=True):
    """The candidate exists: the change is in a registered model version."""

    TOPIC: ClassVar[str] = "releases.change-implemented"
    key: str
    candidate: str
    model_digest: str
    findings: tuple[Finding, ...]


class ChangeVerified(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.change-verified"
    key: str
    candidate: str
    verifications: tuple[str, ...]


class ChangeClosed(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.change-closed"
    key: str
    signal: str | None
    outcome: End


FACTS = (
    ChangeRequestSubmitted,
    ChangeClassified,
    ChangeApproved,
    ChangeRejected,
    ChangeImplemented,
    ChangeVerified,
    ChangeClosed,
)


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The state. `candidate` and `model_digest` are known for certain once it is implemented; `end` once it is decided."""

    submitted: ChangeRequestSubmitted
    status: Status
    authors: frozenset[str]
    classified: ChangeClassified | None = None
    candidate: str | None = None
    model_digest: str | None = None
    findings: tuple[Finding, ...] = ()
    end: End | None = None

    @property
    def key(self) -> str:
        return self.submitted.key


def key_for_signal(signal: str) -> str:
    """The key of the one change request of a drift signal."""
    return derived_key("CR", signal)


def submit(request: ChangeRequest | None, *, submitted: ChangeRequestSubmitted) -> Sequence[Fact]:
    """A person's request; one for a drift signal comes from its escalation."""
    if submitted.cause == "drift signal" or submitted.signal is not None:
        raise OnlyEscalationOpens(
            "A change request for a drift signal is opened by escalating the signal.",
            why="One drift signal, one open change request, and a person decides on the signal first.",
            next_step="Escalate the drift signal; then classify the change request that it opens.",
        )
    return _submit(request, submitted)


def open_for_signal(request: ChangeRequest | None, *, submitted: ChangeRequestSubmitted) -> Sequence[Fact]:
    """What the escalation of a signal opens; seen again, it opens nothing."""
    if request is not None and request.submitted.signal == submitted.signal:
        return ()
    return _submit(request, submitted)


def classify(
    request: ChangeRequest | None,
    *,
    author: str,
    classification: Classification,
    plan: ChangePlan | None,
    modification: str | None,
    impact_assessment: str,
) -> Sequence[Fact]:
    """A person assesses the change; as long as it is not decided, the assessment can be replaced."""
    request = in_status(request, ("submitted", "assessed"), verb="classify")
    _require_plan(request, classification=classification, plan=plan, modification=modification)
    classified = ChangeClassified(
        key=request.key,
        author=author,
        classification=classification,
        plan=plan.key if plan is not None else None,
        modification=modification,
        impact_assessment=impact_assessment,
    )
    return () if classified == request.classified else (classified,)


def approve(request: ChangeRequest | None, *, record: str, signature: Signature) -> Sequence[Fact]:
    """The change may be made; `record` is the request's stream."""
    if request is not None and request.status == "approved":
        return ()
    request = _decidable(request, record=record, signature=signature, verb="approve")
    return (ChangeApproved(key=request.key, signature=signature),)


def reject(request: ChangeRequest | None, *, record: str, signature: Signature) -> Sequence[Fact]:
    """The change is not made."""
    if request is not None and request.status == "rejected":
        return ()
    request = _decidable(request, record=record, signature=signature, verb="reject")
    return (ChangeRejected(key=request.key, findings=(), signature=signature),)


def implement(
    request: ChangeRequest | None, *, candidate: str, model_digest: str, findings: Sequence[Finding]
) -> Sequence[Fact]:
    """The change is in the candidate. `findings` has one entry for each criterion of the plan of a predetermined change.

    A criterion that is not met ends the change: ChangeRejected is recorded instead.
    """
    if request is not None and request.status == "implemented" and request.candidate == candidate:
        return ()
    request = in_status(request, ("approved",), verb="implement")
    if _failed(findings):
        return (ChangeRejected(key=request.key, findings=tuple(findings), signature=None),)
    undecided = [finding for finding in findings if finding.outcome != "met"]
    if undecided:
        raise CriteriaUndecided(
            f"{request.key} cannot be implemented: "
            + ", ".join(f"{finding.criterion} is {finding.outcome}" for finding in undecided)
            + ".",
            why="A predetermined change is implemented when every criterion of its plan is met.",
            next_step="Have the candidate verified against these requirements; name the position as `after`.",
        )
    return (
        ChangeImplemented(key=request.key, candidate=candidate, model_digest=model_digest, findings=tuple(findings)),
    )


def verify(
    request: ChangeRequest | None, *, verifications: Sequence[str], findings: Sequence[Finding]
) -> Sequence[Fact]:
    """The named verifications show that the change did what it should. `findings` has one entry for each of them.

    One that is not met ends a predetermined change; any other change it only keeps from being verified.
    """
    if request is not None and request.status == "verified":
        return ()
    request = in_status(request, ("implemented",), verb="verify")
    if _failed(findings) and request.classified is not None and request.classified.classification == "predetermined":
        return (ChangeRejected(key=request.key, findings=tuple(findings), signature=None),)
    missing = [finding for finding in findings if finding.outcome != "met"]
    if missing:
        raise EvidenceDoesNotCount(
            f"{request.key} is not verified: "
            + ", ".join(f"{finding.verification} is {finding.outcome}" for finding in missing)
            + ".",
            why="A change is verified by approved verifications, not suspect, that were met by exactly its candidate.",
            next_step="Name such verifications; if one was approved a moment ago, pass its position as `after`.",
        )
    assert request.candidate is not None
    return (ChangeVerified(key=request.key, candidate=request.candidate, verifications=tuple(verifications)),)


def close(request: ChangeRequest | None) -> Sequence[Fact]:
    """The end of the request; a rejected one is closed too, so that its drift signal does not end nowhere."""
    if request is not None and request.status == "closed":
        return ()
    request = in_status(request, ("verified", "rejected"), verb="close")
    outcome: End = "verified" if request.status == "verified" else "rejected"
    return (ChangeClosed(key=request.key, signal=request.submitted.signal, outcome=outcome),)


def signable_bytes(request: ChangeRequest, *, record: str) -> bytes:
    """The canonical bytes that a signature over the request covers: what was asked for and how it was assessed."""
    return canonical_bytes({"record": record, "submitted": request.submitted, "assessment": request.classified})


def existing(request: ChangeRequest | None) -> ChangeRequest:
    """The state, or ChangeRequestMissing."""
    if request is None:
        raise ChangeRequestMissing(
            "There is no such change request.", why="It was never submitted.", next_step="Check the key, or submit it."
        )
    return request


def in_status(request: ChangeRequest | None, wanted: Sequence[Status], *, verb: str) -> ChangeRequest:
    """The state if it has one of the statuses; ChangeNotInState otherwise."""
    request = existing(request)
    if request.status not in wanted:
        raise ChangeNotInState(
            f"You cannot {verb} {request.key}: it is {request.status}.",
            why=f"The change request would have to be {' or '.join(wanted)}.",
            next_step="Read the change request; what is decided stays decided, and a new change is a new request.",
        )
    return request


def _submit(request: ChangeRequest | None, submitted: ChangeRequestSubmitted) -> Sequence[Fact]:
    if request is None:
        return (submitted,)
    if request.submitted == submitted:
        return ()
    raise ChangeRequestExists(
        f"The key {submitted.key} is taken.",
        why="A change request is submitted once.",
        next_step="Choose another key, or classify the one that exists.",
    )


def _require_plan(
    request: ChangeRequest, *, classification: Classification, plan: ChangePlan | None, modification: str | None
) -> None:
    if classification != "predetermined":
        if plan is not None or modification is not None:
            raise PlanNotExpected(
                f"A change that is {classification} names no plan.",
                why="Only a predetermined change stands on a plan.",
                next_step="Leave plan and modification out, or classify the change as predetermined.",
                fields=(FieldError(field="/plan", rule="only for a predetermined change"),),
            )
        return
    model = request.submitted.model
    fits = plan is not None and modification is not None and plan.allows(modification)
    if plan is None or not fits or (model is not None and plan.content.model != model):
        raise PlanDoesNotAllow(
            f"No approved plan allows {modification or 'this change'}" + (f" of {model}." if model else "."),
            why="A predetermined change needs an approved plan for its model that names the modification.",
            next_step="Name such a plan and modification, or classify the change otherwise.",
        )


def _decidable(request: ChangeRequest | None, *, record: str, signature: Signature, verb: str) -> ChangeRequest:
    request = in_status(request, ("assessed",), verb=verb)
    require_digest(content=signable_bytes(request, record=record), signature=signature, what=request.key)
    require_other_person(subject=signature.signer.subject, authors=request.authors, what=request.key, verb=verb)
    return request


def _failed(findings: Sequence[Finding]) -> bool:
    return any(finding.outcome == "not met" for finding in findings)


def evolve(request: ChangeRequest | None, fact: Fact) -> ChangeRequest:
    """The state after one more fact."""
    if isinstance(fact, ChangeRequestSubmitted):
        return ChangeRequest(
            submitted=fact, status="submitted", authors=frozenset({fact.author}), candidate=fact.candidate
        )
    if request is None:
        raise TypeError(f"{fact!r} cannot come first")
    replace = msgspec.structs.replace
    match fact:
        case ChangeClassified():
            return replace(request, status="assessed", classified=fact, authors=request.authors | {fact.author})
        case ChangeApproved():
            return replace(request, status="approved")
        case ChangeRejected():
            return replace(request, status="rejected", findings=fact.findings, end="rejected")
        case ChangeImplemented():
            return replace(
                request,
                status="implemented",
                candidate=fact.candidate,
                model_digest=fact.model_digest,
                findings=fact.findings,
            )
        case ChangeVerified():
            return replace(request, status="verified", end="verified")
        case ChangeClosed():
            return replace(request, status="closed")
    raise TypeError(f"{fact!r} is no fact of a change request")
