"""A store of counted events with its log, on a fresh database and in a folder: what the tests of sealing stand on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from shared.event import EventMapper
from shared.event_store import PostgresEventStore, Receipt
from shared.feed import StoreFeed
from shared.log.checkpoint import open_checkpoint
from shared.log.facts import log_facts
from shared.log.kept_folder import no_step
from shared.log.merkle import root_of
from shared.log.note import VerifierKey
from shared.log.proofs import Checkpoint, LogTables
from shared.log.sealer import Pace, Sealer
from shared.log.service_log import ServiceLog
from shared.log.signer import LogSigner
from shared.log.witness import Witness
from shared.runtime import migrate_service, open_pool, utc_now
from tests.house import fresh_database
from tests.shared.counting import Counted, event_of

SERVICE = "requirements"
DEPLOYMENT = "acme"
QUICK = Pace(seal_s=0.05, least_s=0.01, events=100, standby_s=0.05, refused_s=0.05)
MAPPER = EventMapper([Counted, *log_facts(SERVICE)])


def signer_in(folder: Path, *, at: Callable[[str], None] = no_step) -> LogSigner:
    """The signer of the store's log."""
    return LogSigner.open(folder / "log" / SERVICE, deployment=DEPLOYMENT, service=SERVICE, at=at)


@dataclass
class SealedStore:
    """`url` and `folder` are all that outlives a process; the rest is how this one reaches them."""

    url: str
    folder: Path
    pool: asyncpg.Pool
    feed: StoreFeed
    versions: dict[str, int] = field(default_factory=dict)
    witnesses: list[Witness] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signer = signer_in(self.folder)
        self.log = self.opened_log()
        self.store = PostgresEventStore(pool=self.pool, service=SERVICE, mapper=MAPPER, promiser=self.log.promise)

    def opened_log(self) -> ServiceLog:
        """The log as another process would have it."""
        return ServiceLog(
            service=SERVICE, pool=self.pool, dsn=self.url, signer=signer_in(self.folder), feed=self.feed,
            outside=(), own=self.witnesses, clock=utc_now, pace=QUICK,
        )  # fmt: skip

    def sealer(self, *, at_step: Callable[[str], None] = no_step) -> Sealer:
        """Another sealer on the same signer."""
        return Sealer(dsn=self.url, service=SERVICE, signer=self.signer, feed=self.feed, pace=QUICK, at_step=at_step)

    @property
    def tables(self) -> LogTables:
        return self.log.tables

    async def append(self, count: int, *, stream: str = "count:s/1") -> Receipt:
        """One command of `count` events."""
        first = self.versions.get(stream, 0) + 1
        self.versions[stream] = first + count - 1
        events = [
            event_of(Counted(number=version), stream=stream, version=version) for version in range(first, first + count)
        ]
        return await self.store.append(events, record=stream, version=events[-1].version, key=None)

    async def seal(self) -> int:
        """Seals what there is, as after a start."""
        sealer = self.sealer()
        async with sealer.alone() as connection:
            return await sealer.seal_all(connection)

    async def leaves(self) -> list[bytes]:
        """The leaf hashes as the rows tell them."""
        return [row[0] for row in await self.pool.fetch(f"SELECT leaf_hash FROM {SERVICE}.event ORDER BY position")]

    async def checkpoints(self) -> list[Checkpoint]:
        """All that are stored, in order."""
        rows = await self.pool.fetch(
            f"SELECT epoch, size, root, note FROM {SERVICE}.log_checkpoint ORDER BY epoch, size"
        )
        return [Checkpoint(**row) for row in rows]

    async def require_sound(self) -> list[Checkpoint]:
        """Every stored checkpoint is signed and tells the root of the first events; every tile is that of its events."""
        leaves, checkpoints = await self.leaves(), await self.checkpoints()
        keys = [VerifierKey.parse(key) for key in self.signer.vkeys]
        for checkpoint in checkpoints:
            head = open_checkpoint(checkpoint.note, keys).head
            assert (head.size, head.root) == (checkpoint.size, checkpoint.root)
            assert head.root == root_of(leaves[: head.size])
        size = checkpoints[-1].size if checkpoints else 0
        tiles = await self.pool.fetch(f"SELECT level, number, hash FROM {SERVICE}.log_tile")
        widths = [256**level for level in (1, 2, 3) if size >> 8 * level]
        assert sorted(row["level"] for row in tiles) == sorted(
            level for level, width in enumerate(widths, start=1) for _ in range(size // width)
        )
        for level, number, hash_ in tiles:
            assert hash_ == root_of(leaves[number * 256**level : (number + 1) * 256**level])
        return checkpoints

    async def as_superuser(self, statement: str) -> None:
        """What an administrator of the database can do, past the triggers."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute("SET session_replication_role = replica")
            await connection.execute(statement)
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def sealed_store(server_url: str, folder: Path) -> AsyncIterator[SealedStore]:
    """Empty and not sealed."""
    async with fresh_database(server_url) as url:
        await migrate_service(url, service=SERVICE)
        async with reached(url, folder) as store:
            yield store


@contextlib.asynccontextmanager
async def reached(url: str, folder: Path) -> AsyncIterator[SealedStore]:
    """The store at the address, as one process reaches it."""
    async with await open_pool(url, connections_max=6, application_name="test") as pool:
        feed = StoreFeed(pool=pool, dsn=url)
        listening = asyncio.create_task(feed.listen())
        store = SealedStore(url=url, folder=folder, pool=pool, feed=feed)
        try:
            yield store
        finally:
            await store.store.close()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@contextlib.asynccontextmanager
async def running(*works: Callable[[], object]) -> AsyncIterator[None]:
    """Background work for as long as the block runs; it must not end by itself."""
    tasks = [asyncio.ensure_future(work()) for work in works]  # type: ignore[call-overload]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Returns when it holds; TimeoutError if it never does."""
    async with asyncio.timeout(seconds):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)
