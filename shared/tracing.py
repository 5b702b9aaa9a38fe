"""Spans of what happens to a command: from the call through store, relay and Kafka to whoever takes its events. Off unless an
OTLP endpoint is set, and then nothing here costs more than a look at a name.

Events keep their trace (`correlation`) and no span, since bytes never change. So the span of an append has a number that
everybody can tell from the event: the first eight bytes of its leaf hash. Relay and consumers, in whatever process and however much
later, name it as their parent, as the `traceparent` of the record does.

    server span of HTTP or gRPC
      append <event>             in the service that was called
        send <topic>             in its relay, from handing over to acknowledgement
        project, record, react   in whoever takes the event; what a reaction appends goes on below it
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from shared.trace_ids import TRACE_ID, trace_of

if TYPE_CHECKING:
    from shared.event import RecordedEvent

SPAN_DIGITS = 16
LATE = timedelta(minutes=10)
"""Who takes an event later than that after it was recorded catches up, or builds anew: that is no part of what the caller began."""


class _Using:
    """The tracer of this process; None while spans are not wanted."""

    tracer: Tracer | None = None


_given: ContextVar[tuple[int, int] | None] = ContextVar("trace and span id", default=None)


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the standard variables of OpenTelemetry ask for spans to be sent somewhere."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    refused = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    none = environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none"
    return any(environment.get(name) for name in endpoints) and not refused and not none


@contextlib.contextmanager
def tracing(*, service: str) -> Iterator[None]:
    """Spans are sent while the block runs, if they are wanted; what is left is sent at its end. `service` is who they come from."""
    if not wanted():
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class GivenIds(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            given = _given.get()
            return super().generate_trace_id() if given is None else given[0]

        def generate_span_id(self) -> int:
            given = _given.get()
            return super().generate_span_id() if given is None else given[1]

    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: service}), id_generator=GivenIds(), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _Using.tracer = provider.get_tracer("prooftrail")
    try:
        yield
    finally:
        _Using.tracer = None
        provider.shutdown()


def now() -> int:
    """When something begins that is told when it has ended; 0 while nobody wants to know."""
    return 0 if _Using.tracer is None else time.time_ns()


def told_append(*, service: str, name: str, position: int, leaf_hash: str, correlation: str, began: int) -> None:
    """The span of an event that was appended."""
    if _Using.tracer is None or not TRACE_ID.fullmatch(correlation):
        return
    trace_id = int(correlation, 16)
    current = trace.get_current_span().get_span_context()
    context = None if current.is_valid and current.trace_id == trace_id else Context()
    token = _given.set((trace_id, int(leaf_hash[:SPAN_DIGITS], 16)))
    try:
        span = _Using.tracer.start_span(
            f"append {name}",
            context=context,
            start_time=began,
            attributes={"prooftrail.position": f"{service}:{position}"},
        )
    finally:
        _given.reset(token)
    span.end()


def told_sent(raws: Iterable[tuple[bytes, str]], *, topic: str, began: int) -> None:
    """The spans of records that Kafka acknowledged: bytes and leaf hash of each event."""
    if _Using.tracer is None:
        return
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
    }
    for raw, leaf_hash in raws:
        _tell(f"send {topic}", SpanKind.PRODUCER, _parent(raw, leaf_hash), attributes, began)


def told_taken(events: Sequence[RecordedEvent], *, verb: str, service: str, began: int) -> None:
    """The spans of events that a consumer of the service has taken in and committed; `verb` is project or record."""
    if _Using.tracer is None:
        return
    oldest = datetime.now(UTC) - LATE
    for event in events:
        if event.recorded_at > oldest:
            _tell(
                f"{verb} {event.name}",
                SpanKind.CONSUMER,
                _parent(event.raw, event.leaf_hash),
                {"prooftrail.position": f"{event.service}:{event.position}", "prooftrail.consumer": service},
                began,
            )


@contextlib.contextmanager
def reacting(event: RecordedEvent, *, service: str) -> Iterator[None]:
    """The span of a reaction to the event; what the block does is below it."""
    parent = None if _Using.tracer is None else _parent(event.raw, event.leaf_hash)
    if _Using.tracer is None or parent is None:
        yield
        return
    with _Using.tracer.start_as_current_span(
        f"react {event.name}", context=parent, kind=SpanKind.CONSUMER, attributes={"prooftrail.consumer": service}
    ):
        yield


@contextlib.contextmanager
def answering(method: str, metadata: Mapping[str, str]) -> Iterator[None]:
    """The server span of the gRPC call `package.Service/Method` that the block answers."""
    if _Using.tracer is None:
        yield
        return
    with _Using.tracer.start_as_current_span(
        method,
        context=propagate.extract(metadata),
        kind=SpanKind.SERVER,
        attributes={"rpc.system.name": "grpc", "rpc.method": method},
        record_exception=False,
    ):
        yield


def failed(code: str) -> None:
    """The call that is being answered ends with this code of gRPC."""
    if _Using.tracer is not None:
        span = trace.get_current_span()
        span.set_attribute("rpc.response.status_code", code)
        span.set_status(Status(StatusCode.ERROR, code))


def _tell(name: str, kind: SpanKind, parent: Context | None, attributes: Mapping[str, str], began: int) -> None:
    if _Using.tracer is not None and parent is not None:
        _Using.tracer.start_span(name, context=parent, kind=kind, attributes=attributes, start_time=began).end()


def _parent(raw: bytes, leaf_hash: str) -> Context | None:
    """The append of the event as a parent elsewhere; None for an event that belongs to no trace."""
    trace_id = trace_of(raw)
    if trace_id is None:
        return None
    span = SpanContext(
        int(trace_id, 16), int(leaf_hash[:SPAN_DIGITS], 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
    return trace.set_span_in_context(NonRecordingSpan(span), Context())
