"""What a consumer makes of the records of our topics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.cloud_event import NotTheEvent, recorded_event
from shared.event import RecordedEvent
from shared.feed import Pulse

NEVER = datetime.min.replace(tzinfo=UTC)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Elsewhere:
    """An event whose bytes are not in its record: too large for one, or damaged. The producer's feed has them."""

    position: int


def read_record(record: Any, *, service: str) -> RecordedEvent | Elsewhere | None:
    """The event in the record, None if the record is none of ours."""
    headers = dict(record.headers)
    position = headers.get("ce_position", b"")
    if not position.isdigit():
        _log.error("%s: the record at offset %d names no position", record.topic, record.offset)
        return None
    if "ce_dataref" in headers:
        return Elsewhere(int(position))
    try:
        return recorded_event(
            record.value or b"",
            service=service,
            position=int(position),
            leaf_hash=headers.get("ce_leafhash", b"").decode("ascii", "replace"),
        )
    except NotTheEvent as error:
        _log.error("%s: the record at offset %d is not the event it names: %s", record.topic, record.offset, error)
        return Elsewhere(int(position))


class _PulseContent(msgspec.Struct, frozen=True):
    at: datetime
    head: int
    reacted: dict[str, int]


def read_pulses(records: Iterable[Any]) -> Mapping[str, Pulse]:
    """The last pulse of each service among the records."""
    pulses: dict[str, Pulse] = {}
    for record in records:
        try:
            content = msgspec.json.decode(record.value or b"", type=_PulseContent)
        except msgspec.MsgspecError as error:
            _log.error("%s: the record at offset %d is no pulse: %s", record.topic, record.offset, error)
            continue
        service = (record.key or b"").decode("utf-8", "replace")
        known = pulses.get(service)
        if known is None or content.at >= known.at:
            pulses[service] = Pulse(at=content.at, head=content.head, reacted=content.reacted)
    return pulses
