"""Records of the topic of production features, and what they say: our own JSON rows, or an inference request of the Open Inference
Protocol v2, whose tensors are columns. Headers tell the AI system (`system`), the plan (`plan`) and, where there are several, the
`environment`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from pydantic import Field, ValidationError

from shared.errors import FieldError, Invalid
from shared.event import digest_of

from .application.ingestion import Batch
from .http_api.row_routes import IngestRows

BATCH_PATTERN = r"^[\x21-\x7e]+$"
EVENT_TIME = "event_time"
"""The tensor with the times of the rows; without it all rows have the time of the record."""

NUMBERS = frozenset(
    {"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"}
)


class UnreadableRecord(Invalid):
    """A record of the topic that tells no rows."""


class FeatureRecord(IngestRows):
    """As over HTTP; without a `batch` it is named after its place in the topic and its time."""

    batch: Annotated[str, Field(min_length=1, max_length=200, pattern=BATCH_PATTERN)] | None = None  # type: ignore[assignment]


class Tensor(msgspec.Struct, frozen=True):
    """One column of an inference request; `data` in row-major order, nested or flat."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferenceRequest(msgspec.Struct, frozen=True):
    """What of the protocol's request tells rows; the rest is allowed and left."""

    inputs: list[Tensor]
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Told:
    """The rows of a record, and what they are of."""

    system: str
    plan: str
    batch: Batch


def read_record(value: bytes | None, *, headers: Mapping[str, str], place: str, time_s: float) -> Told:
    """What the record says. `place` names it (`topic/partition/offset/time`), `time_s` is its own time. UnreadableRecord."""
    if value is None:
        raise _unreadable("/", "a value", "A record without a value tells no rows.")
    system, plan = _header(headers, "system"), _header(headers, "plan")
    columns = _columns(value, time_s) if _is_inference(value) else _rows(value)
    batch = Batch(
        batch=columns.pop("batch") or place,
        fingerprint=digest_of(value),
        environment=headers.get("environment") or columns.pop("environment", None),
        **{name: columns[name] for name in ("rows", "event_time", "features")},
    )
    return Told(system=system, plan=plan, batch=batch)


def _header(headers: Mapping[str, str], name: str) -> str:
    if not headers.get(name):
        raise _unreadable(f"/headers/{name}", "a header of the record", "The record does not say what its rows are of.")
    return headers[name]


def _is_inference(value: bytes) -> bool:
    try:
        return "inputs" in json.loads(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable("/", "JSON in UTF-8", str(error)) from None


def _rows(value: bytes) -> dict[str, Any]:
    try:
        body = FeatureRecord.model_validate_json(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable("/" + "/".join(map(str, first["loc"])), first["msg"], "The rows break a rule.") from None
    return {name: getattr(body, name) for name in ("batch", "environment", "rows", "event_time", "features")}


def _columns(value: bytes, time_s: float) -> dict[str, Any]:
    try:
        request = msgspec.json.decode(value, type=InferenceRequest)
    except msgspec.MsgspecError as error:
        raise _unreadable("/inputs", "tensors of the Open Inference Protocol v2", str(error)) from None
    columns = {tensor.name: _column(number, tensor) for number, tensor in enumerate(request.inputs)}
    times = columns.pop(EVENT_TIME, None)
    count = len(next(iter(columns.values()), ()))
    return {
        "batch": request.id,
        "rows": count,
        "event_time": [time_s] * count if times is None else times,
        "features": columns,
    }


def _column(number: int, tensor: Tensor) -> Sequence[Any]:
    values = _flat(tensor.data)
    if math.prod(tensor.shape[1:]) != 1 or not tensor.shape or len(values) != tensor.shape[0]:
        raise _unreadable(
            f"/inputs/{number}/shape", "[rows] or [rows, 1], and as much data", "Each feature is a tensor."
        )
    kinds = (bool,) if tensor.datatype == "BOOL" else (str,) if tensor.datatype == "BYTES" else (int, float)
    if tensor.datatype not in NUMBERS | {"BOOL", "BYTES"} or not all(
        value is None or (isinstance(value, kinds) and isinstance(value, bool) == (bool in kinds)) for value in values
    ):
        raise _unreadable(
            f"/inputs/{number}/data", f"values of the datatype {tensor.datatype}", "A value is of another kind."
        )
    return values


def _flat(data: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in data:
        flat += _flat(value) if isinstance(value, list) else [value]
    return flat


def _unreadable(field: str, rule: str, why: str) -> UnreadableRecord:
    return UnreadableRecord(
        "The record tells no rows of production.",
        why=why,
        next_step="Send rows as over HTTP, or a request of the Open Inference Protocol v2, with the headers system and plan.",
        fields=(FieldError(field=field, rule=rule),),
    )
