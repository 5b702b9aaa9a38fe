"""Gathers the pack of a whole deployment straight from the stores, for a verifier to judge: what is missing there is missing here.

It goes as far as the last witnessed checkpoint of each service. Rows whose columns tell another story than their bytes are refused,
since a pack holds the bytes alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO

import asyncpg
import msgspec

from shared.event import canonical_bytes
from shared.log.checkpoint import log_origin, parse_checkpoint
from shared.log.facts import log_stream
from shared.log.note import parse_note
from shared.log.proofs import Checkpoint
from shared.log.row_check import EventAltered

from .domain.pack_proof import WHOLE_DEPLOYMENT, Covered
from .pack_export import Named, PackExport
from .pack_writer import PackWriter

BATCH_EVENTS = 2_000
KEPT_CHECKPOINTS_MAX = 256


class Stamps(msgspec.Struct):
    """What the bytes of an event tell that the columns of its row repeat."""

    position: int
    stream: str
    version: int
    name: str
    system: str | None
    recorded_at: datetime


_stamps = msgspec.json.Decoder(Stamps)


@dataclass
class _Read:
    """What was read of one service."""

    positions: list[int] = field(default_factory=list)
    leaves: bytearray = field(default_factory=bytearray)
    statements: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DeploymentExport:
    """Writes the pack of everything."""

    packs: PackExport

    async def write(self, file: BinaryIO) -> dict[str, int]:
        """The pack of all services as far as each is sealed and witnessed; returns how many events of each that is."""
        packs, writer, named = self.packs, PackWriter(file), Named.nothing()
        sealed = {service: await self._last(service) for service in packs.services}
        reached = {service: checkpoint for service, checkpoint in sealed.items() if checkpoint is not None}
        read = {service: _Read() for service in reached}
        for service, checkpoint in reached.items():
            size = await self._bytes(service, checkpoint.size)
            lines = self._lines(service, checkpoint.size, read[service], named)
            await writer.add_stream(f"events/{service}.jsonl", size, lines)
        covered = []
        for service, checkpoint in reached.items():
            own = read[service]
            proof = packs.proof(
                service, checkpoint, positions=own.positions, leaves=bytes(own.leaves), nodes=[],
                statements=own.statements, kept=await self._kept(service, checkpoint),
            )  # fmt: skip
            writer.add(f"proof/{service}.json", canonical_bytes(proof))
            last = own.leaves[-32:].hex() or None
            covered.append(Covered(service=service, position=checkpoint.size, count=checkpoint.size, last=last))
        head = await packs.ledger.head()
        await packs.finish(writer, system=WHOLE_DEPLOYMENT, position=head, covered=covered, named=named)
        return {service: len(own.positions) for service, own in read.items()}

    async def _last(self, service: str) -> Checkpoint | None:
        """The last checkpoint, from the database or, where that is one behind, from the witness's own memory."""
        row = await self.packs.pool.fetchrow(
            "SELECT epoch, size, root, note FROM traceability.witnessed_checkpoint WHERE service = $1 AND size > 0"
            " ORDER BY epoch DESC, size DESC LIMIT 1",
            service,
        )
        stored = None if row is None else Checkpoint(**row)
        remembered = self._remembered(service, 1 if stored is None else stored.epoch)
        if remembered is None or remembered.size <= (0 if stored is None else stored.size):
            return stored
        head: int = await self.packs.pool.fetchval(f"SELECT position FROM {service}.head")
        return remembered if head >= remembered.size else stored

    def _remembered(self, service: str, epoch: int) -> Checkpoint | None:
        note = self.packs.signer.cosigned(log_origin(deployment=self.packs.deployment, service=service, epoch=epoch))
        if note is None:
            return None
        head = parse_checkpoint(parse_note(note).text)
        return Checkpoint(epoch=epoch, size=head.size, root=head.root, note=note)

    async def _kept(self, service: str, last: Checkpoint) -> list[str]:
        """Older checkpoints, evenly chosen, and what the witness remembers outside the database."""
        rows = await self.packs.pool.fetch(
            "SELECT note FROM (SELECT note, epoch, size, row_number() OVER w AS number, count(*) OVER () AS count"
            " FROM traceability.witnessed_checkpoint WHERE service = $1 AND (epoch, size) <> ($2, $3)"
            " WINDOW w AS (ORDER BY epoch, size)) c"
            " WHERE number % greatest(count / $4, 1) = 0 ORDER BY epoch, size",
            service,
            last.epoch,
            last.size,
            KEPT_CHECKPOINTS_MAX,
        )
        remembered = self._remembered(service, last.epoch)
        return [row["note"] for row in rows] + ([remembered.note] if remembered is not None else [])

    async def _bytes(self, service: str, size: int) -> int:
        count: int = await self.packs.pool.fetchval(
            f"SELECT coalesce(sum(octet_length(event) + 1), 0)::bigint FROM {service}.event WHERE position <= $1", size
        )
        return count

    async def _lines(self, service: str, size: int, read: _Read, named: Named) -> AsyncIterator[bytes]:
        after = 0
        while True:
            rows = await self.packs.pool.fetch(
                f"SELECT position, stream, version, name, system, recorded_at, leaf_hash, event FROM {service}.event"
                " WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3",
                after,
                size,
                BATCH_EVENTS,
            )
            if not rows:
                return
            for row in rows:
                _require_own_stamps(service, row)
                read.positions.append(row["position"])
                read.leaves += row["leaf_hash"]
                if row["stream"] == log_stream(service):
                    read.statements.append(row["event"])
                named.add(row["event"], row["system"])
            yield b"".join(row["event"] + b"\n" for row in rows)
            after = rows[-1]["position"]


def _require_own_stamps(service: str, row: asyncpg.Record) -> None:
    """Bytes that were altered are the verifier's to find; columns that were are not in the pack, so they are told here."""
    try:
        stamps = _stamps.decode(row["event"])
    except msgspec.MsgspecError:
        return
    told = {name: getattr(stamps, name) for name in Stamps.__struct_fields__}
    if any(told[name] != row[name] for name in ("stream", "version", "name", "system")):
        raise EventAltered(service, row["position"], "The columns of its row tell another story than its bytes.")
