"""The directory of printed names: apart from the events, so that a person can be forgotten and every proof stays valid.

An event holds an opaque subject and hex SHA-256 of salt and name. The directory holds salt and name under that commitment.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from shared.errors import Unavailable
from shared.group_reader import GroupReader

LOCK_MILLISECONDS = 200
"""How long an erasure waits for readers; commands queue behind it meanwhile."""

NOTHING_LEFT = re.compile(r"\s*0\D")
"""How VACUUM begins to tell, in any language, that no dead row had to be copied."""

REMEMBER_SECONDS = 1.0
"""How long a commitment is used again without a look: an event that names one erased a moment ago is as good as one from before."""
REMEMBERED_MAX = 1_000

WIPES_MAX = 5
WIPE_AGAIN_SECONDS = 0.2


class DirectoryBusy(Unavailable):
    """Somebody reads at length, a backup for instance, so that what was deleted cannot be wiped from the file now."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One entry: what a reader needs to print a name and to check that it is the one committed to."""

    name_commitment: str
    subject: str
    salt: str
    name: str


@dataclass(frozen=True, kw_only=True)
class PersonChange:
    """The last change of one entry; `person` None means that it was erased (a tombstone under the key `name_commitment`)."""

    number: int
    name_commitment: str
    person: Person | None


def commit(*, salt: str, name: str) -> str:
    """Hex SHA-256 of salt, a zero byte and the name in UTF-8."""
    return hashlib.sha256(salt.encode() + b"\x00" + name.encode()).hexdigest()


class Directory:
    """The names that one service was shown. What is remembered is not remembered for long: an entry may be deleted at any time."""

    def __init__(self, *, pool: asyncpg.Pool, service: str, new_salt: Callable[[], str]) -> None:
        self._pool = pool
        self._service = service
        self._new_salt = new_salt
        self._asked: GroupReader[tuple[str, str], str | None] = GroupReader(read=self._commitments)
        self._remembered: dict[tuple[str, str], tuple[float, str]] = {}

    async def commitment(self, *, subject: str, name: str) -> str:
        """The commitment to this name of the subject; the entry is made when there is none, or none any more."""
        now = asyncio.get_running_loop().time()
        until, remembered = self._remembered.get((subject, name), (now, ""))
        if now < until:
            return remembered
        commitment = await self._kept(subject, name)
        if len(self._remembered) >= REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[subject, name] = (now + REMEMBER_SECONDS, commitment)
        return commitment

    async def _kept(self, subject: str, name: str) -> str:
        while True:
            commitment = await self._asked.ask((subject, name))
            if commitment is not None:
                return commitment
            salt = self._new_salt()
            await self._pool.execute(
                f"INSERT INTO {self._service}.person (name_commitment, subject, salt, name) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT DO NOTHING",
                commit(salt=salt, name=name),
                subject,
                salt,
                name,
            )

    async def _commitments(self, asked: Sequence[tuple[str, str]]) -> list[str | None]:
        rows = await self._pool.fetch(
            f"SELECT (SELECT name_commitment FROM {self._service}.person p WHERE p.subject = a.subject AND p.name = a.name)"
            " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a (subject, name, number) ORDER BY number",
            [subject for subject, _ in asked],
            [name for _, name in asked],
        )
        return [commitment for (commitment,) in rows]

    async def people(self, commitments: Collection[str]) -> dict[str, Person]:
        """The entries for the commitments that are still there."""
        rows = await self._pool.fetch(
            f"SELECT name_commitment, subject, salt, name FROM {self._service}.person WHERE name_commitment = ANY($1)",
            list(commitments),
        )
        return {row["name_commitment"]: Person(**row) for row in rows}

    async def erase(self, subject: str) -> int:
        """Deletes the entries of the subject and writes the table anew without them; returns how many there were. DirectoryBusy.

        PostgreSQL keeps a deleted row in its file until then. The write-ahead log and backups keep it longer.
        """
        async with self._pool.acquire() as connection:
            deleted: str = await connection.execute(f"DELETE FROM {self._service}.person WHERE subject = $1", subject)
            self._remembered.clear()
            for _ in range(WIPES_MAX):
                if await self._wipe(connection):
                    return int(deleted.rpartition(" ")[2])
                await asyncio.sleep(WIPE_AGAIN_SECONDS)
        raise DirectoryBusy(
            f"The directory of {self._service} cannot be wiped now.",
            why="The names are deleted; but somebody holds the table, or a transaction from before the deletion still sees them.",
            next_step="Nothing: it is tried again until it is done, at the latest when a backup that runs has ended.",
        )

    async def _wipe(self, connection: asyncpg.Connection) -> bool:
        """Writes the table anew; whether nothing is in its file now that an older transaction may still see."""
        told: list[str] = []

        def listen(_connection: object, message: asyncpg.PostgresLogMessage) -> None:
            told.append(getattr(message, "detail", None) or "")

        connection.add_log_listener(listen)
        await connection.execute(f"SET lock_timeout = {LOCK_MILLISECONDS}")
        try:
            await connection.execute(f"VACUUM (FULL, VERBOSE) {self._service}.person")
            await asyncio.sleep(0)
        except asyncpg.LockNotAvailableError:
            return False
        finally:
            connection.remove_log_listener(listen)
            await connection.execute("RESET lock_timeout")
        return any(NOTHING_LEFT.match(detail) for detail in told)


