"""What is published of the events: a JSON Schema of every event and version, and an AsyncAPI document of the ways they take.

Schemas say what a reader may rely on. They are open: a field that is added later breaks nobody, and none is ever taken away,
renamed or given another meaning; that would be a new version. The schema of a version never changes once it is released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shared.event import Actor, Fact
from shared.topic_schema import further_channels, further_operations

DIALECT = "https://json-schema.org/draft/2020-12/schema"
HEX_SHA256 = "^[0-9a-f]{64}$"
ASYNCAPI = "3.0.0"

_ENVELOPE: dict[str, Any] = {
    "position": {"type": "integer", "minimum": 1, "description": "Place in the service's store, without holes."},
    "recorded_at": {"type": "string", "format": "date-time", "description": "When the store took it, in UTC."},
    "system": {"type": ["string", "null"], "description": "The AI system it belongs to; null for the service itself."},
    "system_sequence": {
        "type": ["integer", "null"],
        "description": "Number among the events of its AI system, from 1.",
    },
    "system_previous": {
        "type": ["string", "null"],
        "pattern": HEX_SHA256,
        "description": "Leaf hash of the event of its AI system before it; null for the first.",
    },
    "id": {"type": "string", "description": "Unique together with the service."},
    "stream": {"type": "string", "description": "The record it belongs to: `<kind>:<system>/<key>`."},
    "version": {"type": "integer", "minimum": 1, "description": "Number among the events of its stream."},
    "reason": {"type": "string", "description": "Why, as the actor put it."},
    "correlation": {"type": "string", "description": "The trace it belongs to."},
    "causation": {"type": ["string", "null"], "description": "The id of the event that caused it; null for none."},
}

_KAFKA_ONLY = ("ce_epoch", "ce_dataref")
_OPTIONAL_HEADERS = ("ce_dataref", "traceparent")

_HEADERS: dict[str, Any] = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": {"type": "string", "description": "Unique together with ce_source."},
    "ce_source": {"type": "string", "description": "`urn:prooftrail:<service>`"},
    "ce_type": {"type": "string", "description": "The name of the event."},
    "ce_time": {"type": "string", "format": "date-time"},
    "ce_position": {
        "type": "string",
        "pattern": "^[0-9]+$",
        "description": "Resume by it, never by an offset of Kafka.",
    },
    "ce_leafhash": {"type": "string", "pattern": HEX_SHA256, "description": "SHA-256 of a zero byte and the value."},
    "ce_epoch": {"type": "string", "description": "Which leader sent it."},
    "ce_dataref": {"type": "string", "description": "Where an event is that no record can hold; its value is empty."},
    "content-type": {"type": "string", "const": "application/json"},
    "traceparent": {"type": "string", "description": "The trace of the request that caused it (W3C Trace Context)."},
}

_WEBHOOK_HEADERS: dict[str, Any] = {
    **{name.replace("_", "-"): header for name, header in _HEADERS.items() if name not in _KAFKA_ONLY},
    "webhook-id": {"type": "string", "description": "The ce-id: the same however often the event is sent."},
    "webhook-timestamp": {"type": "string", "pattern": "^[0-9]+$", "description": "When it was sent this time (Unix)."},
    "webhook-signature": {
        "type": "string",
        "description": "Standard Webhooks: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; one for each secret.",
    },
}

_SERVERS: dict[str, Any] = {
    "kafka": {"host": "127.0.0.1:9092", "protocol": "kafka", "description": "KAFKA_BOOTSTRAP"},
    "http": {"host": "127.0.0.1:8080", "protocol": "http", "description": "Where `make run` serves."},
    "receiver": {
        "host": "{host}",
        "protocol": "https",
        "description": "The address that a webhook was registered with (POST /v1/<service>/webhooks).",
        "variables": {"host": {"description": "Yours."}},
    },
}


def schema_name(name: str, version: int) -> str:
    """The file that holds the schema of one version of an event."""
    return f"{name}.{version}.json"


def event_schema(service: str, fact: type[Fact]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of an event as it is stored, in its current version."""
    (data, actor), definitions = msgspec.json.schema_components([fact, Actor], ref_template="#/$defs/{name}")
    envelope = {
        "service": {"const": service},
        **_ENVELOPE,
        "name": {"const": fact.TOPIC},
        "schema": {"const": fact.SCHEMA, "description": "The version of the fields of `data`."},
        "actor": actor,
        "data": data,
    }
    return {
        "$schema": DIALECT,
        "$id": f"urn:prooftrail:schema:{fact.TOPIC}:{fact.SCHEMA}",
        "title": f"{fact.TOPIC} version {fact.SCHEMA}",
        "type": "object",
        "properties": envelope,
        "required": sorted(envelope),
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


def asyncapi_document(
    facts: Mapping[str, Sequence[type[Fact]]],
    *,
    version: str,
    rows: Mapping[str, Mapping[str, Any]],
    schemas: Mapping[str, Any],
) -> dict[str, Any]:
    """The AsyncAPI document of all services: topics in Kafka, server-sent events, webhooks. Payloads of events lie in schemas/;
    `rows` are those of rows of production, by format, and `schemas` what they refer to in `#/components/schemas`.
    """
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Prooftrail events",
            "version": version,
            "description": (
                "Every event of every service, exactly as it was stored. Kafka carries CloudEvents 1.0 in binary mode, one topic"
                " with one partition for each service; server-sent events carry the same text under the same positions, and"
                " webhooks the same bytes and attributes, signed. At least once: drop what is at or below the position that you"
                " have."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": _SERVERS,
        "channels": _event_channels(facts) | further_channels(facts, rows=rows),
        "operations": _event_operations(facts) | further_operations(facts),
        "components": {
            "messages": {key: message for service in facts for key, message in _messages(facts[service])},
            "messageTraits": {
                "cloudEvent": {"headers": _headers(_HEADERS)},
                "signedCloudEvent": {"headers": _headers(_WEBHOOK_HEADERS)},
            },
            "schemas": dict(schemas),
        },
    }


def _event_channels(facts: Mapping[str, Sequence[type[Fact]]]) -> dict[str, Any]:
    return {
        f"{service}{way}": channel
        for service in facts
        for way, channel in (
            ("Topic", _channel(facts[service], "kafka", f"prooftrail.{service}")),
            ("Stream", _channel(facts[service], "http", f"/v1/{service}/events/stream")),
            ("Webhook", _channel(facts[service], "receiver", None, trait="signedCloudEvent")),
        )
    }


def _event_operations(facts: Iterable[str]) -> dict[str, Any]:
    return {
        f"send{service.capitalize()}{way}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{service}{way}"},
            "summary": f"Events of {service}",
        }
        for service in facts
        for way in ("Topic", "Stream", "Webhook")
    }


