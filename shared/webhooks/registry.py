"""Webhooks as their owners see them: registered, read, rotated, resumed, removed.

A webhook belongs to the subject that registered it, under a key that the subject chose; to everybody else it does not exist. It is
how a subscriber is reached and no fact about a product, so it is a row and not an event: an address may hold what must be
forgotten, and a secret must be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from shared.errors import Conflict, NotFound
from shared.event import Actor
from shared.feed import Feed
from shared.webhooks.signature import secret_text

WEBHOOKS_OF_A_SUBJECT_MAX = 20
WEBHOOKS_MAX = 500
SECRETS_MAX = 4
"""Secrets that sign at the same time: every delivery carries a signature of each."""


class WebhookNotFound(NotFound):
    """The caller has no webhook under this key."""


class WebhookExists(Conflict):
    """The caller has registered another webhook, or the same, under this key."""


class TooManyWebhooks(Conflict):
    """A subject, or the service, has as many webhooks as it may have."""


class TooManySecrets(Conflict):
    """The secrets before this one have not expired yet."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why the last attempt failed, and since when all have. `status` is what the receiver answered, None without an answer.

    `next_try_at` is None once nothing is tried any more.
    """

    what: str
    status: int | None
    since: datetime
    failures: int
    next_try_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """`position` is up to where the receiver has taken everything that it may see, `head` where the service's events end now."""

    key: str
    url: str
    systems: tuple[str, ...]
    names: tuple[str, ...]
    position: int
    head: int
    active: bool
    trouble: Trouble | None
    delivered_at: datetime | None
    registered_at: datetime


