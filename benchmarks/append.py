"""The append path beside what one would write without it: raw inserts of the same rows, and the eventsourcing library's own save.

Every round measures all of them, one after the other, so that a slow moment of the machine hits all; the figures are medians.
The raw inserts fill a table with the columns and indexes of ours, with bytes of the same length, and promise nothing: no version,
no chain, no key, positions with holes and not in order of commit.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID, uuid4

import asyncpg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate

from benchmarks.result import Result, compared, median, percentile, within
from shared.event import Actor, Event, EventMapper, Fact
from shared.event_store import PostgresEventStore
from shared.runtime import migrate_service, open_pool
from tests.house import fresh_database

SERVICE = "requirements"
ROUNDS = 5
CLIENTS = 64
INSERTERS = 8
THREADS = 8
EVENTS = 6_400
EVENTS_ALONE = 1_600
EVENTS_OF_LIBRARY = 400
FSYNCS = 100
SLOW_FSYNC_MILLISECONDS = 1.0
TEXT = "x" * 200

COLUMNS = "(stream, version, name, system, recorded_at, leaf_hash, event)"
TABLE = """
CREATE TABLE raw (
    position bigserial PRIMARY KEY, stream text NOT NULL, version integer NOT NULL, name text NOT NULL, system text,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(), leaf_hash bytea NOT NULL, event bytea NOT NULL,
    UNIQUE (stream, version)
);
CREATE INDEX ON raw (system, position);
"""
INSERT = "INSERT INTO raw (stream, version, name, system, leaf_hash, event) VALUES ($1, $2, $3, $4, $5, $6) RETURNING position"
INSERT_MANY = (
    "INSERT INTO raw (stream, version, name, system, leaf_hash, event)"
    " SELECT * FROM unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::bytea[], $6::bytea[])"
)


class Noted(Fact, frozen=True, kw_only=True):
    """About as many bytes as a small fact of ours has."""

    TOPIC: ClassVar[str] = "requirements.noted"
    text: str


MAPPER = EventMapper([Noted])
ACTOR = Actor(subject="person-bench", kind="person", issuer="urn:prooftrail:embedded-issuer", name_commitment="a" * 64)
STAMP_BYTES = 230
"""What the store adds to a record: its place, time and chain."""


def noted(stream: str, version: int) -> Event:
    """One event of a stream."""
    return Event(
        id=str(uuid4()), stream=stream, version=version, name=Noted.TOPIC, schema=1, actor=ACTOR, reason="benchmark",
        correlation="c" * 32, causation=None, data=Noted(text=TEXT),
    )  # fmt: skip


@dataclass
class Bench:
    """Everything that is measured, on one database."""

    store: PostgresEventStore
    connections: list[asyncpg.Connection]
    library: Application[UUID]
    batches: int = 0
    milliseconds: list[float] = field(default_factory=list)
    _streams: int = 0

    def _stream(self) -> str:
        self._streams += 1
        return f"requirement:flight-delay/B{self._streams}"

    async def append(self, clients: int, events: int) -> float:
        """Events a second of as many clients, each with a stream of its own and the events decided before; notes each latency."""

        decided = [
            [noted(stream, version) for version in range(1, events // clients + 1)]
            for stream in (self._stream() for _ in range(clients))
        ]

        async def client(own: list[Event]) -> None:
            for event in own:
                began = time.perf_counter()
                await self.store.append([event], record=event.stream, version=event.version, key=None)
                self.milliseconds.append((time.perf_counter() - began) * 1000)

        self.milliseconds.clear()
        return await _rate(lambda: asyncio.gather(*map(client, decided)), events)

    def _row(self, stream: str, version: int) -> tuple[Any, ...]:
        state = MAPPER.to_stored_event(noted(stream, version)).state
        return stream, version, Noted.TOPIC, "flight-delay", b"h" * 32, b" " * STAMP_BYTES + state

    async def insert(self, inserters: int, events: int) -> float:
        """Rows a second of as many inserters, each row a transaction, the rows made before."""
        rows = [
            [self._row(stream, version) for version in range(events // inserters)]
            for stream in (self._stream() for _ in range(inserters))
        ]

        async def inserter(number: int) -> None:
            for row in rows[number]:
                await self.connections[number].fetchval(INSERT, *row)

        return await _rate(lambda: asyncio.gather(*(inserter(number) for number in range(inserters))), events)

    async def insert_batches(self, size: int, events: int) -> float:
        """Rows a second of one inserter that has batches of that size ready, each row of another stream, as with our clients."""
        streams = [self._stream() for _ in range(size)]
        batches = [
            [list(column) for column in zip(*(self._row(stream, version) for stream in streams), strict=True)]
            for version in range(events // size)
        ]

        async def insert() -> None:
            for batch in batches:
                await self.connections[0].execute(INSERT_MANY, *batch)

        return await _rate(insert, len(batches) * size)

    async def save(self, threads: int, events: int) -> float:
        """Aggregates a second that the library saves, each with one event, in as many threads."""
        with ThreadPoolExecutor(threads) as executor:
            loop = asyncio.get_running_loop()
            saves = [loop.run_in_executor(executor, self._save_aggregates, events // threads) for _ in range(threads)]
            return await _rate(lambda: asyncio.gather(*saves), events)

    def _save_aggregates(self, count: int) -> None:
        for _ in range(count):
            self.library.save(Note(text=TEXT))


class Note(Aggregate):
    """The library's aggregate with as much text in its one event."""

    def __init__(self, text: str) -> None:
        self.text = text


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Rounds of everything; the first one only warms up."""
    fsync = _fsync_milliseconds(scratch)
    async with fresh_database(server_url) as url, _opened(url) as bench:
        rounds = [await _round(bench) for _ in range(ROUNDS + 1)][1:]
    figures = {name: median([one[name] for one in rounds]) for name in rounds[0]}
    return _results(figures, fsync)


async def _round(bench: Bench) -> dict[str, float]:
    bench.batches = 0
    ours = await bench.append(CLIENTS, EVENTS)
    size = max(1, EVENTS // bench.batches)
    p50, p99 = median(bench.milliseconds), percentile(bench.milliseconds, 0.99)
    return {
        "ours": ours,
        "size": size,
        "p50": p50,
        "p99": p99,
        "eight": await bench.insert(INSERTERS, EVENTS),
        "batched": await bench.insert_batches(size, EVENTS),
        "library": await bench.save(THREADS, EVENTS_OF_LIBRARY),
        "alone": await bench.append(1, EVENTS_ALONE),
        "one": await bench.insert(1, EVENTS_ALONE),
    }


def _results(figures: dict[str, float], fsync: float) -> list[Result]:
    name = f"durable append, {CLIENTS} clients"
    lines = (
        (name, "ours", "eight", f"eight raw inserters (an fsync takes {fsync:.2g} ms)",
         1.5 if fsync >= SLOW_FSYNC_MILLISECONDS else 1.0),
        (name, "ours", "batched", f"inserts in batches of {figures['size']:.0f}, too", 0.5),
        (name, "ours", "library", f"eventsourcing's Application.save, {THREADS} threads", 10.0),
        ("durable append, one client", "alone", "one", "a raw insert at a time", 0.5),
    )  # fmt: skip
    return [
        *(
            compared(
                name=what,
                ours=figures[ours],
                peer=figures[peer],
                peer_name=who,
                unit="events/s",
                goal=goal,
                better="more",
            )
            for what, ours, peer, who, goal in lines
        ),
        within(name=f"{name}, p99 against five medians", ours=figures["p99"], limit=5 * figures["p50"], unit="ms"),
    ]


async def _rate(work: Callable[[], Awaitable[object]], events: int) -> float:
    began = time.perf_counter()
    await work()
    return events / (time.perf_counter() - began)


def _fsync_milliseconds(folder: Path) -> float:
    """The median of writing a page of 8 kB and having it on disk."""
    descriptor = os.open(folder / "fsync", os.O_RDWR | os.O_CREAT, 0o600)
    milliseconds = []
    for number in range(FSYNCS):
        began = time.perf_counter()
        os.pwrite(descriptor, bytes(8192), 8192 * number)
        os.fsync(descriptor)
        milliseconds.append((time.perf_counter() - began) * 1000)
    os.close(descriptor)
    return median(milliseconds)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Bench]:
    await migrate_service(url, service=SERVICE)
    connections = [await asyncpg.connect(url) for _ in range(INSERTERS)]
    await connections[0].execute(TABLE)
    async with await open_pool(url, connections_max=4, application_name="bench") as pool:
        bench: Bench

        def count(label: str) -> None:
            bench.batches += label == "before telling"

        with _library(url) as library:
            bench = Bench(
                store=PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER, at_step=count),
                connections=connections,
                library=library,
            )
            yield bench
            await bench.store.close()
    for connection in connections:
        await connection.close()


@contextmanager
def _library(url: str) -> Iterator[Application[UUID]]:
    """The library as it comes, on the same database."""
    address = urlsplit(url)
    query = parse_qs(address.query)
    application: Application[UUID] = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": address.path[1:],
            "POSTGRES_HOST": query.get("host", [address.hostname or "127.0.0.1"])[0],
            "POSTGRES_PORT": query.get("port", [str(address.port or 5432)])[0],
            "POSTGRES_USER": unquote(address.username or ""),
            "POSTGRES_PASSWORD": unquote(address.password or ""),
            "POSTGRES_POOL_SIZE": str(THREADS),
        }
    )
    yield application
    application.close()
