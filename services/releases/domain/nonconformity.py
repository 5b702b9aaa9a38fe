"""Nonconformity: a requirement not fulfilled; corrective action removes its cause, a check proves it (ISO/IEC 42001, 10.2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound
from shared.event import Fact

from .derived_key import derived_key
from .signature_rules import require_other_person

Status = Literal["open", "planned", "closed"]


class NonconformityMissing(NotFound):
    """There is no such nonconformity."""


class NonconformityExists(Conflict):
    """The key is taken by a nonconformity of another record."""


class NonconformityNotInState(Conflict):
    """The verb does not fit the status of the nonconformity."""


class DeadlineInThePast(Invalid):
    """An action is planned for a time that lies ahead."""


class NonconformityRaised(Fact, frozen=True, kw_only=True):
    """`record` is the stream of what does not conform."""

    TOPIC: ClassVar[str] = "releases.nonconformity-raised"
    key: str
    record: str
    description: str
    author: str


class CorrectiveActionPlanned(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.corrective-action-planned"
    key: str
    action: str
    responsible: str
    due_at: datetime
    author: str


class CorrectiveActionVerified(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.corrective-action-verified"
    key: str
    effectiveness: str
    verified_by: str


FACTS = (NonconformityRaised, CorrectiveActionPlanned, CorrectiveActionVerified)


class Nonconformity(msgspec.Struct, frozen=True, kw_only=True):
    """The state; the action planned last is the one that counts."""

    raised: NonconformityRaised
    status: Status = "open"
    planned: CorrectiveActionPlanned | None = None
    verified: CorrectiveActionVerified | None = None


def key_for(cause: str) -> str:
    """The key of the one nonconformity that follows from the cause."""
    return derived_key("NC", cause)


def raise_nonconformity(state: Nonconformity | None, *, raised: NonconformityRaised) -> Sequence[Fact]:
    """Recorded once; seen again, by whomever, it is the same."""
    if state is None:
        return (raised,)
    if state.raised.record == raised.record:
        return ()
    raise NonconformityExists(
        f"The key {raised.key} is taken.",
        why="One nonconformity is of one record.",
        next_step="Choose another key.",
    )


def plan_corrective_action(
    state: Nonconformity | None, *, planned: CorrectiveActionPlanned, at: datetime
) -> Sequence[Fact]:
    """What removes the cause, by whom and until when; it may be planned anew while it is not verified."""
    found = _in_status(state, ("open", "planned"), verb="plan an action for")
    if planned.due_at <= at:
        raise DeadlineInThePast(
            "The action would be due in the past.",
            why="A plan names a time that lies ahead.",
            next_step="Choose a later time.",
            fields=(FieldError(field="/due_at", rule="in the future"),),
        )
    return () if planned == found.planned else (planned,)


def verify_corrective_action(state: Nonconformity | None, *, verified: CorrectiveActionVerified) -> Sequence[Fact]:
    """Somebody who neither planned nor carried out the action found that it works."""
    if state is not None and state.status == "closed":
        return ()
    found = _in_status(state, ("planned",), verb="verify the action for")
    assert found.planned is not None
    authors = {found.planned.author, found.planned.responsible}
    require_other_person(subject=verified.verified_by, authors=authors, what="the corrective action", verb="verify")
    return (verified,)


def existing(state: Nonconformity | None) -> Nonconformity:
    """The state, or NonconformityMissing."""
    if state is None:
        raise NonconformityMissing(
            "There is no such nonconformity.", why="It was never raised.", next_step="Check the key."
        )
    return state


def _in_status(state: Nonconformity | None, wanted: Sequence[Status], *, verb: str) -> Nonconformity:
    found = existing(state)
    if found.status not in wanted:
        raise NonconformityNotInState(
            f"You cannot {verb} {found.raised.key}: it is {found.status}.",
            why=f"The nonconformity would have to be {' or '.join(wanted)}.",
            next_step="Read the nonconformity.",
        )
    return found


def evolve(state: Nonconformity | None, fact: Fact) -> Nonconformity:
    """The state after one more fact."""
    match fact:
        case NonconformityRaised():
            return Nonconformity(raised=fact)
        case CorrectiveActionPlanned() if state is not None:
            return msgspec.structs.replace(state, status="planned", planned=fact)
        case CorrectiveActionVerified() if state is not None:
            return msgspec.structs.replace(state, status="closed", verified=fact)
    raise TypeError(f"{fact!r} cannot follow {state!r}")
