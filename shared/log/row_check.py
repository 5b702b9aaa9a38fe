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
    """Events in a row as they lie in the store: from `first` on, their bytes a line each, their leaf hashes one after the other.

    An event has no line break in it, since its JSON escapes it. One that has was altered, and is looked at alone.
    """

    def __init__(self, service: str, *, first: int, count: int, lines: bytes, hashes: bytes) -> None:
        self.first, self.count = first, count
        self._service, self._lines, self._hashes = service, lines, hashes

    def leaves(self) -> list[bytes] | None:
        """The leaf hashes (RFC 6962, 2.1) of the bytes, computed; None if something does not fit: look at each event then."""
        raws = self._lines.split(b"\n") if self.count else []
        leaves = [_sha256(b"\x00" + raw).digest() for raw in raws]
        start = _start(self._service)
        placed = all(raw.startswith(b"%s%d," % (start, at)) for at, raw in enumerate(raws, self.first))
        return leaves if placed and len(raws) == self.count and b"".join(leaves) == self._hashes else None


async def read_stored(
    connection: asyncpg.Pool | asyncpg.Connection, *, service: str, after: int, limit: int
) -> StoredEvents:
    """Up to `limit` events above the position, as one row: a row for each would cost the driver several times as much.

    EventsMissing if positions have a hole, or the counter of the store says that there are more.
    """
    row = await connection.fetchrow(
        "SELECT count(*) AS count, min(position) AS first, max(position) AS last,"
        " string_agg(event, '\\x0a'::bytea) AS lines, string_agg(leaf_hash, ''::bytea) AS hashes,"
        f" (SELECT position FROM {service}.head) AS head"
        f" FROM (SELECT position, event, leaf_hash FROM {service}.event WHERE position > $1 ORDER BY position LIMIT $2) e",
        after,
        limit,
    )
    count = row["count"]
    if min(limit, max(row["head"] - after, 0)) > count or (
        count and (row["first"], row["last"]) != (after + 1, after + count)
    ):
        raise EventsMissing(service, after)
    return StoredEvents(service, first=after + 1, count=count, lines=row["lines"] or b"", hashes=row["hashes"] or b"")


async def require_each(
    connection: asyncpg.Pool | asyncpg.Connection, *, service: str, stored: StoredEvents
) -> list[bytes]:
    """The leaf hashes after a look at each row. EventAltered at the first that does not fit."""
    rows = await connection.fetch(
        f"SELECT event, leaf_hash FROM {service}.event WHERE position >= $1 AND position < $2 ORDER BY position",
        stored.first,
        stored.first + stored.count,
    )
    return _hashes_of(service, [row["event"] for row in rows], [row["leaf_hash"] for row in rows], first=stored.first)


def _hashes_of(service: str, raws: Sequence[bytes], hashes: Sequence[bytes], *, first: int) -> list[bytes]:
    computed = [_sha256(b"\x00" + raw).digest() for raw in raws]
    for position, (raw, own, held) in enumerate(zip(raws, computed, hashes, strict=True), start=first):
        if own != held:
            raise EventAltered(service, position, "Its bytes do not have the leaf hash beside them.")
        if not raw.startswith(b"%s%d," % (_start(service), position)):
            raise EventAltered(service, position, "Its bytes tell of another place in the log.")
    return computed


def _start(service: str) -> bytes:
    return f'{{"service":"{service}","position":'.encode()
