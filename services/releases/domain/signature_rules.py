"""What every signature of this service keeps to: exactly the bytes that were shown, and never one's own record (21 CFR 11.70)."""

from __future__ import annotations

from collections.abc import Collection

from shared.errors import Conflict, Refused
from shared.event import Signature, digest_of


class DigestMismatch(Conflict):
    """What would be signed is not what the signer saw."""


class AuthorCannotApprove(Refused):
    """The author of a record never approves it."""


def require_digest(*, content: bytes, signature: Signature, what: str) -> None:
    """Refuses a signature over other bytes than `content`."""
    if signature.digest != digest_of(content):
        raise DigestMismatch(
            f"The digest is not that of {what} as it is now.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Fetch what would be signed again, read it, and sign its digest.",
        )


def require_other_person(*, subject: str, authors: Collection[str], what: str, verb: str) -> None:
    """Refuses whoever wrote in the record."""
    if subject in authors:
        raise AuthorCannotApprove(
            f"You wrote {what}, so you cannot {verb} it.",
            why="The author of a record never approves it.",
            next_step="Ask another person who holds the role.",
        )
