"""TestCase: how a requirement is verified, revisioned (ISO 13485, 7.3.6: methods, acceptance criteria, sample-size rationale).

draft -> approved -> superseded | retired. A new definition of an approved test case is a new revision; the author never approves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, NotFound, Refused
from shared.event import Fact, Signature, canonical_bytes, digest_of

Status = Literal["draft", "approved", "superseded", "retired"]


class TestCaseMissing(NotFound):
    """There is no such test case."""


class TestCaseNotInState(Conflict):
    """The verb does not fit the status of the test case."""


class AuthorCannotApprove(Refused):
    """The author of a record never approves it."""


class DigestMismatch(Conflict):
    """What would be signed is not what the signer saw."""


class RequirementRevision(msgspec.Struct, frozen=True, kw_only=True):
    """A requirement in one revision."""

    key: str
    revision: int


class Procedure(msgspec.Struct, frozen=True, kw_only=True):
    """What a revision of a test case says."""

    title: str
    procedure: str
    sample_size_rationale: str
    requirements: tuple[RequirementRevision, ...]


class TestCaseDefined(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.test-case-defined"
    key: str
    revision: int
    author: str
    title: str
    procedure: str
    sample_size_rationale: str
    requirements: tuple[RequirementRevision, ...]


class TestCaseApproved(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.test-case-approved"
    key: str
    revision: int
    requirements: tuple[RequirementRevision, ...]
    signature: Signature


class TestCaseRetired(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.test-case-retired"
    key: str
    revision: int
    signature: Signature


FACTS = (TestCaseDefined, TestCaseApproved, TestCaseRetired)


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One revision with everybody who wrote in it."""

    number: int
    authors: frozenset[str]
    content: Procedure
    status: Status


class TestCase(msgspec.Struct, frozen=True, kw_only=True):
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


def define(case: TestCase | None, *, key: str, author: str, content: Procedure) -> Sequence[Fact]:
    """The first revision, other content for the draft, or a new revision of an approved one."""
    number = 1
    if case is not None:
        if case.latest.status == "retired":
            raise _not_in_state(case, wanted="not retired", verb="define again")
        if case.latest.content == content:
            return ()
        number = case.latest.number + (case.latest.status != "draft")
    return (
        TestCaseDefined(
            key=key,
            revision=number,
            author=author,
            title=content.title,
            procedure=content.procedure,
            sample_size_rationale=content.sample_size_rationale,
            requirements=content.requirements,
        ),
    )


def approve(case: TestCase | None, *, signature: Signature) -> Sequence[Fact]:
    """The draft comes into force; the revision before it is superseded by that."""
    case = _existing(case)
    latest = case.latest
    if latest.status not in ("draft", "approved"):
        raise _not_in_state(case, wanted="a draft", verb="approve")
    _require_digest(case, signature)
    if signature.signer.subject in latest.authors:
        raise AuthorCannotApprove(
            f"You wrote {case.key}, so you cannot approve it.",
            why="The author of a record never approves it.",
            next_step="Ask another person with the role approver.",
        )
    if latest.status == "approved":
        return ()
    return (
        TestCaseApproved(
            key=case.key, revision=latest.number, requirements=latest.content.requirements, signature=signature
        ),
    )


def retire(case: TestCase | None, *, signature: Signature) -> Sequence[Fact]:
    """No further verification is recorded with it; those that exist stay."""
    case = _existing(case)
    if case.latest.status == "retired":
        return ()
    if case.latest.status != "approved":
        raise _not_in_state(case, wanted="approved", verb="retire")
    _require_digest(case, signature)
    return (TestCaseRetired(key=case.key, revision=case.latest.number, signature=signature),)


def signable_bytes(case: TestCase, revision: int) -> bytes:
    """The canonical bytes that a signature over the revision covers."""
    found = case.revisions[revision]
    return canonical_bytes({"record": "test case", "key": case.key, "revision": found.number, "content": found.content})


def _require_digest(case: TestCase, signature: Signature) -> None:
    if signature.digest != digest_of(signable_bytes(case, case.latest.number)):
        raise DigestMismatch(
            f"The digest is not that of revision {case.latest.number} of {case.key}.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Fetch what would be signed again, read it, and sign its digest.",
        )


def _existing(case: TestCase | None) -> TestCase:
    if case is None:
        raise TestCaseMissing(
            "There is no such test case.", why="It was never defined.", next_step="Check the key, or define it."
        )
    return case


def _not_in_state(case: TestCase, *, wanted: str, verb: str) -> TestCaseNotInState:
    return TestCaseNotInState(
        f"You cannot {verb} {case.key}: revision {case.latest.number} is {case.latest.status}.",
        why=f"It would have to be {wanted}.",
        next_step="Read the test case.",
    )


def evolve(case: TestCase | None, fact: Fact) -> TestCase:
    """The state after one more fact."""
    if isinstance(fact, TestCaseDefined):
        revisions = case.revisions if case is not None else {}
        before = revisions.get(fact.revision)
        defined = Revision(
            number=fact.revision,
            authors=(before.authors if before is not None else frozenset()) | {fact.author},
            content=Procedure(
                title=fact.title,
                procedure=fact.procedure,
                sample_size_rationale=fact.sample_size_rationale,
                requirements=fact.requirements,
            ),
            status="draft",
        )
        return TestCase(key=fact.key, revisions={**revisions, fact.revision: defined})
    if case is not None and isinstance(fact, TestCaseApproved):
        superseded = {
            number: msgspec.structs.replace(revision, status="superseded")
            for number, revision in case.revisions.items()
            if revision.status == "approved"
        }
        approved = msgspec.structs.replace(case.revisions[fact.revision], status="approved")
        return msgspec.structs.replace(case, revisions={**case.revisions, **superseded, fact.revision: approved})
    if case is not None and isinstance(fact, TestCaseRetired):
        retired = msgspec.structs.replace(case.revisions[fact.revision], status="retired")
        return msgspec.structs.replace(case, revisions={**case.revisions, fact.revision: retired})
    raise TypeError(f"{fact!r} cannot follow {case!r}")
