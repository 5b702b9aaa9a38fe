"""The trace graph of one AI system: its records, their statuses and their links, folded from ledger entries.

A fold of everything up to a ledger position is the state as of that position; the live state is the fold up to the last one.
It decides nothing, tolerates an effect that arrives before its cause, and keeps what it does not know.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.event import canonical_bytes, digest_of

STATUS_AFTER: Mapping[str, str] = {
    "requirements.ai-system-registered": "registered",
    "requirements.dataset-registered": "registered",
    "requirements.dataset-withdrawn": "withdrawn",
    "requirements.requirement-drafted": "draft",
    "requirements.requirement-submitted": "in review",
    "requirements.requirement-approved": "approved",
    "requirements.requirement-rejected": "draft",
    "requirements.requirement-superseded": "superseded",
    "requirements.requirement-retired": "retired",
    "verification.test-case-defined": "draft",
    "verification.test-case-approved": "approved",
    "verification.test-case-retired": "retired",
    "verification.evaluation-run-opened": "opened",
    "verification.evaluation-run-recorded": "recorded",
    "verification.evaluation-run-voided": "voided",
    "verification.verification-recorded": "recorded",
    "verification.verification-submitted": "in review",
    "verification.verification-approved": "approved",
    "verification.verification-rejected": "rejected",
    "verification.verification-marked-suspect": "suspect",
    "verification.suspicion-cleared": "approved",
    "releases.model-version-registered": "registered",
    "releases.model-version-withdrawn": "withdrawn",
    "releases.change-plan-drafted": "draft",
    "releases.change-plan-approved": "approved",
    "releases.change-request-submitted": "submitted",
    "releases.change-classified": "assessed",
    "releases.change-approved": "approved",
    "releases.change-rejected": "rejected",
    "releases.change-implemented": "implemented",
    "releases.change-verified": "verified",
    "releases.change-closed": "closed",
    "releases.release-adopted": "released",
    "releases.release-candidate-opened": "candidate",
    "releases.release-approved": "approved",
    "releases.release-deployed": "released",
    "releases.release-superseded": "superseded",
    "releases.release-suspended": "suspended",
    "releases.release-rolled-back": "rolled back",
    "releases.release-withdrawn": "withdrawn",
    "releases.waiver-granted": "granted",
    "releases.waiver-revoked": "revoked",
    "releases.nonconformity-raised": "raised",
    "releases.corrective-action-planned": "planned",
    "releases.corrective-action-verified": "verified",
    "drift.monitoring-plan-defined": "draft",
    "drift.monitoring-plan-approved": "approved",
    "drift.monitoring-plan-activated": "active",
    "drift.drift-signal-raised": "open",
    "drift.drift-signal-acknowledged": "acknowledged",
    "drift.drift-signal-dismissed": "dismissed",
    "drift.drift-signal-escalated": "escalated",
    "drift.drift-signal-resolved": "resolved",
}
"""The status that each event is the entrance to; an event that is not here leaves the status as it was."""


@dataclass(slots=True)
class Record:
    """One stream: the union of its events' data (later fields win), its status, and its revisions if it has any.

    `revisions` maps a revision number to the same for the events that name it. `events` are (ledger position, name).
    """

    stream: str
    kind: str
    key: str
    status: str = "unknown"
    fields: dict[str, Any] = field(default_factory=dict)
    revisions: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """The fold: records by stream, the roles, and indexes that keep a page of the matrix cheap."""

    system: str
    position: int = 0
    recorded_at: datetime | None = None
    services: dict[str, int] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    roles: dict[str, set[str]] = field(default_factory=dict)
    by_kind: dict[str, dict[str, Record]] = field(default_factory=dict)
    requirement_keys: list[str] = field(default_factory=list)
    verifications_by_requirement: dict[str, list[Record]] = field(default_factory=dict)
    test_cases_by_requirement: dict[str, list[Record]] = field(default_factory=dict)
    releases_by_model: dict[str, list[Record]] = field(default_factory=dict)
    windows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def of_kind(self, kind: str) -> dict[str, Record]:
        """Records of one kind by key, in order of arrival."""
        return self.by_kind.get(kind, {})


def apply(trace: Trace, *, position: int, recorded_at: datetime, content: Mapping[str, Any]) -> None:
    """Folds one ledger entry in; `content` is the whole event as JSON values."""
    pass_over(trace, position=position, recorded_at=recorded_at, content=content)
    name, data = content["name"], content["data"]
    if name == "drift.drift-window-closed":
        trace.windows.setdefault(data["plan"], []).append(data)
        return
    record = _record(trace, content["stream"])
    record.events.append((position, name))
    record.fields.update(data)
    record.status = STATUS_AFTER.get(name, record.status)
    if "revision" in data:
        revision = record.revisions.setdefault(data["revision"], {})
        revision.update(data)
        revision["status"] = STATUS_AFTER.get(name, revision.get("status", "unknown"))
    _index(trace, name, record, data)


def pass_over(trace: Trace, *, position: int, recorded_at: datetime, content: Mapping[str, Any]) -> None:
    """Takes note that the entry is known, and leaves its effect out: it was not true yet at the moment that is asked for."""
    trace.position, trace.recorded_at = position, recorded_at
    trace.services[content["service"]] = content["position"]


def _record(trace: Trace, stream: str) -> Record:
    record = trace.records.get(stream)
    if record is None:
        kind, _, rest = stream.partition(":")
        record = Record(stream=stream, kind=kind, key=rest.partition("/")[2] or rest)
        trace.records[stream] = record
        trace.by_kind.setdefault(kind, {})[record.key] = record
        if kind == "requirement":
            insort(trace.requirement_keys, record.key)
    return record


def _index(trace: Trace, name: str, record: Record, data: Mapping[str, Any]) -> None:
    match name:
        case "requirements.ai-system-registered":
            trace.roles.setdefault(data["owner"], set()).add("owner")
        case "requirements.role-granted":
            trace.roles.setdefault(data["subject"], set()).add(data["role"])
        case "requirements.role-revoked":
            trace.roles.get(data["subject"], set()).discard(data["role"])
        case "verification.verification-recorded":
            trace.verifications_by_requirement.setdefault(data["requirement"], []).append(record)
        case "verification.test-case-defined":
            for requirement in data["requirements"]:
                covering = trace.test_cases_by_requirement.setdefault(requirement["key"], [])
                if record not in covering:
                    covering.append(record)
        case "releases.release-candidate-opened" | "releases.release-adopted":
            trace.releases_by_model.setdefault(data["model_digest"], []).append(record)


def state_digest(trace: Trace) -> str:
    """Hex SHA-256 of the whole state: equal state, equal digest."""
    return digest_of(
        canonical_bytes(
            {
                "position": trace.position,
                "records": {
                    stream: [
                        record.status,
                        record.fields,
                        {str(n): r for n, r in record.revisions.items()},
                        record.events,
                    ]
                    for stream, record in trace.records.items()
                },
                "roles": {subject: sorted(roles) for subject, roles in trace.roles.items()},
                "windows": trace.windows,
            }
        )
    )
