"""Which trace the work at hand belongs to: for answers and log lines, whether or not anybody collects spans."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import msgspec
from opentelemetry import trace

TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
"""As W3C Trace Context has it; any other correlation belongs to no trace."""

_told: ContextVar[str | None] = ContextVar("trace id", default=None)


class TraceIds(NamedTuple):
    """In hex; None where there is none. A span has an id only while spans are collected."""

    trace_id: str | None
    span_id: str | None


def current_ids() -> TraceIds:
    """Those of the span at work, else the trace that was told."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return TraceIds(f"{span.trace_id:032x}", f"{span.span_id:016x}")
    return TraceIds(_told.get(), None)


def tell_trace(trace_id: str) -> None:
    """What this task does from now on belongs to the trace."""
    _told.set(trace_id)


class _Correlated(msgspec.Struct, frozen=True):
    correlation: str


_decode = msgspec.json.Decoder(_Correlated).decode


def trace_of(raw: bytes) -> str | None:
    """The trace of the event with these bytes, None if it belongs to none."""
    try:
        correlation = _decode(raw).correlation
    except msgspec.MsgspecError:
        return None
    return correlation if TRACE_ID.fullmatch(correlation) else None


@contextlib.contextmanager
def in_trace_of(raw: bytes) -> Iterator[None]:
    """What the block does belongs to the trace of the event with these bytes."""
    token = _told.set(trace_of(raw))
    try:
        yield
    finally:
        _told.reset(token)
