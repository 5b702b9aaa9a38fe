"""Several processes behind one client: each request goes to the one that serves it, every other verb over gRPC."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf import descriptor
from google.protobuf.message import Message

from services.composition import SERVICES
from shared.grpc_calls import CODES, fill, values_of
from shared.grpc_server import message_type
from shared.proto_schema import HEADERS, LEFT_OUT, call_of, is_stream, service_name_of
from tests.test_grpc_calls import Refused

OPENAPI = Path(__file__).parent.parent / "docs" / "openapi.json"
_STATUSES = {code: status for status, code in reversed(CODES.items())}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A verb or query: where HTTP has it, which service answers it, and whether it goes over gRPC here."""

    name: str
    method: str
    path: re.Pattern[str]
    service: str
    over_grpc: bool


def operations() -> Sequence[Operation]:
    """Those of the OpenAPI document; every other one goes over gRPC."""
    paths = json.loads(OPENAPI.read_text())["paths"]
    return [
        Operation(
            name=operation["operationId"],
            method=method.upper(),
            path=re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(path))),
            service=service,
            over_grpc=number % 2 == 1,
        )
        for number, (method, path, operation, service) in enumerate(_of_services(paths))
    ]


def _of_services(paths: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], str]]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            if not isinstance(operation, Mapping) or operation["operationId"] in LEFT_OUT or is_stream(operation):
                continue
            named = [*operation.get("tags", ()), *path.split("/")[2:4]]
            for service in [one for one in named if one in SERVICES][:1]:
                yield method, path, operation, service


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where a process listens: its HTTP address, and a channel to its gRPC server."""

    address: str
    channel: Any


@dataclass(frozen=True, kw_only=True)
class TwoWires(httpx.AsyncBaseTransport):
    """`doors` by service; `used` are the names of the operations that went over each wire."""

    doors: Mapping[str, Door]
    http: httpx.AsyncClient
    operations: Sequence[Operation] = field(default_factory=operations)
    used: dict[str, set[str]] = field(default_factory=lambda: {"http": set(), "grpc": set()})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        operation, in_path = self._found(request)
        self.used["grpc" if operation.over_grpc else "http"].add(operation.name)
        if operation.over_grpc:
            return await self._call(operation, in_path, request)
        address = self.doors[operation.service].address
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        answer = await self.http.request(
            request.method, f"{address}{request.url.raw_path.decode()}", content=await request.aread(), headers=headers
        )
        return httpx.Response(answer.status_code, headers=_kept(answer.headers), content=answer.content)

    def _found(self, request: httpx.Request) -> tuple[Operation, dict[str, str]]:
        for operation in self.operations:
            found = operation.path.fullmatch(request.url.path)
            if found is not None and operation.method == request.method:
                return operation, found.groupdict()
        raise LookupError(f"no service has {request.method} {request.url.path}")

    async def _call(self, operation: Operation, in_path: Mapping[str, str], request: httpx.Request) -> httpx.Response:
        package, call = f"prooftrail.{operation.service}.v1", call_of(operation.name)
        message = message_type(f"{package}.{call}Request")()
        await _fill_from(message, in_path, request)
        unary = self.doors[operation.service].channel.unary_unary(
            f"/{package}.{service_name_of(operation.service)}/{call}",
            request_serializer=lambda one: one.SerializeToString(),
            response_deserializer=message_type(f"{package}.{call}Response").FromString,
        )
        try:
            response = await unary(message, metadata=[("authorization", request.headers["authorization"])], timeout=60)
        except grpc.aio.AioRpcError as error:
            return _problem(Refused(error), str(error.details()))
        return _answer(response)


def _kept(headers: httpx.Headers) -> dict[str, str]:
    names = ("content-type", "prooftrail-position", "retry-after", "etag")
    return {name: headers[name] for name in names if name in headers}


async def _fill_from(message: Message, in_path: Mapping[str, str], request: httpx.Request) -> None:
    content = await request.aread()
    values: dict[str, Any] = dict(in_path)
    for name in request.url.params:
        values[name] = _typed(message.DESCRIPTOR.fields_by_name[name], request.url.params.get_list(name))
    values |= {name: request.headers[header] for header, name in HEADERS.items() if header in request.headers}
    if "content" in message.DESCRIPTOR.fields_by_name:
        values["content"] = content
    elif content:
        values |= json.loads(content)
    fill(message, values)


def _typed(wanted: Any, texts: Sequence[str]) -> Any:
    readers: dict[int, Callable[[str], Any]] = {
        descriptor.FieldDescriptor.TYPE_INT64: int,
        descriptor.FieldDescriptor.TYPE_DOUBLE: float,
        descriptor.FieldDescriptor.TYPE_BOOL: "true".__eq__,
    }
    read = readers.get(wanted.type, str)
    return [read(text) for text in texts] if wanted.is_repeated else read(texts[0])


def _answer(response: Message) -> httpx.Response:
    first = response.DESCRIPTOR.fields[0]
    if first.name == "content":
        found: Any = response
        return httpx.Response(200, content=found.content, headers={"Content-Type": found.content_type})
    document = _completed(response)[first.name]
    position = document.get("position")
    headers = {"Prooftrail-Position": position} if isinstance(position, str) else {}
    return httpx.Response(200, json=document, headers=headers)


def _completed(message: Message) -> dict[str, Any]:
    """As HTTP says it: what is not set is null, or an empty list."""
    values = values_of(message)
    for one in message.DESCRIPTOR.fields:
        own = one.message_type is not None and not one.message_type.full_name.startswith("google.protobuf.")
        if one.name not in values:
            values[one.name] = [] if one.is_repeated else None
        elif own and not one.message_type.GetOptions().map_entry:
            value = getattr(message, one.name)
            values[one.name] = [_completed(each) for each in value] if one.is_repeated else _completed(value)
    return values


def _problem(refused: Refused, message: str) -> httpx.Response:
    info: Any = refused.details["ErrorInfo"]
    status = _STATUSES[refused.code.value[0]]
    retry: Any = refused.details.get("RetryInfo")
    headers = {"Content-Type": "application/problem+json"}
    if retry is not None:
        headers["Retry-After"] = str(retry.retry_delay.seconds)
    problem = {"status": status, "title": message, "reason": info.reason, "next_step": info.metadata["next_step"]}
    return httpx.Response(status, headers=headers, content=json.dumps(problem))
