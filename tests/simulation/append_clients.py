"""Clients that append while things break, and the book in which each notes what it wanted and what it was promised.

The book is a file that outlives the process: a line is in it before the request is made, another after its answer.

As a program: `python -m tests.simulation.append_clients URL BOOK SEED STEP TIMES` appends, and kills itself at the step.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from shared.command import Change, CommandContext, TooMuchContention, execute
from shared.errors import Unavailable
from shared.event import leaf_hash_of
from shared.event_store import IdempotencyKey, PostgresEventStore, Receipt
from shared.runtime import open_pool
from tests.shared.counting import ACTOR, MAPPER, Counted

SERVICE = "requirements"
CLIENTS = 12
COMMANDS = 15
STREAMS = tuple(f"counter:{system}/{key}" for system in ("s", "t") for key in ("1", "2", "3"))
EVENTS_MAX = 3

AWAY = (Unavailable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a client may be told when things break; it then knows nothing of its command."""


@dataclass(frozen=True)
class Wish:
    """One command: it adds `size` events with the numbers from `number` on to a stream; a keyed one is repeated until answered."""

    number: int
    size: int
    stream: str
    keyed: bool

    @property
    def key(self) -> IdempotencyKey | None:
        return IdempotencyKey(subject="client", key=str(self.number), fingerprint="f") if self.keyed else None

    @property
    def numbers(self) -> list[int]:
        return [self.number + place for place in range(self.size)]


class Book:
    """Lines of `wish NUMBER SIZE STREAM KEYED` and `told NUMBER POSITION:LEAF ...`, appended to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def wish(self, wish: Wish) -> None:
        self._write(f"wish {wish.number} {wish.size} {wish.stream} {int(wish.keyed)}")

    def told(self, wish: Wish, receipt: Receipt) -> None:
        self._write(" ".join(["told", str(wish.number), *(f"{e.position}:{e.leaf_hash}" for e in receipt.events)]))

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode())

    def wishes(self) -> dict[int, Wish]:
        """Every command that was ever wanted, by its number."""
        rows = [line.split() for line in self.file.read_text().splitlines()]
        return {int(r[1]): Wish(int(r[1]), int(r[2]), r[3], r[4] == "1") for r in rows if r[0] == "wish"}

    def promises(self) -> dict[int, list[tuple[int, str]]]:
        """Positions and leaf hashes that a client was told, by the number of its command."""
        promised = {}
        for row in (line.split() for line in self.file.read_text().splitlines()):
            if row[0] == "told":
                pairs = [pair.split(":") for pair in row[2:]]
                promised[int(row[1])] = [(int(position), leaf) for position, leaf in pairs]
        return promised


def numbers_of(seed: int) -> range:
    """The numbers of the commands and events of one round."""
    first = seed * CLIENTS * COMMANDS * EVENTS_MAX + 1
    return range(first, first + CLIENTS * COMMANDS * EVENTS_MAX)


async def carry_out(store: PostgresEventStore, book: Book, wish: Wish) -> None:
    """Wishes, and notes the answer; says nothing if there was none."""
    book.wish(wish)
    context = CommandContext(
        actor=ACTOR, reason="a wish", at=datetime.now(UTC), correlation=str(wish.number), idempotency=wish.key
    )
    change: Change[int] = Change(
        wish.stream, lambda state, _: (state or 0) + 1, lambda _: [Counted(number=number) for number in wish.numbers]
    )
    with contextlib.suppress(*AWAY):
        while True:
            with contextlib.suppress(TooMuchContention):
                book.told(wish, await execute(store, context, change))
                break


async def append_much(store: PostgresEventStore, book: Book, seed: int) -> None:
    """Repeats the keyed commands that have no answer yet, then has all clients append new ones."""
    unanswered = [wish for number, wish in book.wishes().items() if wish.keyed and number not in book.promises()]
    await asyncio.gather(*(carry_out(store, book, wish) for wish in unanswered))
    await asyncio.gather(*(_append(store, book, seed * CLIENTS + client) for client in range(CLIENTS)))


async def _append(store: PostgresEventStore, book: Book, seed: int) -> None:
    chosen = random.Random(seed)
    for command in range(COMMANDS):
        number = (seed * COMMANDS + command) * EVENTS_MAX + 1
        await carry_out(
            store, book, Wish(number, chosen.randint(1, EVENTS_MAX), chosen.choice(STREAMS), chosen.random() < 0.5)
        )


async def stored(url: str, book: Book) -> set[int]:
    """The numbers of the commands whose events are stored."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            f"SELECT convert_from(event, 'UTF8')::json->'data'->>'number' FROM {SERVICE}.event"
        )
    finally:
        await connection.close()
    return {int(number) for (number,) in rows} & set(book.wishes())


async def complaints(url: str, book: Book) -> list[str]:
    """What the stored events and the book have against each other; empty when all is well."""
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        store = PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER)
        events = list(await store.read(after=0, limit=1_000_000))
        head = await store.head()
    wishes, promises = book.wishes(), book.promises()
    numbers = [event.content()["data"]["number"] for event in events]
    leaves = {event.position: event.leaf_hash for event in events}
    wished = {number: wish for wish in wishes.values() for number in wish.numbers}
    found = []
    if [event.position for event in events] != list(range(1, head + 1)):
        found.append("positions have holes, or the head is another")
    if [event.leaf_hash for event in events] != [leaf_hash_of(event.raw) for event in events]:
        found.append("a leaf hash is not that of its bytes")
    if len(set(numbers)) != len(numbers):
        found.append("something was stored twice")
    if invented := set(numbers) - set(wished):
        found.append(f"nobody wished {sorted(invented)}")
    for number, wish in wishes.items():
        if set(wish.numbers) & set(numbers) and not set(wish.numbers) <= set(numbers):
            found.append(f"command {number} is stored by half")
    for number, promised in promises.items():
        if any(leaves.get(position) != leaf for position, leaf in promised) or len(promised) != wishes[number].size:
            found.append(f"command {number} was promised what is not there")
    for stream in STREAMS:
        versions = [event.version for event in events if event.stream == stream]
        if versions != list(range(1, len(versions) + 1)):
            found.append(f"{stream} has versions {versions}")
    for system in ("s", "t"):
        chain = [event for event in events if event.system == system]
        previous = [event.content()["system_previous"] for event in chain]
        if previous != [None, *(event.leaf_hash for event in chain[:-1])][: len(chain)]:
            found.append(f"the chain of {system} is broken")
    return found


async def _run(url: str, file: str, seed: int, step: str, times: int) -> None:
    left = times

    def at_step(label: str) -> None:
        nonlocal left
        left -= label == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    book = Book(Path(file))
    async with await open_pool(url, connections_max=4, application_name="clients") as pool:
        store = PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER, at_step=at_step)
        await append_much(store, book, seed)
        await store.close()
    book.close()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
