"""The evidence pack of an AI system or of one of its releases: everything that was known at a ledger position, as one value.

The same position and the same directory give the same bytes. It answers "how do you govern your AI?" for somebody who trusts
nobody: the events are in it as they were recorded, with their leaf hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from shared.errors import NotFound
from shared.event import canonical_bytes

from .controls import CONTROLS
from .gaps import gaps
from .matrix import row
from .trace import Record, Trace, state_digest

FORMAT = "prooftrail-evidence-pack"
FORMAT_VERSION = 1


class ReleaseUnknown(NotFound):
    """The AI system has no such release at this position."""


class PackEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it was recorded: `event` is the exact text; its UTF-8 bytes have the leaf hash."""

    ledger_position: int
    service: str
    position: int
    leaf_hash: str
    event: str


def pack_bytes(
    trace: Trace,
    *,
    events: Sequence[PackEvent],
    people: Mapping[str, Mapping[str, str]],
    release: str | None,
    as_of: datetime | None = None,
) -> bytes:
    """The pack as canonical JSON. `people` maps name commitments to {subject, salt, name}; those forgotten are absent."""
    return canonical_bytes(pack(trace, events=events, people=people, release=release, as_of=as_of))


def pack(
    trace: Trace,
    *,
    events: Sequence[PackEvent],
    people: Mapping[str, Mapping[str, str]],
    release: str | None,
    as_of: datetime | None = None,
) -> dict[str, Any]:
    """The pack as plain values; see the README of this service for its fields.

    `trace` is what was true at `as_of` (None: all that is known); the events are all that are known.
    """
    if release is not None and release not in trace.of_kind("release"):
        raise ReleaseUnknown(
            f"There is no release {release} at ledger position {trace.position}.",
            why="A pack is made of what the ledger held then.",
            next_step="Name a release that exists, or a later position.",
        )
    at = as_of or trace.recorded_at or datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    requirements = trace.of_kind("requirement")
    digest = trace.of_kind("release")[release].fields["model_digest"] if release is not None else None
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "system": trace.system,
        "release": release,
        "ledger_position": trace.position,
        "as_of": at,
        **({} if as_of is None else {"known_at": trace.recorded_at}),
        "service_positions": trace.services,
        "state_digest": state_digest(trace),
        "people": dict(people),
        "roles": {subject: sorted(roles) for subject, roles in trace.roles.items()},
        "records": {kind: _records(trace, kind) for kind in sorted(trace.by_kind)},
        "matrix": [row(trace, requirements[key], model_digest=digest) for key in sorted(requirements)],
        "gaps": gaps(trace, at=at),
        "drift_windows": trace.windows,
        "timeline": [_line(event) for event in events],
        "signatures": list(_signatures(events)),
        "controls": [_control(control, trace) for control in CONTROLS],
        "events": list(events),
    }


def commitments(events: Iterable[PackEvent]) -> set[str]:
    """All name commitments in the events: of actors and of signers."""
    return {found for event in events for found in _commitments_in(msgspec.json.decode(event.event))}


def _commitments_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("name_commitment"), str):
            yield value["name_commitment"]
        for child in value.values():
            yield from _commitments_in(child)
    elif isinstance(value, list):
        for child in value:
            yield from _commitments_in(child)


def _records(trace: Trace, kind: str) -> list[dict[str, Any]]:
    return [_plain(record) for _, record in sorted(trace.of_kind(kind).items())]


def _plain(record: Record) -> dict[str, Any]:
    return {
        "stream": record.stream,
        "key": record.key,
        "status": record.status,
        "fields": record.fields,
        "revisions": {str(number): data for number, data in sorted(record.revisions.items())},
        "events": [{"ledger_position": position, "name": name} for position, name in record.events],
    }


def _line(event: PackEvent) -> dict[str, Any]:
    content = msgspec.json.decode(event.event)
    return {
        "ledger_position": event.ledger_position,
        "service": event.service,
        "position": event.position,
        "recorded_at": content["recorded_at"],
        "name": content["name"],
        "record": content["stream"],
        "version": content["version"],
        "actor": content["actor"],
        "reason": content["reason"],
        "causation": content["causation"],
    }


def _signatures(events: Iterable[PackEvent]) -> Iterator[dict[str, Any]]:
    for event in events:
        content = msgspec.json.decode(event.event)
        signature = content["data"].get("signature")
        if signature is not None:
            yield {
                "ledger_position": event.ledger_position,
                "name": content["name"],
                "record": content["stream"],
                "reason": content["reason"],
                **signature,
            }


def _control(control: Mapping[str, Any], trace: Trace) -> dict[str, Any]:
    kinds = control["evidence"]
    return {
        "id": control["id"],
        "about": control["about"],
        "evidence": {kind: sorted(trace.of_kind(kind)) for kind in kinds if trace.of_kind(kind)},
    }
