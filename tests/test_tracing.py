"""One trace from a call through store, relay, Kafka and consumers, in processes of their own, as a real OTLP receiver gets it."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.composition import local_issuer
from shared import tracing
from shared.erasure import DECIDED, person_stream
from shared.event import leaf_hash_of
from shared.grpc_server import message_type
from shared.kafka_settings import KafkaSettings
from shared.settings import Settings
from tests.foreign import ACTOR, append_told
from tests.house import fresh_database
from tests.serving import ServedProcess, served_apart, start

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SYSTEM = {"key": "loans", "name": "L", "intended_use": "tests", "risk_class": "limited", "reason": "tests"}
PATIENCE_S = 60.0


class Receiver:
    """What a collector is: it takes spans over HTTP and keeps them, each with the process that it came from."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.take(request)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            self.spans += [(names[0], span) for scope in resource.scope_spans for span in scope.spans]

    def of(self, trace: str) -> list[tuple[str, Span]]:
        return [(process, span) for process, span in self.spans if span.trace_id.hex() == trace]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@contextlib.asynccontextmanager
async def two_processes(
    server_url: str, data: Path, kafka: KafkaSettings, receiver: Receiver
) -> AsyncIterator[tuple[dict[str, ServedProcess], dict[str, str]]]:
    """Requirements and traceability, each on its own database, whose URL is given too, with nothing between them but Kafka."""
    settings = {
        "KAFKA_BOOTSTRAP": ",".join(kafka.bootstrap),
        "KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "PROOFTRAIL_DEPLOYMENT": "traced",
    }
    async with fresh_database(server_url) as first, fresh_database(server_url) as second:
        urls = {"requirements": first, "traceability": second}
        with served_apart(data, urls, settings) as running:
            yield running, urls


async def test_one_trace_leads_from_a_call_to_every_consumer(
    server_url: str, tmp_path: Path, kafka: KafkaSettings, receiver: Receiver
) -> None:
    """By HTTP and by gRPC: the caller's trace, and one parent for all who take the event, whose number the event itself tells."""
    data = tmp_path / "data"
    token = local_issuer(Settings(data=data)).mint(name="Olga Owner")
    headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{CALLER}-01"}
    over_grpc = TRACE.replace("0af", "1bf")
    takers = {
        ("prooftrail-requirements", "send"), ("prooftrail-requirements", "project"),
        ("prooftrail-traceability", "project"), ("prooftrail-traceability", "record"),
    }  # fmt: skip
    async with two_processes(server_url, data, kafka, receiver) as (running, _):
        requirements = running["requirements"]
        async with httpx.AsyncClient(base_url=requirements.address, headers=headers, trust_env=False) as client:
            answer = (await client.post("/v1/systems", json=SYSTEM)).json()
        await register_by_grpc(requirements, token, trace=over_grpc)
        for trace in (TRACE, over_grpc):
            await until(lambda trace=trace: takers <= verbs(receiver.of(trace)))
        await until(lambda: any(span.kind == Span.SPAN_KIND_SERVER for _, span in receiver.of(over_grpc)))
    number = answer["events"][0]["leaf_hash"][:16]
    spans = receiver.of(TRACE)
    (server,) = (span for _, span in spans if span.kind == Span.SPAN_KIND_SERVER)
    (append,) = (span for _, span in spans if span.name.startswith("append "))
    assert (server.name, server.parent_span_id.hex()) == ("POST /v1/systems", CALLER)
    assert (append.span_id.hex(), append.parent_span_id) == (number, server.span_id)
    assert takers <= verbs((process, span) for process, span in spans if span.parent_span_id == append.span_id)
    (call,) = (span for _, span in receiver.of(over_grpc) if span.kind == Span.SPAN_KIND_SERVER)
    (appended,) = (span for _, span in receiver.of(over_grpc) if span.name.startswith("append "))
    assert (call.name, call.parent_span_id.hex()) == (
        "prooftrail.requirements.v1.RequirementsService/RegisterAiSystem", CALLER,
    )  # fmt: skip
    assert appended.parent_span_id == call.span_id
    assert [span.name for _, span in receiver.spans if "readyz" in span.name or "Subscribe" in span.name] == []


def verbs(spans: Iterable[tuple[str, Span]]) -> set[tuple[str, str]]:
    """What which process did."""
    return {(process, span.name.split()[0]) for process, span in spans}


