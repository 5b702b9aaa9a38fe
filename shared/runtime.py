"""What a service is built from, and what it gives back: the only things that main.py of a service sees."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from fastapi import APIRouter

from shared import erasure
from shared.access import Access
from shared.database_connection import DatabaseConnection
from shared.database_roles import Logins
from shared.directory import Directory, Names, SplitNames, TableNames
from shared.erasure import DECIDED, Eraser
from shared.event import EventMapper, Fact
from shared.event_store import PostgresEventStore
from shared.feed import Feed
from shared.figures import Measure, Measuring
from shared.http_doors import Doors
from shared.identity import TokenVerifier
from shared.kept_erasures import KeptErasures
from shared.log.deployment import Logs
from shared.log.service_log import ServiceLog
from shared.log.tiles import LogTiles
from shared.log.upkeep import record_statements
from shared.migrations import STORE_SCRIPTS, Migration, migrate, scripts_in
from shared.projection import Progress, Projection, ProjectionRunner
from shared.reaction import Reactions
from shared.settings import Settings
from shared.webhooks.registry import forget_webhooks

POOL_CONNECTIONS_MAX = 4
PULSE_SECONDS = 2.0


def utc_now() -> datetime:
    """The clock of the edge: now, aware, in UTC."""
    return datetime.now(UTC)


async def migrate_service(database_url: str, *, service: str, scripts: Path | None = None) -> list[str]:
    """Brings the schema of one service to this version: the store's scripts, then its own; returns what was applied."""
    connection = await asyncpg.connect(database_url)
    try:
        return await migrate(connection, service=service, migrations=migrations_of(scripts))
    finally:
        await connection.close()


def migrations_of(scripts: Path | None) -> list[Migration]:
    """The store's scripts, then those of the service itself."""
    return scripts_in(STORE_SCRIPTS, *([scripts] if scripts else []))


async def open_pool(
    database_url: str, *, connections_max: int, application_name: str, search_path: str = "public"
) -> asyncpg.Pool:
    """Connections that are given back as they are: what is set on one is set for a transaction only (SET LOCAL).

    The driver's own reset is a second round trip after each statement. Nothing here runs long enough to be worth compiling (jit),
    which PostgreSQL would do for queries over ranges that it cannot estimate.
    """

    async def leave_as_it_is(_connection: object) -> None:
        return

    return await asyncpg.create_pool(
        database_url,
        min_size=1,
        max_size=connections_max,
        connection_class=DatabaseConnection,
        reset=leave_as_it_is,
        server_settings={"search_path": search_path, "application_name": application_name, "jit": "off"},
    )


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The outside world of a service. `executor` runs work that burns CPU, apart from the event loop.

    `services` are the names of all services of the deployment, also of those that run elsewhere. `forget` makes the issuer of the
    embedded mode forget the name of an erased subject. `own` are the services of this process, and `far_names` the names of the
    others where they have databases of their own.
    """

    settings: Settings
    logins: Logins
    feed: Feed
    verifier: TokenVerifier
    executor: Executor
    services: tuple[str, ...]
    logs: Logs
    clock: Callable[[], datetime] = utc_now
    forget: Callable[[str], object] = lambda _subject: None
    feed_readers: frozenset[str] = frozenset()
    own: tuple[str, ...] = ()
    far_names: Any = None

    def names(self, pool: asyncpg.Pool) -> Names:
        """The printed names of all services: in the tables, or, of those that run elsewhere, in what Kafka tells of them."""
        if self.far_names is None:
            return TableNames(pool=pool, services=self.services)
        return SplitNames(near=TableNames(pool=pool, services=self.own), far=self.far_names)

    @property
    def database_url(self) -> str:
        """The owner's address, who may do everything: a service connects with its own of `logins`."""
        return self.logins.owner

    async def prepare(
        self,
        *,
        service: str,
        fact_types: Iterable[type[Fact]],
        projection: Projection,
        progress: Progress | None = None,
    ) -> Foundation:
        """Opens the pool and brings the projection's tables to this version; the schemas of all sources are migrated before."""
        pool = await open_pool(
            self.logins.url(service),
            connections_max=POOL_CONNECTIONS_MAX,
            application_name=f"prooftrail {service}",
            search_path=f"{service}_projection,{service}",
        )
        runner = ProjectionRunner(pool=pool, feed=self.feed, projection=projection)
        await runner.prepare(progress)
        log = self.logs.open(service=service, pool=pool, dsn=self.logins.url(service), feed=self.feed)
        store = PostgresEventStore(pool=pool, service=service, mapper=EventMapper(fact_types), promiser=log.promise)
        await log.check()
        if log.sealer.refusal is None:
            await record_statements(store, log.signer, clock=self.clock)
        directory = Directory(pool=pool, service=service, new_salt=lambda: secrets.token_hex(16))
        eraser = self._eraser(service, pool, store, directory)
        await eraser.erase_again()
        return Foundation(
            service=service,
            pool=pool,
            store=store,
            log=log,
            projection=runner,
            access=Access(pool=pool, service=service),
            directory=directory,
            measuring=Measuring(
                service=service,
                pool=pool,
                feed=self.feed,
                reaction_sources=(erasure.SOURCE,),
                every_s=self.settings.measure_s,
            ),
            eraser=eraser,
            erasures=self._erasures(eraser, pool, runner),
        )

    def _eraser(self, service: str, pool: asyncpg.Pool, store: PostgresEventStore, directory: Directory) -> Eraser:
        return Eraser(
            service=service,
            directory=directory,
            store=store,
            pool=pool,
            kept=KeptErasures(self.logs.folder / service),
            forget=self.forget,
            forget_webhooks=partial(forget_webhooks, pool=pool, service=service),
            clock=self.clock,
        )

    def _erasures(self, eraser: Eraser, pool: asyncpg.Pool, runner: ProjectionRunner) -> Reactions:
        return Reactions(
            service=eraser.service,
            handlers={DECIDED: eraser.erase},
            sources=(erasure.SOURCE,),
            pool=pool,
            feed=self.feed,
            projection=runner,
            clock=self.clock,
        )

    def doors(
        self,
        foundation: Foundation,
        *,
        reactions: Reactions | None = None,
        wait: Callable[[Mapping[str, int]], Awaitable[None]] | None = None,
    ) -> Doors:
        """The HTTP door of a service on this foundation.

        A request waits until its `after` is in the projection, in whatever else `wait` waits for, and, with `reactions`, until what
        it caused here is there too.
        """
        timeout_s = self.settings.after_timeout_s

        async def wait_for_copies(after: Mapping[str, int]) -> None:
            await foundation.projection.wait(after, timeout_s=timeout_s)
            if wait is not None:
                await wait(after)
            if reactions is not None and any(source in reactions.sources for source in after):
                await reactions.wait(after, timeout_s=timeout_s)
                await foundation.projection.wait(
                    {foundation.service: await foundation.store.head()}, timeout_s=timeout_s
                )

        return Doors(
            service=foundation.service,
            verifier=self.verifier,
            directory=foundation.directory,
            clock=self.clock,
            wait=wait_for_copies,
            sign_in_max_age_s=self.settings.sign_in_max_age_s,
            feed_readers=self.feed_readers,
        )


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """The persistence of one service, ready to use."""

    service: str
    pool: asyncpg.Pool
    store: PostgresEventStore
    log: ServiceLog
    projection: ProjectionRunner
    access: Access
    directory: Directory
    eraser: Eraser
    erasures: Reactions
    measuring: Measuring


