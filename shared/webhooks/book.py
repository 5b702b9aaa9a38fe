"""How far webhooks are, written by the one process that delivers those of the service, over the connection that holds the lock.

Whoever loses the connection loses the lock with it and can write nothing any more. What an owner changed meanwhile has another
version, and what was on its way under the older one is not written either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

import asyncpg

from shared.webhooks.sender import Failed

DOUBLINGS_MAX = 40


class Name(NamedTuple):
    """A webhook as the database names it."""

    subject: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A webhook as its deliveries need it. `wait_s` is how long until the next try; `secrets` are with the time they expire at."""

    name: Name
    kind: Literal["person", "service"]
    issuer: str
    url: str
    systems: frozenset[str]
    names: frozenset[str]
    position: int
    version: int
    failures: int
    wait_s: float
    secrets: tuple[tuple[bytes, datetime | None], ...]

    def secrets_at(self, now: datetime) -> list[bytes]:
        """Those that sign now, the newest first."""
        return [secret for secret, expires_at in self.secrets if expires_at is None or expires_at > now]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often a receiver that fails is tried, in seconds: `first`, then twice as long each time, up to `longest`.

    A webhook is switched off when `failures_min` tries and more have failed for `off_after`.
    """

    first: float = 1.0
    longest: float = 3600.0
    off_after: float = 3 * 24 * 3600.0
    failures_min: int = 10

    def wait_s(self, failures: int, *, chance: float, retry_after_s: float = 0.0) -> float:
        """The time until the next try after so many failures before this one: between half of it and all of it, as `chance` in
        [0, 1) says, so that receivers that fail together are not tried together; at least what the receiver asked for.
        """
        whole = min(self.longest, self.first * 2.0 ** min(failures, DOUBLINGS_MAX))
        return max(retry_after_s, whole * (1 + chance) / 2)


class Book:
    """One statement at a time on the one connection."""

    def __init__(self, *, connection: asyncpg.Connection, service: str) -> None:
        self._connection = connection
        self._service = service
        self._turn = asyncio.Lock()

    async def active(self) -> dict[Name, int]:
        """The webhooks that are delivered, with their versions."""
        rows = await self._fetch(f"SELECT subject, key, version FROM {self._service}.webhook WHERE active")
        return {Name(row["subject"], row["key"]): row["version"] for row in rows}

    async def endpoint(self, name: Name) -> Endpoint | None:
        """None if it was removed or is off."""
        rows = await self._fetch(
            "SELECT w.*, extract(epoch FROM next_try_at - clock_timestamp()) AS wait_s,"
            f" array(SELECT secret FROM {self._service}.webhook_secret s WHERE s.subject = w.subject AND s.key = w.key"
            "  ORDER BY number DESC) AS secrets,"
            f" array(SELECT nullif(expires_at, 'infinity') FROM {self._service}.webhook_secret s"
            "  WHERE s.subject = w.subject AND s.key = w.key ORDER BY number DESC) AS expire"
            f" FROM {self._service}.webhook w WHERE subject = $1 AND key = $2 AND active",
            *name,
        )
        return _endpoint(name, rows[0]) if rows else None

    async def delivered(self, endpoint: Endpoint, *, position: int, event: bool) -> bool:
        """The receiver has taken everything up to the position; with `event`, an event just now. False if this is not to be
        written any more.
        """
        rows = await self._fetch(
            f"UPDATE {self._service}.webhook SET position = $4, failures = 0, failing_since = NULL, next_try_at = NULL,"
            " trouble = NULL, status = NULL, delivered_at = CASE WHEN $5 THEN clock_timestamp() ELSE delivered_at END"
            " WHERE subject = $1 AND key = $2 AND version = $3 AND active AND position <= $4 RETURNING 1",
            *endpoint.name,
            endpoint.version,
            position,
            event,
        )
        return bool(rows)

    async def failed(
        self, endpoint: Endpoint, failure: Failed, *, position: int, wait_s: float, patience: Patience
    ) -> bool:
        """What follows the position was not taken. The next try is in `wait_s`; or never, if the receiver is gone or the patience
        is at its end: True then.
        """
        rows = await self._fetch(
            f"UPDATE {self._service}.webhook SET position = greatest(position, $4), failures = failures + 1,"
            " failing_since = coalesce(failing_since, clock_timestamp()), trouble = $5, status = $6,"
            " next_try_at = clock_timestamp() + make_interval(secs => $7),"
            " active = NOT ($8 OR failures + 1 >= $9"
            "  AND coalesce(failing_since, clock_timestamp()) <= clock_timestamp() - make_interval(secs => $10))"
            " WHERE subject = $1 AND key = $2 AND version = $3 AND active RETURNING active",
            *endpoint.name,
            endpoint.version,
            position,
            failure.trouble,
            failure.status,
            wait_s,
            failure.gone,
            patience.failures_min,
            patience.off_after,
        )
        return bool(rows) and not rows[0]["active"]

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[asyncpg.Record]:
        async with self._turn:
            rows: Sequence[asyncpg.Record] = await self._connection.fetch(statement, *arguments)
            return rows


def _endpoint(name: Name, row: asyncpg.Record) -> Endpoint:
    return Endpoint(
        name=name,
        kind=row["kind"],
        issuer=row["issuer"],
        url=row["url"],
        systems=frozenset(row["systems"]),
        names=frozenset(row["names"]),
        position=row["position"],
        version=row["version"],
        failures=row["failures"],
        wait_s=max(0.0, float(row["wait_s"] or 0.0)),
        secrets=tuple(zip(row["secrets"], row["expire"], strict=True)),
    )
