"""AiSystem: an engineered system that generates outputs for given objectives; everything else belongs to one (ISO/IEC 42001, 4.3).

Its owners say who may do what in it (5.3, A.3.2). Roles are facts, so that "who could sign at that time" has an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound, Refused
from shared.event import Fact

OWNER = "owner"
ROLES = frozenset({OWNER, "author", "reviewer", "approver", "releaser", "auditor", "service"})
RiskClass = Literal["minimal", "limited", "high", "prohibited"]


class AiSystemExists(Conflict):
    """The key is taken by an AI system with other content."""


class AiSystemMissing(NotFound):
    """There is no AI system with this key."""


class OnlyOwnerGrants(Refused):
    """Roles are granted and revoked by the owner of the AI system."""


class UnknownRole(Invalid):
    """Not one of the roles of the house."""


class RoleNotHeld(Conflict):
    """A role that is not held cannot be revoked."""


class LastOwner(Conflict):
    """An AI system always has somebody who answers for it."""


class AiSystemRegistered(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.ai-system-registered"
    key: str
    name: str
    intended_use: str
    risk_class: RiskClass
    owner: str


class IntendedUseRevised(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.intended-use-revised"
    intended_use: str
    risk_class: RiskClass


class RoleGranted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.role-granted"
    subject: str
    role: str


class RoleRevoked(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.role-revoked"
    subject: str
    role: str


FACTS = (AiSystemRegistered, IntendedUseRevised, RoleGranted, RoleRevoked)


class AiSystem(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what the system is for, who answers for it (`owner` is the first of `owners`), and who holds which other role
    (as (subject, role) pairs).
    """

    key: str
    name: str
    intended_use: str
    risk_class: RiskClass
    owner: str
    owners: tuple[str, ...]
    grants: frozenset[tuple[str, str]] = frozenset()


class RoleVerb(Protocol):
    """`grant_role` or `revoke_role`."""

    def __call__(self, system: AiSystem | None, *, subject: str, role: str, by: str) -> Sequence[Fact]: ...


def register(
    system: AiSystem | None, *, key: str, name: str, intended_use: str, risk_class: RiskClass, owner: str
) -> Sequence[Fact]:
    """Whoever registers a system owns it."""
    registered = AiSystemRegistered(key=key, name=name, intended_use=intended_use, risk_class=risk_class, owner=owner)
    if system is None:
        return (registered,)
    if (system.name, system.intended_use, system.risk_class, system.owner) == (name, intended_use, risk_class, owner):
        return ()
    raise AiSystemExists(
        f"The key {key} is taken.",
        why="An AI system has one key, and a key names one AI system.",
        next_step="Choose another key, or revise the intended use of the one that exists.",
    )


def revise_intended_use(
    system: AiSystem | None, *, intended_use: str, risk_class: RiskClass, by: str
) -> Sequence[Fact]:
    """A new intended use is a fact that everything verified before must be read against."""
    system = _owned(system, by=by)
    if (system.intended_use, system.risk_class) == (intended_use, risk_class):
        return ()
    return (IntendedUseRevised(intended_use=intended_use, risk_class=risk_class),)


def grant_role(system: AiSystem | None, *, subject: str, role: str, by: str) -> Sequence[Fact]:
    """An owner gives a subject a role; whoever gets the role of an owner answers for the AI system too."""
    system = _owned(system, by=by)
    _require_known(role)
    return () if _holds(system, subject, role) else (RoleGranted(subject=subject, role=role),)


def revoke_role(system: AiSystem | None, *, subject: str, role: str, by: str) -> Sequence[Fact]:
    """An owner takes a role away; what was signed under it stays signed. The last owner stays."""
    system = _owned(system, by=by)
    _require_known(role)
    if not _holds(system, subject, role):
        raise RoleNotHeld(
            f"The subject does not hold the role {role}.",
            why="Only a role that is held can be revoked.",
            next_step="Read the AI system to see who holds what.",
        )
    if role == OWNER and system.owners == (subject,):
        raise LastOwner(
            f"{system.key} would have no owner.",
            why="Somebody answers for an AI system, and for who may do what in it, for as long as it is there.",
            next_step="Grant the role owner to somebody else first.",
        )
    return (RoleRevoked(subject=subject, role=role),)


def hand_over(system: AiSystem | None, *, to: str) -> Sequence[Fact]:
    """The operator makes the subject the only owner, for when the owners are gone."""
    system = _registered(system)
    granted = () if to in system.owners else (RoleGranted(subject=to, role=OWNER),)
    return (*granted, *(RoleRevoked(subject=owner, role=OWNER) for owner in system.owners if owner != to))


def _holds(system: AiSystem, subject: str, role: str) -> bool:
    return subject in system.owners if role == OWNER else (subject, role) in system.grants


def _registered(system: AiSystem | None) -> AiSystem:
    if system is None:
        raise AiSystemMissing(
            "There is no such AI system.", why="It was never registered.", next_step="Register it first."
        )
    return system


def _owned(system: AiSystem | None, *, by: str) -> AiSystem:
    system = _registered(system)
    if by not in system.owners:
        raise OnlyOwnerGrants(
            f"Only an owner of {system.key} may do this.",
            why="The owner answers for the AI system and for who may do what in it.",
            next_step="Ask the owner.",
        )
    return system


def _require_known(role: str) -> None:
    if role not in ROLES:
        raise UnknownRole(
            f"There is no role {role!r}.",
            why="The roles are " + ", ".join(sorted(ROLES)) + ".",
            next_step="Name one of these.",
            fields=(FieldError(field="/role", rule="one of " + ", ".join(sorted(ROLES))),),
        )


def evolve(system: AiSystem | None, fact: Fact) -> AiSystem:
    """The state after one more fact."""
    match fact:
        case AiSystemRegistered():
            return AiSystem(
                key=fact.key,
                name=fact.name,
                intended_use=fact.intended_use,
                risk_class=fact.risk_class,
                owner=fact.owner,
                owners=(fact.owner,),
            )
        case IntendedUseRevised() if system is not None:
            return msgspec.structs.replace(system, intended_use=fact.intended_use, risk_class=fact.risk_class)
        case RoleGranted(role="owner") if system is not None:
            return _owned_by(system, (*system.owners, fact.subject))
        case RoleRevoked(role="owner") if system is not None:
            return _owned_by(system, tuple(owner for owner in system.owners if owner != fact.subject))
        case RoleGranted() if system is not None:
            return msgspec.structs.replace(system, grants=system.grants | {(fact.subject, fact.role)})
        case RoleRevoked() if system is not None:
            return msgspec.structs.replace(system, grants=system.grants - {(fact.subject, fact.role)})
    raise TypeError(f"{fact!r} cannot follow {system!r}")


def _owned_by(system: AiSystem, owners: tuple[str, ...]) -> AiSystem:
    return msgspec.structs.replace(system, owner=owners[0], owners=owners)
