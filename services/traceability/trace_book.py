"""The traces in memory: folded from the ledger when somebody asks, and folded on from there the next time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from shared.event import canonical_bytes, digest_of
from shared.projection import Progress

from .domain.trace import Trace, apply, state_digest
from .ledger import Entry, Ledger

FOLD_ENTRIES_MAX = 2000
"""How many entries are folded before others get their turn."""

PAST_TRACES_MAX = 8


class TraceBook:
    """Traces by AI system: the live ones at the head of the ledger, and the last few that were asked for as of a position."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._live: dict[str, Trace] = {}
        self._past: OrderedDict[tuple[str, int], Trace] = OrderedDict()
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
        found = self._past.get((system, position))
        if found is None:
            found = Trace(system=system)
            await self._fold(found, to=position)
            self._past[(system, position)] = found
            if len(self._past) > PAST_TRACES_MAX:
                self._past.popitem(last=False)
        return found

    async def _fold(self, trace: Trace, *, to: int | None) -> None:
        while True:
            entries = await self._ledger.read(
                systems=[trace.system], after=trace.position, to=to, limit=FOLD_ENTRIES_MAX
            )
            for entry in entries:
                _apply(trace, entry)
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


def _apply(trace: Trace, entry: Entry) -> None:
    apply(trace, position=entry.position, recorded_at=entry.event.recorded_at, content=entry.event.content())
