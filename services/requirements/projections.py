"""Read models of this service: who may do what, and the lists that people page through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import access
from shared.effects import Effects
from shared.event import RecordedEvent, key_of

from .published_events import SERVICE


class RequirementsProjection:
    """Folds this service's own events into the tables of schema.sql."""

    service = SERVICE
    sources: Sequence[str] = (SERVICE,)
    tables_sql = access.TABLES_SQL + (Path(__file__).parent / "schema.sql").read_text()

    async def apply(self, effects: Effects, event: RecordedEvent) -> None:
        """The effect of one event; names that are not listed have none."""
        await access.apply(effects, event)
        effect = _EFFECTS.get(event.name)
        if effect is not None:
            await effect(effects, event.system, key_of(event.stream), event.data())


async def _system_registered(effects: Effects, system: str, _key: str, data: Mapping[str, Any]) -> None:
    await effects.execute("INSERT INTO ai_system VALUES ($1, $2)", system, data["name"])


async def _dataset_registered(effects: Effects, system: str, key: str, data: Mapping[str, Any]) -> None:
    await effects.execute(
        "INSERT INTO dataset VALUES ($1, $2, $3, $4, $5, false)",
        system,
        data["name"],
        data["version"],
        data["digest"],
        data["purpose"],
    )


async def _dataset_withdrawn(effects: Effects, system: str, key: str, data: Mapping[str, Any]) -> None:
    await effects.execute(
        "UPDATE dataset SET withdrawn = true WHERE system = $1 AND name = $2 AND version = $3",
        system,
        data["name"],
        data["version"],
    )


async def _requirement_drafted(effects: Effects, system: str, key: str, data: Mapping[str, Any]) -> None:
    await effects.execute(
        "INSERT INTO requirement VALUES ($1, $2, $3, 'draft', $4)"
        " ON CONFLICT (system, key) DO UPDATE SET revision = EXCLUDED.revision, status = 'draft', title = EXCLUDED.title",
        system,
        key,
        data["revision"],
        data["content"]["title"],
    )


def _status(status: str) -> Any:
    async def effect(effects: Effects, system: str, key: str, data: Mapping[str, Any]) -> None:
        await effects.execute(
            "UPDATE requirement SET status = $4 WHERE system = $1 AND key = $2 AND revision = $3",
            system,
            key,
            data["revision"],
            status,
        )

    return effect


_EFFECTS = {
    "requirements.ai-system-registered": _system_registered,
    "requirements.dataset-registered": _dataset_registered,
    "requirements.dataset-withdrawn": _dataset_withdrawn,
    "requirements.requirement-drafted": _requirement_drafted,
    "requirements.requirement-submitted": _status("in review"),
    "requirements.requirement-approved": _status("approved"),
    "requirements.requirement-rejected": _status("draft"),
    "requirements.requirement-retired": _status("retired"),
}
