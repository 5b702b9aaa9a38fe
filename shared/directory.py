"""The directory of printed names: apart from the events, so that a person can be forgotten and every proof stays valid.

An event holds an opaque subject and hex SHA-256 of salt and name. The directory holds salt and name under that commitment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

import asyncpg


@dataclass(frozen=True, kw_only=True)
class Person:
    """One entry: what a reader needs to print a name and to check that it is the one committed to."""

    name_commitment: str
    subject: str
    salt: str
    name: str


def commit(*, salt: str, name: str) -> str:
    """Hex SHA-256 of salt, a zero byte and the name in UTF-8."""
    return hashlib.sha256(salt.encode() + b"\x00" + name.encode()).hexdigest()


class Directory:
    """The names that one service was shown. Nothing is remembered here, since an entry may be deleted at any time."""

    def __init__(self, *, pool: asyncpg.Pool, service: str, new_salt: Callable[[], str]) -> None:
        self._pool = pool
        self._service = service
        self._new_salt = new_salt

    async def commitment(self, *, subject: str, name: str) -> str:
        """The commitment to this name of the subject; the entry is made when there is none, or none any more."""
        while True:
            commitment: str | None = await self._pool.fetchval(
                f"SELECT name_commitment FROM {self._service}.person WHERE subject = $1 AND name = $2", subject, name
            )
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

    async def people(self, commitments: Collection[str]) -> dict[str, Person]:
        """The entries for the commitments that are still there."""
        rows = await self._pool.fetch(
            f"SELECT name_commitment, subject, salt, name FROM {self._service}.person WHERE name_commitment = ANY($1)",
            list(commitments),
        )
        return {row["name_commitment"]: Person(**row) for row in rows}


class Names:
    """Reads the directories of all services, for records that bring several together."""

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
