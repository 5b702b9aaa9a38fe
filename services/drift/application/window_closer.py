"""Closes the windows that the watermark has passed: each exactly once, in order of event time.

What is due follows from the panes and the watermark, what is closed from the plan's events. Panes under the watermark no longer
change, so two closers compute the same, and the plan's stream takes it from one of them: the other starts again from the new state.
A process that dies between taking rows and closing windows leaves its watch behind; whoever comes next closes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from uuid import NAMESPACE_URL, uuid5

from shared.command import Change, CommandContext, Folds, StaleVersion, TooMuchContention, execute, load_state
from shared.event_store import EventStore

from ..domain import drift_signal, monitoring_plan
from ..domain.drift_signal import DriftSignal, DriftSignalRaised
from ..domain.histogram import merge_histograms
from ..domain.monitoring_plan import MonitoringPlan
from ..domain.panes import WindowShape
from ..domain.reference_profile import ReferenceProfile, split_counts
from ..domain.window_closing import Closing, CountedWindow, close_window
from .pane_tables import CountedBatch, OpenPanes, PaneTables, Taken, WatchKey
from .profiles import Profiles
from .streams import DRIFT, plan_stream, signal_stream

WINDOWS_AT_ONCE_MAX = 100
ATTEMPTS_MAX = 8


@dataclass(frozen=True, kw_only=True)
class Closed:
    """How many windows were closed, the signals that they raised, and the last position (None without an event)."""

    windows: int
    signals: tuple[str, ...]
    position: str | None


@dataclass(frozen=True, kw_only=True)
class WindowCloser:
    """Turns panes into events. In one process the closers of a watch take turns, so that they need not race."""

    store: EventStore
    panes: PaneTables
    profiles: Profiles
    folds: Folds[MonitoringPlan]
    turns: dict[WatchKey, asyncio.Lock] = field(default_factory=dict)

    async def take_and_close(
        self, *, context: CommandContext, watch: WatchKey, batch: CountedBatch, shape: WindowShape
    ) -> tuple[Taken, Closed]:
        """Counts a batch, then closes what became due by it: nobody else here tells of these windows."""
        async with self._turn(watch):
            taken = await self.panes.take(watch, batch, shape)
            return taken, await self._close_all(context, watch)

    async def close_due(self, *, context: CommandContext, watch: WatchKey) -> Closed:
        """Closes everything that is due; `context` says when, and in which story."""
        async with self._turn(watch):
            return await self._close_all(context, watch)

    def _turn(self, watch: WatchKey) -> asyncio.Lock:
        return self.turns.setdefault(watch, asyncio.Lock())

    async def _close_all(self, context: CommandContext, watch: WatchKey) -> Closed:
        windows, position = 0, None
        signals: tuple[str, ...] = ()
        for _ in range(ATTEMPTS_MAX):
            try:
                while (closed := await self._close_some(context, watch)).windows:
                    windows, signals = windows + closed.windows, signals + closed.signals
                    position = closed.position
                return Closed(windows=windows, signals=signals, position=position)
            except StaleVersion:
                continue
        raise TooMuchContention(
            f"The windows of {watch.plan} are being closed by others.",
            why=f"Somebody was faster {ATTEMPTS_MAX} times.",
            next_step="Nothing is lost; the next batch or the next check closes what is left.",
        )

    async def _close_some(self, context: CommandContext, watch: WatchKey) -> Closed:
        stream = plan_stream(watch.system, watch.plan)
        state, version = await self.folds.load(self.store, stream)
        plan = monitoring_plan.existing(state)
        closed_through = plan.watch(watch.environment).closed_through
        opened = await self.panes.open_panes(watch)
        if opened.watermark is None:
            return Closed(windows=0, signals=(), position=None)
        shape = plan.definition.shape
        due = shape.due(panes=opened.starts, watermark=opened.watermark, closed_through=closed_through)
        if not due:
            forget = [pane for pane in opened.starts if shape.can_forget(pane, closed_through or 0)]
            await self.panes.closed(watch, watermark=opened.watermark, forget=forget)
            return Closed(windows=0, signals=(), position=None)
        closings = await self._judge(context, watch, plan, opened, due[:WINDOWS_AT_ONCE_MAX])
        raised = [closing.raised for closing in closings if closing.raised is not None]
        receipt = await execute(
            self.store,
            _closing_context(context, stream, version, closings),
            Change(
                stream,
                monitoring_plan.evolve,
                lambda _: [closing.window for closing in closings],
                folds=self.folds,
            ),
            *(_raising(watch, signal) for signal in raised),
        )
        return Closed(windows=len(closings), signals=tuple(signal.key for signal in raised), position=receipt.position)

    async def _judge(
        self, context: CommandContext, watch: WatchKey, plan: MonitoringPlan, opened: OpenPanes, due: Sequence[int]
    ) -> list[Closing]:
        assert plan.reference is not None
        profile = await self.profiles.read(plan.reference.digest)
        counted = await self._count(watch, plan, opened, profile, due)
        last_signal = await self._last_signal(watch, plan)
        closings = []
        for window in counted:
            closing = close_window(plan, counted=window, last_signal=last_signal, at=context.at)
            plan = monitoring_plan.evolve(plan, closing.window)
            if closing.raised is not None:
                last_signal = drift_signal.evolve(None, closing.raised)
            closings.append(closing)
            # A window takes about a millisecond; others need not wait for a hundred of them.
            await asyncio.sleep(0)
        return closings

    async def _count(
        self,
        watch: WatchKey,
        plan: MonitoringPlan,
        opened: OpenPanes,
        profile: ReferenceProfile,
        due: Sequence[int],
    ) -> list[CountedWindow]:
        shape = plan.definition.shape
        wanted = {pane for start in due for pane in shape.panes(start)}.intersection(opened.starts)
        histograms = await self.panes.histograms(watch, wanted)
        if set(histograms) != wanted:
            # Panes are only forgotten once their windows are in events.
            raise StaleVersion(f"Somebody has closed windows of {watch.plan} since they were looked at.")
        counted = []
        for start in due:
            window = merge_histograms(*(histograms[pane] for pane in shape.panes(start) if pane in histograms))
            counted.append(
                CountedWindow(
                    environment=watch.environment,
                    start=start,
                    rows=window.rows,
                    late_rows=opened.late_rows,
                    counts=split_counts(widths=profile.widths, counts=window.counts),
                )
            )
        return counted

    async def _last_signal(self, watch: WatchKey, plan: MonitoringPlan) -> DriftSignal | None:
        key = plan.watch(watch.environment).signal
        if key is None:
            return None
        signal, _ = await load_state(self.store, signal_stream(watch.system, key), drift_signal.evolve)
        return signal


def _closing_context(context: CommandContext, stream: str, version: int, closings: Sequence[Closing]) -> CommandContext:
    """The service acts, on the version that it read; ids follow from the windows, so that no window has two."""
    names = [f"{stream}/{closing.window.environment}/{closing.window.start.isoformat()}" for closing in closings]
    names += [f"{stream}/{closing.raised.key}" for closing in closings if closing.raised is not None]
    return replace(
        context,
        actor=DRIFT,
        reason="the watermark passed the end of the window",
        idempotency=None,
        expected_version=version,
        new_id=cycle([str(uuid5(NAMESPACE_URL, name)) for name in names]).__next__,
    )


def _raising(watch: WatchKey, raised: DriftSignalRaised) -> Change[DriftSignal]:
    return Change(
        signal_stream(watch.system, raised.key),
        drift_signal.evolve,
        lambda signal: drift_signal.raise_signal(signal, raised=raised),
    )
