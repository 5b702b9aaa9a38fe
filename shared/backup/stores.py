"""Whether a store is whole, and whether two stores are the same: every event's bytes against its leaf hash, and all in order."""

from __future__ import annotations

import hashlib

import asyncpg
import msgspec

from shared.errors import Conflict

EVENTS_MAX = 50_000


class StoreAltered(Conflict):
    """An event does not have its leaf hash, or a position is missing."""


class StoreDigest(msgspec.Struct, frozen=True, kw_only=True):
    """The last position, the leaf hash there (None: empty), and hex SHA-256 over all leaf hashes in order of position."""

    position: int
    leaf_hash: str | None
    leaves: str


async def store_digest(connection: asyncpg.Connection, service: str) -> StoreDigest:
    """Hashes the bytes of every event of the service. StoreAltered names the first position that is wrong."""
    head: int = await connection.fetchval(f"SELECT position FROM {service}.head")
    total, last, reached = hashlib.sha256(), None, 0
    while True:
        row = await connection.fetchrow(
            "SELECT count(*) AS events, min(position) AS first, max(position) AS last,"
            " min(position) FILTER (WHERE leaf_hash <> sha256('\\x00'::bytea || event)) AS wrong,"
            " string_agg(leaf_hash, ''::bytea ORDER BY position) AS leaves"
            f" FROM (SELECT position, leaf_hash, event FROM {service}.event WHERE position > $1 ORDER BY position LIMIT $2) e",
            reached,
            EVENTS_MAX,
        )
        if row["events"] == 0:
            break
        if (row["first"], row["last"]) != (reached + 1, reached + row["events"]) or row["wrong"] is not None:
            raise _altered(service, row["wrong"] or reached + 1)
        total.update(row["leaves"])
        last, reached = row["leaves"][-32:].hex(), row["last"]
    if reached != head:
        raise _altered(service, reached + 1)
    return StoreDigest(position=reached, leaf_hash=last, leaves=total.hexdigest())


def _altered(service: str, position: int) -> StoreAltered:
    return StoreAltered(
        f"{service} is not whole from position {position} on.",
        why="The bytes of an event do not have its leaf hash, or a position is missing.",
        next_step="Keep this database as evidence, and use a backup or a copy that is whole.",
    )
