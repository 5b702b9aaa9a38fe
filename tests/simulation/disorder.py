"""A feed that keeps none of its promises, processes that die at any step, and a scheduler that lets one of them go on at a time.

Everything is drawn from one seed: the same seed gives the same schedule.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from shared.event import RecordedEvent
from shared.feed import HoleInFeed, Pulse

FAULTS = ("none", "none", "late", "twice", "long ago", "hole", "reversed", "shuffled")
PAGE_EVENTS_MAX = 6
STEPS_UNTIL_KILLED = (1, 40)
TURNS_MAX = 20_000

Histories = Mapping[str, Sequence[RecordedEvent]]
AtStep = Callable[[str], None]


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Turns:
    """Who waits, at what and for which source; nobody goes on before it is their turn."""

    waiting: dict[tuple[str, str], tuple[str, int, asyncio.Future[None]]] = field(default_factory=dict)

    async def wait(self, process: str, source: str, at: str, after: int) -> None:
        """`at` is "read", in the middle of a transaction, or "changed", between two."""
        future = asyncio.get_running_loop().create_future()
        self.waiting[process, source] = (at, after, future)
        try:
            await future
        finally:
            self.waiting.pop((process, source), None)

    def reading(self) -> set[str]:
        """The sources whose position somebody holds locked."""
        return {source for (_, source), (at, _, _) in self.waiting.items() if at == "read"}

    def ready(self) -> list[tuple[str, str]]:
        """Those who would not run into a lock."""
        reading = self.reading()
        return sorted(who for who, (at, _, _) in self.waiting.items() if at == "read" or who[1] not in reading)


@dataclass
class LawlessFeed:
    """What one process is told: late, short, twice, out of order, with holes, and woken for nothing."""

    histories: Histories
    published: Mapping[str, int]
    chosen: Random
    process: str = ""
    turns: Turns | None = None
    faults: Sequence[str] = FAULTS

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        if self.turns is not None:
            await self.turns.wait(self.process, service, "read", after)
        told = self.histories[service][: self.published[service]]
        page = list(told[after : after + min(limit, self.chosen.randint(1, PAGE_EVENTS_MAX))])
        fault = self.chosen.choice(self.faults)
        if fault == "late":
            return []
        if fault == "twice":
            return [event for event in page for _ in range(2)]
        if fault == "long ago":
            return [*told[max(0, after - 3) : after], *page]
        if fault == "hole" and page:
            page.pop(self.chosen.randrange(len(page)))
        if fault == "reversed":
            page.reverse()
        if fault == "shuffled":
            self.chosen.shuffle(page)
        return page

    async def changed(self, *, service: str, after: int) -> None:
        assert self.turns is not None
        await self.turns.wait(self.process, service, "changed", after)

    async def head(self, *, service: str) -> int:
        return self.published[service]

    async def pulse(self, *, service: str) -> Pulse:
        raise NotImplementedError

    async def listen(self) -> None:
        raise NotImplementedError


Open = Callable[[LawlessFeed, AtStep], tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]]
"""Makes a process with this feed: what it runs for ever, and how it rebuilds."""


@dataclass
class Simulation:
    """Two processes that follow the same histories into the same tables, until everything is published and read."""

    histories: Histories
    open: Open
    look: Callable[[], Awaitable[None]]
    seed: int
    processes: tuple[str, ...] = ("one", "other")
    turns: Turns = field(default_factory=Turns)
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    schedule: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chosen = Random(self.seed)
        self.published = dict.fromkeys(self.histories, 0)

    async def run(self) -> None:
        """One act after the other."""
        try:
            while not self._done():
                assert len(self.schedule) < TURNS_MAX, "it comes to no end"
                act = self.chosen.choice(self._acts())
                self.schedule.append(act)
                await self._carry_out(act)
        finally:
            for task in self.running.values():
                task.cancel()
            await asyncio.gather(*self.running.values(), return_exceptions=True)

    def _done(self) -> bool:
        if any(self.published[source] < len(events) for source, events in self.histories.items()):
            return False
        followed = {
            source
            for (_, source), (at, after, _) in self.turns.waiting.items()
            if at == "changed" and after >= len(self.histories[source])
        }
        return followed == set(self.histories) and not self.turns.reading()

    def _acts(self) -> list[str]:
        """What can happen next; what should happen more often stands there more often."""
        acts = [f"go on {process}/{source}" for process, source in self.turns.ready() for _ in range(6)]
        acts += [
            f"publish {source}" for source, events in self.histories.items() if self.published[source] < len(events)
        ]
        acts += ["look", *(f"end {process}" for process in sorted(self.running))]
        if not self.turns.reading():  # nobody holds a lock that a beginner would wait for
            acts += [f"begin {process}" for process in self.processes if process not in self.running for _ in range(6)]
            acts.append("rebuild")
        return acts

    async def _carry_out(self, act: str) -> None:
        verb, _, name = act.replace("go on", "go").partition(" ")
        if verb == "publish":
            self.published[name] = self.chosen.randint(self.published[name] + 1, len(self.histories[name]))
        elif verb == "begin":
            run, _ = self.open(self._feed(name, self.turns), self._fuse())
            self.running[name] = asyncio.create_task(run())  # type: ignore[arg-type]
            await self._until(lambda: all((name, source) in self.turns.waiting for source in self.histories), name)
        elif verb == "end":
            self.running[name].cancel()
            await self._until(lambda: False, name)
        elif verb == "look":
            await self.look()
        elif verb == "rebuild":
            _, rebuild = self.open(self._feed("rebuilding", None), self._fuse())
            with contextlib.suppress(Killed, HoleInFeed):
                await rebuild()
        else:
            process, _, source = name.partition("/")
            self.turns.waiting.pop((process, source))[2].set_result(None)
            await self._until(lambda: (process, source) in self.turns.waiting, process)

    def _feed(self, process: str, turns: Turns | None) -> LawlessFeed:
        return LawlessFeed(self.histories, self.published, self.chosen, process, turns)

    def _fuse(self) -> AtStep:
        """Most processes are killed at some step of theirs."""
        left = self.chosen.randint(*STEPS_UNTIL_KILLED)

        def at_step(_label: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        return at_step

    async def _until(self, reached: Callable[[], bool], process: str) -> None:
        """Until it waits for its next turn, or is dead and gone."""
        task = self.running[process]
        while not reached() and not task.done():  # noqa: ASYNC110 -- the database answers when it likes
            await asyncio.sleep(0.0002)
        if task.done():
            del self.running[process]
            with contextlib.suppress(asyncio.CancelledError):
                error = task.exception()
                assert error is None or _only_killed(error), error


def _only_killed(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_killed(one) for one in error.exceptions)
    return isinstance(error, Killed)
