"""Takes rows of production: checks them, counts them into panes, and closes what the watermark has passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from shared.access import Access
from shared.command import CommandContext, Folds
from shared.event_store import EventStore

from ..domain import monitoring_plan
from ..domain.histogram import Integers, PartialHistogram
from ..domain.monitoring_plan import MonitoringPlan, NotWatchedThere
from ..domain.production_rows import Rows, Value, parse_rows
from ..domain.reference_profile import ReferenceProfile, count_rows
from .pane_tables import CountedBatch, WatchKey
from .profiles import Profiles
from .streams import AUTHORS, plan_stream
from .window_closer import WindowCloser

CLOCK_SKEW_S = 300
"""How far a producer's clock may be ahead of ours; later rows are refused, since one would make all others late."""

BATCH_VALUES_MAX = 100_000


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows as a client sent them. `environment` None means the only one in which the plan is active."""

    batch: str
    fingerprint: str
    environment: str | None
    rows: int
    event_time: Sequence[float | str]
    features: Mapping[str, Sequence[Value]]


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """`late` rows came after their window had closed: they are counted as late and in nothing else."""

    accepted: int
    late: int
    windows_closed: int
    signals: tuple[str, ...]
    position: str


@dataclass(frozen=True, kw_only=True)
class Ingestion:
    """The way in for production rows."""

    store: EventStore
    access: Access
    profiles: Profiles
    closer: WindowCloser
    folds: Folds[MonitoringPlan]

    async def ingest_rows(self, *, context: CommandContext, system: str, key: str, batch: Batch) -> Ingested:
        """Durable when it returns; sent again under the same batch id, it counts nothing twice."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        plan = monitoring_plan.existing((await self.folds.load(self.store, plan_stream(system, key)))[0])
        watch = WatchKey(system=system, plan=key, environment=_environment(plan, batch.environment))
        assert plan.reference is not None
        profile = await self.profiles.read(plan.reference.digest)
        rows = parse_rows(
            count=batch.rows,
            times=batch.event_time,
            features=batch.features,
            kinds={feature.name: feature.kind for feature in plan.definition.features},
            latest=context.at.timestamp() + CLOCK_SKEW_S,
            values_max=BATCH_VALUES_MAX,
        )
        counted = _count(batch, rows, profile, plan.definition.slide_s)
        taken, closed = await self.closer.take_and_close(
            context=context, watch=watch, batch=counted, shape=plan.definition.shape
        )
        return Ingested(
            accepted=taken.accepted,
            late=taken.late,
            windows_closed=closed.windows,
            signals=closed.signals,
            position=closed.position or f"{self.store.service}:{await self.store.head()}",
        )


def _environment(plan: MonitoringPlan, named: str | None) -> str:
    if named is None and len(plan.watches) == 1:
        return next(iter(plan.watches))
    if named is None and plan.watches:
        raise NotWatchedThere(
            f"Plan {plan.key} is active in several environments.",
            why="Rows belong to one of them.",
            next_step="Name the environment: " + ", ".join(sorted(plan.watches)) + ".",
        )
    plan.watch(named or "")
    return named or ""


def _count(batch: Batch, rows: Rows, profile: ReferenceProfile, slide_s: int) -> CountedBatch:
    assert rows.times is not None
    seconds = np.floor(rows.times).astype(np.int64)
    starts, panes = np.unique(seconds // slide_s * slide_s, return_inverse=True)
    counts = count_rows(profile=profile, columns=rows.columns, panes=panes.astype(np.int64), pane_count=len(starts))
    return CountedBatch(
        batch=batch.batch,
        fingerprint=batch.fingerprint,
        newest=int(seconds.max()),
        panes=_panes(profile, starts, np.bincount(panes, minlength=len(starts)), counts),
    )


def _panes(
    profile: ReferenceProfile, starts: Integers, rows: Integers, counts: Integers
) -> dict[int, PartialHistogram]:
    digest = profile.digest
    return {
        int(start): PartialHistogram(profile=digest, rows=int(rows[index]), counts=counts[index])
        for index, start in enumerate(starts)
    }
