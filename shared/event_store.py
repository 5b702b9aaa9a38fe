"""The store of one service: append-only, per-stream optimistic concurrency, positions without holes in commit order.

Failure table of `append`
    failed, not persisted   VersionConflict, IdempotencyKeyReused, and Unavailable without `may_be_stored`: nothing was written
    answer lost, persisted  the connection broke after the commit: the receipt all the same, found when the connection is back
    unknown                 StoreAway with `may_be_stored`: the database stayed away; the same idempotency key finds the answer
    twice                   AnsweredBefore carries the receipt of the first time
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

import asyncpg
import msgspec
from eventsourcing.persistence import StoredEvent

from shared import tracing
from shared.append_batch import GIVE_UP_SECONDS, Answer, Appended, AppendRequest, BatchAppender, read_again
from shared.errors import Conflict, Invalid
from shared.event import Event, EventMapper, RecordedEvent
from shared.group_reader import GroupReader
from shared.group_writer import GroupWriter
from shared.telemetry import store_conflicts


class EventReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What the store promises of one event: its place, its leaf hash and its time."""

    name: str
    position: int
    leaf_hash: str
    recorded_at: datetime


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command: the record, its version now, and the events that it caused (none when it was a repeat).

    `position` is what readers pass as `after` to see the effect: `requirements:120`. `promise` is the signed note by which the log
    promises to contain the events (`shared.log.promise`); None without events, without a log, and while nothing can be sealed.
    """

    record: str
    version: int
    position: str
    events: tuple[EventReceipt, ...]
    promise: str | None = None


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


Promiser = Callable[[Sequence[EventReceipt]], str | None]
"""The promise of the log for the events of one receipt."""


def no_promise(_events: Sequence[EventReceipt]) -> None:
    """Where there is no log."""


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
    """The store of one service in its own schema, through the function `append_batch` alone; concurrent commands share one call."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        service: str,
        mapper: EventMapper,
        promiser: Promiser = no_promise,
        give_up_s: float = GIVE_UP_SECONDS,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.service = service
        self._pool = pool
        self._mapper = mapper
        self._promiser = promiser
        self._appender = BatchAppender(pool=pool, service=service, give_up_s=give_up_s, at_step=at_step)
        self._read_again = partial(read_again, give_up_s=give_up_s)
        self._asked: GroupReader[tuple[str, int], list[asyncpg.Record]] = GroupReader(read=self._streams)
        self._writer: GroupWriter[AppendRequest, Answer] = GroupWriter(send=self._appender.send)

    async def load(self, stream: str, *, after: int = 0) -> Sequence[Event]:
        rows = await self._asked.ask((stream, after))
        return [
            self._mapper.to_domain_event(
                StoredEvent(
                    originator_id=stream, originator_version=row["version"], topic=row["name"], state=row["event"]
                )
            )
            for row in rows
        ]

    async def _streams(self, asked: Sequence[tuple[str, int]]) -> list[list[asyncpg.Record]]:
        rows = await self._pool.fetch(
            "SELECT a.number, e.version, e.name, e.event"
            " FROM unnest($1::text[], $2::integer[]) WITH ORDINALITY AS a (stream, after, number) CROSS JOIN LATERAL"
            f" (SELECT version, name, event FROM {self.service}.event WHERE stream = a.stream AND version > a.after"
            " ORDER BY version) e ORDER BY a.number, e.version",
            [stream for stream, _ in asked],
            [after for _, after in asked],
        )
        answers: list[list[asyncpg.Record]] = [[] for _ in asked]
        for row in rows:
            answers[row["number"] - 1].append(row)
        return answers

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
        return self._receipt(
            row["stream"], row["version"],
            last=row["last_position"], events=[_event_receipt(event) for event in events],
        )  # fmt: skip

    async def append(
        self, events: Sequence[Event], *, record: str, version: int, key: IdempotencyKey | None
    ) -> Receipt:
        began = tracing.now()
        stored = [self._mapper.to_stored_event(event) for event in events]
        answer = await self._writer.write(
            AppendRequest(
                events=stored,
                record=record,
                version=version,
                key=None if key is None else (key.subject, key.key, key.fingerprint),
                size=sum(len(event.state) for event in stored),
            )
        )
        if isinstance(answer, Appended):
            if began:
                self._tell_appended(events, answer, began)
            return self._receipt(
                record, version,
                last=answer.first + len(stored) - 1,
                events=[
                    EventReceipt(name=event.topic, position=position, leaf_hash=leaf_hash.hex(), recorded_at=answer.recorded_at)
                    for position, (event, leaf_hash) in enumerate(zip(stored, answer.leaf_hashes, strict=True), answer.first)
                ],
            )  # fmt: skip
        if answer.outcome == "stored":
            return await self._read_again(lambda: self._stored_receipt(stored, record, version))
        if answer.outcome == "conflict" or key is None:
            store_conflicts.add(1, {"service": self.service})
            raise VersionConflict(
                "Somebody changed this record first.",
                why=f"{record} or another record of this command is at version {answer.version} now.",
                next_step="Read the record again and repeat the request if it still makes sense.",
            )
        receipt = await self._read_again(lambda: self.answer(key))
        assert receipt is not None, "answers are never deleted"
        if answer.again:  # it may be that of this very request, whose first answer was lost
            return receipt
        raise AnsweredBefore(receipt)

    def _tell_appended(self, events: Sequence[Event], answer: Appended, began: int) -> None:
        for position, (event, leaf_hash) in enumerate(zip(events, answer.leaf_hashes, strict=True), answer.first):
            tracing.told_append(
                service=self.service,
                name=event.name,
                position=position,
                leaf_hash=leaf_hash.hex(),
                correlation=event.correlation,
                began=began,
            )

    async def _stored_receipt(self, stored: Sequence[StoredEvent], record: str, version: int) -> Receipt:
        """The receipt of a command that was stored by a call whose answer was lost."""
        rows = await self._pool.fetch(
            f"SELECT name, position, leaf_hash, recorded_at FROM {self.service}.event"
            " JOIN unnest($1::text[], $2::integer[]) AS own (stream, version) USING (stream, version) ORDER BY position",
            [event.originator_id for event in stored],
            [event.originator_version for event in stored],
        )
        return self._receipt(record, version, last=rows[-1]["position"], events=[_event_receipt(row) for row in rows])

    def _receipt(self, record: str, version: int, *, last: int, events: Sequence[EventReceipt]) -> Receipt:
        return Receipt(
            record=record,
            version=version,
            position=f"{self.service}:{last}",
            events=tuple(events),
            promise=self._promiser(events),
        )

    async def close(self) -> None:
        """Returns when everything that was taken is answered; nothing new is taken."""
        await self._writer.close()
        await self._appender.close()

    async def read(self, *, after: int, limit: int) -> Sequence[RecordedEvent]:
        return await read_events(self._pool, service=self.service, after=after, limit=limit)

    async def head(self) -> int:
        return await read_head(self._pool, service=self.service)


def _event_receipt(row: asyncpg.Record) -> EventReceipt:
    return EventReceipt(
        name=row["name"], position=row["position"], leaf_hash=row["leaf_hash"].hex(), recorded_at=row["recorded_at"]
    )


def _reused(key: IdempotencyKey) -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        f"The Idempotency-Key {key.key!r} was used for another request.",
        why="One key names one request: the same route and the same body.",
        next_step="Send this request with a new key.",
    )
