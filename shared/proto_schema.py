"""Writes the protos from the OpenAPI document: every operation of HTTP is a call of gRPC, with the same names and rules.

One package a service. A call takes one message with the parameters and the fields of the body side by side; the verb's answer is
the one field of its response. Every single value is `optional`, so that what is left out is told from what is empty, and the same
checks of HTTP apply. A field keeps its number for ever: numbers are read from the protos that are there; what goes is reserved.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

HEADERS = {"idempotency-key": "idempotency_key", "if-match": "if_match"}
"""Headers of HTTP that are fields of a request."""

DEPLOYMENT = "deployment"
"""The package of what belongs to no service."""

LEFT_OUT = frozenset({"get_health", "get_readiness", "get_issuer_keys"})
"""grpc.health.v1 says whether we serve, and the embedded issuer's keys are fetched by those who check tokens."""

_WELL_KNOWN = {
    "google.protobuf.Struct": "google/protobuf/struct.proto",
    "google.protobuf.Value": "google/protobuf/struct.proto",
    "google.protobuf.Timestamp": "google/protobuf/timestamp.proto",
}
_SCALARS = {"integer": "int64", "number": "double", "boolean": "bool", "string": "string"}


class CannotBeProto(Exception):
    """The OpenAPI document says something that the rules here have no words for."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """`label` is `optional`, `repeated` or empty (messages and maps)."""

    name: str
    type: str
    label: str
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call; `takes` and `gives` say which of its messages are streams."""

    name: str
    comment: str
    takes: str = ""
    gives: str = ""


@dataclass(kw_only=True)
class ProtoFile:
    """One package while it is being put together: messages by name, and calls with their comments."""

    package: str
    messages: dict[str, list[Field]] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)


def path_of(service: str) -> str:
    """Where the proto of a service lies in the folder of protos."""
    return f"prooftrail/{service}/v1/{service}.proto"


def proto_files(openapi: Mapping[str, Any], *, services: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """The texts of all protos by path; `known` are the texts that were there before, for the numbers."""
    protos = {name: ProtoFile(package=f"prooftrail.{name}.v1") for name in (*services, DEPLOYMENT)}
    for path, methods in openapi["paths"].items():
        for operation in methods.values():
            if isinstance(operation, Mapping) and operation["operationId"] not in LEFT_OUT and not is_stream(operation):
                _add_call(protos[_service_of(path, operation, services)], operation, openapi["components"]["schemas"])
    for name in services:
        _add_subscription(protos[name])
    _add_ingest_stream(protos["drift"])
    return {
        path_of(name): _printed(name, file, _numbers(known.get(path_of(name), ""))) for name, file in protos.items()
    }


def descriptors_of(folder: Path) -> bytes:
    """All protos of the folder compiled to one FileDescriptorSet; needs grpcio-tools, which the services do not."""
    from grpc_tools import protoc

    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "descriptors"
        known_types = files("grpc_tools") / "_proto"
        options = [f"-I{folder}", f"-I{known_types}", "--include_imports", f"--descriptor_set_out={target}"]
        if protoc.main(["protoc", *options, *names]) != 0:
            raise CannotBeProto("protoc refused the protos; it says why above")
        return target.read_bytes()


def is_stream(operation: Mapping[str, Any]) -> bool:
    """Whether it answers with server-sent events, in whose place is the call `Subscribe`."""
    return any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())


def call_of(operation_id: str) -> str:
    """`approve_requirement` is the call `ApproveRequirement`."""
    return "".join(part.capitalize() for part in operation_id.split("_"))


def service_name_of(service: str) -> str:
    """The gRPC service of one of ours: `requirements` is `RequirementsService`."""
    return f"{service.capitalize()}Service"


def _service_of(path: str, operation: Mapping[str, Any], services: Sequence[str]) -> str:
    candidates = [*operation.get("tags", ()), *path.split("/")[2:4]]
    return next((name for name in candidates if name in services), DEPLOYMENT)


