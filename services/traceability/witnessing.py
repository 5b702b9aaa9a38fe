"""Traceability as the witness of the deployment: it cosigns a checkpoint only if its own ledger comes to the same root.

What it remembers lies in a folder outside the database (`shared.log.witness`). The table `witnessed_checkpoint` is for reading: a
row is written once, so that a pack made from it is made from the same one later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg
import msgspec

from shared.errors import ProoftrailError
from shared.log.checkpoint import OpenedCheckpoint, TreeHead, open_checkpoint, parse_checkpoint
from shared.log.facts import log_stream
from shared.log.merkle import Frontier
from shared.log.note import VerifierKey, parse_note
from shared.log.statements import RecoveryStatement, Rotation, verify_recovery, verify_rotation
from shared.log.witness import FolderWitness, ForkRefused, LogKeys, UnknownLog

from .ledger import Ledger

LEAVES_MAX = 20_000
"""Leaves that are hashed before others get their turn."""

_log = logging.getLogger(__name__)


class LedgerDisagrees(ForkRefused):
    """The checkpoint is over other events than those that reached the ledger."""


class RecoveryNotTold(ForkRefused):
    """The log was begun again and does not say so."""


@dataclass(kw_only=True)
class KnownKeys:
    """The keys of logs by origin: those that were given, and those that they introduced in the ledger since."""

    given: LogKeys
    introduced: dict[str, list[VerifierKey]] = field(default_factory=dict)

    def __call__(self, origin: str) -> list[VerifierKey]:
        """Once each."""
        given = self.given(origin)
        return [*given, *(key for key in self.introduced.get(origin.rpartition("/")[0], ()) if key not in given)]

    def introduce(self, name: str, origin: str, rotations: Sequence[Rotation]) -> None:
        """Follows the rotations of the log `name` from its given keys on; what they do not lead to stays unknown."""
        for rotation in rotations:
            try:
                key = verify_rotation(rotation, name=name, keys=self(origin))
            except ProoftrailError:
                continue
            if key not in self(origin):
                self.introduced.setdefault(name, []).append(key)


@dataclass(frozen=True, kw_only=True)
class Witnessing:
    """Cosigns for the logs of all services of the deployment."""

    pool: asyncpg.Pool
    ledger: Ledger
    deployment: str
    keys: KnownKeys
    witness: FolderWitness
    _turns: dict[str, asyncio.Lock] = field(default_factory=dict)

    @property
    def vkey(self) -> str:
        """The verifier key of the cosignatures."""
        return self.witness.vkey

    async def add_checkpoint(self, *, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """As `shared.log.witness.Witness`; also LedgerDisagrees, RecoveryNotTold, and NotThereYet while the ledger is behind."""
        head = parse_checkpoint(parse_note(note).text)
        service, epoch = self._log_of(head.origin)
        await self._learn_keys(service, head.origin)
        opened = open_checkpoint(note, self.keys(head.origin), origin=head.origin)
        async with self._turns.setdefault(service, asyncio.Lock()):
            try:
                await self._require_agreement(service, epoch, opened)
                line = await self.witness.add_checkpoint(old_size=old_size, proof=proof, note=note)
            except ForkRefused as fork:
                _log.error("%s is not cosigned: %s %s", head.origin, fork.what, fork.why)
                raise
            await self._keep(service, epoch, head, note, line)
        return line

    def _log_of(self, origin: str) -> tuple[str, int]:
        """Service and epoch; UnknownLog for a log of another deployment, or of no service."""
        deployment, _, rest = origin.partition("/")
        service, _, epoch = rest.partition("/")
        if deployment != self.deployment or not epoch.isascii() or not epoch.isdecimal() or not self.keys(origin):
            raise UnknownLog(
                f"No log {origin[:200]} is known here.",
                why="This witness cosigns for the services of its own deployment.",
                next_step="Compare the name of the deployment, PROOFTRAIL_DEPLOYMENT, on both sides.",
            )
        return service, int(epoch)

    async def _learn_keys(self, service: str, origin: str) -> None:
        rows = await self.pool.fetch(
            "SELECT event FROM traceability.ledger WHERE system IS NULL AND stream = $1 AND name = $2 ORDER BY position",
            log_stream(service),
            f"{service}.log-key-rotated",
        )
        rotations = [msgspec.convert(msgspec.json.decode(row["event"])["data"], Rotation) for row in rows]
        self.keys.introduce(origin.rpartition("/")[0], origin, rotations)

    async def _require_agreement(self, service: str, epoch: int, opened: OpenedCheckpoint) -> None:
        """The ledger has the same leaves; it may take a moment until it has them."""
        head = opened.head
        await self.ledger.wait({service: head.size})
        own = await self._tree(service, head.size)
        if own.root() != head.root:
            raise LedgerDisagrees(
                head.origin, None, f"The first {head.size} events of {service} in the ledger give another root."
            )
        if epoch > 1:
            await self._require_recovery(service, epoch, head)

    async def _tree(self, service: str, size: int) -> Frontier:
        """The tree of the service's first `size` events as the ledger has them; goes on from the last time if it can."""
        row = await self.pool.fetchrow(
            "SELECT size, hashes FROM traceability.witnessed_range WHERE service = $1 AND size <= $2", service, size
        )
        tree = Frontier() if row is None else Frontier.from_bytes(row["size"].to_bytes(8) + row["hashes"])
        while tree.size < size:
            rows = await self.pool.fetch(
                "SELECT leaf_hash FROM traceability.ledger WHERE service = $1 AND service_position > $2"
                " AND service_position <= $3 ORDER BY service_position LIMIT $4",
                service,
                tree.size,
                size,
                LEAVES_MAX,
            )
            tree.extend([row["leaf_hash"] for row in rows])
            await asyncio.sleep(0)
        return tree

    async def _require_recovery(self, service: str, epoch: int, head: TreeHead) -> None:
        """A new epoch must tell, among its own events, what was lost (`log-recovered`), signed."""
        row = await self.pool.fetchrow(
            "SELECT event FROM traceability.ledger WHERE system IS NULL AND service = $1 AND stream = $2 AND name = $3"
            " AND service_position <= $4 ORDER BY service_position DESC LIMIT 1",
            service,
            log_stream(service),
            f"{service}.log-recovered",
            head.size,
        )
        try:
            told = msgspec.convert(msgspec.json.decode(row["event"])["data"], RecoveryStatement) if row else None
            if told is not None and told.epoch == epoch:
                verify_recovery(told, name=head.origin.rpartition("/")[0], keys=self.keys(head.origin))
                return
        except ProoftrailError as error:
            raise RecoveryNotTold(head.origin, None, error.what) from error
        raise RecoveryNotTold(
            head.origin, None, f"No {service}.log-recovered of epoch {epoch} is among its first {head.size} events."
        )

    async def _keep(self, service: str, epoch: int, head: TreeHead, note: str, line: str) -> None:
        tree = await self._tree(service, head.size)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO traceability.witnessed_checkpoint (service, epoch, size, root, note)"
                " VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                service,
                epoch,
                head.size,
                head.root,
                note + line,
            )
            await connection.execute(
                "INSERT INTO traceability.witnessed_range (service, size, hashes) VALUES ($1, $2, $3)"
                " ON CONFLICT (service) DO UPDATE SET size = $2, hashes = $3",
                service,
                tree.size,
                b"".join(tree.hashes),
            )