def _headers(properties: Mapping[str, Any]) -> dict[str, Any]:
    required = [name for name in properties if name not in _OPTIONAL_HEADERS]
    return {"type": "object", "properties": dict(properties), "required": required}


def _channel(
    facts: Iterable[type[Fact]], server: str, address: str | None, *, trait: str | None = None
) -> dict[str, Any]:
    """Its messages are those of all, or with another trait its own; an address that is None is known to the receiver."""
    channel: dict[str, Any] = {
        "address": address,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": {key: {"$ref": f"#/components/messages/{key}"} for key, _ in _messages(facts)}
        if trait is None
        else dict(_messages(facts, trait=trait)),
    }
    if server == "kafka":
        channel["bindings"] = {"kafka": {"topic": address, "partitions": 1}}
    return channel


def _messages(facts: Iterable[type[Fact]], *, trait: str = "cloudEvent") -> Iterable[tuple[str, dict[str, Any]]]:
    """One message for each version that was ever written: they all stay in the store."""
    for fact in facts:
        for schema in range(1, fact.SCHEMA + 1):
            yield (
                f"{fact.TOPIC}.{schema}",
                {
                    "name": fact.TOPIC,
                    "title": f"{fact.TOPIC} version {schema}",
                    "traits": [{"$ref": f"#/components/messageTraits/{trait}"}],
                    "payload": {"$ref": f"./schemas/{schema_name(fact.TOPIC, schema)}"},
                    "correlationId": {"location": "$message.payload#/correlation"},
                },
            )
