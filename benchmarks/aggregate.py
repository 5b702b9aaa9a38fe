"""An aggregate is rebuilt from its store at least 3.5 times as fast as by the library with its JSON mapper, upcasting on.

Both sides have the same 500 events with the same fields, who and why included, half of them in schema 1, which lacks a field that
schema 2 has, in the same PostgreSQL. Ours: load (allow-list, bytes compared with their row, typed facts) and fold. The library's:
`repository.get` with its PostgreSQL recorder and JSON transcoder. What the mappers alone take is printed beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    DatetimeAsISO,
    DecimalAsStr,
    JSONTranscoder,
    Mapper,
    StoredEvent,
    UUIDAsHex,
)

from benchmarks.projection import library_environment
from benchmarks.result import Result, compared, median
from shared.command import load_state
from shared.event import Actor, Event, EventMapper, Fact, Upcaster
from shared.event_store import PostgresEventStore
from shared.runtime import migrate_service
from tests.house import fresh_database

EVENTS = 500
ROUNDS = 7
REBUILDS, LIBRARY_REBUILDS = 30, 4
SERVICE, STREAM = "requirements", "notebook:s/1"
GOAL = 3.5
TEXT = "a measured sentence of some length, as reasons are"
LABELS = ["carrier", "airport", "month"]


def _with_unit(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "unit": "1"}


class Noted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "benchmark.noted"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: _with_unit}
    text: str
    number: float
    labels: tuple[str, ...]
    unit: str


class Notebook(msgspec.Struct, frozen=True):
    """What the facts fold to."""

    count: int
    total: float
    last: str


def evolve(state: Notebook | None, fact: Fact) -> Notebook:
    """The notebook with one more note."""
    assert isinstance(fact, Noted)
    if state is None:
        return Notebook(count=1, total=fact.number, last=fact.unit)
    return msgspec.structs.replace(state, count=state.count + 1, total=state.total + fact.number, last=fact.unit)


class LibraryNotebooks(Application[Any]):
    """The library's application for them."""


class LibraryNotebook(Aggregate):
    """The same in the library's own words."""

    def __init__(self) -> None:
        self.count, self.total, self.last = 0, 0.0, ""

    class Noted(Aggregate.Event):
        text: str
        number: float
        labels: list[str]
        unit: str
        id: str
        actor: dict[str, Any]
        reason: str
        correlation: str
        causation: str | None
        class_version = 2

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["unit"] = "1"

    @event(Noted)
    def note(
        self, text: str, number: float, labels: list[str], unit: str, id: str, actor: dict[str, Any], reason: str,
        correlation: str, causation: str | None,
    ) -> None:  # fmt: skip
        self.count += 1
        self.total += number
        self.last = unit


async def measure(server_url: str, _scratch: Path) -> list[Result]:
    """Events a second, the median of rounds in turn."""
    async with fresh_database(server_url) as url:
        await migrate_service(url, service=SERVICE)
        async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
            store = await _stored_ours(pool)
            application, notebook_id = _stored_library(url)
            rates = []
            for _ in range(ROUNDS + 1):
                ours = await _rate_of_store(store)
                rates.append((ours, _rate(lambda: _rebuilt_by_library(application, notebook_id), LIBRARY_REBUILDS)))
            application.close()
    mappers = [(_rate(_ours(), REBUILDS), _rate(_library(), REBUILDS)) for _ in range(ROUNDS)]
    mapped, library_mapped = (median([pair[side] for pair in mappers]) for side in (0, 1))
    print(f"the mappers and folds alone: ours {mapped:,.0f} events a second, the library's {library_mapped:,.0f}")
    return [
        compared(
            name="rebuild of an aggregate, upcasting on", ours=median([one for one, _ in rates[1:]]),
            peer=median([other for _, other in rates[1:]]), peer_name="the library with its JSON mapper", unit="events/s",
            goal=GOAL, better="more",
        )
    ]  # fmt: skip


async def _stored_ours(pool: asyncpg.Pool) -> PostgresEventStore:
    """Rows as the store has them; their stamps are not what is measured."""
    rows = [
        (number, row.originator_id, row.originator_version, row.topic, row.state)
        for number, row in enumerate(_stored_events(), start=1)
    ]
    await pool.executemany(f"INSERT INTO {SERVICE}.event VALUES ($1, $2, $3, $4, 's', '2026-01-01', '\\x00', $5)", rows)
    return PostgresEventStore(pool=pool, service=SERVICE, mapper=EventMapper([Noted]))


