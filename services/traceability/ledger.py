"""The ledger: every event of every service in order of arrival. A record: written once, never rebuilt.

The next position is taken under a row lock, so that several replicas may follow side by side; an event that is there is not
written again, and a hole in a service's positions stops its follower until the feed has filled it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg
import msgspec

from shared import tracing
from shared.cloud_event import NotTheEvent, recorded_event
from shared.event import RecordedEvent
from shared.feed import PACE_SECONDS, Feed, without_holes
from shared.figures import tell_consumer
from shared.log.row_check import EventAltered, EventsMissing
from shared.projection import BATCH_EVENTS_MAX, RETRY_SECONDS, NotThereYet

LOOK_AGAIN_SECONDS = 0.25

_log = logging.getLogger(__name__)

_COLUMNS = "position, service, service_position, leaf_hash, stream, version, name, system, recorded_at, event"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ledger: its own position, and the event as its service recorded it."""

    position: int
    event: RecordedEvent


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Follows the feeds of all sources and answers by ledger position. `at_step` is told each step, for tests."""

    pool: asyncpg.Pool
    feed: Feed
    sources: tuple[str, ...]
    timeout_s: float
    at_step: Callable[[str], None] = lambda _: None
    _held: dict[str, int] = field(default_factory=dict)
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Runs for ever: one follower a source."""
        async with asyncio.TaskGroup() as group:
            for source in self.sources:
                group.create_task(self._follow(source))

    async def _follow(self, source: str) -> None:
        while True:
            try:
                if await self.advance(source) < BATCH_EVENTS_MAX:
                    await asyncio.sleep(PACE_SECONDS)
                    await self.feed.changed(service=source, after=await self._held_of(source))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("the ledger cannot follow %s now: %s", source, error)
                await asyncio.sleep(RETRY_SECONDS)
            except EventAltered as error:
                _log.error("the ledger does not go on in %s: %s %s %s", source, error.what, error.why, error.next_step)
                await asyncio.sleep(RETRY_SECONDS)

    async def catch_up(self) -> None:
        """Writes everything that can be read now, for when no follower runs."""
        for source in self.sources:
            while await self.advance(source):
                pass

    async def advance(self, source: str) -> int:
        """Writes the next batch of the source; returns how many events that were. EventAltered, HoleInFeed."""
        began = tracing.now()
        async with self.pool.acquire() as connection, connection.transaction():
            head = await connection.fetchval("SELECT position FROM traceability.ledger_head FOR UPDATE")
            after = await connection.fetchval(
                "SELECT coalesce(max(service_position), 0) FROM traceability.ledger WHERE service = $1", source
            )
            events = await self.feed.read(service=source, after=after, limit=BATCH_EVENTS_MAX)
            whole = _as_told(without_holes(events, after=after))
            self.at_step("read")
            if whole:
                await connection.copy_records_to_table(
                    "ledger",
                    schema_name="traceability",
                    columns=_COLUMNS.split(", "),
                    records=[_row(head + number, event) for number, event in enumerate(whole, start=1)],
                )
                self.at_step("written")
                await connection.execute("UPDATE traceability.ledger_head SET position = $1", head + len(whole))
                self.at_step("head moved")
                await connection.execute("SELECT pg_notify('prooftrail_appended', $1)", f"ledger:{head + len(whole)}")
        self.at_step("committed")
        self._held[source] = after + len(whole)
        tracing.told_taken(whole, verb="record", service="traceability", began=began)
        if whole:
            async with self._moved:
                self._moved.notify_all()
        return len(whole)

    async def _held_of(self, source: str) -> int:
        """Up to where the ledger holds the source, as far as this process knows."""
        if source not in self._held:
            self._held[source] = (await self._last_of((source,)))[source]
        return self._held[source]

    async def positions(self) -> dict[str, int]:
        """How far the ledger holds each service."""
        return {service: position for service, position in (await self._last_of(self.sources)).items() if position}

    async def measure(self) -> None:
        """Shows how far the ledger holds each service."""
        held = await self._last_of(self.sources)
        await tell_consumer(service="traceability", consumer="ledger", positions=held, feed=self.feed)

    async def head(self) -> int:
        """The last ledger position."""
        position: int = await self.pool.fetchval("SELECT position FROM traceability.ledger_head")
        return position

    async def position_at(self, moment: datetime) -> int:
        """The last ledger position up to which every event was recorded by the moment."""
        position: int = await self.pool.fetchval(
            "SELECT coalesce((SELECT min(position) - 1 FROM traceability.ledger WHERE recorded_at > $1),"
            " (SELECT position FROM traceability.ledger_head))",
            moment,
        )
        return position

    async def recorded_at(self, position: int) -> datetime | None:
        """When the event at the ledger position was recorded; None if there is none."""
        moment: datetime | None = await self.pool.fetchval(
            "SELECT recorded_at FROM traceability.ledger WHERE position = $1", position
        )
        return moment

    async def wait(self, after: Mapping[str, int]) -> None:
        """Returns once the ledger holds everything up to `after`; NotThereYet when that takes too long."""
        wanted = {
            source: at for source, at in after.items() if source in self.sources and self._held.get(source, 0) < at
        }
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        while wanted:
            held = await self._last_of(wanted)
            wanted = {source: at for source, at in wanted.items() if held.get(source, 0) < at}
            if wanted and asyncio.get_running_loop().time() > deadline:
                raise NotThereYet(
                    "The ledger does not hold " + ", ".join(f"{s}:{p}" for s, p in wanted.items()) + " yet.",
                    why="Facts travel between services as events, which takes a moment.",
                    next_step="Send the same request again after the time in Retry-After.",
                )
            if wanted:
                await self._wait_for_move()

    async def _wait_for_move(self) -> None:
        """Another replica may have written it, hence not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_SECONDS), self._moved:
                await self._moved.wait()

    async def _last_of(self, services: Collection[str]) -> dict[str, int]:
        rows = await self.pool.fetch(
            "SELECT s AS service, (SELECT max(service_position) FROM traceability.ledger l WHERE l.service = s) AS position"
            " FROM unnest($1::text[]) s",
            list(services),
        )
        return {row["service"]: row["position"] or 0 for row in rows}

    async def read(
        self, *, systems: Sequence[str] | None, after: int, to: int | None = None, limit: int | None = None
    ) -> list[Entry]:
        """Entries of the AI systems (None: all, also those of no system) with `after` < position <= `to`, in order."""
        rows = await self.pool.fetch(
            f"SELECT {_COLUMNS} FROM traceability.ledger WHERE position > $1 AND position <= $2"
            " AND ($3::text[] IS NULL OR system = ANY($3)) ORDER BY position LIMIT $4",
            after,
            to if to is not None else 2**62,
            list(systems) if systems is not None else None,
            limit,
        )
        return [_entry(row) for row in rows]

    async def rows(self, service: str, *, after: int, to: int, limit: int) -> list[asyncpg.Record]:
        """Position in the service, leaf hash and bytes of up to `limit` of its events above `after` and up to `to`, in order."""
        rows: list[asyncpg.Record] = await self.pool.fetch(
            "SELECT service_position, leaf_hash, event FROM traceability.ledger"
            " WHERE service = $1 AND service_position > $2 AND service_position <= $3 ORDER BY service_position LIMIT $4",
            service,
            after,
            to,
            limit,
        )
        return rows

    async def leaf_hashes(self, service: str, size: int) -> bytes:
        """The leaf hashes of the service's first `size` events, 32 bytes each, one after the other."""
        found: bytes | None = await self.pool.fetchval(
            "SELECT string_agg(leaf_hash, ''::bytea ORDER BY service_position) FROM traceability.ledger"
            " WHERE service = $1 AND service_position <= $2",
            service,
            size,
        )
        return found or b""

    async def reached(self, position: int) -> dict[str, int]:
        """The last position of each service up to the ledger position, for those that have any. EventsMissing.

        Neither kind of position has holes, so the last ones add up to the ledger's.
        """
        rows = await self.pool.fetch(
            "SELECT service, max(service_position) AS last FROM traceability.ledger WHERE position <= $1 GROUP BY service",
            position,
        )
        found = {row["service"]: row["last"] for row in rows}
        if sum(found.values()) != position:
            raise EventsMissing("the ledger", sum(found.values()))
        return found


