"""Read models of this service: what others have registered and approved, and the lists that people page through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from shared import access
from shared.effects import Effects
from shared.event import RecordedEvent, key_of

from .consumed_events import (
    DatasetRegistered,
    DatasetWithdrawn,
    ModelVersionRegistered,
    ModelVersionWithdrawn,
    RequirementApproved,
    RequirementRetired,
    RequirementSuperseded,
)
from .published_events import SERVICE

Effect = Callable[[Effects, RecordedEvent], Awaitable[None]]


class VerificationProjection:
    """Folds the events of requirements, releases and of this service; a row is written by one of them only."""

    service = SERVICE
    sources: Sequence[str] = ("requirements", "releases", SERVICE)
    tables_sql = access.TABLES_SQL + (Path(__file__).parent / "schema.sql").read_text()

    async def apply(self, effects: Effects, event: RecordedEvent) -> None:
        """The effect of one event; names that are not listed have none."""
        await access.apply(effects, event)
        effect = _EFFECTS.get(event.name)
        if effect is not None:
            await effect(effects, event)


async def _dataset_registered(effects: Effects, event: RecordedEvent) -> None:
    read = msgspec.convert(event.data(), DatasetRegistered)
    await effects.execute(
        "INSERT INTO dataset VALUES ($1, $2, $3, $4, false)", event.system, read.name, read.version, read.digest
    )


async def _dataset_withdrawn(effects: Effects, event: RecordedEvent) -> None:
    read = msgspec.convert(event.data(), DatasetWithdrawn)
    await effects.execute(
        "UPDATE dataset SET withdrawn = true WHERE system = $1 AND name = $2 AND version = $3",
        event.system,
        read.name,
        read.version,
    )


async def _requirement_approved(effects: Effects, event: RecordedEvent) -> None:
    read = msgspec.convert(event.data(), RequirementApproved)
    await effects.execute(
        "INSERT INTO requirement_revision VALUES ($1, $2, $3, $4, $5, $6, $7, true)",
        event.system,
        read.key,
        read.revision,
        msgspec.json.encode(read.criteria).decode(),
        event.position,
        event.leaf_hash,
        event.recorded_at,
    )


async def _requirement_superseded(effects: Effects, event: RecordedEvent) -> None:
    read = msgspec.convert(event.data(), RequirementSuperseded)
    await _no_longer_in_force(effects, event.system, read.key, read.revision)


async def _requirement_retired(effects: Effects, event: RecordedEvent) -> None:
    read = msgspec.convert(event.data(), RequirementRetired)
    await _no_longer_in_force(effects, event.system, read.key, read.revision)


async def _no_longer_in_force(effects: Effects, system: str | None, key: str, revision: int) -> None:
    await effects.execute(
        "UPDATE requirement_revision SET in_force = false WHERE system = $1 AND key = $2 AND revision = $3",
        system,
        key,
        revision,
    )


async def _model_registered(effects: Effects, event: RecordedEvent) -> None:
    read = msgspec.convert(event.data(), ModelVersionRegistered)
    await effects.execute(
        "INSERT INTO model_version VALUES ($1, $2, $3, $4, $5, $6, $7, false)",
        event.system,
        read.model,
        read.version,
        read.digest,
        read.training_dataset,
        read.training_dataset_version,
        read.parent,
    )


async def _model_withdrawn(effects: Effects, event: RecordedEvent) -> None:
    read = msgspec.convert(event.data(), ModelVersionWithdrawn)
    await effects.execute(
        "UPDATE model_version SET withdrawn = true WHERE system = $1 AND model = $2 AND version = $3",
        event.system,
        read.model,
        read.version,
    )


async def _test_case_defined(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO test_case VALUES ($1, $2, $3, $4, $5, 'draft') ON CONFLICT (system, key) DO UPDATE"
        " SET revision = EXCLUDED.revision, title = EXCLUDED.title, author = EXCLUDED.author, status = 'draft'",
        event.system,
        data["key"],
        data["revision"],
        data["title"],
        data["author"],
    )


async def _run_opened(effects: Effects, event: RecordedEvent) -> None:
    await _insert_run(effects, event, "opened")


async def _run_recorded(effects: Effects, event: RecordedEvent) -> None:
    await _insert_run(effects, event, "recorded")


async def _insert_run(effects: Effects, event: RecordedEvent, status: str) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO evaluation_run VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        " ON CONFLICT (system, key) DO UPDATE SET status = EXCLUDED.status",
        event.system,
        data["key"],
        data["model"],
        data["version"],
        data["model_digest"],
        data["dataset"],
        data["dataset_version"],
        data["dataset_digest"],
        status,
    )


async def _verification_recorded(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO verification VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'recorded')",
        event.system,
        data["key"],
        data["requirement"],
        data["requirement_revision"],
        data["model"],
        data["version"],
        data["dataset"],
        data["dataset_version"],
        data["run"],
        data["author"],
        data["outcome"],
    )


def _status(table: str, status: str) -> Effect:
    async def effect(effects: Effects, event: RecordedEvent) -> None:
        await effects.execute(
            f"UPDATE {table} SET status = $3 WHERE system = $1 AND key = $2", event.system, key_of(event.stream), status
        )

    return effect


_EFFECTS: Mapping[str, Effect] = {
    "requirements.dataset-registered": _dataset_registered,
    "requirements.dataset-withdrawn": _dataset_withdrawn,
    "requirements.requirement-approved": _requirement_approved,
    "requirements.requirement-superseded": _requirement_superseded,
    "requirements.requirement-retired": _requirement_retired,
    "releases.model-version-registered": _model_registered,
    "releases.model-version-withdrawn": _model_withdrawn,
    "verification.test-case-defined": _test_case_defined,
    "verification.test-case-approved": _status("test_case", "approved"),
    "verification.test-case-retired": _status("test_case", "retired"),
    "verification.evaluation-run-opened": _run_opened,
    "verification.evaluation-run-recorded": _run_recorded,
    "verification.evaluation-run-voided": _status("evaluation_run", "voided"),
    "verification.verification-recorded": _verification_recorded,
    "verification.verification-submitted": _status("verification", "in review"),
    "verification.verification-approved": _status("verification", "approved"),
    "verification.verification-rejected": _status("verification", "rejected"),
    "verification.verification-marked-suspect": _status("verification", "suspect"),
    "verification.suspicion-cleared": _status("verification", "approved"),
}
