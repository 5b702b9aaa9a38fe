"""Reactions: what a service does because of an event of another one. Its effect is a command of its own, so never rebuilt.

The position is stored after the command. If the process dies in between, the event is seen again and the command is repeated
under the same idempotency key: at least once on the way, once in effect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from shared import tracing
from shared.command import CommandContext, TooMuchContention
from shared.dead_letters import bring_back, bury, letters_of
from shared.errors import Unavailable
from shared.event import Actor, RecordedEvent
from shared.event_store import IdempotencyKey
from shared.feed import PACE_SECONDS, Feed, without_holes
from shared.projection import BATCH_EVENTS_MAX, POISON, RETRY_SECONDS, NotThereYet, ProjectionRunner
from shared.trace_ids import in_trace_of

READER = "reaction"
PROJECTION_WAIT_SECONDS = 30.0
PASSING = (Unavailable, TooMuchContention)
"""Refusals that may not stand the next time."""
LOOK_AGAIN_SECONDS = 0.01

_log = logging.getLogger(__name__)

React = Callable[[RecordedEvent, CommandContext], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Reactions:
    """Follows the sources and calls `handlers[name]` with the event and the context of the command it causes.

    `at_step` is told each step, for tests.
    """

    service: str
    handlers: Mapping[str, React]
    sources: tuple[str, ...]
    pool: asyncpg.Pool
    feed: Feed
    projection: ProjectionRunner
    clock: Callable[[], datetime]
    at_step: Callable[[str], None] = lambda _: None

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
                    await self.feed.changed(service=source, after=await self.position(source))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, *PASSING) as error:
                _log.warning("%s cannot react to %s now: %s", self.service, source, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def advance(self, source: str) -> int:
        """Reacts to the next batch of the source; returns how many events that were."""
        after = await self.position(source)
        delivered = await self.feed.read(service=source, after=after, limit=BATCH_EVENTS_MAX)
        events = without_holes(delivered, after=after)
        for event in events:
            if event.name in self.handlers:
                with in_trace_of(event.raw), tracing.reacting(event, service=self.service):
                    await self._react(event)
        if events:
            await self._store_position(source, events[-1].position)
        return len(events)

    async def replay(self) -> None:
        """Reacts again to the events that are dead letters, in order; those that can be taken now are none any more.

        A reaction that was carried out has its key stored, so that it is not carried out twice.
        """
        for letter in await letters_of(self.pool, service=self.service):
            if letter.reader != READER or letter.source not in self.sources:
                continue
            # A feed may have nothing to give now: then the letter waits for the next time.
            for event in await self.feed.read(service=letter.source, after=letter.position - 1, limit=1):
                if event.name in self.handlers and await self._takes(event):
                    await bring_back(self.pool, letter)

    async def position(self, source: str) -> int:
        """The last event of the source that was reacted to."""
        position: int | None = await self.pool.fetchval(
            f"SELECT position FROM {self.service}.reaction_position WHERE source = $1", source
        )
        return position or 0

    async def wait(self, after: Mapping[str, int], *, timeout_s: float) -> None:
        """Returns once everything up to `after` has been reacted to (sources it does not follow are not waited for)."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        for source, at in after.items():
            while source in self.sources and await self.position(source) < at:
                if asyncio.get_running_loop().time() > deadline:
                    raise NotThereYet(
                        f"{self.service} has not yet reacted to {source}:{at}.",
                        why="Facts travel between services as events, which takes a moment.",
                        next_step="Send the same request again after the time in Retry-After.",
                    )
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _react(self, event: RecordedEvent) -> None:
        await self.projection.wait({event.service: event.position}, timeout_s=PROJECTION_WAIT_SECONDS)
        self.at_step("read")
        await self._takes(event)
        self.at_step("taken")
        await self._store_position(event.service, event.position)
        self.at_step("position stored")

    async def _takes(self, event: RecordedEvent) -> bool:
        """Whether the event could be taken; if not, it is a dead letter now."""
        try:
            await self.handlers[event.name](event, self._context(event))
        except PASSING:
            raise
        except POISON as error:
            async with self.pool.acquire() as connection:
                await bury(connection, service=self.service, event=event, reader=READER, error=error)
            return False
        return True

    def _context(self, event: RecordedEvent) -> CommandContext:
        content = event.content()
        subject = f"service:{self.service}"
        return CommandContext(
            actor=Actor(subject=subject, kind="service", issuer="prooftrail"),
            reason=f"{event.name} at {event.service}:{event.position}",
            at=self.clock(),
            correlation=content["correlation"],
            causation=content["id"],
            idempotency=IdempotencyKey(
                subject=subject, key=f"reaction:{event.service}:{event.position}", fingerprint=event.leaf_hash
            ),
        )

    async def _store_position(self, source: str, position: int) -> None:
        await self.pool.execute(
            f"INSERT INTO {self.service}.reaction_position AS r (source, position) VALUES ($1, $2)"
            " ON CONFLICT (source) DO UPDATE SET position = greatest(r.position, EXCLUDED.position)",
            source,
            position,
        )
