"""Whether the rows of the store still are the events that were appended: their bytes have their hashes, and tell their places."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import asyncpg

from shared.errors import Conflict

_sha256 = hashlib.sha256


class EventAltered(Conflict):
    """The bytes of an event are not those that were appended."""

    def __init__(self, service: str, position: int, rule: str) -> None:
        super().__init__(
            f"{service}:{position} was altered in the database.",
            why=rule,
            next_step="Keep this database as evidence, restore a backup beside it and compare; receipts and packs hold the hash.",
        )
        self.position = position


class EventsMissing(Conflict):
    """Positions have no holes, and here is one."""

    def __init__(self, service: str, position: int) -> None:
        super().__init__(
            f"{service} lacks events above position {position}.",
            why="The store gives positions without holes, so events were removed from the database.",
            next_step="Keep this database as evidence, restore a backup beside it and compare.",
        )
        self.position = position


class StoredEvents:
    """Events above a position as they lie in the store: a row each, with position, leaf hash and bytes."""

    def __init__(self, service: str, *, after: int, rows: Sequence[asyncpg.Record]) -> None:
        self._service, self._after, self._rows = service, after, rows

    def __len__(self) -> int:
        return len(self._rows)

    def leaves(self) -> list[bytes]:
        """The leaf hashes (RFC 6962, 2.1) of the bytes, computed. EventAltered at the first that does not fit."""
        raws = [raw for _, _, raw in self._rows]
        leaves = [_sha256(b"\x00" + raw).digest() for raw in raws]
        starts = map(self._start.__mod__, range(self._after + 1, self._after + len(raws) + 1))
        if not all(map(bytes.startswith, raws, starts)) or leaves != [held for _, held, _ in self._rows]:
            self._raise_first(leaves)
        return leaves

    @property
    def _start(self) -> bytes:
        return f'{{"service":"{self._service}","position":%d,'.encode()

    def _raise_first(self, leaves: Sequence[bytes]) -> None:
        for leaf, (position, held, raw) in zip(leaves, self._rows, strict=True):
            if leaf != held:
                raise EventAltered(self._service, position, "Its bytes do not have the leaf hash beside them.")
            if not raw.startswith(self._start % position):
                raise EventAltered(self._service, position, "Its bytes tell of another place in the log.")


async def read_stored(
    connection: asyncpg.Pool | asyncpg.Connection, *, service: str, after: int, limit: int
) -> StoredEvents:
    """Up to `limit` events above the position. EventsMissing if positions have a hole, or the store counted more than there are."""
    head = await connection.fetchval(f"SELECT position FROM {service}.head")
    rows = await connection.fetch(
        f"SELECT position, leaf_hash, event FROM {service}.event WHERE position > $1 ORDER BY position LIMIT $2",
        after,
        limit,
    )
    expected = range(after + 1, after + len(rows) + 1)
    if len(rows) < min(limit, head - after) or [position for position, _, _ in rows] != list(expected):
        raise EventsMissing(service, after)
    return StoredEvents(service, after=after, rows=rows)
