"""The store of one service: append-only, per-stream optimistic concurrency, positions without holes in commit order.

Failure table of `append`
    failed, not persisted   VersionConflict, IdempotencyKeyReused, Unavailable: nothing was written
    failed, persisted       the connection broke after the commit: Unavailable; the same idempotency key finds the stored answer
    twice                   AnsweredBefore carries the receipt of the first time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import asyncpg
import msgspec
from eventsourcing.persistence import StoredEvent

from shared.errors import Conflict, Invalid, Unavailable
from shared.event import Event, EventMapper, RecordedEvent, system_of


class EventReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What the store promises of one event: its place, its leaf hash and its time."""

    name: str
    position: int
    leaf_hash: str
    recorded_at: datetime


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command: the record, its version now, and the events that it caused (none when it was a repeat).

    `position` is what readers pass as `after` to see the effect: `requirements:120`.
    """

    record: str
    version: int
    position: str
    events: tuple[EventReceipt, ...]


@dataclass(frozen=True, kw_only=True)
class IdempotencyKey:
    """A client's name for one request; `fingerprint` is the digest of route and body, so that a reuse is noticed."""

    subject: str
    key: str
    fingerprint: str


class VersionConflict(Conflict):
    """Another command changed the stream first. Load and decide again; never renumber."""


class IdempotencyKeyReused(Invalid):
    """The key was used for a request with another body or route."""


class AnsweredBefore(Exception):
    """The request was carried out before; `receipt` is the answer of that time."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt.record)
        self.receipt = receipt


class EventStore(Protocol):
    """Where one service keeps its events."""

    service: str

    async def load(self, stream: str, *, after: int = 0) -> Sequence[Event]:
        """The events of the stream above the version `after`, in order of version; empty if there is none."""

    async def answer(self, key: IdempotencyKey) -> Receipt | None:
        """The receipt stored under the key, None if it is new. IdempotencyKeyReused if it was for another request."""

    async def append(
        self, events: Sequence[Event], *, record: str, version: int, key: IdempotencyKey | None
    ) -> Receipt:
        """Durable when it returns: all events or none. `record` and `version` are what the receipt names."""

    async def read(self, *, after: int, limit: int) -> Sequence[RecordedEvent]:
        """Up to `limit` events with a position above `after`, in order, without holes."""

    async def head(self) -> int:
        """The last position, 0 when empty."""


async def read_events(pool: asyncpg.Pool, *, service: str, after: int, limit: int) -> list[RecordedEvent]:
    """Up to `limit` events of the service's store above the position `after`, in order, without holes."""
    rows = await pool.fetch(
        "SELECT position, stream, version, name, system, recorded_at, leaf_hash, event"
        f" FROM {service}.event WHERE position > $1 ORDER BY position LIMIT $2",
        after,
        limit,
    )
    return [
        RecordedEvent(
            service=service,
            position=row["position"],
            stream=row["stream"],
            version=row["version"],
            name=row["name"],
            system=row["system"],
            recorded_at=row["recorded_at"],
            leaf_hash=row["leaf_hash"].hex(),
            raw=row["event"],
        )
        for row in rows
    ]


async def read_head(pool: asyncpg.Pool, *, service: str) -> int:
    """The last position of the service's store, 0 when empty."""
    position: int = await pool.fetchval(f"SELECT position FROM {service}.head")
    return position


class PostgresEventStore:
    """The store of one service in its own schema, through the function `append` alone."""

    def __init__(self, *, pool: asyncpg.Pool, service: str, mapper: EventMapper) -> None:
        self.service = service
        self._pool = pool
        self._mapper = mapper

    async def load(self, stream: str, *, after: int = 0) -> Sequence[Event]:
        rows = await self._pool.fetch(
            f"SELECT version, name, event FROM {self.service}.event WHERE stream = $1 AND version > $2 ORDER BY version",
            stream,
            after,
        )
        return [
            self._mapper.to_domain_event(
                StoredEvent(
                    originator_id=stream, originator_version=row["version"], topic=row["name"], state=row["event"]
                )
            )
            for row in rows
        ]

    async def answer(self, key: IdempotencyKey) -> Receipt | None:
        row = await self._pool.fetchrow(
            f"SELECT fingerprint, stream, version, first_position, last_position FROM {self.service}.answered"
            " WHERE subject = $1 AND key = $2",
            key.subject,
            key.key,
        )
        if row is None:
            return None
        if row["fingerprint"] != key.fingerprint:
            raise _reused(key)
        events = await self._pool.fetch(
            f"SELECT name, position, leaf_hash, recorded_at FROM {self.service}.event"
            " WHERE position BETWEEN $1 AND $2 ORDER BY position",
            row["first_position"],
            row["last_position"],
        )
        return self._receipt(row["stream"], row["version"], row["last_position"], events)

    async def append(
        self, events: Sequence[Event], *, record: str, version: int, key: IdempotencyKey | None
    ) -> Receipt:
        stored = [self._mapper.to_stored_event(event) for event in events]
        try:
            rows = await self._pool.fetch(
                "SELECT at_position AS position, at_time AS recorded_at, at_leaf_hash AS leaf_hash"
                f" FROM {self.service}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                key and key.subject,
                key and key.key,
                key and key.fingerprint,
                record,
                version,
                [event.originator_id for event in stored],
                [event.originator_version for event in stored],
                [event.topic for event in stored],
                [system_of(str(event.originator_id)) for event in stored],
                [event.state.decode() for event in stored],
            )
        except asyncpg.PostgresError as error:
            await self._explain(error, key)
            raise
        except (OSError, asyncpg.InterfaceError) as error:
            raise Unavailable(
                "The store did not answer.",
                why="The connection to PostgreSQL broke; the command may or may not have been carried out.",
                next_step="Send the same request with the same Idempotency-Key again.",
            ) from error
        appended = [{"name": event.name, **dict(row)} for event, row in zip(events, rows, strict=True)]
        last = appended[-1]["position"] if appended else await self.head()
        return self._receipt(record, version, last, appended)

    async def _explain(self, error: asyncpg.PostgresError, key: IdempotencyKey | None) -> None:
        """Raises what the error code of the function `append` means; returns for any other code."""
        if error.sqlstate == "PT409":
            raise VersionConflict(
                "Somebody changed this record first.",
                why=str(error),
                next_step="Read the record again and repeat the request if it still makes sense.",
            ) from error
        if key is not None and error.sqlstate == "PT422":
            raise _reused(key) from error
        if key is not None and error.sqlstate == "PT208":
            receipt = await self.answer(key)
            if receipt is not None:
                raise AnsweredBefore(receipt) from error

    async def read(self, *, after: int, limit: int) -> Sequence[RecordedEvent]:
        return await read_events(self._pool, service=self.service, after=after, limit=limit)

    async def head(self) -> int:
        return await read_head(self._pool, service=self.service)

    def _receipt(
        self, record: str, version: int, last: int, events: Sequence[asyncpg.Record | dict[str, object]]
    ) -> Receipt:
        return Receipt(
            record=record,
            version=version,
            position=f"{self.service}:{last}",
            events=tuple(
                EventReceipt(
                    name=row["name"],  # type: ignore[arg-type]
                    position=row["position"],  # type: ignore[arg-type]
                    leaf_hash=row["leaf_hash"].hex(),  # type: ignore[union-attr]
                    recorded_at=row["recorded_at"],  # type: ignore[arg-type]
                )
                for row in events
            ),
        )


def _reused(key: IdempotencyKey) -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        f"The Idempotency-Key {key.key!r} was used for another request.",
        why="One key names one request: the same route and the same body.",
        next_step="Send this request with a new key.",
    )
