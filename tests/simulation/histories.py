"""Histories that never were, in the words of the golden events: every name, few keys, so that much happens to the same rows.

Some of their events are poison: a second registration of the same thing, or one that lacks a field.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from shared.event import RecordedEvent, leaf_hash_of

GOLDEN = Path(__file__).parent.parent / "contracts" / "golden"
SYSTEMS, KEYS = "ssst", "1234"
BEGINS = (
    "registered",
    "opened",
    "submitted",
    "raised",
    "recorded",
    "granted",
    "adopted",
    "approved",
    "defined",
    "drafted",
)
"""How the names of events end that begin a record."""
BEGINNING_SHARE = 0.5
LACKING_SHARE = 0.02
OWN = ("key", "model", "version", "name")
"""Fields that name the record itself; all other texts name others."""


def history(service: str, *, count: int, chosen: Random) -> list[RecordedEvent]:
    """The events of one service, from position 1."""
    examples = [msgspec.json.decode(file.read_bytes()) for file in sorted(GOLDEN.glob(f"{service}.*.json"))]
    beginnings = [example for example in examples if example["name"].endswith(BEGINS)]
    versions = Counter[str]()
    events = []
    for position in range(1, count + 1):
        example = chosen.choice(beginnings if chosen.random() < BEGINNING_SHARE else examples)
        system, key = chosen.choice(SYSTEMS), chosen.choice(KEYS)
        data = {field: _varied(field, value, key, chosen) for field, value in example["data"].items()}
        if chosen.random() < LACKING_SHARE:
            del data[chosen.choice(sorted(data))]
        stream = f"{_topic(example)}:{system}/{key}"
        versions[stream] += 1
        stamped = {"position": position, "system": system, "stream": stream, "version": versions[stream], "data": data}
        events.append(_recorded({**example, **stamped}))
    return events


def _topic(example: dict[str, Any]) -> str:
    topic: str = example["name"].split(".")[1].partition("-")[0]
    return topic


def _varied(field: str, value: Any, key: str, chosen: Random) -> Any:
    if isinstance(value, dict):
        return {name: _varied(name, one, key, chosen) for name, one in value.items()}
    if isinstance(value, list):
        return [_varied(field, one, key, chosen) for one in value]
    if isinstance(value, bool):
        return chosen.random() < 0.5
    if isinstance(value, int):
        return chosen.randint(1, 2)
    if value == "text":
        return key if field in OWN else chosen.choice("ab")
    if isinstance(value, str) and value.startswith("2026-01-31T12:00:00"):
        return f"2026-01-31T12:{chosen.randrange(60):02}:{chosen.randrange(60):02}.123456Z"
    return value


def _recorded(content: dict[str, Any]) -> RecordedEvent:
    raw = msgspec.json.encode(content)
    return RecordedEvent(
        service=content["service"],
        position=content["position"],
        stream=content["stream"],
        version=content["version"],
        name=content["name"],
        system=content["system"],
        recorded_at=datetime.fromisoformat(content["recorded_at"]),
        leaf_hash=leaf_hash_of(raw),
        raw=raw,
    )
