"""What breaks while commands are appended, by seed: nothing acknowledged is lost, nothing is invented, stored twice or by half.

FAULT_SEEDS says how many seeds; `make faults` tries many. A failing seed is in the name of its test.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from shared.embedded_postgres import EmbeddedPostgres
from shared.event_store import PostgresEventStore
from shared.log.kept_folder import no_step
from shared.runtime import migrate_service, open_pool
from tests.house import fresh_database
from tests.serving import CHECKOUT
from tests.shared.counting import MAPPER, READER
from tests.shared.cuttable import CuttableLine, cuttable
from tests.shared.followers import following
from tests.shared.log.sealed_store import until
from tests.simulation.append_clients import (
    CLIENTS,
    COMMANDS,
    SERVICE,
    Book,
    append_much,
    complaints,
    numbers_of,
    stored,
)
from tests.simulation.seeds import fault_seeds

SEEDS = fault_seeds(2)
PATIENCE_S = 60.0
HOW = (signal.SIGKILL, signal.SIGQUIT, signal.SIGINT)
AT_WORK = ("append", "project", "seal")


@pytest.fixture
async def url(server_url: str) -> AsyncIterator[str]:
    """A database with the store of one service."""
    async with fresh_database(server_url) as address:
        await migrate_service(address, service=SERVICE)
        yield address


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """An empty book."""
    opened = Book(tmp_path / "book")
    yield opened
    opened.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter, as the server's account must."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-killed-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent)


async def append(url: str, book: Book, seed: int, at_step: Callable[[str], None] = no_step) -> None:
    """A round of clients in this process."""
    async with await open_pool(url, connections_max=4, application_name="clients") as pool:
        store = PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER, at_step=at_step)
        await append_much(store, book, seed)
        await store.close()


async def started(url: str, book: Book, seed: int, step: str, times: int) -> asyncio.subprocess.Process:
    """A round of clients in a process of their own, which kills itself at the step."""
    arguments = ["-m", "tests.simulation.append_clients", url, str(book.file), str(seed), step, str(times)]
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=CHECKOUT)


async def promised(book: Book, number: int) -> None:
    """Returns when so many commands are answered."""
    while len(book.promises()) < number:  # noqa: ASYNC110 -- another process writes the book
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("step", ["taking a connection", "before sending", "before telling"])
async def test_the_process_is_killed_at_a_step(url: str, book: Book, step: str, seed: int) -> None:
    """Before the statement is sent, and after its commit when nobody was told yet; the next process goes on."""
    process = await started(url, book, 2 * seed, step, random.Random(seed).randint(1, 12))
    assert await process.wait() == -signal.SIGKILL
    assert await complaints(url, book) == []
    await append(url, book, 2 * seed + 1)
    assert await complaints(url, book) == []
    assert all(number in book.promises() for number, wish in book.wishes().items() if wish.keyed)


@pytest.mark.parametrize("seed", SEEDS)
async def test_one_of_two_processes_is_killed(url: str, book: Book, seed: int) -> None:
    """They begin at the same moment and change the same streams; nothing breaks for the other one, so it is told everything."""
    chosen = random.Random(seed)
    step = chosen.choice(["taking a connection", "before sending", "before telling"])
    rounds = [3 * seed, 3 * seed + 1, 3 * seed + 2]
    async with append_lock_held(url) as waiting:
        killed = await started(url, book, rounds[0], step, chosen.randint(2, 8))
        other = await started(url, book, rounds[1], "none", 1)
        await waiting(2)
    assert [await killed.wait(), await other.wait()] == [-signal.SIGKILL, 0]
    assert await complaints(url, book) == []
    assert len(set(book.promises()) & set(numbers_of(rounds[1]))) == CLIENTS * COMMANDS
    await append(url, book, rounds[2])
    assert await complaints(url, book) == []


@contextlib.asynccontextmanager
async def append_lock_held(url: str) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Nobody appends meanwhile; what it gives returns when so many wait to."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"SELECT pg_advisory_lock(hashtext('{SERVICE}.append'))")

    async def waiting(count: int) -> None:
        statement = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(PATIENCE_S):
            while await connection.fetchval(statement) < count:  # noqa: ASYNC110 -- they are other processes
                await asyncio.sleep(0.01)

    try:
        yield waiting
    finally:
        await connection.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_process_is_killed_while_its_statement_waits_in_the_database(url: str, book: Book, seed: int) -> None:
    """It was sent and is not committed; whether the database still does it is its own affair, but whole or not at all."""
    process = await started(url, book, 2 * seed, "none", 1)
    await promised(book, 1)
    async with append_lock_held(url) as waiting:
        await waiting(1)
        process.kill()
        await process.wait()
    await append(url, book, 2 * seed + 1)
    assert await complaints(url, book) == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_lines_are_cut_and_backends_ended_again_and_again(url: str, book: Book, seed: int) -> None:
    """Before a request arrives, after its commit, in the middle: no command is stored whose client was not told."""
    chosen = random.Random(seed)
    async with cuttable(url) as line:
        appending = asyncio.create_task(append(line.url, book, seed))
        await _disturb(url, line, book, chosen, appending)
        await appending
    assert await complaints(url, book) == []
    assert await stored(url, book) <= set(book.promises()), (
        "what is stored was answered, since the line came back in time"
    )


async def _disturb(url: str, line: CuttableLine, book: Book, chosen: random.Random, until: asyncio.Task[None]) -> None:
    """One fault after the other, each once a few commands were answered since the last one."""
    connection = await asyncpg.connect(url)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while not until.done():
        answered = len(book.promises()) + chosen.randint(1, 5)
        while len(book.promises()) < answered and not until.done():  # noqa: ASYNC110 -- the book is a file
            await asyncio.sleep(0.001)
        fault = chosen.choice(("request", "answer", "now", "terminate", "cancel"))
        if fault == "now":
            line.cut()
        elif fault in ("terminate", "cancel"):
            await connection.execute(f"SELECT pg_{fault}_backend(pid) {others}")
        else:
            line.cut_at = fault  # type: ignore[assignment]
    await connection.close()


@dataclass
class Fuse:
    """Ends the PostgreSQL of the folder at the n-th step that it is told once it is lit."""

    folder: Path
    how: signal.Signals
    left: int
    lit: bool = False

    def __call__(self, _label: str) -> None:
        self.left -= self.lit
        if self.lit and self.left == 0:
            os.kill(int((self.folder / "cluster/data/postmaster.pid").read_text().split()[0]), self.how)

    @property
    def burnt(self) -> bool:
        return self.left <= 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", HOW, ids=["killed", "immediate", "fast"])
async def test_postgresql_ends_and_comes_back(
    book: Book, open_folder: Path, tmp_path: Path, how: signal.Signals, seed: int
) -> None:
    """Killed, or stopped in either hard way, at a step of appending, projecting or sealing: it recovers, and all of them go on."""
    folder = open_folder / "server"
    fuse = Fuse(folder, how, left=random.Random(seed).randint(1, 30))
    told: dict[str, Callable[[str], None]] = dict.fromkeys(AT_WORK, no_step)
    told[AT_WORK[(seed + HOW.index(how)) % len(AT_WORK)]] = fuse
    with contextlib.ExitStack() as server:
        url = server.enter_context(EmbeddedPostgres.start(folder)).dsn
        for service in (SERVICE, READER):
            await migrate_service(url, service=service)
        async with following(url, tmp_path, projecting=told["project"], sealing=told["seal"]) as followers:
            fuse.lit = True
            appending = asyncio.create_task(append_until(fuse, url, book, 1_000 * seed, told["append"]))
            await until(lambda: fuse.burnt)
            await asyncio.to_thread(server.close)
            server.enter_context(await asyncio.to_thread(EmbeddedPostgres.start, folder))
            await appending
            assert await complaints(url, book) == []
            await append(url, book, 1_000 * seed + 999)
            assert await complaints(url, book) == []
            await followers.require_everything()


async def append_until(fuse: Fuse, url: str, book: Book, first: int, at_step: Callable[[str], None]) -> None:
    """Round after round, until the fuse has burnt down in one of them."""
    for seed in itertools.count(first):
        await append(url, book, seed, at_step)
        if fuse.burnt:
            return