async def test_a_reaction_goes_on_with_the_trace_of_its_cause(
    server_url: str, tmp_path: Path, kafka: KafkaSettings, receiver: Receiver
) -> None:
    """An erasure that was decided in one process: another reacts, what it appends is below that, and goes out to the first."""
    subject = "person-1f2e"
    decided = {
        "stream": person_stream(subject), "name": DECIDED, "schema": 1, "actor": ACTOR, "reason": "part of the test",
        "correlation": TRACE, "causation": None, "data": {"subject": subject, "why": "no-longer-needed"},
    }  # fmt: skip
    async with two_processes(server_url, tmp_path / "data", kafka, receiver) as (_, urls):
        position = await append_told(urls["traceability"], "traceability", decided)
        expected = {
            ("prooftrail-requirements", f"react {DECIDED}"),
            ("prooftrail-requirements", "append requirements.person-erased"),
            ("prooftrail-traceability", "record requirements.person-erased"),
        }
        await until(lambda: expected <= {(process, span.name) for process, span in receiver.of(TRACE)})
        number = leaf_hash_of(await stored(urls["traceability"], position))[:16]
    spans = {(process, span.name): span for process, span in receiver.of(TRACE)}
    react = spans["prooftrail-requirements", f"react {DECIDED}"]
    append = spans["prooftrail-requirements", "append requirements.person-erased"]
    record = spans["prooftrail-traceability", "record requirements.person-erased"]
    assert react.parent_span_id.hex() == number
    assert append.parent_span_id == react.span_id
    assert record.parent_span_id == append.span_id


async def stored(url: str, position: int) -> bytes:
    """The bytes of the event of traceability at the position."""
    connection = await asyncpg.connect(url)
    try:
        raw: bytes = await connection.fetchval("SELECT event FROM traceability.event WHERE position = $1", position)
    finally:
        await connection.close()
    return raw


async def register_by_grpc(process: ServedProcess, token: str, *, trace: str) -> None:
    """Another AI system."""
    package = "prooftrail.requirements.v1"
    request_type = message_type(f"{package}.RegisterAiSystemRequest")
    metadata = (("authorization", f"Bearer {token}"), ("traceparent", f"00-{trace}-{CALLER}-01"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
        call = channel.unary_unary(
            f"/{package}.RequirementsService/RegisterAiSystem",
            request_serializer=request_type.SerializeToString,
            response_deserializer=message_type(f"{package}.RegisterAiSystemResponse").FromString,
        )
        await call(request_type(**{**SYSTEM, "key": "cards"}), metadata=metadata, timeout=PATIENCE_S)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 -- it lies outside
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_decide(environment: dict[str, str], on: bool) -> None:
    """Nothing is sent that nobody asked for."""
    assert tracing.wanted(environment) is on


SERVE_AND_TELL = """
import sys
from services.server import serve
code = serve(sys.argv[1:])
print(*sorted(sys.modules), sep="\\n")
sys.exit(code)
"""
"""Serves as `python -m services` does; ended, it writes what it has loaded."""


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
async def test_nothing_is_loaded_while_nobody_wants_it(
    server_url: str, tmp_path: Path, receiver: Receiver, on: bool
) -> None:
    """A process that has answered a command of a caller with a trace knows neither spans nor how to send them; asked, it does."""
    data, output = tmp_path / "data", tmp_path / "output"
    token = local_issuer(Settings(data=data)).mint(name="Olga Owner")
    headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{CALLER}-01"}
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address if on else "", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "",
        "PROOFTRAIL_DRAIN_S": "0",
    }  # fmt: skip
    async with fresh_database(server_url) as url:
        one = start(
            data, "requirements", database_url=url, settings=settings, output=output, program=("-c", SERVE_AND_TELL)
        )
        try:
            await asyncio.to_thread(one.until_ready)
            async with httpx.AsyncClient(base_url=one.address, headers=headers, trust_env=False) as client:
                assert (await client.post("/v1/systems", json=SYSTEM)).status_code == 201
        finally:
            await asyncio.to_thread(one.end)
    loaded = set(output.read_text().splitlines())
    assert "services.requirements.main" in loaded
    makers = {"opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"}
    assert loaded & makers == (makers if on else set())
    assert bool(receiver.of(TRACE)) is on


def test_nothing_is_made_while_nobody_wants_it() -> None:
    """Not even the time is asked for."""
    assert tracing.now() == 0
    with tracing.tracing(service="prooftrail"):
        assert tracing.now() == 0