class Webhooks:
    """The webhooks of one service. `changed` is called when there is something new to do; `new_secret` gives random bytes."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        service: str,
        feed: Feed,
        new_secret: Callable[[], bytes],
        changed: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._service = service
        self._feed = feed
        self._new_secret = new_secret
        self._changed = changed

    async def register(
        self, *, actor: Actor, key: str, url: str, systems: Collection[str], names: Collection[str], after: int
    ) -> tuple[Webhook, str]:
        """The new webhook, which is sent what lies above `after`, and its secret, which is never shown again."""
        secret = self._new_secret()
        async with self._pool.acquire() as connection, connection.transaction():
            await self._require_room(connection, actor.subject, key)
            await connection.execute(
                f"INSERT INTO {self._service}.webhook (subject, key, kind, issuer, url, systems, names, position)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                actor.subject, key, actor.kind, actor.issuer, url, sorted(set(systems)), sorted(set(names)), after,
            )  # fmt: skip
            await self._add_secret(connection, actor.subject, key, 1, secret)
        self._changed()
        return await self.get(subject=actor.subject, key=key), secret_text(secret)

    async def get(self, *, subject: str, key: str) -> Webhook:
        """Raises WebhookNotFound."""
        found = await self._select("key = $2", subject, key)
        if not found:
            raise _not_found(key)
        return found[0]

    async def page(self, *, subject: str, after: str, limit: int) -> Sequence[Webhook]:
        """Those of the subject whose keys come after `after`, in order of keys."""
        return await self._select("key > $2 ORDER BY key LIMIT $3", subject, after, limit)

    async def rotate(self, *, subject: str, key: str, overlap_s: int) -> tuple[Webhook, str]:
        """A new secret. The others go on signing beside it for `overlap_s`, or for as long as they had."""
        secret = self._new_secret()
        async with self._pool.acquire() as connection, connection.transaction():
            await self._touch(connection, subject, key, "")
            await connection.execute(
                f"UPDATE {self._service}.webhook_secret SET expires_at ="
                " least(expires_at, clock_timestamp() + make_interval(secs => $3)) WHERE subject = $1 AND key = $2",
                subject, key, overlap_s,
            )  # fmt: skip
            await connection.execute(
                f"DELETE FROM {self._service}.webhook_secret"
                " WHERE subject = $1 AND key = $2 AND expires_at <= clock_timestamp()",
                subject, key,
            )  # fmt: skip
            row = await connection.fetchrow(
                f"SELECT count(*) AS count, coalesce(max(number), 0) AS last FROM {self._service}.webhook_secret"
                " WHERE subject = $1 AND key = $2",
                subject, key,
            )  # fmt: skip
            if row["count"] >= SECRETS_MAX:
                raise _too_many_secrets(key)
            await self._add_secret(connection, subject, key, row["last"] + 1, secret)
        self._changed()
        return await self.get(subject=subject, key=key), secret_text(secret)

    async def resume(self, *, subject: str, key: str, after: int | None) -> Webhook:
        """Tries at once, whatever happened before; from another position when one is given."""
        async with self._pool.acquire() as connection:
            await self._touch(
                connection, subject, key,
                ", position = coalesce($3, position), active = true, failures = 0, failing_since = NULL, next_try_at = NULL,"
                " trouble = NULL, status = NULL",
                after,
            )  # fmt: skip
        self._changed()
        return await self.get(subject=subject, key=key)

    async def remove(self, *, subject: str, key: str) -> Webhook:
        """Forgets it with its secrets; gives what it was."""
        removed = await self.get(subject=subject, key=key)
        await self._pool.execute(f"DELETE FROM {self._service}.webhook WHERE subject = $1 AND key = $2", subject, key)
        self._changed()
        return removed

    async def _touch(
        self, connection: asyncpg.Connection, subject: str, key: str, changes: str, *values: object
    ) -> None:
        """A change by the owner: whatever is on its way under the version before moves nothing any more."""
        found = await connection.fetchval(
            f"UPDATE {self._service}.webhook SET version = version + 1{changes} WHERE subject = $1 AND key = $2 RETURNING 1",
            subject,
            key,
            *values,
        )
        if found is None:
            raise _not_found(key)

    async def _add_secret(
        self, connection: asyncpg.Connection, subject: str, key: str, number: int, secret: bytes
    ) -> None:
        await connection.execute(
            f"INSERT INTO {self._service}.webhook_secret (subject, key, number, secret) VALUES ($1, $2, $3, $4)",
            subject,
            key,
            number,
            secret,
        )

    async def _require_room(self, connection: asyncpg.Connection, subject: str, key: str) -> None:
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", f"{self._service}.webhook")
        row = await connection.fetchrow(
            "SELECT count(*) AS all, count(*) FILTER (WHERE subject = $1) AS mine,"
            f" count(*) FILTER (WHERE subject = $1 AND key = $2) AS this FROM {self._service}.webhook",
            subject,
            key,
        )
        if row["this"]:
            raise WebhookExists(
                f"You have a webhook {key!r} of {self._service} already.",
                why="A key names one webhook, and a secret is shown once.",
                next_step="Rotate its secret if you lost it, remove it to register it anew, or take another key.",
            )
        if row["mine"] >= WEBHOOKS_OF_A_SUBJECT_MAX or row["all"] >= WEBHOOKS_MAX:
            raise TooManyWebhooks(
                f"{self._service} takes no further webhook of yours.",
                why=f"There are at most {WEBHOOKS_OF_A_SUBJECT_MAX} of one subject and {WEBHOOKS_MAX} of a service.",
                next_step="Remove one that is not needed any more, or subscribe to server-sent events.",
            )

    async def _select(self, condition: str, *arguments: object) -> list[Webhook]:
        rows = await self._pool.fetch(
            f"SELECT * FROM {self._service}.webhook WHERE subject = $1 AND {condition}", *arguments
        )
        head = await self._feed.head(service=self._service) if rows else 0
        return [_webhook(row, head) for row in rows]


async def forget_webhooks(subject: str, *, pool: asyncpg.Pool, service: str) -> None:
    """Those of an erased person go: an address may tell who it was."""
    await pool.execute(f"DELETE FROM {service}.webhook WHERE subject = $1", subject)


def _webhook(row: asyncpg.Record, head: int) -> Webhook:
    trouble = row["trouble"] and Trouble(
        what=row["trouble"],
        status=row["status"],
        since=row["failing_since"],
        failures=row["failures"],
        next_try_at=row["next_try_at"] if row["active"] else None,
    )
    return Webhook(
        key=row["key"],
        url=row["url"],
        systems=tuple(row["systems"]),
        names=tuple(row["names"]),
        position=row["position"],
        head=head,
        active=row["active"],
        trouble=trouble or None,
        delivered_at=row["delivered_at"],
        registered_at=row["registered_at"],
    )


def _not_found(key: str) -> WebhookNotFound:
    return WebhookNotFound(
        f"You have no webhook {key!r} here.",
        why="A webhook belongs to the subject that registered it, in the service whose events it is sent.",
        next_step="List your webhooks of this service, or register one.",
    )


def _too_many_secrets(key: str) -> TooManySecrets:
    return TooManySecrets(
        f"The webhook {key!r} has {SECRETS_MAX} secrets that sign.",
        why="Every delivery carries a signature of each until it expires.",
        next_step="Wait until older ones expire, or rotate with overlap_s = 0, which leaves only the new one.",
    )