class Rebuildable(Protocol):
    """State that is folded from events, so that it can be thrown away and must come out the same."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    async def catch_up(self) -> None:
        """Reads everything there is."""

    async def rebuild(self, progress: Progress | None = None) -> None:
        """Folds it again from the first event."""

    async def state_digest(self) -> str:
        """Hex SHA-256 of the state."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service that was built: its routes, what must run for as long as it serves, and what else takes dead letters again."""

    name: str
    foundation: Foundation
    application: Any
    routers: tuple[APIRouter, ...]
    background: tuple[Callable[[], Awaitable[None]], ...] = ()
    reactions: tuple[Reactions, ...] = ()
    folds: tuple[Rebuildable, ...] = ()
    measures: tuple[Measure, ...] = ()
    replays: tuple[Callable[[], Awaitable[None]], ...] = ()

    @property
    def signs(self) -> bool:
        """Whether records of this service wait for signatures."""
        return hasattr(self.application, "awaiting_signature")

    @property
    def rebuildable(self) -> tuple[Rebuildable, ...]:
        """Everything of this service that `prooftrail rebuild` throws away and folds again."""
        tiles = LogTiles(pool=self.foundation.pool, service=self.name)
        return (self.foundation.projection, *self.folds, tiles)

    async def run(self) -> None:
        """Runs the projection and the background work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.foundation.projection.run())
            group.create_task(_beat(self.foundation.pool, self.name))
            group.create_task(self.foundation.log.run())
            group.create_task(self.foundation.eraser.record_again())
            group.create_task(self.foundation.erasures.run())
            group.create_task(self.foundation.measuring.run(*self.measures))
            for reactions in self.reactions:
                group.create_task(reactions.run())
            for work in self.background:
                group.create_task(_awaiting(work))

    async def close(self) -> None:
        """Answers what was taken and gives the connections back."""
        await self.foundation.store.close()
        await self.foundation.pool.close()


async def _beat(pool: asyncpg.Pool, service: str) -> None:
    """Says every PULSE_SECONDS that the service is alive."""
    while True:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await pool.execute(f"UPDATE {service}.pulse SET at = clock_timestamp()")
        await asyncio.sleep(PULSE_SECONDS)


async def _awaiting(work: Callable[[], Awaitable[None]]) -> None:
    await work()
