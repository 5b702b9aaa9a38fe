"""What breaks while commands are appended, by seed: nothing acknowledged is lost, nothing is invented, stored twice or by half.

FAULT_SEEDS says how many seeds; `make faults` tries many. A failing seed is in the name of its test.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from shared.embedded_postgres import EmbeddedPostgres
from shared.event_store import PostgresEventStore
from shared.runtime import migrate_service, open_pool
from tests.house import fresh_database
from tests.serving import CHECKOUT
from tests.shared.counting import MAPPER
from tests.shared.cuttable import CuttableLine, cuttable
from tests.simulation.append_clients import SERVICE, Book, append_much, complaints, stored

SEEDS = range(int(os.environ.get("FAULT_SEEDS", "2")))


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


async def append(url: str, book: Book, seed: int) -> None:
    """A round of clients in this process."""
    async with await open_pool(url, connections_max=4, application_name="clients") as pool:
        store = PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER)
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
async def test_the_process_is_killed_while_its_statement_waits_in_the_database(url: str, book: Book, seed: int) -> None:
    """It was sent and is not committed; whether the database still does it is its own affair, but whole or not at all."""
    holder = await asyncpg.connect(url)
    process = await started(url, book, 2 * seed, "none", 1)
    await promised(book, 1)
    await holder.execute(f"SELECT pg_advisory_lock(hashtext('{SERVICE}.append'))")
    while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    await holder.close()
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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT], ids=["killed", "immediate", "fast"])
async def test_postgresql_ends_and_comes_back(book: Book, open_folder: Path, how: signal.Signals, seed: int) -> None:
    """Killed, or stopped in either hard way, while commits are on their way: it recovers, and the clients go on untold."""
    folder = open_folder / "server"
    server = EmbeddedPostgres.start(folder)
    url = server.dsn
    await migrate_service(url, service=SERVICE)
    appending = asyncio.create_task(append(url, book, seed))
    await promised(book, random.Random(seed).randint(5, 60))
    os.kill(int((folder / "cluster/data/postmaster.pid").read_text().split()[0]), how)
    await asyncio.to_thread(server.stop)
    with await asyncio.to_thread(EmbeddedPostgres.start, folder):
        await appending
        assert await complaints(url, book) == []
        await append(url, book, seed + 1_000)
        assert await complaints(url, book) == []
