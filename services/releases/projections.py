"""Read models of this service: its own lists, and its copies of what the gate reads of others. A row has one source only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from shared import access
from shared.effects import Effects
from shared.event import RecordedEvent, key_of

from . import consumed_events as consumed
from .domain.evidence import VerificationInput, standing_of
from .published_events import SERVICE

Effect = Callable[[Effects, RecordedEvent], Awaitable[None]]


class ReleasesProjection:
    """Folds its own events and those of requirements, verification and drift into the tables of schema.sql."""

    service = SERVICE
    sources: Sequence[str] = (SERVICE, "requirements", "verification", "drift")
    tables_sql = access.TABLES_SQL + (Path(__file__).parent / "schema.sql").read_text()

    async def apply(self, effects: Effects, event: RecordedEvent) -> None:
        """The effect of one event; names that are not listed have none."""
        await access.apply(effects, event)
        effect = _EFFECTS.get(event.name)
        if effect is not None:
            await effect(effects, event)


def _own(sql: str, *fields: str) -> Effect:
    """Executes the statement with system ($1), key of the record ($2) and the named fields of the data."""

    async def effect(effects: Effects, event: RecordedEvent) -> None:
        data: Mapping[str, Any] = {**event.data(), "position": event.position}
        await effects.execute(sql, event.system, key_of(event.stream), *(data[field] for field in fields))

    return effect


def _change_status(status: str) -> Effect:
    return _own(f"UPDATE change_request SET status = '{status}' WHERE system = $1 AND key = $2")


def _release_status(status: str) -> Effect:
    return _own(f"UPDATE release SET status = '{status}' WHERE system = $1 AND key = $2")


def _nonconformity_status(status: str) -> Effect:
    return _own(f"UPDATE nonconformity SET status = '{status}' WHERE system = $1 AND key = $2")


async def _model_version_registered(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO model_version VALUES ($1, $2, $3, $4, $5, false)",
        event.system, data["model"], data["version"], data["digest"], data["parent"],
    )  # fmt: skip


async def _model_version_withdrawn(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "UPDATE model_version SET withdrawn = true WHERE system = $1 AND model = $2 AND version = $3",
        event.system, data["model"], data["version"],
    )  # fmt: skip


async def _change_plan_drafted(effects: Effects, event: RecordedEvent) -> None:
    content = event.data()["content"]
    await effects.execute(
        "INSERT INTO change_plan VALUES ($1, $2, 'draft', $3, $4)"
        " ON CONFLICT (system, key) DO UPDATE SET title = EXCLUDED.title, model = EXCLUDED.model",
        event.system, key_of(event.stream), content["title"], content["model"],
    )  # fmt: skip


async def _release_opened(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO release VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, false, NULL, $11)",
        event.system, data["key"], "candidate", data["environment"], data["model"], data["version"], data["model_digest"],
        data["previous"], data["change_request"], msgspec.json.encode(data["required_roles"]).decode(), event.position,
    )  # fmt: skip


async def _release_adopted(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "INSERT INTO release VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, NULL, '[]', NULL, false, NULL, $8)",
        event.system, data["key"], "adopted, not governed", data["environment"], data["model"], data["version"],
        data["model_digest"], event.position,
    )  # fmt: skip
    await _set_environment(effects, event, release=data["key"])


async def _gate_evaluated(effects: Effects, event: RecordedEvent) -> None:
    await effects.execute(
        "UPDATE release SET gate_allowed = $3, status = CASE WHEN $3 AND status = 'candidate' THEN 'gated' ELSE status END"
        " WHERE system = $1 AND key = $2",
        event.system, key_of(event.stream), event.data()["allowed"],
    )  # fmt: skip


def _signed(*, declined: bool) -> Effect:
    async def effect(effects: Effects, event: RecordedEvent) -> None:
        data = event.data()
        await effects.execute(
            "INSERT INTO sign_off VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (system, release, role) DO UPDATE SET"
            " evidence_digest = EXCLUDED.evidence_digest, declined = EXCLUDED.declined, waiver = EXCLUDED.waiver",
            event.system, key_of(event.stream), data["role"], data["evidence_digest"], declined, data.get("waiver"),
        )  # fmt: skip

    return effect


async def _release_deployed(effects: Effects, event: RecordedEvent) -> None:
    data = event.data()
    await effects.execute(
        "UPDATE release SET status = 'released', emergency = emergency OR $3, sign_off_due = coalesce($4, sign_off_due)"
        " WHERE system = $1 AND key = $2",
        event.system, data["key"], data["emergency"], data["sign_off_due"],
    )  # fmt: skip
    await _set_environment(effects, event, release=data["key"])


async def _set_environment(effects: Effects, event: RecordedEvent, *, release: str) -> None:
    content = event.content()
    await effects.execute(
        "INSERT INTO environment VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (system, environment) DO UPDATE SET release = EXCLUDED.release, since = EXCLUDED.since",
        event.system, content["data"]["environment"], release,
        content["data"].get("effective_at") or content["recorded_at"],
    )  # fmt: skip


async def _requirement_approved(effects: Effects, event: RecordedEvent) -> None:
    data = consumed.read(event, consumed.RequirementApproved)
    criteria = [{"key": one.key, "dataset": f"{one.dataset}@{one.dataset_version}"} for one in data.criteria]
    await effects.execute(
        "INSERT INTO requirement VALUES ($1, $2, $3, $4, true, $5) ON CONFLICT (system, key) DO UPDATE SET"
        " revision = EXCLUDED.revision, criteria = EXCLUDED.criteria, in_force = true, position = EXCLUDED.position",
        event.system, data.key, data.revision, msgspec.json.encode(criteria).decode(), event.position,
    )  # fmt: skip


async def _requirement_retired(effects: Effects, event: RecordedEvent) -> None:
    data = consumed.read(event, consumed.RequirementRetired)
    await effects.execute(
        "UPDATE requirement SET in_force = false, position = $3 WHERE system = $1 AND key = $2",
        event.system, data.key, event.position,
    )  # fmt: skip


async def _dataset_registered(effects: Effects, event: RecordedEvent) -> None:
    data = consumed.read(event, consumed.DatasetRegistered)
    await effects.execute(
        "INSERT INTO dataset VALUES ($1, $2, $3, $4, $5, false)",
        event.system, data.name, data.version, data.digest, data.purpose,
    )  # fmt: skip


async def _dataset_withdrawn(effects: Effects, event: RecordedEvent) -> None:
    data = consumed.read(event, consumed.DatasetWithdrawn)
    await effects.execute(
        "UPDATE dataset SET withdrawn = true WHERE system = $1 AND name = $2 AND version = $3",
        event.system, data.name, data.version,
    )  # fmt: skip


async def _verification_recorded(effects: Effects, event: RecordedEvent) -> None:
    data = consumed.read(event, consumed.VerificationRecorded)
    verdicts: dict[str, str] = {}
    for verdict in data.verdicts:
        worst = max(verdicts.get(verdict.criterion, "met"), verdict.outcome, key=_SEVERITY.index)
        verdicts[verdict.criterion] = worst
    await effects.execute(
        "INSERT INTO verification VALUES ($1, $2, $3, $4, $5, 'recorded', false, $6, $7, $8, $9)",
        event.system, data.key, data.requirement, data.requirement_revision, data.model_digest, data.post_hoc,
        f"{data.dataset}@{data.dataset_version} {data.dataset_digest}", msgspec.json.encode(verdicts).decode(), event.position,
    )  # fmt: skip
    effects.fold(_fold_standings, (event.system, data.key, event.position))


_SEVERITY = ("met", "inconclusive", "not met")


def _verification(assignment: str) -> Effect:
    async def effect(effects: Effects, event: RecordedEvent) -> None:
        key = consumed.read(event, consumed.VerificationMoved).key
        await effects.execute(f"UPDATE verification SET {assignment} WHERE system = $1 AND key = $2", event.system, key)
        effects.fold(_fold_standings, (event.system, key, event.position))

    return effect


async def _fold_standings(connection: asyncpg.Connection, touched: Sequence[tuple[str | None, str, int]]) -> None:
    """Folds anew all verifications of each requirement revision and model digest of which one was touched, in order of recording.

    `touched` are AI system and key of verifications, and the position of the event that touched them.
    """
    systems, keys, positions = zip(*touched, strict=True)
    rows = await connection.fetch(
        "WITH subject AS (SELECT one.system, one.model_digest, one.requirement, one.revision, max(t.position) AS touched_at"
        " FROM unnest($1::text[], $2::text[], $3::bigint[]) AS t (system, key, position)"
        " JOIN verification one USING (system, key) GROUP BY 1, 2, 3, 4)"
        " SELECT v.*, subject.touched_at FROM subject JOIN verification v USING (system, model_digest, requirement, revision)"
        " ORDER BY v.position",
        systems, keys, positions,
    )  # fmt: skip
    subjects: dict[tuple[Any, ...], list[VerificationInput]] = {}
    for row in rows:
        subject = (row["system"], row["model_digest"], row["requirement"], row["revision"], row["touched_at"])
        subjects.setdefault(subject, []).append(_verification_input(row))
    await connection.executemany(
        "INSERT INTO standing VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (system, model_digest, requirement, revision)"
        " DO UPDATE SET standing = EXCLUDED.standing, position = EXCLUDED.position",
        [
            (*subject, msgspec.json.encode(standing_of(inputs)).decode(), touched_at)
            for (*subject, touched_at), inputs in subjects.items()
        ],
    )


def _verification_input(row: asyncpg.Record) -> VerificationInput:
    return VerificationInput(
        key=row["key"],
        status=row["status"],
        suspect=row["suspect"],
        post_hoc=row["post_hoc"],
        dataset=row["dataset"],
        verdicts=msgspec.json.decode(row["verdicts"]),
    )


def _monitoring_plan(*, approved: bool) -> Effect:
    async def effect(effects: Effects, event: RecordedEvent) -> None:
        data = consumed.read(event, consumed.MonitoringPlan)
        await effects.execute(
            "INSERT INTO monitoring_plan VALUES ($1, $2, $3, $4) ON CONFLICT (system, key) DO UPDATE SET"
            " model_digest = EXCLUDED.model_digest, approved = EXCLUDED.approved",
            event.system, data.key, data.model_digest, approved,
        )  # fmt: skip

    return effect


_EFFECTS: dict[str, Effect] = {
    "releases.model-version-registered": _model_version_registered,
    "releases.model-version-withdrawn": _model_version_withdrawn,
    "releases.change-plan-drafted": _change_plan_drafted,
    "releases.change-plan-approved": _own("UPDATE change_plan SET status = 'approved' WHERE system = $1 AND key = $2"),
    "releases.change-request-submitted": _own(
        "INSERT INTO change_request VALUES ($1, $2, 'submitted', $3, $4, NULL, $5, $6, $7, NULL, $8)",
        "cause", "signal", "model", "baseline", "candidate", "position",
    ),
    "releases.change-classified": _own(
        "UPDATE change_request SET status = 'assessed', classification = $3 WHERE system = $1 AND key = $2",
        "classification",
    ),
    "releases.change-approved": _change_status("approved"),
    "releases.change-rejected": _own(
        "UPDATE change_request SET status = 'rejected', change_end = 'rejected' WHERE system = $1 AND key = $2"
    ),
    "releases.change-implemented": _own(
        "UPDATE change_request SET status = 'implemented', candidate = $3 WHERE system = $1 AND key = $2", "candidate"
    ),
    "releases.change-verified": _own(
        "UPDATE change_request SET status = 'verified', change_end = 'verified' WHERE system = $1 AND key = $2"
    ),
    "releases.change-closed": _change_status("closed"),
    "releases.release-candidate-opened": _release_opened,
    "releases.release-adopted": _release_adopted,
    "releases.release-gate-evaluated": _gate_evaluated,
    "releases.release-signed-off": _signed(declined=False),
    "releases.release-sign-off-declined": _signed(declined=True),
    "releases.release-approved": _release_status("approved"),
    "releases.release-deployed": _release_deployed,
    "releases.release-superseded": _release_status("superseded"),
    "releases.release-suspended": _release_status("suspended"),
    "releases.release-rolled-back": _release_status("rolled back"),
    "releases.release-withdrawn": _release_status("withdrawn"),
    "releases.waiver-granted": _own(
        "INSERT INTO waiver VALUES ($1, $2, $3, $4, $5, $6, $7, $8, false)",
        "kind", "release", "requirement", "granted_to", "compensating_control", "expires_at",
    ),
    "releases.waiver-revoked": _own("UPDATE waiver SET revoked = true WHERE system = $1 AND key = $2"),
    "releases.nonconformity-raised": _own("INSERT INTO nonconformity VALUES ($1, $2, 'open', $3)", "record"),
    "releases.corrective-action-planned": _nonconformity_status("planned"),
    "releases.corrective-action-verified": _nonconformity_status("closed"),
    "requirements.requirement-approved": _requirement_approved,
    "requirements.requirement-retired": _requirement_retired,
    "requirements.dataset-registered": _dataset_registered,
    "requirements.dataset-withdrawn": _dataset_withdrawn,
    "verification.verification-recorded": _verification_recorded,
    "verification.verification-submitted": _verification("status = 'in review'"),
    "verification.verification-approved": _verification("status = 'approved'"),
    "verification.verification-rejected": _verification("status = 'rejected'"),
    "verification.verification-marked-suspect": _verification("suspect = true"),
    "verification.suspicion-cleared": _verification("suspect = false"),
    "drift.monitoring-plan-defined": _monitoring_plan(approved=False),
    "drift.monitoring-plan-approved": _monitoring_plan(approved=True),
}  # fmt: skip
