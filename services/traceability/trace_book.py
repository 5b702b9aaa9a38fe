"""The traces in memory: folded from the ledger when somebody asks, and folded on from there the next time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime

from shared.errors import FieldError, Invalid
from shared.event import canonical_bytes, digest_of
from shared.projection import Progress

from .domain.effective import Told, told, true_from
from .domain.trace import Trace, apply, pass_over, state_digest
from .ledger import Ledger

FOLD_ENTRIES_MAX = 2000
"""How many entries are folded before others get their turn."""

PAST_TRACES_MAX = 8


class BeyondTheLedger(Invalid):
    """A position or a time that the ledger has not reached."""


class AsOfBeyondKnown(Invalid):
    """What was true after the moment up to which something is known."""


@dataclass(frozen=True, kw_only=True)
class When:
    """A moment on each time axis. `known`: by ledger position or by time of recording, None for everything there is.

    `as_of`: when it was true, None for all that is known.
    """

    known: int | datetime | None = None
    as_of: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A trace, and from where it is seen: `at` is the time that rules compare with, `as_of` and `known_at` are for the reader."""

    trace: Trace
    at: datetime
    as_of: datetime | None
    known_at: datetime | None


class TraceBook:
    """Traces by AI system: the live ones at the head of the ledger, and the last few that were asked for as of a position."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._live: dict[str, Trace] = {}
        self._past: OrderedDict[tuple[str, int, datetime | None], Trace] = OrderedDict()
        self._since: tuple[str, int, dict[int, datetime]] | None = None
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def name(self) -> str:
        """What a person calls it."""
        return "traceability_traces"

    async def live(self, system: str) -> Trace:
        """The trace at the head of the ledger. Do not change it, and do not keep it over an await."""
        async with self._locks.setdefault(system, asyncio.Lock()):
            trace = self._live.setdefault(system, Trace(system=system))
            await self._fold(trace, to=None)
            return trace

    async def as_of(self, system: str, position: int) -> Trace:
        """The trace folded up to the ledger position and no further."""
        found = self._past.get((system, position, None))
        if found is None:
            found = Trace(system=system)
            await self._fold(found, to=position)
            self._keep(found, position, None)
        return found

    async def seen(self, system: str, when: When, *, now: datetime) -> Seen:
        """The trace from these moments. Raises BeyondTheLedger, AsOfBeyondKnown."""
        position, moment = await self.reach(when, now=now)
        if when.as_of is not None:
            trace = await self.true_at(system, position, when.as_of)
        else:
            trace = await (self.live(system) if when.known is None else self.as_of(system, position))
        return Seen(
            trace=trace,
            at=when.as_of or moment,
            as_of=when.as_of or trace.recorded_at,
            known_at=when.known if isinstance(when.known, datetime) else trace.recorded_at,
        )

    async def reach(self, when: When, *, now: datetime) -> tuple[int, datetime]:
        """The last ledger position that is known, and the moment it reaches up to. Raises BeyondTheLedger, AsOfBeyondKnown."""
        position, moment = await self._known(when.known, now=now)
        if when.as_of is not None and when.as_of > moment:
            raise AsOfBeyondKnown(
                f"Nothing is known yet of {when.as_of.isoformat()}.",
                why=f"What is known reaches up to {moment.isoformat()}, and what comes after is not told.",
                next_step="Name an as_of that is not later than known_at, or a later known_at.",
                fields=(FieldError(field="as_of", rule=f"at most {moment.isoformat()}"),),
            )
        return position, moment

    async def _known(self, known: int | datetime | None, *, now: datetime) -> tuple[int, datetime]:
        head = await self._ledger.head()
        if known is None:
            return head, now
        beyond = known > head if isinstance(known, int) else known > now
        if beyond:
            raise BeyondTheLedger(
                f"The ledger has not reached {'position ' if isinstance(known, int) else ''}{known}.",
                why="The state can be told as of what was recorded.",
                next_step="Name a position or a time that the ledger has reached, or none for now.",
                fields=(
                    FieldError(field="known_at", rule="not later than now, or a position up to the head of the ledger"),
                ),
            )
        if isinstance(known, datetime):
            return await self._ledger.position_at(known), known
        return known, await self._ledger.recorded_at(known) or now

    async def true_at(self, system: str, position: int, moment: datetime) -> Trace:
        """The trace of what was true at the moment, as known at the ledger position."""
        found = self._past.get((system, position, moment))
        if found is None:
            since = await self.true_from(system, position)
            found = Trace(system=system)
            await self._fold(found, to=position, without={at for at, begun in since.items() if begun > moment})
            self._keep(found, position, moment)
        return found

    async def true_from(self, system: str, position: int) -> dict[int, datetime]:
        """Since when each entry of the AI system up to the position is true, by ledger position."""
        if self._since is not None and self._since[:2] == (system, position):
            return self._since[2]
        positions: list[int] = []
        entries: list[Told] = []
        while page := await self._ledger.read(
            systems=[system], after=positions[-1] if positions else 0, to=position, limit=FOLD_ENTRIES_MAX
        ):
            positions += [entry.position for entry in page]
            entries += [told(recorded_at=entry.event.recorded_at, content=entry.event.content()) for entry in page]
            await asyncio.sleep(0)
        since = dict(zip(positions, true_from(entries), strict=True))
        self._since = (system, position, since)
        return since

    def _keep(self, trace: Trace, position: int, moment: datetime | None) -> None:
        self._past[(trace.system, position, moment)] = trace
        if len(self._past) > PAST_TRACES_MAX:
            self._past.popitem(last=False)

    async def _fold(self, trace: Trace, *, to: int | None, without: Container[int] = ()) -> None:
        while True:
            entries = await self._ledger.read(
                systems=[trace.system], after=trace.position, to=to, limit=FOLD_ENTRIES_MAX
            )
            for entry in entries:
                fold = pass_over if entry.position in without else apply
                fold(
                    trace,
                    position=entry.position,
                    recorded_at=entry.event.recorded_at,
                    content=entry.event.content(),
                )
            if len(entries) < FOLD_ENTRIES_MAX:
                return
            await asyncio.sleep(0)

    async def catch_up(self) -> None:
        """Folds every AI system up to the head of the ledger."""
        await self._ledger.catch_up()
        for system in await self._systems():
            await self.live(system)

    async def rebuild(self, progress: Progress | None = None) -> None:
        """Throws all traces away and folds them again from the first entry."""
        self._live.clear()
        self._past.clear()
        systems = await self._systems()
        for done, system in enumerate(systems, start=1):
            await self.live(system)
            if progress is not None:
                progress("the ledger", done, len(systems))

    async def state_digest(self) -> str:
        """Hex SHA-256 over the state digests of all AI systems."""
        return digest_of(canonical_bytes({system: state_digest(trace) for system, trace in self._live.items()}))

    async def _systems(self) -> list[str]:
        rows = await self._ledger.pool.fetch(
            "SELECT DISTINCT system FROM traceability.ledger WHERE system IS NOT NULL ORDER BY system"
        )
        return [row["system"] for row in rows]
