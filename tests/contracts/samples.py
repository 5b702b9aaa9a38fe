"""One example of every fact of every service, made from its type: the same every time."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import msgspec
from msgspec import inspect

from services.composition import SERVICES
from services.verification.domain.evaluation_run import Measurement
from services.verification.domain.predictions import Comparison
from shared.event import Actor, Event, EventMapper, Fact, stream_of
from shared.memory_event_store import MemoryEventStore

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)

SPECIAL: dict[type, Any] = {
    Measurement: Measurement(
        metric="recall", definition_version=1, value=0.75, n=4, rows=10, successes=3, trials=4, level=0.95,
        lower=0.35, upper=0.94, method="wilson", slice="overall",
    ),
    Comparison: Comparison(
        metric="auroc", definition_version=1, value=0.01, lower=-0.02, upper=0.04, level=0.95, n=10, resamples=2000,
        seed=7, other_run="RUN-1", other_version="1",
    ),
}  # fmt: skip
"""Types that check themselves, so that not just any values will do."""


def facts() -> list[tuple[str, type[Fact]]]:
    """Every fact type with the service that owns it."""
    return [
        (service, fact) for service in SERVICES for fact in import_module(f"services.{service}.published_events").FACTS
    ]


def sample_fact(fact: type[Fact]) -> Fact:
    """An example of the fact."""
    example = _sample(inspect.type_info(fact))
    assert isinstance(example, Fact)
    return example


async def stored_bytes(service: str, fact: Fact) -> bytes:
    """The event as a store would keep it: first of its stream and its store, at a fixed time."""
    store = MemoryEventStore(service=service, mapper=EventMapper([type(fact)]), clock=lambda: MOMENT)
    stream = stream_of(kind=fact.TOPIC.partition(".")[2], system="flight-delay", key="KEY-1")
    event = Event(
        id="00000000-0000-4000-8000-000000000001",
        stream=stream,
        version=1,
        name=fact.TOPIC,
        schema=fact.SCHEMA,
        actor=Actor(
            subject="person-1",
            kind="person",
            issuer="https://issuer.example",
            auth_time=MOMENT,
            name_commitment="c" * 64,
        ),
        reason="an example",
        correlation="0" * 32,
        causation=None,
        data=fact,
    )
    await store.append([event], record=stream, version=1, key=None)
    (recorded,) = await store.read(after=0, limit=1)
    return recorded.raw


def _sample(kind: inspect.Type) -> Any:
    match kind:
        case inspect.StructType():
            special = SPECIAL.get(kind.cls)
            return special if special is not None else kind.cls(**{f.name: _sample(f.type) for f in kind.fields})
        case inspect.UnionType():
            return _sample(next(option for option in kind.types if not isinstance(option, inspect.NoneType)))
        case inspect.LiteralType():
            return sorted(kind.values, key=str)[0]
        case inspect.VarTupleType() | inspect.ListType():
            return (_sample(kind.item_type),)
        case inspect.TupleType():
            return tuple(_sample(item) for item in kind.item_types)
        case inspect.DictType():
            return {_sample(kind.key_type): _sample(kind.value_type)}
        case inspect.FrozenSetType() | inspect.SetType():
            return frozenset({_sample(kind.item_type)})
    return _scalar(kind)


def _scalar(kind: inspect.Type) -> Any:
    scalars: dict[type, Any] = {
        inspect.StrType: "text",
        inspect.IntType: 7,
        inspect.FloatType: 0.25,
        inspect.BoolType: True,
        inspect.DateTimeType: MOMENT,
        inspect.NoneType: None,
        inspect.AnyType: "anything",
    }
    if type(kind) not in scalars:
        raise TypeError(f"no example for {kind!r}: {msgspec.inspect.__name__} knows it, this module does not")
    return scalars[type(kind)]
