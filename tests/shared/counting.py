"""The smallest service there is: it counts. Its events feed the tests of whatever follows events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import asyncpg

from shared.effects import Effects
from shared.event import Actor, Event, EventMapper, Fact, RecordedEvent, key_of
from shared.event_store import IdempotencyKey, PostgresEventStore, Receipt

SOURCES = ("requirements", "releases")
READER = "drift"
TOO_LONG_FOR_AN_INDEX = random.Random(1).randbytes(20_000).hex()
ACTOR = Actor(subject="person-1", kind="person", issuer="https://issuer.test")


class Counted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.counted"
    number: int


class Ignored(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "requirements.ignored"


class Poisoned(Fact, frozen=True, kw_only=True):
    """An event that a reader cannot take, for the reason that `how` names."""

    TOPIC: ClassVar[str] = "requirements.poisoned"
    how: str


MAPPER = EventMapper([Counted, Ignored, Poisoned])


def event_of(fact: Fact, *, stream: str, version: int) -> Event:
    """The fact as the event of its stream."""
    return Event(
        id=f"{stream} {version}",
        stream=stream,
        version=version,
        name=fact.TOPIC,
        schema=fact.SCHEMA,
        actor=ACTOR,
        reason="counted in a test",
        correlation="c" * 32,
        causation=None,
        data=fact,
    )


@dataclass
class Counter:
    """Appends to the streams of one service, one event after the other."""

    pool: asyncpg.Pool
    service: str = SOURCES[0]
    versions: dict[str, int] = field(default_factory=dict)

    @property
    def store(self) -> PostgresEventStore:
        return PostgresEventStore(pool=self.pool, service=self.service, mapper=MAPPER)

    async def count(self, *numbers: int, key: str = "a", idempotency: IdempotencyKey | None = None) -> Receipt:
        """One Counted event a number, all in one append."""
        return await self.tell(*(Counted(number=number) for number in numbers), key=key, idempotency=idempotency)

    async def tell_long(self, length: int) -> Receipt:
        """One event with at least so many bytes."""
        return await self.tell(Poisoned(how="x" * length))

    async def tell(self, *facts: Fact, key: str = "a", idempotency: IdempotencyKey | None = None) -> Receipt:
        """These facts in one append."""
        stream = f"counter:s/{key}"
        before = self.versions.get(stream, 0)
        events = [event_of(fact, stream=stream, version=before + at) for at, fact in enumerate(facts, start=1)]
        self.versions[stream] = before + len(facts)
        return await self.store.append(events, record=stream, version=before + len(facts), key=idempotency)


@dataclass
class Tally:
    """A projection that adds up, and notes each time that it is given an event, however often that is.

    `stop_at` is a number at which it waits for ever, as if the machine had stopped there.
    """

    service: str = READER
    sources: Sequence[str] = SOURCES
    tables_sql: str = (
        "CREATE TABLE tally (source text, key text, total bigint NOT NULL, PRIMARY KEY (source, key));"
        "CREATE TABLE applied (source text NOT NULL, position bigint NOT NULL);"
        "CREATE TABLE single (only_one integer PRIMARY KEY); INSERT INTO single VALUES (1);"
    )
    stop_at: int | None = None
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def apply(self, effects: Effects, event: RecordedEvent) -> None:
        await effects.execute("INSERT INTO applied VALUES ($1, $2)", event.service, event.position)
        data = event.content()["data"]
        if event.name == Poisoned.TOPIC:
            await poison(effects, data["how"])
        if event.name != Counted.TOPIC:
            return
        await effects.execute(
            "INSERT INTO tally AS t VALUES ($1, $2, $3) ON CONFLICT (source, key) DO UPDATE SET total = t.total + EXCLUDED.total",
            event.service,
            key_of(event.stream),
            data["number"],
        )
        if data["number"] == self.stop_at:
            self.stopped.set()
            await asyncio.Event().wait()


async def poison(effects: Effects, how: str) -> None:
    """Raises what events make readers raise: errors of Python, and those of the database."""
    if how == "value":
        int(how)
    if how == "missing key":
        _ = {"how": how}["number"]
    if how == "index":
        _ = how.split("/")[1]
    if how == "attribute":
        _ = getattr(how, "num" + "ber")
    if how == "type":
        _ = how + 1  # type: ignore[operator]
    if how == "division":
        _ = 1 / 0
    if how == "assertion":
        raise AssertionError(how)
    if how == "argument":
        await effects.execute("INSERT INTO tally VALUES ('x', 'y', $1)", 10**30)
    if how == "data":
        await effects.execute("INSERT INTO tally VALUES ('x', $1, 1)", "\x00")
    if how == "integrity":
        await effects.execute("INSERT INTO single VALUES (1)")
    if how == "limit":
        await effects.execute("INSERT INTO tally VALUES ('x', $1, 1)", TOO_LONG_FOR_AN_INDEX)
    if how == "cardinality":
        await effects.execute("INSERT INTO tally VALUES ('x', (SELECT unnest(ARRAY['y', 'z'])), 1)")


POISONS = (
    "value",
    "missing key",
    "index",
    "attribute",
    "type",
    "division",
    "assertion",
    "argument",
    "data",
    "integrity",
    "limit",
    "cardinality",
)
