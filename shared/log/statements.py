"""What a log's key states about the log itself: another key follows, or the log was begun again after a loss.

    prooftrail key rotation            prooftrail recovery
    acme/requirements/1                acme/requirements/2
    <new verifier key>                 <first lost position> <last lost position>

Both are signed notes, and both are recorded as events (`shared.log.facts`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shared.errors import FieldError, Invalid
from shared.log.note import NOTE, VerifierKey, open_note


class StatementContradicts(Invalid):
    """The signed text says something else than the fields beside it."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """Another key follows; both as verifier keys. `signature` is the old key's note."""

    old_key: str
    new_key: str
    signature: str


class RecoveryStatement(msgspec.Struct, frozen=True, kw_only=True):
    """The log goes on under a new epoch without the positions `lost_first` to `lost_last` (none if `lost_last` is one less).

    Where nobody knows how far promises went, `lost_last` is the highest number that every reader of JSON reads (2**53 - 1).

    `last_checkpoint` is the last signed note of the epoch before, None if that is lost too.
    """

    epoch: int
    last_checkpoint: str | None
    lost_first: int
    lost_last: int
    why: str
    signature: str


def rotation_text(*, origin: str, new_key: VerifierKey) -> str:
    """What the old key signs."""
    return f"prooftrail key rotation\n{origin}\n{new_key}\n"


def recovery_text(*, origin: str, lost_first: int, lost_last: int) -> str:
    """What the key signs; `origin` is the new one."""
    return f"prooftrail recovery\n{origin}\n{lost_first} {lost_last}\n"


def verify_rotation(rotation: Rotation, *, name: str, keys: Iterable[VerifierKey]) -> VerifierKey:
    """The new key of the log `name` (`acme/requirements`), introduced by one of its known `keys`.

    Raises what `open_note` raises, MalformedKey, and StatementContradicts.
    """
    old, new = VerifierKey.parse(rotation.old_key), VerifierKey.parse(rotation.new_key)
    text = open_note(rotation.signature, [key for key in keys if key == old]).text
    origin = text.split("\n")[1] if text.count("\n") == 3 else ""
    same_log = origin.rpartition("/")[0] == name == new.name
    if not same_log or new.kind != NOTE or text != rotation_text(origin=origin, new_key=new):
        raise _contradicts("new_key", f"the key of {name} that the old key signed")
    return new


def verify_recovery(statement: RecoveryStatement, *, name: str, keys: Iterable[VerifierKey]) -> None:
    """Returns if one of the keys states this recovery of the log `name`. As `verify_rotation`."""
    text = open_note(statement.signature, keys).text
    origin = f"{name}/{statement.epoch}"
    if text != recovery_text(origin=origin, lost_first=statement.lost_first, lost_last=statement.lost_last):
        raise _contradicts("signature", f"the statement that {origin} goes on without these positions")


def _contradicts(field: str, rule: str) -> StatementContradicts:
    return StatementContradicts(
        f"The {field} must be {rule}.",
        why="Only what the key signed counts, not what is written beside it.",
        next_step="Take statement and signature from the same event of the log.",
        fields=(FieldError(field=f"/{field}", rule=rule),),
    )
