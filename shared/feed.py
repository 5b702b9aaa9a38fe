"""The feed: events of every service by position. Embedded it reads the stores; a cluster puts another reader behind the port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import asyncpg

from shared.database_connection import DatabaseConnection
from shared.event import RecordedEvent
from shared.event_store import read_events, read_head

POLL_SECONDS = 1.0
"""How late a change is noticed at most when no notification reaches us."""

PACE_SECONDS = 0.02
"""How long a follower rests after a batch before it takes the next one, so that under load many events share one transaction."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """How a service is doing: its last position, and up to where it has reacted to each source.

    `at` is when it was last alive, in the year 1 if it never was.
    """

    at: datetime
    head: int
    reacted: Mapping[str, int]


class FeedAway(ConnectionError):
    """What the feed is read from does not answer. It may pass: the stores keep everything until then."""


class Feed(Protocol):
    """Events of the services in order of position, at least once. Reading may raise OSError, such as FeedAway."""

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        """Up to `limit` events of the service above `after`, in order and without holes."""

    async def changed(self, *, service: str, after: int) -> None:
        """Returns when the service has events above `after`, at most POLL_SECONDS late."""

    async def head(self, *, service: str) -> int:
        """The last position of the service that can be read now."""

    async def pulse(self, *, service: str) -> Pulse:
        """How the service is doing, as far as it is known here."""

    async def listen(self) -> None:
        """Runs for ever: wakes those who wait in `changed`."""


class HoleInFeed(ConnectionError):
    """Something was delivered, but not what comes next."""


def without_holes(events: Sequence[RecordedEvent], *, after: int) -> list[RecordedEvent]:
    """The events above `after` in order of position, each once, up to the first that is missing.

    Whoever follows a feed takes these only: what was delivered twice has no second effect. Raises HoleInFeed if all there is lies
    beyond a missing one, which is waited for: to go on without it would lose its effect for ever.
    """
    whole: list[RecordedEvent] = []
    for event in sorted(events, key=lambda one: one.position):
        if event.position == after + len(whole) + 1:
            whole.append(event)
    if not whole and any(event.position > after for event in events):
        raise HoleInFeed(f"{events[0].service} has a hole after position {after}")
    return whole


class StoreFeed:
    """Reads the stores of services that share one database; woken by NOTIFY, with polling as the fallback."""

    def __init__(self, *, pool: asyncpg.Pool, dsn: str) -> None:
        self._pool = pool
        self._dsn = dsn
        self._signals: dict[str, asyncio.Event] = {}
        self._heads: dict[str, int] = {}
        self._looking = asyncio.Lock()
        self._looked_at = 0.0

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        return await read_events(self._pool, service=service, after=after, limit=limit)

    async def changed(self, *, service: str, after: int) -> None:
        while self._heads.get(service, 0) <= after:
            signal = self._signals.setdefault(service, asyncio.Event())
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the signal.
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await signal.wait()
            except TimeoutError:
                await self._look()

    async def _look(self) -> None:
        """Reads the heads of all services that somebody waits for: one of those whose time is up does it for the others."""
        began = asyncio.get_running_loop().time()
        async with self._looking:
            if self._looked_at >= began - POLL_SECONDS / 2:
                return
            services = sorted(self._signals)
            heads = " UNION ALL ".join(f"SELECT '{name}' AS service, position FROM {name}.head" for name in services)
            for row in await self._pool.fetch(heads) if services else ():
                self._advance(row["service"], row["position"])
            self._looked_at = asyncio.get_running_loop().time()

    async def head(self, *, service: str) -> int:
        return await read_head(self._pool, service=service)

    async def pulse(self, *, service: str) -> Pulse:
        rows = await self._pool.fetch(
            "SELECT p.at, h.position AS head, r.source, r.position"
            f" FROM {service}.pulse p CROSS JOIN {service}.head h LEFT JOIN {service}.reaction_position r ON true"
        )
        at: datetime = rows[0]["at"]
        return Pulse(
            at=at if at.tzinfo else at.replace(tzinfo=UTC),  # the driver reads -infinity without a zone
            head=rows[0]["head"],
            reacted={row["source"]: row["position"] for row in rows if row["source"] is not None},
        )

    async def listen(self) -> None:
        """Runs for ever: turns notifications of the stores into wake-ups, and reconnects when the connection breaks."""
        while True:
            try:
                await self._listen_once()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("the feed lost its connection and falls back to polling: %s", error)
            await asyncio.sleep(POLL_SECONDS)

    async def _listen_once(self) -> None:
        connection = await asyncpg.connect(self._dsn, connection_class=DatabaseConnection)
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        try:
            await connection.add_listener("prooftrail_appended", self._wake)
            await closed.wait()
        finally:
            await connection.end()

    def _wake(self, _connection: object, _process: int, _channel: str, payload: str) -> None:
        service, _, position = payload.partition(":")
        self._advance(service, int(position))

    def _advance(self, service: str, position: int) -> None:
        if position > self._heads.get(service, 0):
            self._heads[service] = position
            self._signals.pop(service, asyncio.Event()).set()
