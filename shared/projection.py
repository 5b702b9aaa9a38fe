"""Projections: tables that a service folds from its own events and from those of others, and can throw away at any time.

The tables of a service's projection live in the schema `<service>_projection`. Positions are stored in the same transaction as
the effect. A row is written by the events of one source only, so that the order between sources never matters: a rebuild gives
the same state. A rebuild fills `<service>_projection_new` beside the old tables and switches in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from shared import tracing
from shared.advisory_lock import advisory_lock
from shared.dead_letters import bury
from shared.effects import Effects
from shared.errors import ProoftrailError, Unavailable
from shared.event import RecordedEvent, digest_of
from shared.feed import PACE_SECONDS, Feed, FeedAway, without_holes
from shared.past_feed import PastFeed

BATCH_EVENTS_MAX = 2_000
RETRY_SECONDS = 1.0
ROWS_FETCHED = 1_000

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the source, the events done and the events to do."""


class Projection(Protocol):
    """What a service keeps of the events of its sources."""

    service: str
    sources: Sequence[str]
    tables_sql: str

    async def apply(self, effects: Effects, event: RecordedEvent) -> None:
        """The effect of one event on the tables; unknown events have none."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What a projection holds at these positions of its sources, as a digest: hex SHA-256."""

    positions: Mapping[str, int]
    digest: str


class NotThereYet(Unavailable):
    """The read copy has not reached the position that `after` asks for."""


class SourceLost(FeedAway):
    """A source tells nothing any more of what it has told before. It may pass: its relay fills a topic again."""


POISON = (
    ProoftrailError, ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    asyncpg.CardinalityViolationError, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)  # fmt: skip
"""What an event makes a reader raise. Anything else comes from the surroundings and may pass, so the event is tried again."""

_POSITIONS_SQL = """
CREATE TABLE position (source text PRIMARY KEY, position bigint NOT NULL);
CREATE TABLE version (digest text NOT NULL);
"""


