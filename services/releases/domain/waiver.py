"""Waiver: permission to release something nonconforming, until a date, with a control that compensates for it.

Nobody grants one to themselves. It expires because the rule compares time, not because an event arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound, Refused
from shared.event import Fact, Signature, canonical_bytes

from .signature_rules import require_digest

WAIVER_DAYS_MAX = 366

Kind = Literal["requirement", "segregation of duties"]


class WaiverMissing(NotFound):
    """There is no such waiver."""


class WaiverExists(Conflict):
    """The key is taken by a waiver with other content."""


class WaiverToOneself(Refused):
    """Nobody grants a waiver to themselves."""


class InvalidWaiver(Invalid):
    """It ends in the past or too late, or names a requirement where it must not, or none where it must."""


class WaiverContent(msgspec.Struct, frozen=True, kw_only=True):
    """`requirement` is what the release need not meet (kind requirement); `granted_to` is the subject who asked and answers for it.

    Of kind segregation of duties it lets `granted_to` sign one release off twice, or although they opened it.
    """

    key: str
    kind: Kind
    release: str
    requirement: str | None
    granted_to: str
    compensating_control: str
    expires_at: datetime


class WaiverGranted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.waiver-granted"
    key: str
    kind: Kind
    release: str
    requirement: str | None
    granted_to: str
    compensating_control: str
    expires_at: datetime
    signature: Signature


class WaiverRevoked(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.waiver-revoked"
    key: str
    signature: Signature


FACTS = (WaiverGranted, WaiverRevoked)


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what was granted, and whether somebody took it back."""

    content: WaiverContent
    revoked: bool = False

    def in_force(self, *, at: datetime) -> bool:
        """Not revoked and not past its date."""
        return not self.revoked and at < self.content.expires_at


def grant(waiver: Waiver | None, *, content: WaiverContent, record: str, signature: Signature) -> Sequence[Fact]:
    """An approver allows it; the digest is that of the content shown by `grant_bytes`, `record` is the waiver's stream."""
    require_digest(content=grant_bytes(content, record=record), signature=signature, what=content.key)
    if waiver is not None and waiver.content == content and not waiver.revoked:
        return ()
    if waiver is not None:
        raise WaiverExists(
            f"The key {content.key} is taken.",
            why="A waiver never changes; what else is allowed is another waiver.",
            next_step="Choose another key.",
        )
    _check(content, signature)
    fields = msgspec.structs.asdict(content)
    return (WaiverGranted(**fields, signature=signature),)


def revoke(waiver: Waiver | None, *, record: str, signature: Signature) -> Sequence[Fact]:
    """The permission ends before its date."""
    found = existing(waiver)
    require_digest(content=revocation_bytes(found, record=record), signature=signature, what=found.content.key)
    return () if found.revoked else (WaiverRevoked(key=found.content.key, signature=signature),)


def grant_bytes(content: WaiverContent, *, record: str) -> bytes:
    """The canonical bytes that the granting signature covers."""
    return canonical_bytes({"record": record, "grant": content})


def revocation_bytes(waiver: Waiver, *, record: str) -> bytes:
    """The canonical bytes that the revoking signature covers."""
    return canonical_bytes({"record": record, "revoke": waiver.content})


def existing(waiver: Waiver | None) -> Waiver:
    """The state, or WaiverMissing."""
    if waiver is None:
        raise WaiverMissing("There is no such waiver.", why="It was never granted.", next_step="Check the key.")
    return waiver


def _check(content: WaiverContent, signature: Signature) -> None:
    if signature.signer.subject == content.granted_to:
        raise WaiverToOneself(
            "You cannot grant a waiver to yourself.",
            why="Who answers for a deviation is not who allows it.",
            next_step="Ask another person with the role approver.",
        )
    latest = signature.signed_at + timedelta(days=WAIVER_DAYS_MAX)
    if not signature.signed_at < content.expires_at <= latest:
        raise InvalidWaiver(
            "The waiver ends in the past or too late.",
            why=f"A waiver expires, within {WAIVER_DAYS_MAX} days.",
            next_step="Choose an end within that time; a longer deviation is a new decision.",
            fields=(FieldError(field="/expires_at", rule=f"in the future, at most {WAIVER_DAYS_MAX} days ahead"),),
        )
    if (content.kind == "requirement") != (content.requirement is not None):
        raise InvalidWaiver(
            "The requirement does not fit the kind of the waiver.",
            why="A waiver of a requirement names it; one of the segregation of duties names none.",
            next_step="Name the requirement, or leave it out.",
            fields=(FieldError(field="/requirement", rule="exactly for the kind requirement"),),
        )


def evolve(waiver: Waiver | None, fact: Fact) -> Waiver:
    """The state after one more fact."""
    match fact:
        case WaiverGranted():
            fields = {name: value for name, value in msgspec.structs.asdict(fact).items() if name != "signature"}
            return Waiver(content=WaiverContent(**fields))
        case WaiverRevoked() if waiver is not None:
            return msgspec.structs.replace(waiver, revoked=True)
    raise TypeError(f"{fact!r} cannot follow {waiver!r}")
