"""Signing a release off: different people in different roles, none of them its author, over exactly the evidence they were shown.

Where a team is too small, a waiver of the segregation of duties opens the way for the person it names, until it expires.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from shared.errors import Conflict, FieldError, Invalid, Refused
from shared.event import Fact, Signature, canonical_bytes

from .evidence import Evidence, evidence_digest
from .release import OPEN, Release, ReleaseNotInState, ReleaseSignedOff, ReleaseSignOffDeclined, SignOffRole, existing
from .signature_rules import require_digest
from .waiver import Waiver

REQUIRED_ROLES: tuple[SignOffRole, ...] = ("approver", "releaser")
"""Every release needs these two: the approver answers for quality, the releaser for the operation."""

MEANINGS: dict[SignOffRole, str] = {
    "reviewer": "review as reviewer",
    "approver": "approval as approver",
    "releaser": "release as releaser",
}


class RoleNotRequired(Invalid):
    """This release needs no sign-off in that role."""


class UnknownMeaning(Invalid):
    """Not a meaning that a sign-off of a release can have."""


class AuthorCannotSignOff(Refused):
    """Whoever opened the candidate does not sign it off."""


class OnePersonOneRole(Refused):
    """One person cannot fill two required sign-off roles of one release."""


class SignOffsIncomplete(Conflict):
    """A required role has not signed what there is now."""


def role_of(meaning: str) -> SignOffRole:
    """The role that signs with this meaning."""
    for role, known in MEANINGS.items():
        if known == meaning:
            return role
    raise UnknownMeaning(
        f"A release is not signed with the meaning {meaning!r}.",
        why="The meanings are " + ", ".join(MEANINGS.values()) + ".",
        next_step="Send the meaning that you were shown.",
        fields=(FieldError(field="/items/meaning", rule="one of " + ", ".join(MEANINGS.values())),),
    )


def sign_off(
    release: Release | None,
    *,
    role: SignOffRole,
    evidence: Sequence[Evidence],
    waivers: Sequence[Waiver],
    record: str,
    signature: Signature,
) -> Sequence[Fact]:
    """`evidence` is what the gate finds now, `waivers` are those of this release, `record` is its stream."""
    release = _signable(release, role)
    content = signable_bytes(release, role=role, evidence=evidence, record=record)
    require_digest(content=content, signature=signature, what=release.key)
    waiver = _segregation(release, role, signature, waivers)
    digest = evidence_digest(evidence)
    before = release.sign_offs.get(role)
    subject = signature.signer.subject
    if before is not None and (before.subject, before.evidence_digest, before.declined) == (subject, digest, False):
        return ()
    return (ReleaseSignedOff(key=release.key, role=role, evidence_digest=digest, waiver=waiver, signature=signature),)


def decline(
    release: Release | None, *, role: SignOffRole, evidence: Sequence[Evidence], record: str, signature: Signature
) -> Sequence[Fact]:
    """The role's word is no. It can be taken back only by signing; the gate denies until then."""
    release = _signable(release, role)
    content = signable_bytes(release, role=role, evidence=evidence, record=record)
    require_digest(content=content, signature=signature, what=release.key)
    digest = evidence_digest(evidence)
    before = release.sign_offs.get(role)
    if before is not None and before.declined and before.evidence_digest == digest:
        return ()
    return (ReleaseSignOffDeclined(key=release.key, role=role, evidence_digest=digest, signature=signature),)


def signable_bytes(release: Release, *, role: SignOffRole, evidence: Sequence[Evidence], record: str) -> bytes:
    """The canonical bytes that the signature covers: what is released, what changed, and what meets each requirement."""
    return canonical_bytes(
        {
            "record": record,
            "signed_as": role,
            "release": release.opened,
            "evidence": evidence,
            "deviations": _open(evidence),
        }
    )


def _open(evidence: Sequence[Evidence]) -> list[str]:
    """Requirements that nothing verifies: under a waiver or, before the gate allows, not at all."""
    return [one.requirement for one in evidence if not one.verifications]


def outstanding(release: Release, *, digest: str) -> tuple[SignOffRole, ...]:
    """Required roles whose word is missing or was given on other evidence; none once the release cannot be signed."""
    if release.opened is None or not _can_be_signed(release):
        return ()
    return tuple(role for role in release.opened.required_roles if not _stands(release, role, digest))


def require_sign_offs(release: Release, *, evidence_digest: str) -> None:
    """SignOffsIncomplete unless each required role has signed this evidence."""
    missing = outstanding(release, digest=evidence_digest)
    if missing:
        raise SignOffsIncomplete(
            f"{release.key} is not signed off by {' and '.join(missing)}.",
            why="Each required role signs exactly the evidence that the release stands on.",
            next_step="Have them sign, then send the request again.",
        )


def _stands(release: Release, role: SignOffRole, digest: str) -> bool:
    found = release.sign_offs.get(role)
    return found is not None and not found.declined and found.evidence_digest == digest


def _can_be_signed(release: Release) -> bool:
    after = release.emergency and not release.signed_off and release.status not in ("withdrawn", "rolled back")
    return release.status in OPEN or after


def _signable(release: Release | None, role: SignOffRole) -> Release:
    release = existing(release)
    if not _can_be_signed(release):
        raise ReleaseNotInState(
            f"You cannot sign {release.key} off: it is {release.status}.",
            why="A candidate is signed off before it is released, an emergency release once afterwards.",
            next_step="Read the release.",
        )
    if release.opened is None or role not in release.opened.required_roles:
        raise RoleNotRequired(
            f"{release.key} needs no sign-off as {role}.",
            why="The roles were named when the candidate was opened.",
            next_step="Read the release to see which roles it needs.",
        )
    return release


def _segregation(release: Release, role: SignOffRole, signature: Signature, waivers: Sequence[Waiver]) -> str | None:
    """The waiver that lets this person sign, None if none is needed."""
    subject = signature.signer.subject
    author = release.opened is not None and release.opened.author == subject
    others = [one.role for one in release.sign_offs.values() if one.subject == subject and one.role != role]
    if not author and not others:
        return None
    waiver = _waiver_for(subject, waivers, at=signature.signed_at)
    if waiver is not None:
        return waiver
    if author:
        raise AuthorCannotSignOff(
            f"You opened {release.key}, so you cannot sign it off.", why=_WHY, next_step=_NEXT_STEP
        )
    raise OnePersonOneRole(
        f"You decided on {release.key} as {others[0]}, so you cannot sign it as {role}.", why=_WHY, next_step=_NEXT_STEP
    )


_WHY = "Duties are segregated: the author signs nothing off, and one person fills one required role."
_NEXT_STEP = "Ask another person; where the team is too small, an approver can grant a waiver that expires."


def _waiver_for(subject: str, waivers: Sequence[Waiver], *, at: datetime) -> str | None:
    fitting = [
        one
        for one in waivers
        if one.content.kind == "segregation of duties" and one.content.granted_to == subject and one.in_force(at=at)
    ]
    best = max(fitting, key=lambda one: (one.content.expires_at, one.content.key), default=None)
    return best.content.key if best is not None else None
