"""Calls of gRPC, carried out by the HTTP application in this process: one set of doors, two wires.

A request becomes the HTTP request of the same verb, so the token, the rules, `after`, Idempotency-Key and the reasons of errors
are the same by construction. What comes back becomes the call's response, or google.rpc.Status with its details. A command goes to
its route at once; anything else goes all the way through the application.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from functools import cache, cached_property
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from fastapi import FastAPI, Request, Response
from google.protobuf import any_pb2, duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from shared.command_route import Answering
from shared.errors import ProoftrailError
from shared.http_app import answer_to, refused_by_size
from shared.proto_schema import HEADERS
from shared.telemetry import BEHIND_GRPC

ERROR_DOMAIN = "prooftrail"
PROBLEM = b"application/problem+json"

CODES = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    409: code_pb2.FAILED_PRECONDITION,
    412: code_pb2.ABORTED,
    413: code_pb2.RESOURCE_EXHAUSTED,
    422: code_pb2.INVALID_ARGUMENT,
    428: code_pb2.FAILED_PRECONDITION,
    429: code_pb2.RESOURCE_EXHAUSTED,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}
"""Status codes of HTTP in the words of google.rpc.Code; any other is INTERNAL."""

CODES_OF_REASONS = {"position-ahead": code_pb2.OUT_OF_RANGE}
"""Where google.rpc.Code has a word of its own: who resumes a stream tells by it that the position is none of this store."""

_FIELDS_OF_HEADERS = {name: header.encode() for header, name in HEADERS.items()}
_SAFE_INTEGER = 2**53


class CallFailed(Exception):
    """The call was refused or went wrong; `status` says how."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The HTTP request that a call stands for: method and path with `{name}` for the fields of the request that are in it."""

    method: str
    path: str
    answering: Answering | None = None

    @cached_property
    def in_path(self) -> frozenset[str]:
        """The names of the fields that are in the path."""
        return frozenset(re.findall(r"\{(\w+)(?::\w+)?\}", self.path))


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """What the application answered."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


async def carry_out(
    app: FastAPI, binding: Binding, request: Message, response_type: type[Message], *, metadata: Mapping[str, str]
) -> Message:
    """The response of the call; CallFailed otherwise. `metadata` may hold authorization and traceparent."""
    values = values_of(request)
    path = _filled(binding, values)
    headers = {name.encode(): metadata[name].encode() for name in ("authorization", "traceparent") if name in metadata}
    headers |= {_FIELDS_OF_HEADERS[name]: str(values[name]).encode() for name in _FIELDS_OF_HEADERS if name in values}
    rest = {name: value for name, value in values.items() if name not in binding.in_path | _FIELDS_OF_HEADERS.keys()}
    query, body = rest, b""
    if binding.method != "GET":
        query = {name: rest.pop(name) for name in ("after",) if name in rest}
        # Sorted: a map of protobuf has no order, and the same request must have the same fingerprint.
        body = rest["content"] if "content" in rest else msgspec.json.encode(rest, order="sorted")
        headers[b"content-type"] = b"application/octet-stream" if "content" in rest else b"application/json"
    scope = _scope_of(app, binding.method, path, query, headers, body)
    if binding.answering is not None:
        scope["path_params"] = {name: str(values[name]) for name in binding.in_path}
        answer = await _ask_route(binding.answering, scope, body, rest.get("content", rest))
    else:
        answer = await _ask_application(app, scope, body)
    if answer.status >= 300:
        raise CallFailed(_status_of(answer))
    return _response_of(answer, response_type)


def status_of(error: ProoftrailError, *, trace_id: str) -> status_pb2.Status:
    """The same words as the problem document of HTTP, for a call that no HTTP request stands for."""
    return _status(
        CODES.get(error.status, code_pb2.INTERNAL),
        reason=error.reason,
        message=" ".join(part for part in (error.what, error.why) if part),
        fields=[(one.field, one.rule) for one in error.fields],
        metadata={"next_step": error.next_step, "trace_id": trace_id},
    )


def in_batch(failed: CallFailed, number: int) -> CallFailed:
    """The failure of the batch with this number, counted from 1, of a stream; those before it stay."""
    status = status_pb2.Status()
    status.CopyFrom(failed.status)
    status.message = f"Batch {number}: {status.message}"
    return CallFailed(status)


class _Kind(Enum):
    """How the value of a field is kept."""

    MAP = auto()
    MESSAGES = auto()
    MESSAGE = auto()
    VALUES = auto()
    VALUE = auto()


@cache
def _kinds(descriptor: Any) -> Mapping[str, _Kind]:
    """Of each field of a message, by name; a descriptor is asked once, since asking costs more than the conversion."""
    return {field.name: _kind(field) for field in descriptor.fields}


def _kind(field: Any) -> _Kind:
    if field.message_type is None:
        return _Kind.VALUES if field.is_repeated else _Kind.VALUE
    if field.message_type.GetOptions().map_entry:
        return _Kind.MAP
    return _Kind.MESSAGES if field.is_repeated else _Kind.MESSAGE


def values_of(message: Message) -> dict[str, Any]:
    """The fields that are set, as plain values; whole numbers in free-form objects come back as integers."""
    kinds = _kinds(message.DESCRIPTOR)
    return {field.name: _value(kinds[field.name], value) for field, value in message.ListFields()}


def _value(kind: _Kind, value: Any) -> Any:
    match kind:
        case _Kind.VALUE:
            return value
        case _Kind.VALUES:
            return list(value)
        case _Kind.MAP:
            return dict(value)
        case _Kind.MESSAGES:
            return [_plain(one) for one in value]
        case _Kind.MESSAGE:
            return _plain(value)


def _plain(value: Message) -> Any:
    if isinstance(value, timestamp_pb2.Timestamp):
        return value.ToJsonString()
    if isinstance(value, struct_pb2.Struct):
        return {key: _plain(one) for key, one in value.fields.items()}
    if isinstance(value, struct_pb2.Value):
        return _plain_value(value)
    return values_of(value)


def _plain_value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain(value.struct_value)
    if kind == "list_value":
        return [_plain_value(one) for one in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < _SAFE_INTEGER else number
    return None if kind in (None, "null_value") else getattr(value, kind)


def fill(message: Message, values: Mapping[str, Any]) -> None:
    """Sets the fields from plain values; null is left out, and a name that the message does not know is passed over."""
    kinds = _kinds(message.DESCRIPTOR)
    for name, value in values.items():
        if value is not None and name in kinds:
            _set(message, name, kinds[name], value)


def _set(message: Message, name: str, kind: _Kind, value: Any) -> None:
    match kind:
        case _Kind.VALUE:
            setattr(message, name, value)
        case _Kind.VALUES:
            getattr(message, name).extend(value)
        case _Kind.MAP:
            getattr(message, name).update(value)
        case _Kind.MESSAGES:
            for one in value:
                _fill_message(getattr(message, name).add(), one)
        case _Kind.MESSAGE:
            getattr(message, name).SetInParent()
            _fill_message(getattr(message, name), value)


def _fill_message(message: Message, value: Any) -> None:
    if isinstance(message, timestamp_pb2.Timestamp):
        # Its own FromJsonString takes twenty times as long.
        message.FromDatetime(datetime.fromisoformat(value))
    elif isinstance(message, struct_pb2.Struct):
        for key, one in value.items():
            _fill_value(message.fields[key], one)
    elif isinstance(message, struct_pb2.Value):
        _fill_value(message, value)
    else:
        fill(message, value)


def _fill_value(message: struct_pb2.Value, value: Any) -> None:
    if isinstance(value, Mapping):
        message.struct_value.SetInParent()
        _fill_message(message.struct_value, value)
    elif isinstance(value, list):
        message.list_value.SetInParent()
        for one in value:
            _fill_value(message.list_value.values.add(), one)
    elif value is None:
        message.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int | float):
        message.number_value = value
    else:
        message.string_value = value


def _filled(binding: Binding, values: Mapping[str, Any]) -> str:
    """The path; a value that would lead to another address is refused."""

    def value_of(match: re.Match[str]) -> str:
        value = str(values.get(match[1], ""))
        if not value or ("/" in value and match[2] != ":path") or value in (".", ".."):
            raise CallFailed(
                _status(
                    code_pb2.INVALID_ARGUMENT, reason="invalid-request", message=f"The request breaks a rule at {match[1]}.",
                    fields=[(match[1], "is needed, and holds no slash")],
                )
            )  # fmt: skip
        return value

    return re.sub(r"\{(\w+)(:\w+)?\}", value_of, binding.path)


def _scope_of(
    app: FastAPI, method: str, path: str, query: Mapping[str, Any], headers: Mapping[bytes, bytes], body: bytes
) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": quote(path, safe="/:@").encode(), "root_path": "", "app": app,
        "query_string": urlencode({name: _query_value(one) for name, one in query.items()}, doseq=True).encode(),
        "headers": [*headers.items(), (b"host", b"grpc"), (b"content-length", str(len(body)).encode())],
        "client": None, "server": None, "extensions": {BEHIND_GRPC: {}},
    }  # fmt: skip


def _received(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _ask_route(answering: Answering, scope: dict[str, Any], body: bytes, said: Any) -> HttpAnswer:
    request = Request(scope, _received(body))
    try:
        response: Response = refused_by_size(scope, len(body)) or await answering(request, said)
    except Exception as error:  # noqa: BLE001 -- the application answers every one of them
        response = await answer_to(request, error)
    return HttpAnswer(status=response.status_code, headers=dict(response.raw_headers), body=bytes(response.body))


async def _ask_application(app: FastAPI, scope: dict[str, Any], body: bytes) -> HttpAnswer:
    status, answered, parts = 500, dict[bytes, bytes](), list[bytes]()

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            answered.update(message["headers"])
        else:
            parts.append(message.get("body", b""))

    await app(scope, _received(body), send)
    return HttpAnswer(status=status, headers=answered, body=b"".join(parts))


def _query_value(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _response_of(answer: HttpAnswer, response_type: type[Message]) -> Message:
    response = response_type()
    first = next(iter(_kinds(response.DESCRIPTOR)), None)
    if first == "content":
        fill(response, {"content": answer.body, "content_type": answer.headers.get(b"content-type", b"").decode()})
    elif first is not None:
        fill(response, {first: msgspec.json.decode(answer.body)})
    return response


def _status_of(answer: HttpAnswer) -> status_pb2.Status:
    if not answer.headers.get(b"content-type", b"").startswith(PROBLEM):
        return _status_in_words(answer)
    problem = msgspec.json.decode(answer.body)
    status = _status(
        CODES.get(answer.status, code_pb2.INTERNAL),
        reason=problem["reason"],
        message=" ".join(part for part in (problem["title"], problem["detail"]) if part),
        fields=[(one["field"].removeprefix("/"), one["rule"]) for one in problem.get("errors", ())],
        metadata={"next_step": problem["next_step"], "trace_id": problem["trace_id"]},
    )
    if b"retry-after" in answer.headers:
        delay = duration_pb2.Duration(seconds=int(answer.headers[b"retry-after"]))
        _attach(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _status_in_words(answer: HttpAnswer) -> status_pb2.Status:
    """Of a protocol that is not ours: a witness (C2SP) refuses in plain text."""
    words = answer.body.decode(errors="replace").strip()
    return _status(CODES.get(answer.status, code_pb2.INTERNAL), reason="refused-in-words", message=words)


def _status(
    code: int,
    *,
    reason: str,
    message: str,
    fields: Sequence[tuple[str, str]] = (),
    metadata: Mapping[str, str] | None = None,
) -> status_pb2.Status:
    status = status_pb2.Status(code=CODES_OF_REASONS.get(reason, code), message=message)
    _attach(status, error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata or {}))
    if fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description=rule) for name, rule in fields
        ]
        _attach(status, error_details_pb2.BadRequest(field_violations=violations))
    return status


def _attach(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
