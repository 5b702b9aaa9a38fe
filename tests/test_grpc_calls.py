"""Every verb and query of HTTP over gRPC: the same use cases, the same answers, the same reasons of errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given, strategies as st

from services.composition import SERVICES
from shared import grpc_server
from shared.errors import ProoftrailError
from shared.grpc_calls import CODES, fill, values_of
from shared.grpc_server import PortTaken, grpc_serving, message_type
from shared.proto_schema import DEPLOYMENT, LEFT_OUT, call_of, descriptors_of, is_stream, proto_files, service_name_of
from tests.house import Client, TestHouse

CHECKOUT = Path(__file__).parent.parent
PROTOS = CHECKOUT / "proto"
OPENAPI = json.loads((CHECKOUT / "docs" / "openapi.json").read_text())
KNOWN = {str(file.relative_to(PROTOS)): file.read_text() for file in PROTOS.rglob("*.proto")}


class Refused(Exception):
    """The call ended with a status; its details by type."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.code = error.code()
        status = rpc_status.from_call(_Ended(error))
        self.details: dict[str, Message] = {}
        for packed in status.details if status is not None else ():
            kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])()
            packed.Unpack(kind)
            self.details[kind.DESCRIPTOR.name] = kind


class _Ended:
    """`rpc_status.from_call` asks a call by methods; an error of the asyncio API answers the same questions."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def trailing_metadata(self) -> Any:
        return self._error.trailing_metadata()

    def code(self) -> Any:
        return self._error.code()

    def details(self) -> Any:
        return self._error.details()


@dataclass(frozen=True)
class Wire:
    """A channel to the server."""

    channel: Any
    house: TestHouse

    async def call(self, who: Client | None, call: str, fields: Mapping[str, Any], *, within_s: float = 60.0) -> Any:
        """The response of `service/Call`; Refused otherwise."""
        service, _, name = call.partition("/")
        package = f"prooftrail.{service}.v1"
        request = message_type(f"{package}.{name}Request")()
        fill(request, fields)
        unary = self.channel.unary_unary(
            f"/{package}.{service_name_of(service)}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_type(f"{package}.{name}Response").FromString,
        )
        metadata = [("authorization", f"Bearer {who.token}")] if who is not None else []
        try:
            return await unary(request, metadata=metadata, timeout=within_s)
        except grpc.aio.AioRpcError as error:
            raise Refused(error) from error


@pytest.fixture
async def wire(house: TestHouse) -> AsyncIterator[Wire]:
    """The running house with its gRPC server."""
    serving = grpc_serving(
        house.house.app, host="127.0.0.1", port=0, services=(*SERVICES, DEPLOYMENT), streams={}, drain_s=1.0
    )
    async with serving as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Wire(channel, house)


def test_the_protos_are_those_of_the_openapi_document() -> None:
    """`make proto` writes both; a change of the API shows in the commit."""
    assert proto_files(OPENAPI, services=SERVICES, known=KNOWN) == KNOWN, "run `make proto` and commit proto/"
    assert descriptors_of(PROTOS) == (PROTOS / "prooftrail.binpb").read_bytes(), "run `make proto` and commit proto/"


def test_every_operation_of_http_is_a_call() -> None:
    """None is left out but the ones that gRPC has its own words for."""
    every = [one for methods in OPENAPI["paths"].values() for one in methods.values()]
    operations = {one["operationId"] for one in every if not is_stream(one)} - LEFT_OUT
    protos = "".join(KNOWN.values())
    assert {one for one in operations if f"  rpc {call_of(one)}(" not in protos} == set()


def _openapi(**properties: Any) -> dict[str, Any]:
    """A document with one verb whose body has these fields."""
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}
    operation = {
        "operationId": "do_thing", "tags": ["drift"], "requestBody": body, "responses": {"204": {"description": ""}},
    }  # fmt: skip
    return {
        "paths": {"/v1/things": {"post": operation}},
        "components": {"schemas": {"Thing": {"properties": properties}}},
    }


def test_a_field_keeps_its_number_and_what_goes_is_reserved() -> None:
    """Whoever compiled an older proto still understands every field."""
    text, number = {"type": "string"}, {"type": "integer"}
    files: dict[str, str] = {}
    for properties in (
        {"b": text, "c": text},
        {"a": text, "c": number},
        {"a": text, "b": text, "c": number, "d": text},
    ):
        files = proto_files(_openapi(**properties), services=("drift",), known=files)
    message = files["prooftrail/drift/v1/drift.proto"].partition("message DoThingRequest {\n")[2].partition("}")[0]
    assert message.splitlines() == [
        "  optional string a = 3;",
        "  optional string b = 1;",
        "  optional int64 c = 2;",
        "  optional string d = 4;",
    ]
    files = proto_files(_openapi(c=number), services=("drift",), known=files)
    message = files["prooftrail/drift/v1/drift.proto"].partition("message DoThingRequest {\n")[2].partition("}")[0]
    assert message.splitlines() == [
        '  reserved 1; // "b"',
        '  reserved 3; // "a"',
        '  reserved 4; // "d"',
        "  optional int64 c = 2;",
    ]


async def test_a_record_made_over_grpc_is_the_one_that_http_shows(wire: Wire) -> None:
    """The receipt of a command, a wait for its position, a page, and the record over the other wire."""
    ada = wire.house.client("Ada Author")
    registered = await wire.call(ada, "requirements/RegisterAiSystem", _flights())
    assert registered.receipt.record == "ai-system:flights"
    assert registered.receipt.events[0].name == "requirements.ai-system-registered"
    page = await wire.call(ada, "requirements/ListAiSystems", {"after": registered.receipt.position, "page_size": 10})
    assert [item.key for item in page.ai_system_page.items] == ["flights"]
    shown = await ada.get("/v1/systems/flights")
    assert shown["intended_use"] == _flights()["intended_use"]


async def test_a_repeat_finds_its_answer_and_if_match_is_kept(wire: Wire) -> None:
    """Idempotency-Key and If-Match are fields of the request."""
    ada = wire.house.client("Ada Author")
    first = await wire.call(ada, "requirements/RegisterAiSystem", {"idempotency_key": "once", **_flights()})
    again = await wire.call(ada, "requirements/RegisterAiSystem", {"idempotency_key": "once", **_flights()})
    assert again.receipt == first.receipt
    with pytest.raises(Refused) as refused:
        await wire.call(
            ada, "requirements/ReviseIntendedUse",
            {
                "system": "flights", "if_match": '"7"', "intended_use": "another use of it", "risk_class": "limited",
                "reason": "changed", "after": "requirements:1",
            },
        )  # fmt: skip
    assert refused.value.code == grpc.StatusCode.ABORTED


async def test_errors_have_the_reasons_of_http(wire: Wire) -> None:
    """The same request over both wires is refused for the same reason, at the same fields."""
    ada, eve = wire.house.client("Ada Author"), wire.house.client("Eve Else")
    await wire.call(ada, "requirements/RegisterAiSystem", _flights())
    await ada.get("/v1/systems", after="requirements:1")
    cases = [
        (ada, "POST", "/v1/systems", "RegisterAiSystem", {"key": "No Key"}, {}, grpc.StatusCode.INVALID_ARGUMENT),
        (ada, "POST", "/v1/systems", "RegisterAiSystem", {**_flights(), "name": "Else"}, {}, grpc.StatusCode.FAILED_PRECONDITION),
        (eve, "GET", "/v1/systems/flights", "GetAiSystem", {}, {"system": "flights"}, grpc.StatusCode.NOT_FOUND),
        (None, "GET", "/v1/systems/flights", "GetAiSystem", {}, {"system": "flights"}, grpc.StatusCode.UNAUTHENTICATED),
    ]  # fmt: skip
    for who, method, path, name, body, in_path, code in cases:
        headers = {"Authorization": f"Bearer {who.token}"} if who is not None else {}
        answer = await wire.house.http.request(method, path, json=body or None, headers=headers)
        problem = answer.json()
        with pytest.raises(Refused) as refused:
            await wire.call(who, f"requirements/{name}", {**body, **in_path})
        info: Any = refused.value.details["ErrorInfo"]
        assert (refused.value.code, info.reason, info.domain) == (code, problem["reason"], "prooftrail")
        assert info.metadata["next_step"] == problem["next_step"]
        fields: Any = refused.value.details.get("BadRequest")
        found = [one.field for one in fields.field_violations] if fields is not None else []
        assert found == [one["field"].removeprefix("/") for one in problem["errors"]]


async def test_a_refusal_in_plain_text_is_one_over_grpc_too(wire: Wire) -> None:
    """The witness answers as C2SP says, and that is no problem document."""
    with pytest.raises(Refused) as refused:
        await wire.call(None, "deployment/AddCheckpoint", {"content": b"nonsense"})
    answer = await wire.house.http.post("/add-checkpoint", content=b"nonsense")
    info: Any = refused.value.details["ErrorInfo"]
    assert (answer.status_code, refused.value.code) == (400, grpc.StatusCode.INVALID_ARGUMENT)
    assert (str(refused.value), info.reason) == (answer.text.strip(), "refused-in-words")


def test_every_error_has_a_code_of_its_own_kind() -> None:
    """Whatever status of HTTP an error has, or the API documents, gRPC has a word for it; only what nobody foresaw is INTERNAL."""
    documented = {status for path in OPENAPI["paths"].values() for one in path.values() for status in one["responses"]}
    statuses = {int(status) for status in documented if status >= "400"} | set(_statuses(ProoftrailError))
    assert len(statuses) > 10
    assert statuses - CODES.keys() == {500}


def _statuses(kind: type[ProoftrailError]) -> Iterator[int]:
    yield kind.status
    for narrower in kind.__subclasses__():
        yield from _statuses(narrower)


async def test_a_source_that_is_behind_says_when_to_come_again(wire: Wire) -> None:
    """UNAVAILABLE with RetryInfo, as Retry-After of HTTP."""
    with pytest.raises(Refused) as refused:
        await wire.call(wire.house.client("Ada"), "requirements/ListAiSystems", {"after": "requirements:99"})
    assert refused.value.code == grpc.StatusCode.UNAVAILABLE
    retry: Any = refused.value.details["RetryInfo"]
    assert retry.retry_delay.seconds >= 1


async def test_a_deadline_is_kept(wire: Wire) -> None:
    """A call that waits for a position that never comes ends with its deadline, not with the server's patience."""
    with pytest.raises(Refused) as refused:
        await wire.call(
            wire.house.client("Ada"), "requirements/ListAiSystems", {"after": "requirements:99"}, within_s=0.2
        )
    assert refused.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_no_call_lasts_longer_than_the_server_allows(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever deadline it came with: here the client would wait for a minute. The reason is told as of every other error."""
    monkeypatch.setattr(grpc_server, "DEADLINE_MAX_SECONDS", 0.2)
    with pytest.raises(Refused) as refused:
        await wire.call(wire.house.client("Ada"), "requirements/ListAiSystems", {"after": "requirements:99"})
    assert refused.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    info: Any = refused.value.details["ErrorInfo"]
    assert (info.reason, info.domain) == ("deadline-exceeded", "prooftrail")
    assert info.metadata["next_step"]


async def test_a_field_of_the_path_leads_nowhere_else(wire: Wire) -> None:
    """Whatever a field holds, it is that field: never another address."""
    ada = wire.house.client("Ada Author")
    await wire.call(ada, "requirements/RegisterAiSystem", _flights())
    for key in ("", "x/y", "..", "a?b", "a#b", "a%2Fb", "flights:grant-role", "flights/datasets"):
        with pytest.raises(Refused) as refused:
            await wire.call(ada, "requirements/GetAiSystem", {"system": key, "after": "requirements:1"})
        info: Any = refused.value.details["ErrorInfo"]
        assert info.reason in ("invalid-request", "no-such-route", "method-not-allowed"), key


async def test_evidence_files_travel_as_bytes(wire: Wire) -> None:
    """The same bytes come back; they are checked against their digest as over HTTP."""
    ada, content = wire.house.client("Ada Author"), bytes(range(256)) * 100
    await wire.call(ada, "requirements/RegisterAiSystem", _flights())
    bob = wire.house.client("Bob Builder")
    granted = {"system": "flights", "subject": bob.subject, "role": "author", "reason": "he measures"}
    await wire.call(ada, "requirements/GrantRole", granted)
    stored: dict[str, Any] = {"system": "flights", "sha256": sha256(content).hexdigest(), "after": "requirements:2"}
    await wire.call(bob, "verification/StoreArtefact", {"content": content, **stored})
    answer = await wire.call(bob, "verification/GetArtefact", stored)
    assert answer.content == content
    with pytest.raises(Refused) as refused:
        await wire.call(bob, "verification/StoreArtefact", {"content": content + b"!", **stored})
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_health_and_reflection(house: TestHouse) -> None:
    """Each service is SERVING and described; ending, the server says NOT_SERVING to those who watch."""
    serving = grpc_serving(house.house.app, host="127.0.0.1", port=0, services=SERVICES, streams={}, drain_s=1.0)
    seen: list[int] = []
    async with serving as port:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        stub = health_pb2_grpc.HealthStub(channel)

        async def watch() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for answer in stub.Watch(health_pb2.HealthCheckRequest(service="")):
                    seen.append(answer.status)

        watching = asyncio.create_task(watch())
        for service in SERVICES:
            name = f"prooftrail.{service}.v1.{service_name_of(service)}"
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        found = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        listed = {one.name async for answer in found for one in answer.list_services_response.service}
        assert {f"prooftrail.{service}.v1.{service_name_of(service)}" for service in SERVICES} < listed
    await asyncio.wait_for(watching, 60)
    await channel.close()
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_a_port_that_is_taken_is_said(wire: Wire) -> None:
    """With what to do about it."""
    async with grpc_serving(
        wire.house.house.app, host="127.0.0.1", port=0, services=SERVICES, streams={}, drain_s=0.1
    ) as port:
        with pytest.raises(PortTaken, match=str(port)):
            async with grpc_serving(
                wire.house.house.app, host="127.0.0.1", port=port, services=SERVICES, streams={}, drain_s=0.1
            ):
                raise AssertionError("two servers share a port")


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    fields=st.dictionaries(st.text(), _json, max_size=4), positions=st.dictionaries(st.text(), st.integers(0, 2**62))
)
def test_plain_values_come_back_as_they_were(fields: dict[str, Any], positions: dict[str, int]) -> None:
    """Free-form objects, maps and times through a message and back."""
    message = message_type("prooftrail.traceability.v1.State")()
    values = {"system": "", "service_positions": positions, "recorded_at": "2026-01-01T00:00:00.123456Z"}
    fill(message, values)
    expected = {name: value for name, value in values.items() if value != {}}
    assert values_of(message) == expected
    record = message_type("prooftrail.traceability.v1.Record")()
    fill(record, {"fields": fields, "unknown": 1})
    assert values_of(record) == {"fields": fields}


def _flights() -> dict[str, str]:
    return {
        "key": "flights", "name": "Flights", "intended_use": "tells who will be late", "risk_class": "limited",
        "reason": "a test needs it",
    }  # fmt: skip
