"""Promises: with every receipt the log's key signs at once that it will contain these events, before a checkpoint covers them.

    prooftrail promise
    acme/requirements/1
    12 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 2026-01-01T00:00:00.000000Z

One line for each event of the receipt: position, leaf hash, and the time as the event tells it. Whoever holds a promise of an event
that the log does not have at this position holds the proof that the log lost or changed it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from shared.errors import FieldError, Invalid
from shared.log.note import VerifierKey, open_note

TITLE = "prooftrail promise"

_LINE = re.compile(
    r"([1-9][0-9]{0,18}) ([0-9a-f]{64}) ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)", re.ASCII
)


class MalformedPromise(Invalid):
    """The text of a note that is no promise."""


class Promisable(Protocol):
    """What is promised of an event; `shared.event_store.EventReceipt` has it. `leaf_hash` in hex."""

    @property
    def position(self) -> int: ...

    @property
    def leaf_hash(self) -> str: ...

    @property
    def recorded_at(self) -> datetime: ...


@dataclass(frozen=True)
class PromisedEvent:
    """An event as a promise tells it; `leaf_hash` in hex."""

    position: int
    leaf_hash: str
    recorded_at: datetime


@dataclass(frozen=True)
class Promise:
    """The log, and the events that it is bound to contain, in order of position; at least one."""

    origin: str
    events: tuple[PromisedEvent, ...]


def promise_text(*, origin: str, events: Sequence[Promisable]) -> str:
    """The text to sign, for one event or more in ascending order of position. MalformedPromise."""
    lines = [f"{event.position} {event.leaf_hash} {_time_text(event.recorded_at)}\n" for event in events]
    text = f"{TITLE}\n{origin}\n{''.join(lines)}"
    parse_promise(text)
    return text


def parse_promise(text: str) -> Promise:
    """The text of a note as a promise, strictly. MalformedPromise."""
    title, origin, *lines = text.split("\n") if "\n" in text else (text, "")
    if title != TITLE or not origin or len(lines) < 2 or lines.pop():
        raise _malformed(f"the title {TITLE!r}, an origin and a line for each event")
    events = tuple(map(_parse_line, lines))
    positions = [event.position for event in events]
    if positions != sorted(set(positions)):
        raise _malformed("positions that ascend")
    return Promise(origin, events)


def open_promise(note: str, keys: Iterable[VerifierKey]) -> Promise:
    """The promise in the note, signed by one of the keys. Raises what `open_note` raises, MalformedPromise."""
    return parse_promise(open_note(note, keys).text)


def _parse_line(line: str) -> PromisedEvent:
    found = _LINE.fullmatch(line)
    if found is None:
        raise _malformed("position, leaf hash and time on each line")
    try:
        recorded_at = datetime.fromisoformat(found[3])
    except ValueError as error:
        raise _malformed("a time that there is") from error
    return PromisedEvent(int(found[1]), found[2], recorded_at)


def _time_text(moment: datetime) -> str:
    """As the store writes it into the event: UTC, microseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _malformed(rule: str) -> MalformedPromise:
    return MalformedPromise(
        f"This is no promise of a log: it must have {rule}.",
        why="A promise has one form, so that it can be checked by everybody.",
        next_step="Take the promise from the receipt as it is.",
        fields=(FieldError(field="/promise", rule=rule),),
    )
