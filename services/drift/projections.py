"""Read models of this service: plans, their windows and signals, and copies of what releases deployed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import msgspec

from shared import access
from shared.effects import Effects
from shared.event import RecordedEvent, key_of

from . import consumed_events as consumed
from .published_events import SERVICE


class DriftProjection:
    """Folds events of this service, of releases and of requirements into the tables of schema.sql."""

    service = SERVICE
    sources: Sequence[str] = (access.SOURCE, consumed.SOURCE, SERVICE)
    tables_sql = access.TABLES_SQL + (Path(__file__).parent / "schema.sql").read_text()

    async def apply(self, effects: Effects, event: RecordedEvent) -> None:
        """The effect of one event; names that are not listed have none."""
        await access.apply(effects, event)
        effect = _EFFECTS.get(event.name)
        if effect is not None:
            await effect(effects, event)


Effect: TypeAlias = Callable[[Effects, RecordedEvent], Awaitable[None]]


async def _plan_defined(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO monitoring_plan VALUES ($1, $2, $3, $4, $5, $6, 'draft', NULL) ON CONFLICT (system, key) DO UPDATE"
        " SET model = EXCLUDED.model, version = EXCLUDED.version, model_digest = EXCLUDED.model_digest,"
        " owner = EXCLUDED.owner, status = 'draft', reference_profile = NULL",
        event.system,
        data["key"],
        data["model"],
        data["version"],
        data["model_digest"],
        data["owner"],
    )


async def _reference_set(effects: Effects, event: RecordedEvent) -> None:
    await effects.execute(
        "UPDATE monitoring_plan SET reference_profile = $3, status = 'draft' WHERE system = $1 AND key = $2",
        event.system,
        key_of(event.stream),
        event.data()["digest"],
    )


def _plan_status(status: str) -> Effect:
    async def effect(effects: Effects, event: RecordedEvent) -> None:
        await effects.execute(
            "UPDATE monitoring_plan SET status = $3 WHERE system = $1 AND key = $2",
            event.system,
            key_of(event.stream),
            status,
        )

    return effect


async def _plan_activated(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO plan_activation VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (system, plan, environment) DO UPDATE SET release = EXCLUDED.release",
        event.system,
        data["key"],
        data["environment"],
        data["release"],
    )


async def _window_closed(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO drift_window VALUES ($1, $2, $3, $4, $5)",
        event.system,
        data["plan"],
        data["environment"],
        int(datetime.fromisoformat(data["start"]).timestamp()),
        msgspec.json.encode(data).decode(),
    )


async def _signal_raised(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO drift_signal VALUES ($1, $2, $3, $4, 'open', $5, $6)",
        event.system,
        data["key"],
        data["plan"],
        data["environment"],
        datetime.fromisoformat(data["triage_until"]),
        datetime.fromisoformat(data["window_end"]),
    )


def _signal_status(status: str) -> Effect:
    async def effect(effects: Effects, event: RecordedEvent) -> None:
        await effects.execute(
            "UPDATE drift_signal SET status = $3 WHERE system = $1 AND key = $2",
            event.system,
            key_of(event.stream),
            status,
        )

    return effect


async def _model_version_registered(effects: Effects, event: RecordedEvent) -> None:
    fields = consumed.fields_of(event, consumed.ModelVersion)
    await effects.execute(
        "INSERT INTO model_version VALUES ($1, $2, $3, $4, false)",
        event.system,
        fields.model,
        fields.version,
        fields.digest,
    )


async def _model_version_withdrawn(effects: Effects, event: RecordedEvent) -> None:
    fields = consumed.fields_of(event, consumed.ModelVersion)
    await effects.execute(
        "UPDATE model_version SET withdrawn = true WHERE system = $1 AND model = $2 AND version = $3",
        event.system,
        fields.model,
        fields.version,
    )


async def _release_deployed(effects: Effects, event: RecordedEvent) -> None:
    fields = consumed.fields_of(event, consumed.ReleaseDeployed)
    await effects.execute(
        "INSERT INTO deployment VALUES ($1, $2, $3, $4, $5) ON CONFLICT (system, environment, model) DO UPDATE"
        " SET model_digest = EXCLUDED.model_digest, release = EXCLUDED.release",
        event.system,
        fields.environment,
        fields.model,
        fields.model_digest,
        fields.key,
    )


async def _nonconformity_raised(effects: Effects, event: RecordedEvent) -> None:
    fields = consumed.fields_of(event, consumed.NonconformityRaised)
    await effects.execute("INSERT INTO nonconformity VALUES ($1, $2, $3)", event.system, fields.key, fields.record)


_EFFECTS: Mapping[str, Effect] = {
    "drift.monitoring-plan-defined": _plan_defined,
    "drift.reference-profile-set": _reference_set,
    "drift.monitoring-plan-approved": _plan_status("approved"),
    "drift.monitoring-plan-declined": _plan_status("declined"),
    "drift.monitoring-plan-activated": _plan_activated,
    "drift.drift-window-closed": _window_closed,
    "drift.drift-signal-raised": _signal_raised,
    "drift.drift-signal-acknowledged": _signal_status("acknowledged"),
    "drift.drift-signal-dismissed": _signal_status("dismissed"),
    "drift.drift-signal-escalated": _signal_status("escalated"),
    "drift.drift-signal-resolved": _signal_status("resolved"),
    consumed.MODEL_VERSION_REGISTERED: _model_version_registered,
    consumed.MODEL_VERSION_WITHDRAWN: _model_version_withdrawn,
    consumed.RELEASE_DEPLOYED: _release_deployed,
    consumed.NONCONFORMITY_RAISED: _nonconformity_raised,
}