async def changes_of(
    connection: asyncpg.Pool | asyncpg.Connection, *, service: str, after: int, limit: int
) -> list[PersonChange]:
    """Up to `limit` changes numbered above `after`, in order, each entry once: what a compacted topic carries."""
    rows = await connection.fetch(
        f"SELECT c.number, c.name_commitment, p.subject, p.salt, p.name FROM {service}.person_change c"
        f" LEFT JOIN {service}.person p USING (name_commitment) WHERE c.number > $1 ORDER BY c.number LIMIT $2",
        after,
        limit,
    )
    return [
        PersonChange(
            number=row["number"],
            name_commitment=row["name_commitment"],
            person=None
            if row["name"] is None
            else Person(**{name: row[name] for name in ("name_commitment", "subject", "salt", "name")}),
        )
        for row in rows
    ]


class Names(Protocol):
    """Directories that are read together, for records that bring several services together."""

    async def people(self, commitments: Collection[str]) -> dict[str, Person]:
        """The entries for the commitments, in whichever directory they are."""

    async def holding(self, subject: str) -> list[str]:
        """The services whose directory has an entry of the subject."""


class SplitNames:
    """`near` for what runs here, `far` for what runs elsewhere."""

    def __init__(self, *, near: Names, far: Names) -> None:
        self._near, self._far = near, far

    async def people(self, commitments: Collection[str]) -> dict[str, Person]:
        return {**await self._far.people(commitments), **await self._near.people(commitments)}

    async def holding(self, subject: str) -> list[str]:
        return [*await self._near.holding(subject), *await self._far.holding(subject)]


class TableNames:
    """Reads the directories of services in their tables."""

    def __init__(self, *, pool: asyncpg.Pool, services: Collection[str]) -> None:
        self._pool = pool
        self._services = services

    async def people(self, commitments: Collection[str]) -> dict[str, Person]:
        """The entries for the commitments, in whichever directory they are."""
        if not commitments:
            return {}
        query = " UNION ".join(
            f"SELECT name_commitment, subject, salt, name FROM {service}.person WHERE name_commitment = ANY($1)"
            for service in self._services
        )
        rows = await self._pool.fetch(query, list(commitments))
        return {row["name_commitment"]: Person(**row) for row in rows}

    async def holding(self, subject: str) -> list[str]:
        """The services whose directory has an entry of the subject."""
        query = " UNION ALL ".join(
            f"SELECT '{service}' AS service WHERE EXISTS (SELECT FROM {service}.person WHERE subject = $1)"
            for service in self._services
        )
        return [row["service"] for row in await self._pool.fetch(query, subject)]
