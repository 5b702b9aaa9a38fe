"""Events that a reader could not take: kept aside, told, and never silently skipped, so that everything else goes on.

What a projection could not take is taken by a rebuild, which is the only way that keeps the order; what a reaction could not, by
reacting again (`Reactions.replay`); rows of production by fetching their record again (services/drift/feature_topic.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from shared.event import RecordedEvent
from shared.trace_ids import in_trace_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """What a reader of the service could not take, and why. `reader`: projection, reaction or features.

    `source` and `position` say which event, or which record: `topic/partition@milliseconds` and its offset.
    """

    service: str
    source: str
    position: int
    reader: str
    error: str
    recorded_at: datetime


async def bury(
    connection: asyncpg.Connection, *, service: str, event: RecordedEvent, reader: str, error: Exception
) -> None:
    """Records an event that a reader could not take: kept, shown, and never silently skipped."""
    with in_trace_of(event.raw):
        _log.error(
            "%s:%d goes to the dead letters of %s (%s): %s", event.service, event.position, service, reader, error
        )
    await _keep(connection, service, event.service, event.position, reader, error)


async def put_aside(
    connection: asyncpg.Connection, *, service: str, source: str, position: int, reader: str, error: Exception
) -> None:
    """Records something else that a reader could not take: `position` in whatever `source` names."""
    _log.error("%s:%d goes to the dead letters of %s (%s): %s", source, position, service, reader, error)
    await _keep(connection, service, source, position, reader, error)


async def _keep(
    connection: asyncpg.Connection, service: str, source: str, position: int, reader: str, error: Exception
) -> None:
    await connection.execute(
        f"INSERT INTO {service}.dead_letter (source, position, reader, error) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (source, position, reader) DO UPDATE SET error = EXCLUDED.error, recorded_at = clock_timestamp()",
        source,
        position,
        reader,
        f"{type(error).__name__}: {error}"[:2000],
    )


async def letters_of(pool: asyncpg.Pool, *, service: str) -> list[DeadLetter]:
    """The dead letters of the service, in order of source and position."""
    rows = await pool.fetch(
        f"SELECT source, position, reader, error, recorded_at FROM {service}.dead_letter ORDER BY source, position, reader"
    )
    return [DeadLetter(service=service, **row) for row in rows]


async def bring_back(pool: asyncpg.Pool, letter: DeadLetter) -> None:
    """It was taken after all."""
    await pool.execute(
        f"DELETE FROM {letter.service}.dead_letter WHERE source = $1 AND position = $2 AND reader = $3",
        letter.source,
        letter.position,
        letter.reader,
    )
