"""What an operator does to a log: change its key, and begin it again after a lawful restore. Both are told in the log itself.

The signer keeps a statement before the log tells it, and `record_statements` is run at every start: a process that was killed
between the two is caught up with.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import uuid4

import msgspec

from shared.command import Change, CommandContext, execute, load_state
from shared.errors import Conflict, ProoftrailError
from shared.event import Actor, Fact
from shared.event_store import EventStore
from shared.log.checkpoint import open_checkpoint
from shared.log.facts import log_facts, log_stream
from shared.log.note import VerifierKey
from shared.log.proofs import Checkpoint
from shared.log.sealer import TilesAltered
from shared.log.service_log import ServiceLog
from shared.log.signer import LogSigner
from shared.log.statements import RecoveryStatement, Rotation

OPEN_END = 2**53 - 1
"""The last lost position where nobody knows it: the highest that every reader of JSON reads as it is written."""

OPERATOR = Actor(subject="operator", kind="service", issuer="urn:prooftrail:command-line")
"""Whoever can run commands on the machine that holds the signer's folder; the reason says more."""

Told = tuple[Fact, ...]


class NothingToRecover(Conflict):
    """Database and signer agree."""


async def rotate_key(*, store: EventStore, signer: LogSigner, why: str, clock: Callable[[], datetime]) -> Rotation:
    """Another key signs from the checkpoint on that holds the event of it; that event is signed by the old one."""
    rotation = signer.begin_rotation()
    await record_statements(store, signer, why=why, clock=clock)
    return rotation


async def recover(*, store: EventStore, log: ServiceLog, why: str, clock: Callable[[], datetime]) -> RecoveryStatement:
    """Opens a new epoch on the database as it is now, tells which positions are lost, and seals it. NothingToRecover.

    Lost are those between the last checkpoint that both know and the last that was signed.
    """
    await _require_refusal(log)
    async with log.sealer.alone() as connection:
        await _require_refusal(log)
        common = await _last_common(log)
        statement = _open_epoch(log.signer, common, why)
        log.sealer.refusal = None
        await record_statements(store, log.signer, why=why, clock=clock)
        await log.sealer.seal_all(connection)
    return statement


async def begin_epoch(
    *, store: EventStore, log: ServiceLog, why: str, clock: Callable[[], datetime]
) -> RecoveryStatement:
    """A new epoch although nothing contradicts: database and signer were restored together from a backup.

    What was promised after the backup is lost, and nobody here knows how much that is: every position from here on, to OPEN_END.
    """
    async with log.sealer.alone() as connection:
        head: int = await connection.fetchval(f"SELECT position FROM {log.service}.head")
        statement = log.signer.open_epoch(lost_first=head + 1, lost_last=OPEN_END, why=why)
        await record_statements(store, log.signer, why=why, clock=clock)
        await log.sealer.seal_all(connection)
    return statement


async def record_statements(
    store: EventStore, signer: LogSigner, *, clock: Callable[[], datetime], why: str | None = None
) -> None:
    """Makes the log tell what the signer states about it, once, and lets a key follow that was announced.

    Earlier changes of keys are told again where a restore has lost them, and before the recovery: a log that tells of the one
    tells of the others.
    """
    rotation, recovery = signer.pending_rotation, signer.recovery
    rotations = [*signer.rotations, *([rotation] if rotation is not None else ())]
    rotated, recovered = log_facts(store.service)
    stated = [rotated(**msgspec.structs.asdict(one)) for one in rotations]
    if recovery is not None:
        stated.append(recovered(**msgspec.structs.asdict(recovery)))
    stream = log_stream(store.service)
    told = (await load_state(store, stream, _told))[0] if stated else None
    if any(fact not in (told or ()) for fact in stated):
        reason = why or (
            recovery.why if rotation is None and recovery is not None else "a change of keys that was begun"
        )
        await execute(
            store,
            CommandContext(actor=OPERATOR, reason=reason, at=clock(), correlation=uuid4().hex),
            Change(stream, _told, lambda told: [fact for fact in stated if fact not in (told or ())]),
        )
    if rotation is not None:
        signer.finish_rotation(rotation, size=await store.head())


def _told(told: Told | None, fact: Fact) -> Told:
    return (*(told or ()), fact)


async def _require_refusal(log: ServiceLog) -> None:
    await log.check()
    if log.sealer.refusal is None:
        raise NothingToRecover(
            f"The log of {log.service} needs no recovery.",
            why="The database has everything that was signed.",
            next_step=f"If sealing is refused all the same, GET /v1/logs/{log.service}/checkpoint says why.",
        )


async def _last_common(log: ServiceLog) -> Checkpoint | None:
    """The last checkpoint in the database, if the signer gave it or its folder is new. TilesAltered if the events are others."""
    latest = await log.tables.latest()
    if latest is None:
        return None
    if (await log.tables.frontier(latest.size)).root() != latest.root:
        raise TilesAltered(
            f"The events of {log.service} do not give the root of its checkpoint at {latest.size} events.",
            why="A database that was restored fits its own checkpoints; this one was altered.",
            next_step="Restore a backup that was not altered, and recover from that.",
        )
    if log.signer.note is None:
        return latest
    try:
        open_checkpoint(latest.note, map(VerifierKey.parse, log.signer.vkeys))
    except ProoftrailError:
        return None
    return latest


def _open_epoch(signer: LogSigner, common: Checkpoint | None, why: str) -> RecoveryStatement:
    size, epoch = (0, 0) if common is None else (common.size, common.epoch)
    behind = common is not None and (common.epoch, common.size) > (signer.epoch, signer.size)
    return signer.open_epoch(
        lost_first=size + 1,
        lost_last=size if behind else max(size, signer.size),
        why=why,
        epoch=max(epoch, signer.epoch) + 1,
        last_checkpoint=common.note if behind and common is not None else None,
    )
