"""Promises and statements of a log's key: one form each, and only for what was signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from shared.event_store import EventReceipt
from shared.log.note import COSIGNATURE, NOTE, NobodyKnownSigned, SigningKey, sign_note
from shared.log.promise import MalformedPromise, Promisable, PromisedEvent, open_promise, parse_promise, promise_text
from shared.log.statements import (
    RecoveryStatement,
    Rotation,
    StatementContradicts,
    recovery_text,
    rotation_text,
    verify_recovery,
    verify_rotation,
)

NAME, ORIGIN = "acme/requirements", "acme/requirements/1"
KEY = SigningKey(NAME, NOTE, bytes(range(32)))
NEXT = SigningKey(NAME, NOTE, bytes(range(1, 33)))
MOMENT = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
LINE = f"12 {'ab' * 32} 2026-01-01T12:00:00.000005Z\n"
TEXT = f"prooftrail promise\n{ORIGIN}\n{LINE}"


def receipt(position: int, moment: datetime = MOMENT) -> Promisable:
    """What the store's receipt says of one event."""
    return EventReceipt(name="requirements.x", position=position, leaf_hash="ab" * 32, recorded_at=moment)


def test_a_promise_tells_what_the_receipt_tells() -> None:
    """Position, leaf hash, and the time as the event has it, whatever the zone of the value."""
    there = MOMENT.astimezone(timezone(timedelta(hours=2)))
    assert promise_text(origin=ORIGIN, events=[receipt(12, there)]) == TEXT
    promise = open_promise(sign_note(TEXT, KEY), [KEY.verifier])
    assert (promise.origin, promise.events) == (ORIGIN, (PromisedEvent(12, "ab" * 32, MOMENT),))
    with pytest.raises(NobodyKnownSigned):
        open_promise(sign_note(TEXT, KEY), [NEXT.verifier])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prooftrail promise\n",
        f"prooftrail promise\n{ORIGIN}\n",
        f"prooftrail promises\n{ORIGIN}\n{LINE}",
        f"prooftrail promise\n\n{LINE}",
        TEXT[:-1],
        TEXT + "\n",
        TEXT + LINE,
        TEXT + LINE.replace("12", "11", 1),
        TEXT.replace("12 ", "012 "),
        TEXT.replace("12 ", "0 "),
        TEXT.replace("ab", "AB"),
        TEXT.replace("000005Z", "000005+00:00"),
        TEXT.replace("000005Z", "5Z"),
        TEXT.replace("2026-01-01", "2026-02-30"),
        TEXT.replace("Z\n", "Z \n"),
    ],
)
def test_what_is_no_promise_is_refused(text: str) -> None:
    """Each breaks one rule of the form."""
    with pytest.raises(MalformedPromise):
        parse_promise(text)


def test_nothing_out_of_order_is_promised() -> None:
    """Positions ascend, as they do in a receipt."""
    assert promise_text(origin=ORIGIN, events=[receipt(12), receipt(13)]).count("\n") == 4
    for events in ([], [receipt(12), receipt(12)], [receipt(13), receipt(12)]):
        with pytest.raises(MalformedPromise):
            promise_text(origin=ORIGIN, events=events)


def rotation() -> Rotation:
    """KEY introduces NEXT."""
    text = rotation_text(origin=ORIGIN, new_key=NEXT.verifier)
    return Rotation(old_key=str(KEY.verifier), new_key=str(NEXT.verifier), signature=sign_note(text, KEY))


def test_a_new_key_is_introduced_by_the_old_one() -> None:
    """And by nobody else: not by itself, not by a key that is unknown."""
    assert verify_rotation(rotation(), name=NAME, keys=[KEY.verifier]) == NEXT.verifier
    with pytest.raises(NobodyKnownSigned):
        verify_rotation(rotation(), name=NAME, keys=[NEXT.verifier])
    own_word = sign_note(rotation_text(origin=ORIGIN, new_key=NEXT.verifier), NEXT)
    with pytest.raises(NobodyKnownSigned):
        verify_rotation(msgspec.structs.replace(rotation(), signature=own_word), name=NAME, keys=[KEY.verifier])


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        rotation_text(origin="acme/releases/1", new_key=NEXT.verifier),
        rotation_text(origin=ORIGIN, new_key=KEY.verifier),
        rotation_text(origin=ORIGIN, new_key=SigningKey(NAME, COSIGNATURE, NEXT.seed).verifier),
        rotation_text(origin=ORIGIN, new_key=NEXT.verifier).replace("key", "Key", 1),
        rotation_text(origin=ORIGIN, new_key=NEXT.verifier) + "more\n",
    ],
)
def test_a_rotation_says_what_its_fields_say(text: str) -> None:
    """Another text of the old key introduces nobody."""
    changed = msgspec.structs.replace(rotation(), signature=sign_note(text, KEY))
    with pytest.raises(StatementContradicts):
        verify_rotation(changed, name=NAME, keys=[KEY.verifier])


def test_a_recovery_says_what_its_fields_say() -> None:
    """Epoch and lost range are signed."""
    text = recovery_text(origin="acme/requirements/2", lost_first=5, lost_last=9)
    stated = RecoveryStatement(
        epoch=2, last_checkpoint=None, lost_first=5, lost_last=9, why="restored", signature=sign_note(text, KEY)
    )
    verify_recovery(stated, name=NAME, keys=[KEY.verifier])
    for changes in ({"epoch": 3}, {"lost_first": 6}, {"lost_last": 8}):
        with pytest.raises(StatementContradicts):
            verify_recovery(msgspec.structs.replace(stated, **changes), name=NAME, keys=[KEY.verifier])
    with pytest.raises(StatementContradicts):
        verify_recovery(stated, name="acme/releases", keys=[KEY.verifier])
