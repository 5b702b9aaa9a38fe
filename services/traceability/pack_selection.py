"""Which events the pack of one AI system shows of a service's log: chosen by their bytes, each of which is hashed on the way.

No column beside the bytes decides. An event that is left out is one leaf of the tree, with the hash of the bytes that say so; had
they been altered to say so, the tree would not have the root that was signed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from shared.log.facts import log_stream
from shared.log.row_check import EventAltered, EventsMissing, StoredEvents

from .ledger import Entry, Ledger

BATCH_EVENTS = 1_000


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the pack; `stream` is None for one of the AI system itself."""

    position: int
    leaf: bytes
    raw: bytes
    stream: str | None


class _OfNone(msgspec.Struct, frozen=True):
    stream: str


_of_none = msgspec.json.Decoder(_OfNone)


@dataclass
class Selection:
    """The log of a service, read up to the size of a checkpoint; the pack goes as far as `last`."""

    service: str
    system: str
    last: int
    leaves: bytearray = field(default_factory=bytearray)
    own: list[Shown] = field(default_factory=list)
    of_none: list[Shown] = field(default_factory=list)

    async def read(self, ledger: Ledger, *, size: int) -> None:
        """Reads the first `size` events. EventAltered or EventsMissing for rows that are not what was recorded."""
        while (after := len(self.leaves) // 32) < size:
            rows = await ledger.rows(self.service, after=after, to=size, limit=BATCH_EVENTS)
            if [row["service_position"] for row in rows] != list(range(after + 1, after + len(rows) + 1)) or not rows:
                raise EventsMissing(self.service, after + _unbroken([row["service_position"] for row in rows], after))
            self._take(rows, StoredEvents(self.service, after=after, rows=rows).leaves())

    def _take(self, rows: Sequence[tuple[int, bytes, bytes]], leaves: Sequence[bytes]) -> None:
        own, of_none = b'"system":"%b"' % self.system.encode(), b'"system":null'
        for (position, _, raw), leaf in zip(rows, leaves, strict=True):
            stamp = raw.split(b",", 4)[3:4]
            if stamp == [own] and position <= self.last:
                self.own.append(Shown(position=position, leaf=leaf, raw=raw, stream=None))
            elif stamp == [of_none]:
                self.of_none.append(Shown(position=position, leaf=leaf, raw=raw, stream=_stream(raw)))
        self.leaves += b"".join(leaves)

    @property
    def statements(self) -> list[Shown]:
        """What the log recorded about itself, as far as the checkpoint goes: what signs it is told there, even after `last`."""
        return [event for event in self.of_none if event.stream == log_stream(self.service)]

    def shown(self, people: Collection[str]) -> list[Shown]:
        """The events of the AI system, the log's own, and those of the streams of people up to `last`, in order."""
        erasures = [event for event in self.of_none if event.position <= self.last and event.stream in people]
        return sorted((*self.own, *self.statements, *erasures), key=lambda event: event.position)


def _stream(raw: bytes) -> str:
    """The stream that the bytes tell; none for bytes that are no event, which only give another root."""
    try:
        return _of_none.decode(raw).stream
    except msgspec.MsgspecError:
        return ""


def require_told(selections: Sequence[Selection], entries: Sequence[Entry]) -> None:
    """The pages, which are made from `entries`, tell of exactly the events that the pack shows. EventAltered."""
    told = {(entry.event.service, entry.event.position) for entry in entries}
    shown = {(selection.service, event.position) for selection in selections for event in selection.own}
    for service, position in sorted(told ^ shown):
        raise EventAltered(service, position, "The columns of its row tell another story than its bytes.")


def _unbroken(positions: Sequence[int], after: int) -> int:
    """How many of the positions follow each other from `after` on."""
    return next((n for n, at in enumerate(positions) if at != after + n + 1), len(positions))
