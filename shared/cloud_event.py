"""An event as a Kafka record: CloudEvents 1.0 in binary mode. The value is exactly the stored bytes, the key is the stream.

    ce_specversion, ce_id, ce_source, ce_type, ce_time   as CloudEvents says; the type is the stored name
    content-type                                         application/json
    ce_position     the position in the service's store; resume by it, never by an offset of Kafka
    ce_leafhash     hex SHA-256 of a zero byte and the value (RFC 6962, 2.1), which the service's log proves
    ce_epoch        which leader sent it; a lower one after a higher one comes from a leader that did not know that it was replaced
    traceparent     the trace of the request that caused it, when it had one of 32 hex digits

An event that no record can hold has an empty value and `ce_dataref`, its address in the service's feed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from shared.event import RecordedEvent, leaf_hash_of
from shared.trace_ids import TRACE_ID

Headers = list[tuple[str, bytes]]

_FIXED: Headers = [("ce_specversion", b"1.0"), ("content-type", b"application/json")]


class NotTheEvent(ValueError):
    """The record is not the event that its headers name: it was altered or damaged on the way."""


class _Told(msgspec.Struct, frozen=True):
    """What the stored bytes tell of the event, apart from its data."""

    service: str
    position: int
    recorded_at: datetime
    system: str | None
    id: str
    stream: str
    version: int
    name: str
    correlation: str


_decode = msgspec.json.Decoder(_Told).decode


def source_of(service: str) -> str:
    """The source of the service's events; together with ce_id it is unique."""
    return f"urn:prooftrail:{service}"


def headers_of(raw: bytes, *, source: bytes, leaf_hash: str, epoch: bytes) -> Headers:
    """The headers of the event with these stored bytes."""
    told = _decode(raw)
    headers = [
        *_FIXED,
        ("ce_id", told.id.encode()),
        ("ce_source", source),
        ("ce_type", told.name.encode()),
        ("ce_time", told.recorded_at.isoformat().encode()),
        ("ce_position", b"%d" % told.position),
        ("ce_leafhash", leaf_hash.encode()),
        ("ce_epoch", epoch),
    ]
    if TRACE_ID.fullmatch(told.correlation):
        # The bytes keep the trace and not the span, so the parent is named after the event itself.
        headers.append(("traceparent", f"00-{told.correlation}-{leaf_hash[:16]}-01".encode()))
    return headers


def dataref_of(service: str, position: int) -> tuple[str, bytes]:
    """The header that says where an event is that no record can hold."""
    return "ce_dataref", f"/v1/{service}/events?from_position={position - 1}&page_size=1".encode()


def position_in(headers: Sequence[tuple[str, bytes]]) -> int | None:
    """The position that the headers name; None if the record is not one of ours."""
    for name, value in headers:
        if name == "ce_position":
            return int(value) if value.isdigit() else None
    return None


def recorded_event(raw: bytes, *, service: str, position: int, leaf_hash: str | None = None) -> RecordedEvent:
    """The event with these bytes. NotTheEvent if they are not those of the service at the position, or have another leaf hash."""
    found = leaf_hash_of(raw)
    if leaf_hash is not None and found != leaf_hash:
        raise NotTheEvent(f"{service}:{position} has the leaf hash {found}, not {leaf_hash}")
    try:
        told = _decode(raw)
    except msgspec.MsgspecError as error:
        raise NotTheEvent(f"{service}:{position} is no event: {error}") from error
    if (told.service, told.position) != (service, position):
        raise NotTheEvent(f"{service}:{position} holds the bytes of {told.service}:{told.position}")
    return RecordedEvent(
        service=service,
        position=position,
        stream=told.stream,
        version=told.version,
        name=told.name,
        system=told.system,
        recorded_at=told.recorded_at,
        leaf_hash=found,
        raw=raw,
    )
