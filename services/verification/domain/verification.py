"""Verification: objective evidence that a requirement is fulfilled, as verdicts per criterion (ISO/IEC 42001, A.6.2.4).

recorded -> in review -> approved | rejected. It counts only for exactly its model digest, dataset digest and requirement
revision. An approved one becomes suspect when something under it is no longer what it was; a person clears that with a
reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, NotFound, Refused
from shared.event import Fact, Signature, canonical_bytes, digest_of

from .evaluation_run import EvaluationRunRecorded, Grade, Measurement
from .predictions import Comparison
from .test_case import AuthorCannotApprove, DigestMismatch
from .verdict import Comparator, CriterionRule, DecisionRule, Outcome, decide

Status = Literal["recorded", "in review", "approved", "rejected", "suspect"]

_STRENGTH: dict[str, int] = {"claimed": 0, "attested": 1, "recomputed": 2}


class VerificationMissing(NotFound):
    """There is no such verification."""


class VerificationExists(Conflict):
    """The key names a verification with other content."""


class VerificationNotInState(Conflict):
    """The verb does not fit the status of the verification."""


class GroundsGone(Refused):
    """Something that the verification rests on was withdrawn, voided or superseded."""


class Criterion(msgspec.Struct, frozen=True, kw_only=True):
    """An acceptance criterion as the approved requirement revision states it; fields that we do not read are left out."""

    key: str
    metric: str
    comparator: Comparator
    threshold: float
    dataset: str
    dataset_version: str
    slice: str
    decision_rule: DecisionRule
    level: float | None
    minimum_sample_size: int
    least_evidence: Grade


class CriterionVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one criterion, with what a reader needs to judge it: estimate, bound, n and n needed."""

    criterion: str
    metric: str
    slice: str
    comparator: Comparator
    threshold: float
    decision_rule: DecisionRule
    level: float | None
    outcome: Outcome
    value: float | None
    bound: float | None
    n: int
    n_needed: int | None
    explanation: str


class VerificationRecorded(Fact, frozen=True, kw_only=True):
    """`attempt` counts the runs of this model version on this dataset version so far, voided ones too."""

    TOPIC: ClassVar[str] = "verification.verification-recorded"
    key: str
    author: str
    test_case: str
    test_case_revision: int
    requirement: str
    requirement_revision: int
    model: str
    version: str
    model_digest: str
    dataset: str
    dataset_version: str
    dataset_digest: str
    run: str
    post_hoc: bool
    grade: Grade
    attempt: int
    verdicts: tuple[CriterionVerdict, ...]
    outcome: Outcome
    comparison: tuple[Comparison, ...]


class VerificationSubmitted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.verification-submitted"
    key: str
    digest: str


