"""Proofs and tiles out of the tables of one service: a proof reads at most 256 hashes a level and edge, however long the log is.

Stored are the leaf hashes, beside the events, and the roots of complete subtrees of 256, 65,536, ... leaves (`log_tile`).
Every other subtree is hashed from these when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
import msgspec

from shared.errors import Conflict, NotFound, Unavailable
from shared.log.merkle import (
    HASH_BYTES,
    Frontier,
    Subtree,
    consistency_proof,
    inclusion_proof,
    maximal_subtrees,
    root_of,
)
from shared.log.tile_paths import TILE_BITS, TILE_WIDTH

Result = TypeVar("Result")


class NotYetSealed(Conflict):
    """The event is stored and promised, and the next checkpoint will cover it."""


class NothingSealed(NotFound):
    """The log has no checkpoint yet."""


class NotInTheLog(NotFound):
    """No such event, tile or size in the log."""


class LogIncomplete(Unavailable):
    """Hashes are missing that the log had: something removed them."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A signed checkpoint as the service stores it."""

    epoch: int
    size: int
    root: bytes
    note: str


@dataclass(frozen=True, kw_only=True)
class LogTables:
    """Reads the log of one service. `connection` is a pool or one connection."""

    connection: asyncpg.Pool | asyncpg.Connection
    service: str

    async def latest(self) -> Checkpoint | None:
        """The last checkpoint, None if there is none."""
        row = await self.connection.fetchrow(
            f"SELECT epoch, size, root, note FROM {self.service}.log_checkpoint ORDER BY epoch DESC, size DESC LIMIT 1"
        )
        return None if row is None else Checkpoint(**row)

    async def sealed(self) -> Checkpoint:
        """The last checkpoint; NothingSealed if there is none."""
        return self._required(await self.latest())

    def _required(self, latest: Checkpoint | None) -> Checkpoint:
        if latest is None:
            raise NothingSealed(
                f"The log of {self.service} has no checkpoint yet.",
                why="Nothing has happened in this service, or it happened less than a second ago.",
                next_step="Ask again in a second.",
            )
        return latest

    async def leaf_hash(self, position: int) -> bytes:
        """The leaf hash of the event; NotInTheLog if there is no such event."""
        return (await self.leaf_and_latest(position))[0]

    async def leaf_and_latest(self, position: int) -> tuple[bytes, Checkpoint | None]:
        """The leaf hash of the event, and the last checkpoint if there is one. NotInTheLog if there is no such event."""
        row = await self.connection.fetchrow(
            "SELECT e.leaf_hash, c.epoch, c.size, c.root, c.note"
            f" FROM {self.service}.event e LEFT JOIN LATERAL (SELECT epoch, size, root, note FROM {self.service}.log_checkpoint"
            "  ORDER BY epoch DESC, size DESC LIMIT 1) c ON true WHERE e.position = $1",
            position,
        )
        if row is None:
            raise NotInTheLog(
                f"{self.service} has no event at position {position}.",
                why="Positions count from 1 without holes.",
                next_step="Take a position from a receipt or from the feed.",
            )
        latest = (
            None
            if row["size"] is None
            else Checkpoint(**{name: row[name] for name in ("epoch", "size", "root", "note")})
        )
        return row["leaf_hash"], latest

    async def proven(self, position: int) -> tuple[bytes, Checkpoint, list[bytes]]:
        """Leaf hash of the event, last checkpoint, audit path. NotInTheLog, NothingSealed, NotYetSealed."""
        leaf_hash, latest = await self.leaf_and_latest(position)
        checkpoint = self._required(latest)
        return leaf_hash, checkpoint, await self.inclusion(position, size=checkpoint.size)

    async def inclusion(self, position: int, *, size: int) -> list[bytes]:
        """The audit path (RFC 6962, 2.1.1) of the event in the tree of `size` leaves. NotYetSealed above it."""
        if position > size:
            raise NotYetSealed(
                f"No checkpoint covers {self.service}:{position} yet.",
                why=f"The last one covers {size} events; checkpoints are made every second while something happens.",
                next_step="Wait for the next checkpoint and ask again; until then the receipt's promise stands.",
            )
        return await self.computed(lambda subtree: inclusion_proof(position - 1, size, subtree))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The consistency proof (RFC 6962, 2.1.2) between the trees of `old` and `new` leaves."""
        return await self.computed(lambda subtree: consistency_proof(old, new, subtree))

    async def frontier(self, size: int) -> Frontier:
        """The tree of the first `size` leaves, as the stored hashes tell it."""
        return await self.computed(
            lambda subtree: Frontier(size, [subtree(*place) for place in maximal_subtrees(size)])
        )

    async def leaf_hashes(self, first: int, end: int) -> list[bytes]:
        """The stored leaf hashes with first <= index < end. LogIncomplete if one is missing."""
        (hashes,) = await self._spans([(0, first, end)])
        return _split(self._whole(hashes, 0, first, end))

    async def tile(self, *, level: int, number: int, width: int) -> bytes:
        """The first `width` hashes of the tile, one after the other. NotInTheLog if the log has not got that far."""
        first = number * TILE_WIDTH
        (hashes,) = await self._spans([(level, first, first + width)])
        if len(hashes) < width * HASH_BYTES:
            raise _no_such_tile(self.service)
        return hashes

    async def entries(self, *, number: int, width: int) -> list[tuple[str | None, bytes]]:
        """AI system and exact bytes of the first `width` events of the bundle. NotInTheLog as for tiles."""
        first = number * TILE_WIDTH
        rows = await self.connection.fetch(
            f"SELECT system, event FROM {self.service}.event WHERE position > $1 AND position <= $2 ORDER BY position",
            first,
            first + width,
        )
        if len(rows) < width:
            raise _no_such_tile(self.service)
        return [(row["system"], row["event"]) for row in rows]

    async def computed(self, compute: Callable[[Subtree], Result]) -> Result:
        """What `compute` makes of the complete subtrees that it asks for; it is called twice: to learn which, and with them."""
        wanted: set[tuple[int, int]] = set()

        def learn(level: int, number: int) -> bytes:
            wanted.add((level, number))
            return bytes(32)

        compute(learn)
        spans = {place: _span(*place) for place in wanted}
        found = zip(spans.items(), await self._spans(list(spans.values())), strict=True)
        held = {place: root_of(_split(self._whole(hashes, *span))) for (place, span), hashes in found}
        return compute(lambda level, number: held[level, number])

    def _whole(self, hashes: bytes, tile_level: int, first: int, end: int) -> bytes:
        if len(hashes) == (end - first) * HASH_BYTES:
            return hashes
        raise LogIncomplete(
            f"The log of {self.service} lacks hashes {first} to {end - 1} of tile level {tile_level}, or some of them.",
            why="The table of tiles is derived from the events, and here it is behind them or altered.",
            next_step=f"Run `prooftrail rebuild {self.service}`, which makes the tiles again and checks them.",
        )

    async def _spans(self, spans: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """For each tile level, first index and end its hashes, one after the other: one row a span, since rows cost much."""
        rows = await self.connection.fetch(
            "SELECT coalesce(string_agg(h.hash, ''::bytea ORDER BY h.number), ''::bytea) AS hashes"
            " FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS s (level, first, ends, place)"
            " LEFT JOIN LATERAL ("
            f"  SELECT e.position - 1 AS number, e.leaf_hash AS hash FROM {self.service}.event e"
            "   WHERE s.level = 0 AND e.position > s.first AND e.position <= s.ends"
            f"  UNION ALL SELECT t.number, t.hash FROM {self.service}.log_tile t"
            "   WHERE t.level = s.level AND t.number >= s.first AND t.number < s.ends"
            " ) h ON true GROUP BY s.place ORDER BY s.place",
            [span[0] for span in spans],
            [span[1] for span in spans],
            [span[2] for span in spans],
        )
        return [row["hashes"] for row in rows]


def _span(level: int, number: int) -> tuple[int, int, int]:
    """Where the stored hashes of a subtree lie: tile level, first index and end."""
    tile_level, bits = divmod(level, TILE_BITS)
    return tile_level, number << bits, (number + 1) << bits


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def _no_such_tile(service: str) -> NotInTheLog:
    return NotInTheLog(
        f"The log of {service} has no such tile.",
        why="Tiles are served as far as the last checkpoint reaches.",
        next_step="Take the size from the checkpoint and ask for tiles below it (C2SP tlog-tiles).",
    )