def _as_told(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """The events up to the first that its bytes tell otherwise than its columns; EventAltered if that is the first of all.

    The ledger is read by columns, and the log proves bytes alone.
    """
    told: list[RecordedEvent] = []
    try:
        for event in events:
            _require_told(event)
            told.append(event)
    except EventAltered:
        if not told:
            raise
    return told


def _require_told(event: RecordedEvent) -> None:
    try:
        told = recorded_event(event.raw, service=event.service, position=event.position, leaf_hash=event.leaf_hash)
    except NotTheEvent as error:
        raise EventAltered(event.service, event.position, f"{error}.") from error
    if told != event:
        raise EventAltered(event.service, event.position, "The columns of its row tell another story than its bytes.")


def _row(position: int, event: RecordedEvent) -> tuple[object, ...]:
    return (
        position,
        event.service,
        event.position,
        bytes.fromhex(event.leaf_hash),
        event.stream,
        event.version,
        event.name,
        event.system,
        event.recorded_at,
        event.raw,
    )


def _entry(row: asyncpg.Record) -> Entry:
    return Entry(
        position=row["position"],
        event=RecordedEvent(
            service=row["service"],
            position=row["service_position"],
            stream=row["stream"],
            version=row["version"],
            name=row["name"],
            system=row["system"],
            recorded_at=row["recorded_at"],
            leaf_hash=row["leaf_hash"].hex(),
            raw=row["event"],
        ),
    )