async def _rate_of_store(store: PostgresEventStore) -> float:
    began = time.perf_counter()
    for _ in range(REBUILDS):
        state, version = await load_state(store, STREAM, evolve)
        assert version == EVENTS
        assert state is not None
        assert state.last == "1"
    return REBUILDS * EVENTS / (time.perf_counter() - began)


def _stored_library(url: str) -> tuple[Any, Any]:
    """The library's application on the same server, with one notebook in it, half of whose events are older."""
    application: Any = LibraryNotebooks(library_environment(url))
    notebook = _noted()
    notebook_id = notebook.id
    events = [application.mapper.to_stored_event(one) for one in notebook.collect_events()]
    application.recorder.insert_events(
        [_library_older(row) if number % 2 else row for number, row in enumerate(events)]
    )
    return application, notebook_id


def _rebuilt_by_library(application: Any, notebook_id: Any) -> int:
    notebook = application.repository.get(notebook_id)
    assert notebook.last == "1"
    count: int = notebook.count
    return count


def _rate(rebuild: Callable[[], int], times: int) -> float:
    began = time.perf_counter()
    folded = sum(rebuild() for _ in range(times))
    assert folded == times * EVENTS
    return folded / (time.perf_counter() - began)


def _ours() -> Callable[[], int]:
    mapper, stored = EventMapper([Noted]), _stored_events()

    def rebuild() -> int:
        events = [mapper.to_domain_event(row) for row in stored]
        state: Notebook | None = reduce(evolve, (one.data for one in events), None)
        assert state is not None
        return state.count

    return rebuild


def _stored_events() -> list[StoredEvent]:
    mapper = EventMapper([Noted])
    actor = Actor(subject="person-bench", kind="person", issuer="urn:prooftrail:embedded-issuer")
    stored = []
    for version in range(1, EVENTS + 1):
        fact = Noted(text=TEXT, number=0.125, labels=tuple(LABELS), unit="1")
        one = Event(
            id=str(uuid4()), stream=STREAM, version=version, name=Noted.TOPIC, schema=2, actor=actor, reason="measured",
            correlation="c" * 32, causation=None, data=fact,
        )  # fmt: skip
        row = mapper.to_stored_event(one)
        stored.append(_older(row, schema=1) if version % 2 else row)
    return stored


def _older(row: StoredEvent, *, schema: int) -> StoredEvent:
    content = json.loads(row.state)
    del content["data"]["unit"]
    return replace(row, state=json.dumps({**content, "schema": schema}, separators=(",", ":")).encode())


def _noted() -> LibraryNotebook:
    notebook = LibraryNotebook()
    actor = {"subject": "person-bench", "kind": "person", "issuer": "urn:prooftrail:embedded-issuer"}
    for _ in range(EVENTS):
        notebook.note(
            text=TEXT, number=0.125, labels=LABELS, unit="1", id=str(uuid4()), actor=actor, reason="measured",
            correlation="c" * 32, causation=None,
        )  # fmt: skip
    return notebook


def _library() -> Callable[[], int]:
    transcoder = JSONTranscoder()
    for transcoding in (UUIDAsHex(), DecimalAsStr(), DatetimeAsISO()):
        transcoder.register(transcoding)
    mapper: Mapper[Any] = Mapper(transcoder=transcoder)
    events = [mapper.to_stored_event(one) for one in _noted().collect_events()]
    stored = [_library_older(row) if number % 2 else row for number, row in enumerate(events)]

    def rebuild() -> int:
        state: Any = None
        for row in stored:
            one: Any = mapper.to_domain_event(row)
            state = one.mutate(state)
        count: int = state.count
        return count

    return rebuild


def _library_older(row: StoredEvent) -> StoredEvent:
    content = json.loads(row.state)
    if "unit" not in content:  # the first event of the aggregate
        return row
    del content["unit"], content["class_version"]
    return replace(row, state=json.dumps(content, separators=(",", ":")).encode())
