"""Proofs and tiles out of the tables of one service: a proof reads at most 256 hashes a level and edge, however long the log is.

Stored are the leaf hashes, beside the events, and the roots of complete subtrees of 256, 65,536, ... leaves (`log_tile`).
Every other subtree is hashed from these when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
import msgspec

from shared.errors import Conflict, NotFound, Unavailable
from shared.log.merkle import Frontier, Subtree, consistency_proof, inclusion_proof, maximal_subtrees, root_of
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
        latest = await self.latest()
        if latest is None:
            raise NothingSealed(
                f"The log of {self.service} has no checkpoint yet.",
                why="Nothing has happened in this service, or it happened less than a second ago.",
                next_step="Ask again in a second.",
            )
        return latest

    async def leaf_hash(self, position: int) -> bytes:
        """The leaf hash of the event; NotInTheLog if there is no such event."""
        found: bytes | None = await self.connection.fetchval(
            f"SELECT leaf_hash FROM {self.service}.event WHERE position = $1", position
        )
        if found is None:
            raise NotInTheLog(
                f"{self.service} has no event at position {position}.",
                why="Positions count from 1 without holes.",
                next_step="Take a position from a receipt or from the feed.",
            )
        return found

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
        held = await self._hashes(0, [(first, end)])
        return [_root_of({0: held}, self.service, 0, index) for index in range(first, end)]

    async def tile(self, *, level: int, number: int, width: int) -> bytes:
        """The first `width` hashes of the tile, one after the other. NotInTheLog if the log has not got that far."""
        first = number * TILE_WIDTH
        held = await self._hashes(level, [(first, first + width)])
        if len(held) < width:
            raise _no_such_tile(self.service)
        return b"".join(held[index] for index in range(first, first + width))

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
        held = await self._held(wanted)
        return compute(lambda level, number: _root_of(held, self.service, level, number))

    async def _held(self, wanted: set[tuple[int, int]]) -> dict[int, Mapping[int, bytes]]:
        """For each tile level its hashes by index, as far as the wanted subtrees need them."""
        ranges: dict[int, list[tuple[int, int]]] = {}
        for level, number in sorted(wanted):
            tile_level, bits = divmod(level, TILE_BITS)
            ranges.setdefault(tile_level, []).append((number << bits, (number + 1) << bits))
        return {level: await self._hashes(level, spans) for level, spans in ranges.items()}

    async def _hashes(self, tile_level: int, spans: Sequence[tuple[int, int]]) -> dict[int, bytes]:
        """Hashes by index for half-open spans of indexes."""
        firsts, ends = [span[0] for span in spans], [span[1] for span in spans]
        if tile_level == 0:
            rows = await self.connection.fetch(
                f"SELECT e.position - 1 AS number, e.leaf_hash AS hash FROM unnest($1::bigint[], $2::bigint[]) s(first, ends)"
                f" JOIN {self.service}.event e ON e.position > s.first AND e.position <= s.ends",
                firsts,
                ends,
            )
        else:
            rows = await self.connection.fetch(
                "SELECT t.number, t.hash FROM unnest($1::bigint[], $2::bigint[]) s(first, ends)"
                f" JOIN {self.service}.log_tile t ON t.level = $3 AND t.number >= s.first AND t.number < s.ends",
                firsts,
                ends,
                tile_level,
            )
        return {row["number"]: row["hash"] for row in rows}


def _root_of(held: Mapping[int, Mapping[int, bytes]], service: str, level: int, number: int) -> bytes:
    tile_level, bits = divmod(level, TILE_BITS)
    try:
        hashes = [held[tile_level][index] for index in range(number << bits, (number + 1) << bits)]
    except KeyError as error:
        raise LogIncomplete(
            f"The log of {service} lacks hash {error.args[0]} of tile level {tile_level}.",
            why="The table of tiles is derived from the events, and here it is behind them or altered.",
            next_step=f"Run `prooftrail rebuild {service}`, which makes the tiles again and checks them.",
        ) from error
    return root_of(hashes)


def _no_such_tile(service: str) -> NotInTheLog:
    return NotInTheLog(
        f"The log of {service} has no such tile.",
        why="Tiles are served as far as the last checkpoint reaches.",
        next_step="Take the size from the checkpoint and ask for tiles below it (C2SP tlog-tiles).",
    )
