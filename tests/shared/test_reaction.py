"""Reactions: at least once on the way, once in effect, and never stuck behind an event that cannot be taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import asyncpg
import pytest

from shared import feed as feed_module, reaction as reaction_module
from shared.command import Change, CommandContext, TooMuchContention, execute
from shared.dead_letters import letters_of
from shared.errors import Refused, Unavailable
from shared.event import Event, EventMapper, Fact, RecordedEvent
from shared.event_store import PostgresEventStore
from shared.projection import ProjectionRunner
from shared.reaction import React, Reactions
from tests.shared.conftest import Stores
from tests.shared.counting import POISONS, READER, SOURCES, Counted, Counter, Ignored, Poisoned, Tally, poison

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
PATIENCE_S = 60.0
"""How long a test waits for what must come; nothing is measured."""


class Echoed(Fact, frozen=True, kw_only=True):
    """What the reader does because of a Counted event."""

    TOPIC: ClassVar[str] = "drift.echoed"
    number: int


class ProcessEnded(BaseException):
    """The process ends here: nothing after it runs."""


class EchoRefused(Refused):
    """A rule of the domain."""


@dataclass
class Echo:
    """Answers every number with an event in a stream of its own; `raises` are what it raises on the way, first to last."""

    stores: Stores
    projection: ProjectionRunner
    after_the_command: list[BaseException] = field(default_factory=list)
    before_the_command: list[BaseException] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)

    @property
    def store(self) -> PostgresEventStore:
        return PostgresEventStore(pool=self.stores.pool, service=READER, mapper=EventMapper([Echoed]))

    async def take(self, event: RecordedEvent, context: CommandContext) -> None:
        number = event.content()["data"]["number"]
        self.seen.append(number)
        if self.before_the_command:
            raise self.before_the_command.pop(0)
        await execute(self.store, context, Change(f"echo:s/{number}", evolve, lambda state: (Echoed(number=number),)))
        if self.after_the_command:
            raise self.after_the_command.pop(0)

    async def take_poison(self, event: RecordedEvent, context: CommandContext) -> None:
        async with self.stores.pool.acquire() as connection:
            await connection.execute(f"SET search_path = {READER}_projection")
            await poison(connection, event.content()["data"]["how"])

    def reactions(self) -> Reactions:
        """A process that reacts; each one is a new process, as after a crash."""
        handlers: dict[str, React] = {Counted.TOPIC: self.take, Poisoned.TOPIC: self.take_poison}
        return Reactions(
            service=READER,
            handlers=handlers,
            sources=SOURCES[:1],
            pool=self.stores.pool,
            feed=self.stores.feed,
            projection=self.projection,
            clock=lambda: NOW,
        )

    async def echoes(self) -> Sequence[Event]:
        """All effects, in order."""
        recorded = await self.store.read(after=0, limit=1000)
        return [event for one in recorded for event in await self.store.load(one.stream)]

    async def numbers(self) -> list[int]:
        return [event.data.number for event in await self.echoes() if isinstance(event.data, Echoed)]


def evolve(state: int | None, fact: Fact) -> int:
    return (state or 0) + 1


@pytest.fixture
async def echo(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Echo]:
    """A reader whose own projection follows too, and which does not rest long."""
    monkeypatch.setattr(reaction_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.01)
    async with asyncpg.create_pool(stores.url, min_size=1, max_size=4) as pool:
        runner = ProjectionRunner(pool=pool, feed=stores.feed, projection=Tally(sources=SOURCES[:1]))
        await runner.prepare()
        async with at_work(runner.run()):
            yield Echo(stores=stores, projection=runner)


@contextlib.asynccontextmanager
async def at_work(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The work in the background until the block ends; it must not have ended by itself."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def until(reactions: Reactions, position: int) -> None:
    """Returns once the source was reacted to up to the position."""
    async with asyncio.timeout(PATIENCE_S):
        while await reactions.position(SOURCES[0]) < position:  # noqa: ASYNC110 -- the position is in the database
            await asyncio.sleep(0.01)


async def test_an_event_causes_one_command_that_tells_its_cause(echo: Echo) -> None:
    """Who acted, because of which event, in which story, and at the time of the clock that was given."""
    counter = echo.stores.counter
    await counter.tell(Counted(number=7), Ignored(), Counted(number=8))
    assert await echo.reactions().advance(SOURCES[0]) == 3
    first, second = await echo.echoes()
    assert await echo.numbers() == [7, 8]
    cause = (await counter.store.read(after=0, limit=1))[0].content()
    assert (first.actor.subject, first.actor.kind) == (f"service:{READER}", "service")
    assert (first.causation, first.correlation) == (cause["id"], cause["correlation"])
    assert first.causation != second.causation
    assert "requirements.counted at requirements:1" in first.reason
    assert await echo.reactions().position(SOURCES[0]) == 3


async def test_a_crash_between_command_and_position_has_one_effect(echo: Echo) -> None:
    """The event is seen again, and its command finds that it was answered before."""
    await echo.stores.counter.count(1, 2, 3)
    echo.after_the_command = [ProcessEnded()]
    for _ in range(3):
        with contextlib.suppress(ProcessEnded):
            await echo.reactions().advance(SOURCES[0])
    assert echo.seen == [1, 1, 2, 3]
    assert await echo.numbers() == [1, 2, 3]
    assert await echo.stores.dead_letters() == []


async def test_a_crash_before_the_command_loses_nothing(echo: Echo) -> None:
    """The event is seen again."""
    await echo.stores.counter.count(1, 2)
    echo.before_the_command = [ProcessEnded()]
    for _ in range(2):
        with contextlib.suppress(ProcessEnded):
            await echo.reactions().advance(SOURCES[0])
    assert await echo.numbers() == [1, 2]


async def test_two_processes_that_react_have_one_effect(echo: Echo) -> None:
    """Both see everything; each command is carried out once."""
    one, other = echo.reactions(), echo.reactions()
    async with at_work(one.run()), at_work(other.run()):
        counter: Counter = echo.stores.counter
        for number in range(40):
            await counter.count(number)
        await until(one, 40)
        await until(other, 40)
    assert await echo.numbers() == list(range(40))
    assert await echo.stores.dead_letters() == []


async def test_a_refused_command_goes_to_the_dead_letters_and_the_rest_goes_on(echo: Echo) -> None:
    """A rule of the domain will not change by asking again."""
    await echo.stores.counter.count(1, 2)
    echo.before_the_command = [EchoRefused("Not this one.")]
    await echo.reactions().advance(SOURCES[0])
    assert await echo.stores.dead_letters() == [("requirements", 1, "reaction", "EchoRefused: Not this one.")]
    assert await echo.numbers() == [2]


async def test_poison_does_not_end_the_follower(echo: Echo) -> None:
    """Whatever an event makes a handler raise, the next event is reacted to."""
    counter = echo.stores.counter
    for number, how in enumerate(POISONS):
        await counter.tell(Poisoned(how=how), Counted(number=number))
    reactions = echo.reactions()
    async with at_work(reactions.run()):
        await until(reactions, 2 * len(POISONS))
    assert await echo.numbers() == list(range(len(POISONS)))
    letters = [letter[:3] for letter in await echo.stores.dead_letters() if letter[2] == "reaction"]
    assert letters == [("requirements", position, "reaction") for position in range(1, 2 * len(POISONS), 2)]


@pytest.mark.parametrize("passing", [Unavailable("Not now."), TooMuchContention("Others were faster.")])
async def test_what_may_pass_is_tried_again(echo: Echo, passing: Exception) -> None:
    """Nothing is buried that could still be done."""
    await echo.stores.counter.count(1, 2)
    echo.before_the_command = [passing]
    reactions = echo.reactions()
    async with at_work(reactions.run()):
        await until(reactions, 2)
    assert (echo.seen, await echo.numbers()) == ([1, 1, 2], [1, 2])
    assert await echo.stores.dead_letters() == []


async def test_the_own_projection_has_seen_the_event_first(echo: Echo) -> None:
    """A handler that looks into its read copies finds the event that it reacts to."""
    found: list[int | None] = []

    async def look(event: RecordedEvent, context: CommandContext) -> None:
        found.append(
            await echo.stores.pool.fetchval(
                f"SELECT count(*) FROM {READER}_projection.applied WHERE position = $1", event.position
            )
        )

    reactions = Reactions(
        service=READER,
        handlers={Counted.TOPIC: look},
        sources=SOURCES[:1],
        pool=echo.stores.pool,
        feed=echo.stores.feed,
        projection=echo.projection,
        clock=lambda: NOW,
    )
    counter = echo.stores.counter
    async with at_work(reactions.run()):
        for number in range(20):
            await counter.count(number)
        await until(reactions, 20)
    assert found == [1] * 20


async def test_a_reaction_that_was_mended_is_replayed_once(echo: Echo) -> None:
    """What could not be taken then is taken now, in order; what still cannot be stays, with its newest reason."""
    counter = echo.stores.counter
    await counter.tell(Counted(number=1), Counted(number=2), Counted(number=3), Counted(number=4))
    echo.before_the_command = [ValueError("first"), ValueError("second")]
    assert await echo.reactions().advance(SOURCES[0]) == 4
    assert await echo.numbers() == [3, 4]
    echo.before_the_command = [EchoRefused("still not")]
    await echo.reactions().replay()
    (left,) = await letters_of(echo.stores.pool, service=READER)
    assert (left.source, left.position, left.reader) == (SOURCES[0], 1, "reaction")
    assert left.error.startswith("EchoRefused")
    assert await echo.numbers() == [3, 4, 2]
    await echo.reactions().replay()
    assert await letters_of(echo.stores.pool, service=READER) == []
    await echo.reactions().replay()
    assert await echo.numbers() == [3, 4, 2, 1]


async def test_a_replay_that_ends_after_its_effect_has_it_once(echo: Echo) -> None:
    """The command is under its key, and the letter goes the next time."""
    await echo.stores.counter.tell(Counted(number=1))
    echo.before_the_command = [ValueError("poison")]
    await echo.reactions().advance(SOURCES[0])
    echo.after_the_command = [ProcessEnded()]
    with pytest.raises(ProcessEnded):
        await echo.reactions().replay()
    assert len(await letters_of(echo.stores.pool, service=READER)) == 1
    await echo.reactions().replay()
    assert await letters_of(echo.stores.pool, service=READER) == []
    assert await echo.numbers() == [1]
