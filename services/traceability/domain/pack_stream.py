"""The stream of packs and reviews of one AI system: what was handed out, and that somebody looked (ISO/IEC 42001, 9.2, 9.3).

Traceability decides nothing about the product; these two facts are about its own records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from shared.errors import Conflict
from shared.event import Fact, Signature, canonical_bytes, digest_of


class EvidencePackExists(Conflict):
    """The key names a pack with another content."""


class ReviewMismatch(Conflict):
    """What would be signed is not what the reviewer saw."""


class EvidencePackIssued(Fact, frozen=True, kw_only=True):
    """`digest` is hex SHA-256 of the pack's JSON bytes, which the ledger position fixes."""

    TOPIC: ClassVar[str] = "traceability.evidence-pack-issued"
    key: str
    release: str | None
    ledger_position: int
    digest: str


class AuditTrailReviewed(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "traceability.audit-trail-reviewed"
    key: str
    ledger_position: int
    state_digest: str
    findings: str
    signature: Signature


FACTS = (EvidencePackIssued, AuditTrailReviewed)


class PackStream(msgspec.Struct, frozen=True, kw_only=True):
    """The state: the fact that the key names."""

    fact: EvidencePackIssued | AuditTrailReviewed


def issue(state: PackStream | None, *, issued: EvidencePackIssued) -> Sequence[Fact]:
    """A key names one pack; the same again is a repeat."""
    if state is None:
        return (issued,)
    if state.fact == issued:
        return ()
    raise EvidencePackExists(
        f"The key {issued.key} names another pack.",
        why="An issued pack never changes.",
        next_step="Issue this one under a new key.",
    )


def review_bytes(*, system: str, ledger_position: int, state_digest: str, findings: str) -> bytes:
    """The canonical bytes that a review's signature covers."""
    return canonical_bytes(
        {
            "record": "audit trail review",
            "system": system,
            "ledger_position": ledger_position,
            "state_digest": state_digest,
            "findings": findings,
        }
    )


def review(
    state: PackStream | None, *, system: str, key: str, ledger_position: int, state_digest: str, findings: str,
    signature: Signature,
) -> Sequence[Fact]:  # fmt: skip
    """An auditor signs what they looked at and what they found."""
    covered = review_bytes(system=system, ledger_position=ledger_position, state_digest=state_digest, findings=findings)
    if signature.digest != digest_of(covered):
        raise ReviewMismatch(
            "The digest is not that of this review.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Fetch the review's text and digest again and sign that.",
        )
    reviewed = AuditTrailReviewed(
        key=key,
        ledger_position=ledger_position,
        state_digest=state_digest,
        findings=findings,
        signature=signature,
    )
    if state is None:
        return (reviewed,)
    raise EvidencePackExists(
        f"The key {key} is taken.", why="A review is signed once.", next_step="Record it under a new key."
    )


def evolve(_state: PackStream | None, fact: Fact) -> PackStream:
    """The state after one more fact."""
    assert isinstance(fact, EvidencePackIssued | AuditTrailReviewed)
    return PackStream(fact=fact)
