"""Events: what they carry, how they are written as bytes, and how they are read again.

An *event* is a *fact* (typed, past tense, decided by a pure domain) in an *envelope* (who, why, in which stream, caused by what).
Its bytes are written once and never change: they are what the store keeps, the feed serves, Kafka carries and the log proves.

    {"service":"requirements","position":12,"recorded_at":"2026-01-01T00:00:00.000000Z",       <- stamped by the store
     "system":"flight-delay","system_sequence":3,"system_previous":"<sha256 hex>",
     "id":"...","stream":"requirement:flight-delay/REQ-1","version":2,                          <- the record, from here on
     "name":"requirements.requirement-approved","schema":1,"actor":{...},"reason":"...",
     "correlation":"...","causation":null,"data":{...}}

This module is the one place that touches the `eventsourcing` library: `Event` satisfies its domain-event protocol and
`EventMapper` its mapper contract. Unlike the stock mapper, names resolve through an allow-list, never by import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeVar

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

from shared.errors import FieldError, Invalid

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, in the domain's words. `TOPIC` is its stored name: a contract, not a Python path.

    `SCHEMA` counts the versions of its fields; `UPCASTERS[n]` turns the data of version n into that of version n + 1.
    """

    TOPIC: ClassVar[str]
    SCHEMA: ClassVar[int] = 1
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {}


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who acted. The subject is opaque; the printed name is only committed to, so that it can be forgotten.

    `name_commitment` is hex SHA-256 of the salt and the name that the directory holds, or None for a service without a name.
    """

    subject: str
    kind: Literal["person", "service"]
    issuer: str
    auth_time: datetime | None = None
    on_behalf_of: str | None = None
    name_commitment: str | None = None


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """A person's signature: who, when, with which meaning, over exactly which bytes (21 CFR 11.50, 11.70).

    `digest` is the hex SHA-256 of the canonical bytes of this record; `covers` lists all digests signed in the same act.
    """

    signer: Actor
    meaning: str
    signed_at: datetime
    digest: str
    covers: tuple[str, ...]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact in its envelope, as decided by a service and before the store stamps it."""

    id: str
    stream: str
    version: int
    name: str
    schema: int
    actor: Actor
    reason: str
    correlation: str
    causation: str | None
    data: Fact

    @property
    def originator_id(self) -> str:
        """The stream, under the name that the `eventsourcing` library gives it."""
        return self.stream

    @property
    def originator_version(self) -> int:
        """The version in the stream, under the name that the `eventsourcing` library gives it."""
        return self.version


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as a store or feed hands it out: its exact bytes and what the store knows of them.

    `leaf_hash` is hex SHA-256 of a zero byte and the bytes (RFC 6962, 2.1).
    """

    service: str
    position: int
    stream: str
    version: int
    name: str
    system: str | None
    recorded_at: datetime
    leaf_hash: str
    raw: bytes

    def content(self) -> dict[str, Any]:
        """The whole event as plain JSON values, for readers that do not know its type."""
        content: dict[str, Any] = msgspec.json.decode(self.raw)
        return content

    def data(self) -> dict[str, Any]:
        """The data of its fact as plain JSON values."""
        return _data_decoder.decode(self.raw).data


class _Data(msgspec.Struct, frozen=True):
    data: dict[str, Any]


_data_decoder = msgspec.json.Decoder(_Data)


class _Record(msgspec.Struct, frozen=True):
    """The part of the stored bytes that the mapper reads back; `data` stays raw until its type is known."""

    id: str
    stream: str
    version: int
    name: str
    schema: int
    actor: Actor
    reason: str
    correlation: str
    causation: str | None
    data: msgspec.Raw


class EffectiveInTheFuture(Invalid):
    """A fact is told when it has happened."""


def require_not_future(effective_at: datetime | None, *, at: datetime) -> None:
    """For facts that may be told late: `effective_at` is since when they are true, None for since they are told."""
    if effective_at is not None and effective_at > at:
        raise EffectiveInTheFuture(
            "effective_at lies in the future.",
            why="It says since when something is true that has happened.",
            next_step="Send the time at which it happened, or leave effective_at out for now.",
            fields=(FieldError(field="/effective_at", rule=f"at most {at.isoformat()}"),),
        )


def without_effective_at(data: dict[str, Any]) -> dict[str, Any]:
    """Upcaster of facts that got `effective_at` in a later version: until then they were told when they happened."""
    return {**data, "effective_at": None}


class UnknownEventName(Invalid):
    """A stored name or schema that this service does not know: kept and shown, never imported and never dropped."""


class EventTooLarge(Invalid):
    """The event would not fit into an entry of its log, and nobody could fetch the bundle that it lies in."""


class FactNotWritable(Invalid):
    """The fact holds something that its bytes cannot tell, a NaN for example."""


def _unwritable(name: str, rule: str) -> FactNotWritable:
    return FactNotWritable(
        f"This {name} cannot be written down: {rule}.",
        why="An event is its bytes, and they never change; so they must tell all of it.",
        next_step="Send finite numbers and the types that the API document names.",
    )


RECORD_BYTES_MAX = 65_535 - 500
"""An entry of a log (C2SP tlog-tiles) tells its length in two bytes; what the store stamps takes less than 500 of them."""


def _too_large(name: str, size: int) -> EventTooLarge:
    return EventTooLarge(
        f"This {name} has {size:,} bytes, and an event can have {RECORD_BYTES_MAX:,}.",
        why="Every event is an entry of its service's log, and an entry tells its length in two bytes (C2SP tlog-tiles).",
        next_step="Put what is large into an evidence file; the event carries its digest and length.",
    )


_encoder = msgspec.json.Encoder(order="deterministic", decimal_format="string")
_record_decoder = msgspec.json.Decoder(_Record)

FactType = TypeVar("FactType", bound=Fact)


class EventMapper(Mapper[str]):
    """Turns events into stored events and back, for exactly the fact types it was given."""

    def __init__(self, fact_types: Iterable[type[Fact]]) -> None:
        super().__init__(transcoder=JSONTranscoder())
        self._types = {fact_type.TOPIC: fact_type for fact_type in fact_types}
        self._decoders = {topic: msgspec.json.Decoder(fact_type) for topic, fact_type in self._types.items()}

    @property
    def fact_types(self) -> tuple[type[Fact], ...]:
        """The fact types this mapper knows, by stored name."""
        return tuple(self._types[topic] for topic in sorted(self._types))

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        if not isinstance(domain_event, Event) or domain_event.name not in self._types:
            raise UnknownEventName(f"{domain_event!r} is no event of this service.")
        self._require_return(domain_event)
        state = _encoder.encode(domain_event)
        if len(state) > RECORD_BYTES_MAX:
            raise _too_large(domain_event.name, len(state))
        return StoredEvent(
            originator_id=domain_event.stream,
            originator_version=domain_event.version,
            topic=domain_event.name,
            state=state,
        )

    def _require_return(self, event: Event) -> None:
        """JSON has no NaN and no tuple: what its bytes would tell otherwise, for ever, must not be written."""
        try:
            returned = self._decoders[event.name].decode(_encoder.encode(event.data))
        except msgspec.ValidationError as error:
            raise _unwritable(event.name, str(error)) from error
        if returned != event.data:
            raise _unwritable(event.name, "its bytes tell another fact")

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        record = _record_decoder.decode(stored_event.state)
        if (record.stream, record.version, record.name) != (
            stored_event.originator_id,
            stored_event.originator_version,
            stored_event.topic,
        ):
            raise UnknownEventName(
                f"The bytes of {stored_event.originator_id} version {stored_event.originator_version} tell of another event.",
                why="Stream, version and name in the bytes must be those of the row.",
                next_step="Treat the database as altered: verify the log before you go on.",
            )
        return Event(
            id=record.id,
            stream=record.stream,
            version=record.version,
            name=record.name,
            schema=record.schema,
            actor=record.actor,
            reason=record.reason,
            correlation=record.correlation,
            causation=record.causation,
            data=self._decode(name=record.name, schema=record.schema, data=record.data),
        )

    def _decode(self, *, name: str, schema: int, data: msgspec.Raw) -> Fact:
        fact_type = self._types.get(name)
        if fact_type is None:
            raise UnknownEventName(
                f"The stored event name {name!r} is unknown here.",
                why="Names resolve through an allow-list; a newer version may have written it.",
                next_step="Run the version of Prooftrail that wrote it, or a newer one.",
            )
        if schema > fact_type.SCHEMA:
            raise UnknownEventName(
                f"{name!r} of schema {schema} is unknown here; the newest known one is {fact_type.SCHEMA}.",
                why="Fields that this version does not know would be lost.",
                next_step="Run the version of Prooftrail that wrote it, or a newer one.",
            )
        if schema == fact_type.SCHEMA:
            fact: Fact = self._decoders[name].decode(data)
            return fact
        content: dict[str, Any] = msgspec.json.decode(data)
        for version in range(schema, fact_type.SCHEMA):
            content = fact_type.UPCASTERS[version](content)
        return msgspec.convert(content, fact_type)


def canonical_bytes(value: Any) -> bytes:
    """The bytes a signature covers: JSON with sorted keys, shortest floats, no spaces."""
    return msgspec.json.encode(msgspec.to_builtins(value), order="sorted")


def digest_of(content: bytes) -> str:
    """Hex SHA-256 of the bytes."""
    return hashlib.sha256(content).hexdigest()


def leaf_hash_of(event: bytes) -> str:
    """Hex SHA-256 of a zero byte and the event's bytes: the leaf hash of RFC 6962, 2.1."""
    return hashlib.sha256(b"\x00" + event).hexdigest()


def stream_of(*, kind: str, system: str | None, key: str | None = None) -> str:
    """The name of a stream: `requirement:flight-delay/REQ-1`, `ai-system:flight-delay`, `log::requirements` without a system."""
    return f"{kind}:{system or ''}" + (f"/{key}" if key is not None and system else f":{key}" if key else "")


def system_of(stream: str) -> str | None:
    """The AI system a stream belongs to, or None for a stream of the service itself."""
    return stream.partition(":")[2].partition("/")[0].partition(":")[0] or None


def key_of(stream: str) -> str:
    """The key of the record inside its AI system: `REQ-1` of `requirement:flight-delay/REQ-1`."""
    return stream.partition("/")[2]
