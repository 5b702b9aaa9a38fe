"""Requirement: what a model must achieve, revisioned (ISO/IEC 42001, A.6.2.2).

An approved revision never changes. A change is a new revision, classified material or editorial by a person; the old one stays
in force until the new one is approved. The author of a revision never approves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, NotFound, Refused
from shared.event import Fact, Signature, canonical_bytes, digest_of

from .acceptance_criterion import AcceptanceCriterion, check_criteria, check_revised_criterion

Classification = Literal["initial", "material", "editorial"]
Status = Literal["draft", "in review", "approved", "superseded", "retired"]


class RequirementMissing(NotFound):
    """There is no such requirement or revision."""


class RevisionNotInState(Conflict):
    """The verb does not fit the status of the revision."""


class WrongClassification(Conflict):
    """The first revision is initial; every later one is material or editorial, and a person says which."""


class NoCriteria(Conflict):
    """A requirement without an acceptance criterion cannot be verified, so it cannot be submitted."""


class DatasetGone(Conflict):
    """A dataset that a criterion is measured on was withdrawn before the revision came into force."""


class AuthorCannotApprove(Refused):
    """The author of a record never approves it."""


class DigestMismatch(Conflict):
    """What would be signed is not what the signer saw."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a revision says. `quality_characteristic` after ISO/IEC 25059; `controls` are the clauses it serves."""

    title: str
    statement: str
    rationale: str
    quality_characteristic: str
    controls: tuple[str, ...]
    evaluation_approach: str
    criteria: tuple[AcceptanceCriterion, ...]


class RequirementDrafted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.requirement-drafted"
    key: str
    revision: int
    classification: Classification
    author: str
    content: Content


