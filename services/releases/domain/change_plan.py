"""ChangePlan: modifications agreed before they are made, with the criteria that accept them (FDA PCCP; EU AI Act, 43(4)).

An approved plan never changes: another plan gets another key. Its acceptance criteria are requirements that the changed model
must meet, so that a measurement decides and not an opinion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound
from shared.event import Fact, Signature, canonical_bytes

from .signature_rules import require_digest, require_other_person


class ChangePlanMissing(NotFound):
    """There is no such change plan."""


class ChangePlanInForce(Conflict):
    """An approved plan never changes."""


class InvalidChangePlan(Invalid):
    """The plan names nothing, or something twice."""


class Modification(msgspec.Struct, frozen=True, kw_only=True):
    """One change that the plan allows, within stated limits."""

    key: str
    description: str


class PlanCriterion(msgspec.Struct, frozen=True, kw_only=True):
    """The changed model must meet this requirement in its revision in force."""

    key: str
    requirement: str


class PlanContent(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    model: str
    modifications: tuple[Modification, ...]
    protocol: str
    acceptance_criteria: tuple[PlanCriterion, ...]
    rollback_criteria: tuple[str, ...]


class ChangePlanDrafted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.change-plan-drafted"
    key: str
    author: str
    content: PlanContent


class ChangePlanApproved(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.change-plan-approved"
    key: str
    signature: Signature


FACTS = (ChangePlanDrafted, ChangePlanApproved)


class ChangePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The state: everybody who wrote in it is an author of it."""

    key: str
    status: Literal["draft", "approved"]
    authors: frozenset[str]
    content: PlanContent

    def allows(self, modification: str) -> bool:
        """Whether the plan is approved and names the modification."""
        return self.status == "approved" and any(one.key == modification for one in self.content.modifications)


def draft(plan: ChangePlan | None, *, key: str, author: str, content: PlanContent) -> Sequence[Fact]:
    """A new plan, or new content of the draft that exists."""
    _check(content)
    if plan is not None and plan.content == content:
        return ()
    if plan is not None and plan.status == "approved":
        raise ChangePlanInForce(
            f"{plan.key} is approved.",
            why="What was agreed before a change cannot be altered after it.",
            next_step="Draft a new plan under a new key.",
        )
    return (ChangePlanDrafted(key=key, author=author, content=content),)


def approve(plan: ChangePlan | None, *, record: str, signature: Signature) -> Sequence[Fact]:
    """Changes may be made under the plan from now on; `record` is the plan's stream."""
    plan = existing(plan)
    require_digest(content=signable_bytes(plan, record=record), signature=signature, what=plan.key)
    require_other_person(subject=signature.signer.subject, authors=plan.authors, what=plan.key, verb="approve")
    if plan.status == "approved":
        return ()
    return (ChangePlanApproved(key=plan.key, signature=signature),)


def signable_bytes(plan: ChangePlan, *, record: str) -> bytes:
    """The canonical bytes that a signature over the plan covers."""
    return canonical_bytes({"record": record, "content": plan.content})


def existing(plan: ChangePlan | None) -> ChangePlan:
    """The state, or ChangePlanMissing."""
    if plan is None:
        raise ChangePlanMissing(
            "There is no such change plan.", why="It was never drafted.", next_step="Check the key."
        )
    return plan


def _check(content: PlanContent) -> None:
    broken = []
    for name, keys in (
        ("modifications", [one.key for one in content.modifications]),
        ("acceptance_criteria", [one.key for one in content.acceptance_criteria]),
        ("rollback_criteria", list(content.rollback_criteria)),
    ):
        if not keys or len(set(keys)) < len(keys):
            broken.append(FieldError(field=f"/{name}", rule="at least one, each named once"))
    if broken:
        raise InvalidChangePlan(
            "The plan is not complete.",
            why="A plan names its modifications, the criteria that accept them and those that roll them back.",
            next_step="Complete the lists that are named.",
            fields=tuple(broken),
        )


def evolve(plan: ChangePlan | None, fact: Fact) -> ChangePlan:
    """The state after one more fact."""
    match fact:
        case ChangePlanDrafted():
            authors = (plan.authors if plan is not None else frozenset()) | {fact.author}
            return ChangePlan(key=fact.key, status="draft", authors=authors, content=fact.content)
        case ChangePlanApproved() if plan is not None:
            return msgspec.structs.replace(plan, status="approved")
    raise TypeError(f"{fact!r} cannot follow {plan!r}")
