"""The use cases of drift signals: people decide, or the deadline does; what an escalation led to resolves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from shared.access import Access
from shared.command import Change, CommandContext, execute, load_state
from shared.event import Actor, Fact, RecordedEvent, key_of
from shared.event_store import EventStore, Receipt
from shared.figures import Figure

from .. import consumed_events as consumed
from ..domain import drift_signal
from ..domain.drift_signal import Destination, DriftSignal
from .streams import DRIFT, TRIAGERS, signal_stream

UNSETTLED = ("open", "acknowledged", "escalated")

_signals = Figure(
    "prooftrail.drift.signals", unit="{signal}", description="Drift signals that are not settled, by status"
)
_overdue = Figure(
    "prooftrail.drift.signals.overdue",
    unit="{signal}",
    description="Drift signals undecided after their triage deadline",
)


@dataclass(frozen=True, kw_only=True)
class Triage:
    """What people can do with drift signals."""

    store: EventStore
    access: Access
    pool: asyncpg.Pool

    async def acknowledge_drift_signal(self, *, context: CommandContext, system: str, key: str) -> Receipt:
        return await self._decide(
            context, system, key, lambda signal: drift_signal.acknowledge(signal, by=context.actor)
        )

    async def dismiss_drift_signal(self, *, context: CommandContext, system: str, key: str) -> Receipt:
        return await self._decide(context, system, key, lambda signal: drift_signal.dismiss(signal, by=context.actor))

    async def escalate_drift_signal(
        self, *, context: CommandContext, system: str, key: str, to: Destination
    ) -> Receipt:
        return await self._decide(
            context, system, key, lambda signal: drift_signal.escalate(signal, to=to, by=context.actor)
        )

    async def _decide(
        self,
        context: CommandContext,
        system: str,
        key: str,
        decide: Callable[[DriftSignal | None], Sequence[Fact]],
    ) -> Receipt:
        await self.access.require(system=system, actor=context.actor, roles=TRIAGERS)
        return await execute(self.store, context, Change(signal_stream(system, key), drift_signal.evolve, decide))

    async def escalate_overdue(self, *, at: datetime, correlation: str) -> int:
        """Escalates every signal whose deadline has passed by `at`; returns how many those were."""
        rows = await self.pool.fetch(
            "SELECT system, key FROM drift_signal WHERE status IN ('open', 'acknowledged') AND triage_until <= $1"
            " ORDER BY triage_until LIMIT 200",
            at,
        )
        for row in rows:
            context = CommandContext(
                actor=DRIFT, reason="nobody decided before the triage deadline", at=at, correlation=correlation
            )
            await execute(
                self.store,
                context,
                Change(
                    signal_stream(row["system"], row["key"]),
                    drift_signal.evolve,
                    lambda signal: drift_signal.escalate_overdue(signal, at=at),
                ),
            )
        return len(rows)

    async def resolve_by_change(self, event: RecordedEvent, context: CommandContext) -> None:
        """Reaction: the change request that a signal led to is closed."""
        closed = consumed.fields_of(event, consumed.ChangeClosed)
        if closed.signal is not None:
            await self._resolve(
                context,
                signal_stream(event.system or "", closed.signal),
                led_to="change request",
                change_request=closed.key,
            )

    async def resolve_by_corrective_action(self, event: RecordedEvent, context: CommandContext) -> None:
        """Reaction: the nonconformity that a signal led to is closed."""
        verified = consumed.fields_of(event, consumed.CorrectiveActionVerified)
        record: str | None = await self.pool.fetchval(
            "SELECT record FROM nonconformity WHERE system = $1 AND key = $2", event.system, verified.key
        )
        if record is not None and record == signal_stream(event.system or "", key_of(record)):
            await self._resolve(context, record, led_to="nonconformity", nonconformity=verified.key)

    async def _resolve(self, context: CommandContext, stream: str, *, led_to: Destination, **by: str) -> None:
        def decide(signal: DriftSignal | None) -> Sequence[Fact]:
            if signal is None or signal.status != "escalated" or signal.escalated_to != led_to:
                return ()
            return drift_signal.resolve(signal, **by)

        await execute(self.store, context, Change(stream, drift_signal.evolve, decide))

    async def measure(self, *, at: datetime) -> None:
        """Shows how many signals wait for a decision or for what was decided, and how many are overdue at the time."""
        rows = await self.pool.fetch(
            "SELECT status, count(*), count(*) FILTER (WHERE status <> 'escalated' AND triage_until <= $1) FROM drift_signal"
            " WHERE status = ANY($2) GROUP BY status",
            at,
            UNSETTLED,
        )
        counts = {**dict.fromkeys(UNSETTLED, 0), **{status: count for status, count, _ in rows}}
        _signals.tell("drift", *((count, {"status": status}) for status, count in counts.items()))
        _overdue.tell("drift", (sum(overdue for _, _, overdue in rows), {}))

    async def drift_signal(self, *, actor: Actor, system: str, key: str) -> tuple[DriftSignal, int]:
        """The signal and its version."""
        await self.access.require_reader(system=system, actor=actor)
        state, version = await load_state(self.store, signal_stream(system, key), drift_signal.evolve)
        return drift_signal.existing(state), version

    async def drift_signals(
        self,
        *,
        actor: Actor,
        system: str,
        status: str | None,
        overdue_at: datetime | None,
        after: str,
        limit: int,
    ) -> list[dict[str, Any]]:
        """Up to `limit` + 1 signals above the key `after`; those of a status, or those not decided by `overdue_at`."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT key, plan, environment, status, triage_until, window_end FROM drift_signal"
            " WHERE system = $1 AND key > $2 AND ($3::text IS NULL OR status = $3)"
            " AND ($4::timestamptz IS NULL OR (status IN ('open', 'acknowledged') AND triage_until <= $4))"
            " ORDER BY key LIMIT $5",
            system,
            after,
            status,
            overdue_at,
            limit + 1,
        )
        return [dict(row) for row in rows]