class AcceptanceCriterionRevised(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.acceptance-criterion-revised"
    revision: int
    author: str
    criterion: AcceptanceCriterion


class RequirementSubmitted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.requirement-submitted"
    revision: int
    digest: str


class RequirementApproved(Fact, frozen=True, kw_only=True):
    """The revision comes into force. `criteria` are repeated so that readers of the event need no other one."""

    TOPIC: ClassVar[str] = "requirements.requirement-approved"
    key: str
    revision: int
    classification: Classification
    title: str
    criteria: tuple[AcceptanceCriterion, ...]
    signature: Signature


class RequirementRejected(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.requirement-rejected"
    revision: int
    signature: Signature


class RequirementSuperseded(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.requirement-superseded"
    key: str
    revision: int
    by_revision: int
    classification: Classification


class RequirementRetired(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.requirement-retired"
    key: str
    revision: int
    signature: Signature


FACTS = (
    RequirementDrafted,
    AcceptanceCriterionRevised,
    RequirementSubmitted,
    RequirementApproved,
    RequirementRejected,
    RequirementSuperseded,
    RequirementRetired,
)


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One revision: everybody who wrote in it is an author of it."""

    number: int
    classification: Classification
    authors: frozenset[str]
    content: Content
    status: Status


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """The state: all revisions by number."""

    key: str
    revisions: Mapping[int, Revision]

    @property
    def latest(self) -> Revision:
        """The revision with the highest number."""
        return self.revisions[max(self.revisions)]

    @property
    def in_force(self) -> Revision | None:
        """The approved revision, None if there is none."""
        return next((revision for revision in self.revisions.values() if revision.status == "approved"), None)


def draft(
    requirement: Requirement | None, *, key: str, classification: Classification, author: str, content: Content
) -> Sequence[Fact]:
    """The first revision, a new revision of an approved requirement, or new content of the draft that exists."""
    check_criteria(content.criteria)
    number = 1
    if requirement is not None:
        latest = requirement.latest
        if latest.status == "draft" and (latest.content, latest.classification) == (content, classification):
            return ()
        number = latest.number + (latest.status != "draft")
        if latest.status in ("in review", "retired"):
            raise _not_in_state(latest, wanted="draft or approved", verb="draft")
    if (number == 1) != (classification == "initial"):
        raise WrongClassification(
            f"Revision {number} cannot be classified {classification}.",
            why="The first revision is initial; a later one is material or editorial, and a person says which.",
            next_step="Send initial for a new requirement, otherwise material or editorial.",
        )
    drafted = RequirementDrafted(
        key=key, revision=number, classification=classification, author=author, content=content
    )
    return (drafted,)


def revise_criterion(requirement: Requirement | None, *, author: str, criterion: AcceptanceCriterion) -> Sequence[Fact]:
    """Adds a criterion to the draft, or replaces the one with the same key."""
    latest = _latest(requirement, status="draft", verb="revise a criterion of")
    if criterion in latest.content.criteria:
        return ()
    check_revised_criterion(criterion, revised=_with_criterion(latest.content, criterion).criteria)
    return (AcceptanceCriterionRevised(revision=latest.number, author=author, criterion=criterion),)


def submit(requirement: Requirement | None) -> Sequence[Fact]:
    """Sends the draft to review; from now on its content stands still."""
    requirement = _existing(requirement)
    latest = requirement.latest
    if latest.status == "in review":
        return ()
    latest = _latest(requirement, status="draft", verb="submit")
    if not latest.content.criteria:
        raise NoCriteria(
            f"{requirement.key} has no acceptance criterion.",
            why="What cannot be decided by a measurement cannot be verified.",
            next_step="Revise the draft with at least one criterion.",
        )
    return (RequirementSubmitted(revision=latest.number, digest=signable_digest(requirement, latest.number)),)


def approve(requirement: Requirement | None, *, signature: Signature) -> Sequence[Fact]:
    """The revision comes into force and the one before it is superseded."""
    requirement = _existing(requirement)
    latest = _decidable(requirement, signature, verb="approve")
    if latest.status == "approved":
        return ()
    approved = RequirementApproved(
        key=requirement.key,
        revision=latest.number,
        classification=latest.classification,
        title=latest.content.title,
        criteria=latest.content.criteria,
        signature=signature,
    )
    before = requirement.in_force
    if before is None:
        return (approved,)
    superseded = RequirementSuperseded(
        key=requirement.key,
        revision=before.number,
        by_revision=latest.number,
        classification=latest.classification,
    )
    return (approved, superseded)


def reject(requirement: Requirement | None, *, signature: Signature) -> Sequence[Fact]:
    """The revision goes back to its authors as a draft."""
    requirement = _existing(requirement)
    latest = _decidable(requirement, signature, verb="reject")
    if latest.status == "approved":
        raise _not_in_state(latest, wanted="in review", verb="reject")
    return (RequirementRejected(revision=latest.number, signature=signature),)


def retire(requirement: Requirement | None, *, signature: Signature) -> Sequence[Fact]:
    """The requirement no longer has to be met by anything."""
    requirement = _existing(requirement)
    latest = requirement.latest
    if latest.status == "retired":
        return ()
    in_force = _latest(requirement, status="approved", verb="retire")
    _require_digest(requirement, in_force, signature)
    return (RequirementRetired(key=requirement.key, revision=in_force.number, signature=signature),)


def signable_bytes(requirement: Requirement, revision: int) -> bytes:
    """The canonical bytes that a signature over the revision covers."""
    found = requirement.revisions[revision]
    return canonical_bytes(
        {
            "record": "requirement",
            "key": requirement.key,
            "revision": found.number,
            "classification": found.classification,
            "content": found.content,
        }
    )


def signable_digest(requirement: Requirement, revision: int) -> str:
    """Hex SHA-256 of the canonical bytes."""
    return digest_of(signable_bytes(requirement, revision))


def _decidable(requirement: Requirement, signature: Signature, *, verb: str) -> Revision:
    latest = requirement.latest
    if latest.status not in ("in review", "approved"):
        raise _not_in_state(latest, wanted="in review", verb=verb)
    _require_digest(requirement, latest, signature)
    if signature.signer.subject in latest.authors:
        raise AuthorCannotApprove(
            f"You wrote revision {latest.number} of {requirement.key}, so you cannot {verb} it.",
            why="The author of a record never approves it.",
            next_step="Ask another person with the role approver.",
        )
    return latest


def _require_digest(requirement: Requirement, revision: Revision, signature: Signature) -> None:
    if signature.digest != signable_digest(requirement, revision.number):
        raise DigestMismatch(
            f"The digest is not that of revision {revision.number} of {requirement.key}.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Fetch what would be signed again, read it, and sign its digest.",
        )


def _existing(requirement: Requirement | None) -> Requirement:
    if requirement is None:
        raise RequirementMissing(
            "There is no such requirement.", why="It was never drafted.", next_step="Check the key, or draft it."
        )
    return requirement


def _latest(requirement: Requirement | None, *, status: Status, verb: str) -> Revision:
    latest = _existing(requirement).latest
    if latest.status != status:
        raise _not_in_state(latest, wanted=status, verb=verb)
    return latest


def _not_in_state(revision: Revision, *, wanted: str, verb: str) -> RevisionNotInState:
    return RevisionNotInState(
        f"You cannot {verb} revision {revision.number}: it is {revision.status}.",
        why=f"The revision would have to be {wanted}.",
        next_step="Read the requirement; a change of an approved one is a new revision.",
    )


def _with_criterion(content: Content, criterion: AcceptanceCriterion) -> Content:
    others = tuple(existing for existing in content.criteria if existing.key != criterion.key)
    return msgspec.structs.replace(content, criteria=tuple(sorted((*others, criterion), key=lambda one: one.key)))


def evolve(requirement: Requirement | None, fact: Fact) -> Requirement:
    """The state after one more fact."""
    if isinstance(fact, RequirementDrafted):
        return _evolve_drafted(requirement, fact)
    if requirement is None:
        raise TypeError(f"{fact!r} cannot come first")
    match fact:
        case AcceptanceCriterionRevised():
            before = requirement.revisions[fact.revision]
            return _with_revision(
                requirement,
                msgspec.structs.replace(
                    before,
                    content=_with_criterion(before.content, fact.criterion),
                    authors=before.authors | {fact.author},
                ),
            )
        case RequirementSubmitted():
            return _with_status(requirement, fact.revision, "in review")
        case RequirementApproved():
            return _with_status(requirement, fact.revision, "approved")
        case RequirementRejected():
            return _with_status(requirement, fact.revision, "draft")
        case RequirementSuperseded():
            return _with_status(requirement, fact.revision, "superseded")
        case RequirementRetired():
            return _with_status(requirement, fact.revision, "retired")
    raise TypeError(f"{fact!r} is no fact of a requirement")


def _evolve_drafted(requirement: Requirement | None, fact: RequirementDrafted) -> Requirement:
    revisions = requirement.revisions if requirement is not None else {}
    before = revisions.get(fact.revision)
    revision = Revision(
        number=fact.revision,
        classification=fact.classification,
        authors=(before.authors if before is not None else frozenset()) | {fact.author},
        content=fact.content,
        status="draft",
    )
    return Requirement(key=fact.key, revisions={**revisions, fact.revision: revision})


def _with_status(requirement: Requirement, number: int, status: Status) -> Requirement:
    return _with_revision(requirement, msgspec.structs.replace(requirement.revisions[number], status=status))


def _with_revision(requirement: Requirement, revision: Revision) -> Requirement:
    return msgspec.structs.replace(requirement, revisions={**requirement.revisions, revision.number: revision})
