"""The ledger: every event of every service in order of arrival. A record: written once, never rebuilt.

The next position is taken under a row lock, so that several replicas may follow side by side; an event that is there is not
written again, and a hole in a service's positions stops its follower until the feed has filled it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import msgspec

from shared.event import RecordedEvent
from shared.feed import Feed
from shared.projection import BATCH_EVENTS_MAX, RETRY_SECONDS, NotThereYet

_log = logging.getLogger(__name__)

_COLUMNS = "position, service, service_position, leaf_hash, stream, version, name, system, recorded_at, event"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ledger: its own position, and the event as its service recorded it."""

    position: int
    event: RecordedEvent


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Follows the feeds of all sources and answers by ledger position."""

    pool: asyncpg.Pool
    feed: Feed
    sources: tuple[str, ...]
    timeout_s: float

    async def run(self) -> None:
        """Runs for ever: one follower a source."""
        async with asyncio.TaskGroup() as group:
            for source in self.sources:
                group.create_task(self._follow(source))

    async def _follow(self, source: str) -> None:
        while True:
            try:
                if await self.advance(source) == 0:
                    positions = await self.positions()
                    await self.feed.changed(service=source, after=positions.get(source, 0))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("the ledger cannot follow %s now: %s", source, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def catch_up(self) -> None:
        """Writes everything that can be read now, for when no follower runs."""
        for source in self.sources:
            while await self.advance(source):
                pass

    async def advance(self, source: str) -> int:
        """Writes the next batch of the source; returns how many events that were."""
        async with self.pool.acquire() as connection, connection.transaction():
            head = await connection.fetchval("SELECT position FROM traceability.ledger_head FOR UPDATE")
            after = await connection.fetchval(
                "SELECT coalesce(max(service_position), 0) FROM traceability.ledger WHERE service = $1", source
            )
            events = await self.feed.read(service=source, after=after, limit=BATCH_EVENTS_MAX)
            whole = _without_holes(events, after)
            if whole:
                await connection.copy_records_to_table(
                    "ledger",
                    schema_name="traceability",
                    columns=_COLUMNS.split(", "),
                    records=[_row(head + number, event) for number, event in enumerate(whole, start=1)],
                )
                await connection.execute("UPDATE traceability.ledger_head SET position = $1", head + len(whole))
                await connection.execute("SELECT pg_notify('prooftrail_appended', $1)", f"ledger:{head + len(whole)}")
        return len(whole)

    async def positions(self) -> dict[str, int]:
        """How far the ledger holds each service."""
        rows = await self.pool.fetch(
            "SELECT service, max(service_position) AS position FROM traceability.ledger GROUP BY service"
        )
        return {row["service"]: row["position"] for row in rows}

    async def head(self) -> int:
        """The last ledger position."""
        position: int = await self.pool.fetchval("SELECT position FROM traceability.ledger_head")
        return position

    async def position_at(self, moment: datetime) -> int:
        """The last ledger position whose events were all recorded up to the moment."""
        position: int | None = await self.pool.fetchval(
            "SELECT position FROM traceability.ledger WHERE recorded_at <= $1 ORDER BY position DESC LIMIT 1", moment
        )
        return position or 0

    async def wait(self, after: Mapping[str, int]) -> None:
        """Returns once the ledger holds everything up to `after`; NotThereYet when that takes too long."""
        wanted = {source: at for source, at in after.items() if source in self.sources}
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
                await asyncio.sleep(0.01)

    async def _last_of(self, services: Mapping[str, int]) -> dict[str, int]:
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


def _without_holes(events: Sequence[RecordedEvent], after: int) -> list[RecordedEvent]:
    """The events up to the first missing position; a hole is told and waited for, never passed over."""
    whole: list[RecordedEvent] = []
    for event in events:
        if event.position != after + len(whole) + 1:
            _log.error("%s has a hole after position %d: waiting for the feed", event.service, after + len(whole))
            break
        whole.append(event)
    return whole


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