class ProjectionRunner:
    """Keeps one projection up to date, live and in a rebuild by the same code. `at_step` is told each step, for tests."""

    def __init__(
        self, *, pool: asyncpg.Pool, feed: Feed, projection: Projection, at_step: Callable[[str], None] = lambda _: None
    ) -> None:
        self._pool = pool
        self._at_step = at_step
        self._feed = feed
        self._projection = projection
        self._schema = f"{projection.service}_projection"
        self._moved = asyncio.Condition()
        self._reached: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The schema that holds the tables."""
        return self._schema

    async def catch_up(self) -> None:
        """Applies everything that can be read now, for when no follower runs."""
        for source in self._projection.sources:
            while await self._advance(source):
                pass

    async def prepare(self, progress: Progress | None = None) -> bool:
        """Creates the tables, or rebuilds them if this version of the code has other ones; True if it rebuilt."""
        if await self._is_current():
            return False
        async with self._rebuilding() as connection:
            if await self._is_current():
                return False
            await self._rebuild(connection, progress)
        return True

    async def _is_current(self) -> bool:
        exists = await self._pool.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{self._schema}.version")
        return bool(exists) and await self._pool.fetchval(f"SELECT digest FROM {self._schema}.version") == self._digest

    @property
    def _digest(self) -> str:
        return digest_of((self._projection.tables_sql + ",".join(self._projection.sources)).encode())

    async def run(self) -> None:
        """Runs for ever: one follower a source."""
        async with asyncio.TaskGroup() as group:
            for source in self._projection.sources:
                group.create_task(self._follow(source))

    async def _follow(self, source: str) -> None:
        while True:
            try:
                events = await self._advance(source)
                if events:
                    self._reached[source] = events[-1].position
                    async with self._moved:
                        self._moved.notify_all()
                await asyncio.sleep(PACE_SECONDS)
                if len(events) < BATCH_EVENTS_MAX:
                    position = events[-1].position if events else (await self.positions()).get(source, 0)
                    await self._feed.changed(service=source, after=position)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("%s cannot follow %s now: %s", self._schema, source, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _advance(self, source: str) -> Sequence[RecordedEvent]:
        """Applies the next batch of the source and returns it."""
        began = tracing.now()
        async with self._pool.acquire() as connection:
            events = await self._advance_in(self._schema, connection, source)
        tracing.told_taken(events, verb="project", service=self._projection.service, began=began)
        return events

    async def _advance_in(self, schema: str, connection: asyncpg.Connection, source: str) -> Sequence[RecordedEvent]:
        position = await connection.fetchval(f"SELECT position FROM {schema}.position WHERE source = $1", source)
        # Once: a feed that had to wait for these may not have them at once a second time.
        delivered = await self._feed.read(service=source, after=position, limit=BATCH_EVENTS_MAX)
        self._at_step("read")
        try:
            return await self._apply_batch(schema, connection, source, delivered)
        except POISON:
            _log.exception("a batch of %s failed in %s; going on event by event", source, schema)
        return await self._apply_or_bury_each(schema, connection, source, delivered)

    async def _apply_batch(
        self, schema: str, connection: asyncpg.Connection, source: str, delivered: Sequence[RecordedEvent]
    ) -> Sequence[RecordedEvent]:
        async with connection.transaction():
            events = await self._next_of(delivered, schema, connection, source)
            effects = Effects(connection)
            for event in events:
                await self._projection.apply(effects, event)
            self._at_step("applied")
            await effects.settle()
            self._at_step("settled")
            await self._store_position(connection, source, events)
            self._at_step("position stored")
        self._at_step("committed")
        return events

    async def _apply_or_bury_each(
        self, schema: str, connection: asyncpg.Connection, source: str, delivered: Sequence[RecordedEvent]
    ) -> Sequence[RecordedEvent]:
        """The same batch, where poison goes to the dead letters and the projection goes on without it."""
        async with connection.transaction():
            events = await self._next_of(delivered, schema, connection, source)
            for event in events:
                try:
                    async with connection.transaction():
                        effects = Effects(connection)
                        await self._projection.apply(effects, event)
                        await effects.settle()
                except POISON as error:
                    await bury(
                        connection, service=self._projection.service, event=event, reader="projection", error=error
                    )
            self._at_step("buried")
            await self._store_position(connection, source, events)
        return events

    async def _next_of(
        self, delivered: Sequence[RecordedEvent], schema: str, connection: asyncpg.Connection, source: str
    ) -> Sequence[RecordedEvent]:
        """Those after the position, which stays locked until the transaction ends: nobody else applies them."""
        await connection.execute(f"SET LOCAL search_path = {schema}, {self._projection.service}")
        position = await connection.fetchval("SELECT position FROM position WHERE source = $1 FOR UPDATE", source)
        return without_holes(delivered, after=position)

    async def _store_position(
        self, connection: asyncpg.Connection, source: str, events: Sequence[RecordedEvent]
    ) -> None:
        if events:
            await connection.execute("UPDATE position SET position = $2 WHERE source = $1", source, events[-1].position)

    async def positions(self) -> dict[str, int]:
        """How far the projection has read each source."""
        return dict(await self._pool.fetch(f"SELECT source, position FROM {self._schema}.position"))

    async def wait(self, after: Mapping[str, int], *, timeout_s: float) -> None:
        """Returns once the projection has read up to `after` (sources it does not read are not waited for)."""
        sources = self._projection.sources
        wanted = {source: at for source, at in after.items() if source in sources and self._reached.get(source, 0) < at}
        deadline = asyncio.get_running_loop().time() + timeout_s
        while wanted:
            positions = await self.positions()
            wanted = {source: at for source, at in wanted.items() if positions.get(source, 0) < at}
            left = deadline - asyncio.get_running_loop().time()
            if wanted and left <= 0:
                raise NotThereYet(
                    f"{self._projection.service} has not yet read "
                    + ", ".join(f"{s}:{p}" for s, p in wanted.items())
                    + ".",
                    why="Facts travel between services as events, which takes a moment.",
                    next_step="Send the same request again after the time in Retry-After.",
                )
            if wanted:
                await self._wait_for_move(min(left, 0.25))

    async def _wait_for_move(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait()
        except TimeoutError:
            return

    async def rebuild(self, progress: Progress | None = None) -> None:
        """Throws the tables away: builds new ones beside them from position 0 and switches in one transaction."""
        async with self._rebuilding() as connection:
            await self._rebuild(connection, progress)

    @contextlib.asynccontextmanager
    async def _rebuilding(self) -> AsyncIterator[asyncpg.Connection]:
        """One rebuild at a time, whichever process does it."""
        async with self._pool.acquire() as connection, advisory_lock(connection, f"{self._schema}.rebuild"):
            yield connection

    async def _rebuild(self, connection: asyncpg.Connection, progress: Progress | None) -> None:
        building, retired = f"{self._schema}_new", f"{self._schema}_old"
        await self._require_told_sources(connection)
        began = await connection.fetchval("SELECT clock_timestamp()")
        await self._create(building, connection)
        self._at_step("new tables made")
        await self._replay(building, connection, progress)
        self._at_step("replayed")
        async with connection.transaction():
            await connection.execute(f"DROP SCHEMA IF EXISTS {retired} CASCADE")
            if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{self._schema}.position"):
                # Followers now stand still, so that nobody who has read the old tables finds less in the new ones.
                await connection.execute(f"LOCK TABLE {self._schema}.position IN ACCESS EXCLUSIVE MODE")
                await self._replay(building, connection, None)
                await connection.execute(f"ALTER SCHEMA {self._schema} RENAME TO {retired}")
            await connection.execute(f"ALTER SCHEMA {building} RENAME TO {self._schema}")
            # What could be read this time is no dead letter any more; what could not was buried again just now.
            await connection.execute(
                f"DELETE FROM {self._projection.service}.dead_letter WHERE reader = 'projection' AND recorded_at < $1",
                began,
            )
            self._at_step("switching")
        self._at_step("switched")
        await connection.execute(f"DROP SCHEMA IF EXISTS {retired} CASCADE")

    async def _require_told_sources(self, connection: asyncpg.Connection) -> None:
        """Tables that hold a source's events stay while the source tells none, as one does whose topic was deleted."""
        if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{self._schema}.position"):
            return
        for source, position in await connection.fetch(f"SELECT source, position FROM {self._schema}.position"):
            if position and not await self._feed.head(service=source):
                raise SourceLost(f"{source} told {position} events before and tells none now")

    async def _create(self, schema: str, connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
            await connection.execute(f"SET LOCAL search_path = {schema}")
            await connection.execute(_POSITIONS_SQL + self._projection.tables_sql)
            await connection.execute("INSERT INTO version VALUES ($1)", self._digest)
            await connection.executemany(
                "INSERT INTO position VALUES ($1, 0)", [(source,) for source in self._projection.sources]
            )

    async def _replay(self, schema: str, connection: asyncpg.Connection, progress: Progress | None) -> None:
        """Applies what every source has by now."""
        for source in self._projection.sources:
            head = await self._feed.head(service=source)
            done = await connection.fetchval(f"SELECT position FROM {schema}.position WHERE source = $1", source)
            while done < head:
                done += len(await self._advance_in(schema, connection, source))
                if progress is not None:
                    progress(source, done, head)

    async def state(self) -> State:
        """Positions and digest of one moment: hex SHA-256 over all rows of all tables, each table in an order of its own."""
        digest = hashlib.sha256()
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            positions = dict(await connection.fetch(f"SELECT source, position FROM {self._schema}.position"))
            tables = await connection.fetch(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = $1 ORDER BY table_name",
                self._schema,
            )
            for (table,) in tables:
                digest.update(f"{table}\n".encode())
                rows = f'SELECT t::text FROM {self._schema}.{table} t ORDER BY t::text COLLATE "C"'
                async for (row,) in connection.cursor(rows, prefetch=ROWS_FETCHED):
                    text = row.encode()
                    digest.update(len(text).to_bytes(8) + text)
        return State(positions=positions, digest=digest.hexdigest())

    async def state_digest(self) -> str:
        """Hex SHA-256 of the state: equal state, equal digest."""
        return (await self.state()).digest

    async def replayed(self, positions: Mapping[str, int], progress: Progress | None = None) -> State:
        """The state that the events up to these positions make, folded from the first one in tables that are dropped again.

        The tables at work are not touched: if the digest of `state` at the same positions is another one, somebody changed a row.
        """
        past = PastFeed(feed=self._feed, positions=positions)
        folding = ProjectionRunner(pool=self._pool, feed=past, projection=self._projection, at_step=self._at_step)
        schema = folding._schema = f"{self._schema}_replayed"
        async with self._pool.acquire() as connection, advisory_lock(connection, f"{schema}.rebuild"):
            await folding._create(schema, connection)
            await folding._replay(schema, connection, progress)
            state = await folding.state()
            await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        return state
