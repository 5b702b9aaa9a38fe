"""The sealer of one service: follows its events off the append path, hashes their bytes, and has each second's tree signed.

Failure table of one sealing
    before the signature             nothing happened; the next round does the same
    signed, checkpoint not stored    the signer is ahead of the table: the same size is signed again, which gives the same note
    stored, not witnessed            the witnesses are asked with the next checkpoint, or at the next start

Whatever the signer or a hash speaks against stops sealing, never the service: commands go on, and GET .../checkpoint says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from shared.database_connection import DatabaseConnection
from shared.errors import Conflict, ProoftrailError
from shared.feed import Feed
from shared.log.checkpoint import parse_checkpoint
from shared.log.growth import Growth
from shared.log.merkle import Frontier, consistency_proof
from shared.log.note import parse_note
from shared.log.proofs import Checkpoint, LogTables
from shared.log.row_check import StoredEvents, read_stored
from shared.log.signer import HistoryContradicts, LogSigner, RollbackNoticed

EVENTS_MAX = 4_000
"""How many events one checkpoint adds at most; what is beyond follows at once."""

DATABASE_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_log = logging.getLogger(__name__)


class SignerBehind(Conflict):
    """The database holds checkpoints that the signer here never gave: its folder is another one, or an older copy."""


class TilesAltered(Conflict):
    """Hashes in the tables do not give the root that was signed."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds: between two checkpoints, or `least_s` when `events` wait; between tries to lead, and after a refusal."""

    seal_s: float = 1.0
    least_s: float = 0.2
    events: int = 1_000
    standby_s: float = 2.0
    refused_s: float = 5.0


USUAL_PACE = Pace()


def _no_step(_label: str) -> None:
    return