class VerificationApproved(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.verification-approved"
    key: str
    requirement: str
    requirement_revision: int
    model_digest: str
    outcome: Outcome
    signature: Signature


class VerificationRejected(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.verification-rejected"
    key: str
    signature: Signature


class VerificationMarkedSuspect(Fact, frozen=True, kw_only=True):
    """The event that took the ground away, named by service and position."""

    TOPIC: ClassVar[str] = "verification.verification-marked-suspect"
    key: str
    cause_event: str
    cause_service: str
    cause_position: int
    cause_record: str
    explanation: str


class SuspicionCleared(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.suspicion-cleared"
    key: str
    signature: Signature


FACTS = (
    VerificationRecorded,
    VerificationSubmitted,
    VerificationApproved,
    VerificationRejected,
    VerificationMarkedSuspect,
    SuspicionCleared,
)


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what was recorded, its status, and the causes of suspicion that are not cleared."""

    recorded: VerificationRecorded
    status: Status = "recorded"
    causes: tuple[VerificationMarkedSuspect, ...] = ()


def judge(*, criteria: Sequence[Criterion], run: EvaluationRunRecorded) -> tuple[CriterionVerdict, ...]:
    """One verdict a criterion, never met on doubt: too weak evidence, another dataset or a missing figure is inconclusive."""
    return tuple(_judged(criterion, run) for criterion in criteria)


def worst(verdicts: Sequence[CriterionVerdict]) -> Outcome:
    """Met only if all are; not met if one is; else inconclusive."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if "not met" in outcomes:
        return "not met"
    return "met" if outcomes == {"met"} else "inconclusive"


def _judged(criterion: Criterion, run: EvaluationRunRecorded) -> CriterionVerdict:
    doubt = _doubt(criterion, run)
    found = _figure(criterion, run)
    if doubt is not None or found is None:
        return _verdict(criterion, found, outcome="inconclusive", bound=None, n_needed=None, explanation=doubt or "")
    rule = CriterionRule(
        comparator=criterion.comparator,
        threshold=criterion.threshold,
        decision_rule=criterion.decision_rule,
        level=criterion.level,
        minimum_sample_size=criterion.minimum_sample_size,
    )
    verdict = decide(rule=rule, estimate=found)
    return _verdict(
        criterion,
        found,
        outcome=verdict.outcome,
        bound=verdict.bound,
        n_needed=verdict.n_needed,
        explanation=verdict.explanation,
    )


def _doubt(criterion: Criterion, run: EvaluationRunRecorded) -> str | None:
    if (criterion.dataset, criterion.dataset_version) != (run.dataset, run.dataset_version):
        return f"measured on {run.dataset} {run.dataset_version}, not {criterion.dataset} {criterion.dataset_version}"
    if _STRENGTH[run.grade] < _STRENGTH[criterion.least_evidence]:
        return f"the figures are {run.grade}; this criterion needs them {criterion.least_evidence}"
    if run.post_hoc:
        return "it cannot be shown that the criterion was approved before the run"
    if _figure(criterion, run) is None:
        return f"the run has no {criterion.metric} on {criterion.slice} at this level"
    return None


def _figure(criterion: Criterion, run: EvaluationRunRecorded) -> Measurement | None:
    """The measurement that the criterion asks for; a counted one is bounded at any level."""
    for found in run.measurements:
        same = (found.metric, found.slice) == (criterion.metric, criterion.slice)
        usable = criterion.level is None or found.level == criterion.level or found.trials is not None or found.n == 0
        if same and usable:
            return found
    return None


def _verdict(
    criterion: Criterion,
    found: Measurement | None,
    *,
    outcome: Outcome,
    bound: float | None,
    n_needed: int | None,
    explanation: str,
) -> CriterionVerdict:
    return CriterionVerdict(
        criterion=criterion.key,
        metric=criterion.metric,
        slice=criterion.slice,
        comparator=criterion.comparator,
        threshold=criterion.threshold,
        decision_rule=criterion.decision_rule,
        level=criterion.level,
        outcome=outcome,
        value=found.value if found is not None else None,
        bound=bound,
        n=found.n if found is not None else 0,
        n_needed=n_needed,
        explanation=explanation,
    )


def record(state: Verification | None, *, recorded: VerificationRecorded) -> Sequence[Fact]:
    """The verdicts of one run on one requirement revision; the same again is a repeat."""
    if state is None:
        return (recorded,)
    if msgspec.structs.replace(recorded, attempt=state.recorded.attempt) == state.recorded:
        return ()
    raise VerificationExists(
        f"The verification {recorded.key} exists with other content.",
        why="A recorded verification never changes.",
        next_step="Record this one under a new key.",
    )


def submit(state: Verification | None) -> Sequence[Fact]:
    """Sends it to review."""
    state = _existing(state)
    if state.status == "in review":
        return ()
    if state.status != "recorded":
        raise _not_in_state(state, wanted="recorded", verb="submit")
    return (VerificationSubmitted(key=state.recorded.key, digest=digest_of(signable_bytes(state))),)


def approve(state: Verification | None, *, signature: Signature, broken: str | None) -> Sequence[Fact]:
    """A person other than the author confirms verdicts and evidence; `broken` names a ground that is gone, None if all stand."""
    state = _existing(state)
    _require_reviewable(state, signature, verb="approve")
    if state.status == "approved":
        return ()
    if broken is not None:
        raise GroundsGone(
            f"{state.recorded.key} rests on something that no longer stands: {broken}.",
            why="A verification counts only while everything under it is what it was.",
            next_step="Reject it, and record one on what stands now.",
        )
    recorded = state.recorded
    return (
        VerificationApproved(
            key=recorded.key,
            requirement=recorded.requirement,
            requirement_revision=recorded.requirement_revision,
            model_digest=recorded.model_digest,
            outcome=recorded.outcome,
            signature=signature,
        ),
    )


def reject(state: Verification | None, *, signature: Signature) -> Sequence[Fact]:
    """It stays as a recorded attempt that does not count."""
    state = _existing(state)
    _require_reviewable(state, signature, verb="reject")
    if state.status == "approved":
        raise _not_in_state(state, wanted="in review", verb="reject")
    return (VerificationRejected(key=state.recorded.key, signature=signature),)


def mark_suspect(state: Verification | None, *, cause: VerificationMarkedSuspect) -> Sequence[Fact]:
    """Only what was approved can become suspect, and once a cause."""
    if state is None or state.status not in ("approved", "suspect"):
        return ()
    known = {(one.cause_service, one.cause_position) for one in state.causes}
    return () if (cause.cause_service, cause.cause_position) in known else (cause,)


def clear_suspicion(state: Verification | None, *, signature: Signature) -> Sequence[Fact]:
    """A person has looked at the causes and finds that the evidence still stands; the reason says why."""
    state = _existing(state)
    if state.status == "approved":
        return ()
    if state.status != "suspect":
        raise _not_in_state(state, wanted="suspect", verb="clear the suspicion of")
    _require_signable(state, signature, verb="clear the suspicion of")
    return (SuspicionCleared(key=state.recorded.key, signature=signature),)


def signable_bytes(state: Verification) -> bytes:
    """The canonical bytes that a signature covers: the record, and the causes of suspicion if there are any."""
    return canonical_bytes({"record": "verification", "recorded": state.recorded, "suspicion": state.causes})


def _require_reviewable(state: Verification, signature: Signature, *, verb: str) -> None:
    if state.status not in ("in review", "approved"):
        raise _not_in_state(state, wanted="in review", verb=verb)
    _require_signable(state, signature, verb=verb)


def _require_signable(state: Verification, signature: Signature, *, verb: str) -> None:
    if signature.digest != digest_of(signable_bytes(state)):
        raise DigestMismatch(
            f"The digest is not that of {state.recorded.key} as it is now.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Fetch what would be signed again, read it, and sign its digest.",
        )
    if signature.signer.subject == state.recorded.author:
        raise AuthorCannotApprove(
            f"You recorded {state.recorded.key}, so you cannot {verb} it.",
            why="The author of a record never approves it.",
            next_step="Ask another person with the role reviewer or approver.",
        )


def _existing(state: Verification | None) -> Verification:
    if state is None:
        raise VerificationMissing(
            "There is no such verification.", why="It was never recorded.", next_step="Check the key, or record it."
        )
    return state


def _not_in_state(state: Verification, *, wanted: str, verb: str) -> VerificationNotInState:
    return VerificationNotInState(
        f"You cannot {verb} {state.recorded.key}: it is {state.status}.",
        why=f"It would have to be {wanted}.",
        next_step="Read the verification.",
    )


_STATUS_AFTER: dict[type[Fact], Status] = {
    VerificationSubmitted: "in review",
    VerificationApproved: "approved",
    VerificationRejected: "rejected",
}


def evolve(state: Verification | None, fact: Fact) -> Verification:
    """The state after one more fact."""
    match fact:
        case VerificationRecorded():
            return Verification(recorded=fact)
        case VerificationMarkedSuspect() if state is not None:
            return msgspec.structs.replace(state, status="suspect", causes=(*state.causes, fact))
        case SuspicionCleared() if state is not None:
            return msgspec.structs.replace(state, status="approved", causes=())
    if state is None or type(fact) not in _STATUS_AFTER:
        raise TypeError(f"{fact!r} cannot follow {state!r}")
    return msgspec.structs.replace(state, status=_STATUS_AFTER[type(fact)])
