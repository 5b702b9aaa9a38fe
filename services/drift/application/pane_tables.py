"""The panes in PostgreSQL: what was counted and is not yet in an event. A batch is taken as a whole in one transaction.

Failure table of `take`
    failed, not persisted   the transaction did not commit: nothing was counted, the batch may be sent again
    failed, persisted       the connection broke after the commit: the batch sent again finds its answer
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import numpy as np

from shared.errors import Invalid

from ..domain.histogram import PartialHistogram, merge_histograms
from ..domain.panes import WindowShape

BATCH_MEMORY_S = 7 * 86_400
"""How long after its rows would be late a batch is still recognised."""


class BatchReused(Invalid):
    """The batch id was used for other rows."""


@dataclass(frozen=True, kw_only=True)
class WatchKey:
    """One plan at work in one environment."""

    system: str
    plan: str
    environment: str

    @property
    def columns(self) -> tuple[str, str, str]:
        """As the tables name it."""
        return self.system, self.plan, self.environment


@dataclass(frozen=True, kw_only=True)
class CountedBatch:
    """A batch by pane. `newest` is its latest event time in whole seconds; `fingerprint` that of its bytes."""

    batch: str
    fingerprint: str
    newest: int
    panes: Mapping[int, PartialHistogram]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """How many rows were counted, and how many came after their window had closed."""

    accepted: int
    late: int


@dataclass(frozen=True, kw_only=True)
class OpenPanes:
    """What can become windows: the starts of all panes, how far event time has come, and the late rows so far."""

    starts: Sequence[int]
    watermark: int | None
    late_rows: int


_WHERE = " WHERE system = $1 AND plan = $2 AND environment = $3"


@dataclass(frozen=True, kw_only=True)
class PaneTables:
    """Panes, clocks and taken batches of all watches."""

    pool: asyncpg.Pool

    async def take(self, watch: WatchKey, batch: CountedBatch, shape: WindowShape) -> Taken:
        """Counts the batch once. BatchReused if the id stands for other rows."""
        async with self.pool.acquire() as connection, connection.transaction():
            clock = await _locked_clock(connection, watch)
            before = await _taken_before(connection, watch, batch)
            if before is not None:
                return before
            on_time = {
                start: pane for start, pane in batch.panes.items() if not shape.is_late(start, clock["watermark"])
            }
            late = sum(pane.rows for start, pane in batch.panes.items() if start not in on_time)
            taken = Taken(accepted=sum(pane.rows for pane in on_time.values()), late=late)
            await _merge_panes(connection, watch, on_time)
            watermark = max(batch.newest - shape.lateness_s, clock["watermark"] or 0)
            await connection.execute(
                "UPDATE drift.pane_clock SET watermark = $4, late_rows = late_rows + $5" + _WHERE,
                *watch.columns,
                watermark,
                late,
            )
            await _remember_batch(connection, watch, batch, taken, watermark)
        return taken

    async def open_panes(self, watch: WatchKey) -> OpenPanes:
        """The panes that are not forgotten yet."""
        row = await self.pool.fetchrow(
            "SELECT watermark, late_rows, ARRAY(SELECT start FROM drift.pane" + _WHERE + " ORDER BY start) AS starts"
            " FROM drift.pane_clock" + _WHERE,
            *watch.columns,
        )
        if row is None:
            return OpenPanes(starts=(), watermark=None, late_rows=0)
        return OpenPanes(starts=row["starts"], watermark=row["watermark"], late_rows=row["late_rows"])

    async def histograms(self, watch: WatchKey, starts: Iterable[int]) -> dict[int, PartialHistogram]:
        """The panes that exist among those."""
        return await _histograms(self.pool, watch, list(starts))

    async def closed(self, watch: WatchKey, *, watermark: int, forget: Sequence[int]) -> None:
        """All windows that end by the watermark are in events; panes without an open window go."""
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE drift.pane_clock SET closed_watermark = greatest(closed_watermark, $4)" + _WHERE,
                *watch.columns,
                watermark,
            )
            await connection.execute(
                "DELETE FROM drift.pane" + _WHERE + " AND start = ANY($4)", *watch.columns, list(forget)
            )

    async def behind(self) -> list[WatchKey]:
        """The watches whose watermark has moved since their windows were last closed."""
        rows = await self.pool.fetch(
            "SELECT system, plan, environment FROM drift.pane_clock"
            " WHERE watermark > coalesce(closed_watermark, 0) ORDER BY system, plan, environment"
        )
        return [WatchKey(**row) for row in rows]


async def _locked_clock(connection: asyncpg.Connection, watch: WatchKey) -> asyncpg.Record:
    await connection.execute(
        "INSERT INTO drift.pane_clock (system, plan, environment) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        *watch.columns,
    )
    return await connection.fetchrow("SELECT watermark FROM drift.pane_clock" + _WHERE + " FOR UPDATE", *watch.columns)


async def _taken_before(connection: asyncpg.Connection, watch: WatchKey, batch: CountedBatch) -> Taken | None:
    row = await connection.fetchrow(
        "SELECT fingerprint, accepted, late FROM drift.taken_batch" + _WHERE + " AND batch = $4",
        *watch.columns,
        batch.batch,
    )
    if row is None:
        return None
    if row["fingerprint"] != batch.fingerprint:
        raise BatchReused(
            f"The batch {batch.batch!r} was sent before with other rows.",
            why="A batch id names one set of rows, so that a repeat is counted once.",
            next_step="Send these rows under a new batch id.",
        )
    return Taken(accepted=row["accepted"], late=row["late"])


async def _histograms(
    connection: asyncpg.Pool | asyncpg.Connection, watch: WatchKey, starts: Sequence[int]
) -> dict[int, PartialHistogram]:
    rows = await connection.fetch(
        "SELECT start, profile, rows, counts FROM drift.pane" + _WHERE + " AND start = ANY($4)", *watch.columns, starts
    )
    return {
        row["start"]: PartialHistogram(
            profile=row["profile"], rows=row["rows"], counts=np.frombuffer(row["counts"], dtype="<i8").astype(np.int64)
        )
        for row in rows
    }


async def _merge_panes(connection: asyncpg.Connection, watch: WatchKey, panes: Mapping[int, PartialHistogram]) -> None:
    before = await _histograms(connection, watch, list(panes))
    merged = {
        start: merge_histograms(before[start], pane) if start in before else pane for start, pane in panes.items()
    }
    await connection.execute(
        "INSERT INTO drift.pane SELECT $1, $2, $3, new.* FROM unnest($4::bigint[], $5::text[], $6::bigint[], $7::bytea[])"
        " AS new (start, profile, rows, counts)"
        " ON CONFLICT (system, plan, environment, start) DO UPDATE SET rows = EXCLUDED.rows, counts = EXCLUDED.counts",
        *watch.columns,
        list(merged),
        [pane.profile for pane in merged.values()],
        [pane.rows for pane in merged.values()],
        [pane.counts.astype("<i8").tobytes() for pane in merged.values()],
    )


async def _remember_batch(
    connection: asyncpg.Connection, watch: WatchKey, batch: CountedBatch, taken: Taken, watermark: int
) -> None:
    await connection.execute(
        "INSERT INTO drift.taken_batch VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        *watch.columns,
        batch.batch,
        batch.fingerprint,
        taken.accepted,
        taken.late,
        batch.newest,
    )
    await connection.execute(
        "DELETE FROM drift.taken_batch" + _WHERE + " AND newest < $4 AND batch <> $5",
        *watch.columns,
        watermark - BATCH_MEMORY_S,
        batch.batch,
    )