class Sealer:
    """Seals one service; of several processes the one that holds the lock does. `at_step` is told each step, for crash tests."""

    def __init__(
        self,
        *,
        dsn: str,
        service: str,
        signer: LogSigner,
        feed: Feed,
        on_sealed: Callable[[Checkpoint], None] = lambda _: None,
        pace: Pace = USUAL_PACE,
        at_step: Callable[[str], None] = _no_step,
    ) -> None:
        self.service = service
        self.refusal: ProoftrailError | None = None
        self.waiting_since: datetime | None = None
        self._dsn = dsn
        self._signer = signer
        self._feed = feed
        self._on_sealed = on_sealed
        self._pace = pace
        self._at_step = at_step
        self._tree = Frontier()
        self._alarm: ProoftrailError | None = None
        self._alarmed = asyncio.Event()
        self.leading = asyncio.Event()

    @property
    def size(self) -> int:
        """How many events the last checkpoint covers, as far as this process knows."""
        return self._tree.size

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            try:
                async with self.alone() as connection:
                    await self._seal_for_ever(connection)
            except ProoftrailError as refusal:
                await self._refuse(refusal)
                await asyncio.sleep(self._pace.refused_s)
            except DATABASE_AWAY as error:
                _log.warning("%s cannot be sealed now: %s", self.service, error)
                await asyncio.sleep(self._pace.standby_s)
            finally:
                self.leading.clear()

    async def seal_all(self, connection: asyncpg.Connection) -> int:
        """Seals what there is on a connection of `alone`, and returns the size. Raises what speaks against it."""
        await self._resume(connection)
        await self._go_on(connection)
        while await self._seal(connection):
            pass
        return self.size

    async def check(self, connection: asyncpg.Pool | asyncpg.Connection) -> None:
        """Compares signer and tables before anything is promised; what does not fit becomes the refusal."""
        self.refusal = None
        try:
            await self._resume(connection)
        except ProoftrailError as refusal:
            self.refusal = refusal

    def alarm(self, found: ProoftrailError | None) -> None:
        """What a patrol found, or that it found nothing; sealing stops at once, until it is gone."""
        self._alarm = found
        if found is None:
            self._alarmed.clear()
        else:
            self._alarmed.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that holds the lock of this service's sealer; waits for it without a running statement."""
        connection = await asyncpg.connect(
            self._dsn,
            connection_class=DatabaseConnection,
            server_settings={"application_name": f"prooftrail {self.service} sealer"},
        )
        try:
            while not await _locked(connection, f"{self.service}.sealer"):  # noqa: ASYNC110 -- the lock is another process's
                await asyncio.sleep(self._pace.standby_s)
            yield connection
        finally:
            await connection.end()

    async def _seal_for_ever(self, connection: asyncpg.Connection) -> None:
        latest = await self._resume(connection)
        self._raise_alarm()
        await self._go_on(connection)
        self.leading.set()
        if latest is not None:
            self._on_sealed(latest)
        while True:
            self._raise_alarm()
            if await self._seal(connection) < EVENTS_MAX:
                await self._until_due(connection)

    def _raise_alarm(self) -> None:
        if self._alarm is not None:
            raise self._alarm

    async def _resume(self, connection: asyncpg.Pool | asyncpg.Connection) -> Checkpoint | None:
        """Takes the tree up where the last checkpoint of this epoch left it; returns that checkpoint."""
        tables = LogTables(connection=connection, service=self.service)
        latest = await tables.latest()
        head = await connection.fetchval(f"SELECT position FROM {self.service}.head")
        self._require_fitting(latest, head)
        if latest is None or latest.epoch < self._signer.epoch:
            self._tree = Frontier()
            await self._require_signed_tree(tables)
            return None
        tree = await tables.frontier(latest.size)
        signed_root = self._signer.root if latest.size == self._signer.size else latest.root
        if not tree.root() == latest.root == signed_root:
            raise TilesAltered(
                f"The hashes of {self.service} do not give the root that was signed at {latest.size} events.",
                why="Leaf hashes, tiles or the checkpoint were altered in the database.",
                next_step=f"Run `prooftrail rebuild {self.service}`; if it names a position, restore the database from a backup.",
            )
        self._tree = tree
        await self._require_signed_tree(tables)
        return latest

    async def _require_signed_tree(self, tables: LogTables) -> None:
        """What was signed and not stored must come out of the events again."""
        signed = parse_checkpoint(parse_note(self._signer.note).text) if self._signer.note is not None else None
        if signed is None or signed.size <= self._tree.size:
            return
        reached = Growth(self._tree, await tables.leaf_hashes(self._tree.size, signed.size)).after
        if reached.root() != signed.root:
            raise HistoryContradicts(
                f"The first {signed.size} events of {self.service} are not those that were signed.",
                why="The database was set back to an older state and went on from there, or events were altered.",
                next_step=f"Bring the right database back; if it is lost, run `prooftrail recover {self.service}`.",
            )

    def _require_fitting(self, latest: Checkpoint | None, head: int) -> None:
        signer = self._signer
        if latest is not None and (latest.epoch, latest.size) > (signer.epoch, signer.size):
            raise SignerBehind(
                f"The database of {self.service} holds a checkpoint at {latest.size} events that was not signed here.",
                why=f"The signer's folder says epoch {signer.epoch}, {signer.size} events: it is another one or an old copy.",
                next_step=f"Bring the log folder back; if it is lost, run `prooftrail recover {self.service}`.",
            )
        if head < signer.size:
            raise RollbackNoticed(
                f"{self.service} has {head} events, and {signer.size} were signed.",
                why="The database was set back to an older state, or events were removed.",
                next_step=f"Bring the newer database back; if it is lost, run `prooftrail recover {self.service}`.",
            )

    async def _seal(self, connection: asyncpg.Connection) -> int:
        """One checkpoint over the next events; returns how many that were. A tree that was signed before is first reached again."""
        behind = self._signer.size - self._tree.size
        limit = min(behind, EVENTS_MAX) if behind > 0 else EVENTS_MAX
        stored = await read_stored(connection, service=self.service, after=self._tree.size, limit=limit)
        self._at_step("read")
        if not stored:
            return 0
        growth = await asyncio.to_thread(self._grown, stored)
        self._at_step("hashed")
        if growth.after.size < self._signer.size:
            await self._store(connection, growth, None)
            return len(stored)
        note = await asyncio.to_thread(self._sign, growth)
        self._at_step("note signed")
        checkpoint = Checkpoint(epoch=self._signer.epoch, size=growth.after.size, root=growth.after.root(), note=note)
        await self._store(connection, growth, checkpoint)
        self._at_step("committed")
        self._on_sealed(checkpoint)
        return len(stored)

    def _grown(self, stored: StoredEvents) -> Growth:
        return Growth(self._tree, stored.leaves())

    def _sign(self, growth: Growth) -> str:
        old, new = growth.before.size, growth.after.size
        proof = consistency_proof(old, new, growth.subtree) if 0 < old == self._signer.size else []
        return self._signer.sign(size=new, root=growth.after.root(), consistency=proof)

    async def _store(self, connection: asyncpg.Connection, growth: Growth, checkpoint: Checkpoint | None) -> None:
        async with connection.transaction():
            await connection.executemany(
                f"INSERT INTO {self.service}.log_tile (level, number, hash) VALUES ($1, $2, $3)"
                " ON CONFLICT (level, number) DO UPDATE SET hash = EXCLUDED.hash",
                list(growth.tiles()),
            )
            self._at_step("tiles stored")
            if checkpoint is not None:
                await connection.execute(
                    f"INSERT INTO {self.service}.log_checkpoint (epoch, size, root, note) VALUES ($1, $2, $3, $4)",
                    checkpoint.epoch,
                    checkpoint.size,
                    checkpoint.root,
                    checkpoint.note,
                )
            self._at_step("checkpoint stored")
        self._tree = growth.after
        self.waiting_since = None

    async def _until_due(self, connection: asyncpg.Connection) -> None:
        """Returns a second after the last checkpoint when events wait, sooner when many do, and at an alarm; idle, it sleeps."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(self._pace.least_s)
        await self._changed_or_alarmed()
        while (left := began + self._pace.seal_s - loop.time()) > 0:
            head, recorded_at = await connection.fetchrow(f"SELECT position, recorded_at FROM {self.service}.head")
            if head > self.size and self.waiting_since is None:
                self.waiting_since = recorded_at
            if head - self.size >= self._pace.events:
                return
            await asyncio.sleep(min(left, self._pace.least_s))

    async def _changed_or_alarmed(self) -> None:
        changed = asyncio.ensure_future(self._feed.changed(service=self.service, after=self.size))
        alarmed = asyncio.ensure_future(self._alarmed.wait())
        try:
            await asyncio.wait((changed, alarmed), return_when=asyncio.FIRST_COMPLETED)
            if changed.done():
                changed.result()
        finally:
            changed.cancel()
            alarmed.cancel()

    async def _refuse(self, refusal: ProoftrailError) -> None:
        """Tells it once in the log, and in the table for every process that is asked for the checkpoint."""
        if self.refusal is None or self.refusal.reason != refusal.reason:
            _log.error("%s is not being sealed: %s %s %s", self.service, refusal.what, refusal.why, refusal.next_step)
        self.refusal = refusal
        with contextlib.suppress(*DATABASE_AWAY):
            connection = await asyncpg.connect(self._dsn, connection_class=DatabaseConnection)
            try:
                await connection.execute(
                    f"INSERT INTO {self.service}.log_refusal (reason, what, why, next_step) VALUES ($1, $2, $3, $4)"
                    " ON CONFLICT (one) DO UPDATE SET reason = $1, what = $2, why = $3, next_step = $4",
                    refusal.reason,
                    refusal.what,
                    refusal.why,
                    refusal.next_step,
                )
            finally:
                await connection.end()

    async def _go_on(self, connection: asyncpg.Connection) -> None:
        """Nothing speaks against sealing (any more)."""
        if self.refusal is not None:
            _log.warning("%s is being sealed again from %d events on", self.service, self.size)
        self.refusal = None
        await connection.execute(f"DELETE FROM {self.service}.log_refusal")


async def _locked(connection: asyncpg.Connection, name: str) -> bool:
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", name))


def seconds_waiting(sealer: Sealer, now: datetime) -> float:
    """How long the oldest event that is not sealed has waited; 0 when none waits."""
    since = sealer.waiting_since
    return 0.0 if since is None else max(0.0, (now.astimezone(UTC) - since).total_seconds())
