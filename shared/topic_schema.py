"""The topics beside those of events, as the AsyncAPI document tells of them: rows of production that come in, pulses, and names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Schema = Mapping[str, Any]

_ROW_HEADERS: Schema = {
    "type": "object",
    "properties": {
        "system": {"type": "string", "description": "The key of the AI system."},
        "plan": {"type": "string", "description": "The key of the monitoring plan."},
        "environment": {
            "type": "string",
            "description": "Where the model runs; needed where the plan watches several.",
        },
    },
    "required": ["system", "plan"],
}

_PULSE: Schema = {
    "type": "object",
    "properties": {
        "at": {"type": "string", "format": "date-time", "description": "When the service was last alive."},
        "head": {"type": "integer", "minimum": 0, "description": "The last position of its store."},
        "reacted": {
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": 0},
            "description": "The position in each source up to which it has reacted.",
        },
    },
    "required": ["at", "head", "reacted"],
}
_PULSE_HEADERS: Schema = {
    "type": "object",
    "properties": {"ce_epoch": {"type": "string", "pattern": "^[0-9]+$", "description": "Which leader sent it."}},
    "required": ["ce_epoch"],
}

_PERSON: Schema = {
    "type": ["object", "null"],
    "description": "Null, a tombstone, once the person is erased.",
    "properties": {"subject": {"type": "string"}, "salt": {"type": "string"}, "name": {"type": "string"}},
    "required": ["subject", "salt", "name"],
}


def further_channels(services: Iterable[str], *, rows: Mapping[str, Schema]) -> dict[str, Any]:
    """The channels by name. `rows` are the payloads that tell rows of production, by the name of their format."""
    messages = {
        name: _message(name, payload=payload, headers=_ROW_HEADERS, key="any: it only spreads records over partitions")
        for name, payload in rows.items()
    }
    pulse = _message("pulse", payload=_PULSE, headers=_PULSE_HEADERS, key="the service")
    entry = _message("person", payload=_PERSON, headers={"type": "object"}, key="the commitment to the printed name")
    return {
        "featuresTopic": _topic("prooftrail.features", messages),
        "pulseTopic": _topic("prooftrail.pulse", {"pulse": pulse}),
        **{f"{service}PeopleTopic": _topic(f"prooftrail.{service}.people", {"person": entry}) for service in services},
    }


def further_operations(services: Iterable[str]) -> dict[str, Any]:
    """What we do with these channels."""
    return {
        "receiveFeatures": _operation("receive", "featuresTopic", "Rows of production, taken by a group"),
        "sendPulses": _operation("send", "pulseTopic", "Every service says that it lives, and how far it is"),
        **{
            f"send{service.capitalize()}People": _operation(
                "send", f"{service}PeopleTopic", f"Printed names that {service} knows; compacted"
            )
            for service in services
        },
    }


def _message(name: str, *, payload: Schema, headers: Schema, key: str) -> dict[str, Any]:
    return {
        "name": name,
        "headers": dict(headers),
        "payload": dict(payload),
        "bindings": {"kafka": {"key": {"type": "string", "description": key}}},
    }


def _topic(address: str, messages: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "address": address,
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": dict(messages),
        "bindings": {"kafka": {"topic": address}},
    }


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}