def _add_call(file: ProtoFile, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    call = call_of(operation["operationId"])
    writer = _Writer(file, schemas)
    file.calls.append(Call(name=call, comment=operation.get("summary", "")))
    file.messages[f"{call}Request"] = writer.request(operation)
    file.messages[f"{call}Response"] = writer.response(operation)


def _add_subscription(file: ProtoFile) -> None:
    file.calls.append(Call(name="Subscribe", comment=_SUBSCRIBE, gives="stream "))
    file.messages["SubscribeRequest"] = [
        Field(name="from_position", type="int64", label="optional", comment="Events above it; 0 is the first event."),
        Field(
            name="systems",
            type="string",
            label="repeated",
            comment="Only these AI systems; none means all that I may see.",
        ),
        Field(name="names", type="string", label="repeated", comment="Only events with these names; none means all."),
    ]
    file.messages["SubscribeResponse"] = [
        Field(
            name="position", type="int64", label="optional", comment="Where to resume: nothing up to here comes again."
        ),
        Field(
            name="event",
            type="bytes",
            label="optional",
            comment="The exact bytes that were stored; left out of a heartbeat.",
        ),
        Field(name="leaf_hash", type="string", label="optional", comment="Hex SHA-256 of a zero byte and the event."),
    ]


def _add_ingest_stream(file: ProtoFile) -> None:
    file.calls.append(Call(name="IngestRowsStream", comment=_INGEST, takes="stream "))
    file.messages["IngestRowsStreamRequest"] = [Field(name="rows", type="IngestRowsRequest", label="")]
    file.messages["IngestRowsStreamResponse"] = [
        Field(name="ingested", type="Ingested", label="repeated", comment="The answers, in order of the batches.")
    ]


_SUBSCRIBE = """Events in order of position, those that are there and those to come, as long as the stream is open.
A heartbeat without an event comes when nothing happens. It ends with UNAVAILABLE when the service goes: resume at `position`."""
_INGEST = (
    "Many batches of rows, one after the other; the first that is refused ends the stream, and those before it stay."
)


@dataclass(frozen=True)
class _Writer:
    file: ProtoFile
    schemas: Mapping[str, Any]

    def request(self, operation: Mapping[str, Any]) -> list[Field]:
        fields = [
            self.field(HEADERS.get(one["name"], one["name"]), one["schema"], one.get("description", ""))
            for one in operation.get("parameters", ())
        ]
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            if media_type == "application/json":
                schema = self.schemas[content["schema"]["$ref"].rpartition("/")[2]]
                fields += [self.field(name, one) for name, one in schema["properties"].items()]
            else:
                fields.append(Field(name="content", type="bytes", label="optional"))
        names = [one.name for one in fields]
        if len(names) != len(set(names)):
            raise CannotBeProto(
                f"{operation['operationId']}: a parameter and a field of the body share a name in {names}"
            )
        return fields

    def response(self, operation: Mapping[str, Any]) -> list[Field]:
        status, answer = next(one for one in operation["responses"].items() if one[0].startswith("2"))
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if status == "204":
            return []
        if not schema:  # bytes of some type
            return [
                Field(name="content", type="bytes", label="optional"),
                Field(name="content_type", type="string", label="optional"),
            ]
        if "$ref" in schema:
            message = self.message(schema["$ref"])
            return [Field(name=_snake(message), type=message, label="")]
        return [self.field("value", schema)]

    def message(self, reference: str) -> str:
        schema_name = reference.rpartition("/")[2]
        name = _message_name(schema_name)
        schema = self.schemas[schema_name]
        if name not in self.file.messages:
            self.file.messages[name] = []  # before its fields, since it may hold itself
            self.file.comments[name] = schema.get("description", "")
            self.file.messages[name] = [
                self.field(one, property_schema) for one, property_schema in schema.get("properties", {}).items()
            ]
        return name

    def field(self, name: str, schema: Mapping[str, Any], comment: str = "") -> Field:
        comment = comment or schema.get("description", "")
        schema = _not_null(schema)
        if schema.get("type") == "array":
            return Field(name=name, type=self.single(_not_null(schema["items"])), label="repeated", comment=comment)
        value = self.single(schema)
        scalar = value in _SCALARS.values()
        return Field(name=name, type=value, label="optional" if scalar else "", comment=comment)

    def single(self, schema: Mapping[str, Any]) -> str:
        if "$ref" in schema:
            return self.message(schema["$ref"])
        if schema.get("type") == "string" and schema.get("format") == "date-time":
            return "google.protobuf.Timestamp"
        if schema.get("type") in _SCALARS:
            return _SCALARS[schema["type"]]
        if "enum" in schema or "const" in schema:
            return "string"
        if schema.get("type") == "object":
            values = schema.get("additionalProperties")
            if isinstance(values, Mapping) and values.get("type") in _SCALARS and "format" not in values:
                return f"map<string, {_SCALARS[values['type']]}>"
            return "google.protobuf.Struct"
        return "google.protobuf.Value"


def _not_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """`anyOf` of one thing and null is that thing, left out."""
    things = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(things) == 1:
        only: Mapping[str, Any] = things[0]
        return only
    return schema


def _message_name(schema_name: str) -> str:
    page = re.fullmatch(r"Page_(\w+?)_", schema_name)
    if page:
        return f"{_message_name(page[1]).removesuffix('Item')}Page" if page[1][0].isupper() else "RecordPage"
    return re.sub(r"(Answer|Body)$", "", schema_name) or schema_name


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


_Numbers = dict[str, dict[str, int]]
"""Message, name of the field, number; a reserved field is there too."""


def _numbers(text: str) -> _Numbers:
    numbers: _Numbers = {}
    for name, body in re.findall(r"^message (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        found = {one: int(number) for one, number in re.findall(r"^  [^/\n]*?(\w+) = (\d+);$", body, re.MULTILINE)}
        found |= {one: int(number) for number, one in re.findall(r'^  reserved (\d+); // "(\w+)"$', body, re.MULTILINE)}
        numbers[name] = found
    return numbers


def _printed(name: str, file: ProtoFile, numbers: _Numbers) -> str:
    messages = "".join(_printed_message(file, message, numbers.get(message, {})) for message in sorted(file.messages))
    used = {one.type for fields in file.messages.values() for one in fields}
    imports = sorted({_WELL_KNOWN[one] for one in used if one in _WELL_KNOWN})
    calls = "".join(_printed_call(call) for call in sorted(file.calls, key=lambda call: call.name))
    return (
        "// Generated from the OpenAPI document by `make proto`. Do not edit.\n"
        'syntax = "proto3";\n\n'
        f"package {file.package};\n\n"
        + "".join(f'import "{one}";\n' for one in imports)
        + ("\n" if imports else "")
        + f"// The verbs and queries of {name}; errors carry the reason of HTTP's problems in google.rpc.ErrorInfo.\n"
        f"service {service_name_of(name)} {{\n{calls}}}\n{messages}"
    )


def _printed_call(call: Call) -> str:
    types = f"({call.takes}{call.name}Request) returns ({call.gives}{call.name}Response)"
    return _comment(call.comment, "  ") + f"  rpc {call.name}{types};\n"


def _printed_message(file: ProtoFile, message: str, known: dict[str, int]) -> str:
    lines = list(_field_lines(file.messages[message], known))
    return "\n" + _comment(file.comments.get(message, ""), "") + f"message {message} {{\n" + "".join(lines) + "}\n"


def _field_lines(fields: Sequence[Field], known: dict[str, int]) -> Iterator[str]:
    present = {one.name for one in fields}
    for name, number in sorted(known.items(), key=lambda one: one[1]):
        if name not in present:
            yield f'  reserved {number}; // "{name}"\n'
    following = max(known.values(), default=0)
    for one in fields:
        if one.name not in known:
            following += 1
        number = known.get(one.name, following)
        label = f"{one.label} " if one.label else ""
        yield _comment(one.comment, "  ") + f"  {label}{one.type} {one.name} = {number};\n"


def _comment(text: str, indent: str) -> str:
    return "".join(f"{indent}// {line.strip()}\n" for line in text.strip().splitlines() if line.strip())
