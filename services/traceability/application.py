"""The use cases of traceability: read as of now or as of any past position, issue a pack, record a review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import msgspec

from shared.access import Access, Role
from shared.command import Change, CommandContext, execute
from shared.directory import Names
from shared.errors import FieldError, Invalid, NotFound
from shared.event import Actor, digest_of, stream_of
from shared.event_store import EventStore, Receipt

from .domain import evidence_pack, pack_stream
from .domain.evidence_pack import PackEvent
from .domain.gaps import Gap, gaps
from .domain.matrix import Row, rows
from .domain.pack_stream import EvidencePackIssued
from .domain.trace import Record, Trace, state_digest
from .ledger import Entry, Ledger
from .trace_book import TraceBook

ISSUERS = (Role.OWNER, Role.AUTHOR, Role.REVIEWER, Role.APPROVER, Role.RELEASER, Role.AUDITOR)


class BeyondTheLedger(Invalid):
    """A position or a time that the ledger has not reached."""


class PackNotFound(NotFound):
    """No pack was issued under this key."""


class RecordNotFound(NotFound):
    """The ledger knows no such record in this AI system."""


class StateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The state as of a ledger position: records by kind with their status, and the digest of all of it."""

    system: str
    ledger_position: int
    recorded_at: datetime | None
    service_positions: Mapping[str, int]
    state_digest: str
    records: Mapping[str, Mapping[str, str]]


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What a reviewer of the audit trail would sign."""

    ledger_position: int
    state_digest: str
    text: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Traceability:
    """What people and other systems can ask of this service."""

    store: EventStore
    access: Access
    ledger: Ledger
    book: TraceBook
    names: Names

    async def wait(self, after: Mapping[str, int]) -> None:
        """Holds a request until the ledger has everything up to `after`."""
        await self.ledger.wait(after)

    async def entries(self, *, actor: Actor, system: str, after: int, limit: int) -> list[Entry]:
        """Up to `limit` ledger entries of the AI system above the ledger position."""
        await self.access.require_reader(system=system, actor=actor)
        return await self.ledger.read(systems=[system], after=after, limit=limit)

    async def matrix(
        self, *, actor: Actor, system: str, after: str, limit: int, model_digest: str | None, position: int | None
    ) -> list[Row]:
        """Up to `limit` + 1 rows of the matrix above the requirement key, now or as of a ledger position."""
        trace = await self._trace(actor, system, position)
        return rows(trace, after=after, limit=limit + 1, model_digest=model_digest)

    async def gaps(self, *, actor: Actor, system: str, position: int | None, at: datetime) -> list[Gap]:
        """All gaps at the moment `at`; as of a past position it is that entry's time."""
        trace = await self._trace(actor, system, position)
        return gaps(trace, at=at if position is None or trace.recorded_at is None else trace.recorded_at)

    async def state(self, *, actor: Actor, system: str, position: int | None, moment: datetime | None) -> StateAnswer:
        """The state as of a ledger position or of what had been recorded by a moment; now without either."""
        if moment is not None:
            position = await self.ledger.position_at(moment)
        trace = await self._trace(actor, system, position)
        return StateAnswer(
            system=system,
            ledger_position=trace.position,
            recorded_at=trace.recorded_at,
            service_positions=dict(trace.services),
            state_digest=state_digest(trace),
            records={
                kind: {key: r.status for key, r in found.items()} for kind, found in sorted(trace.by_kind.items())
            },
        )

    async def record(self, *, actor: Actor, system: str, stream: str, position: int | None) -> Record:
        """One record with its status, fields, revisions and events."""
        trace = await self._trace(actor, system, position)
        found = trace.records.get(stream)
        if found is None:
            raise RecordNotFound(
                f"The ledger holds no record {stream} of {system}.",
                why="It has not happened up to this position.",
                next_step="Check the name, or pass the position of its event as `after`.",
            )
        return found

    async def pack(self, *, actor: Actor, system: str, release: str | None, position: int | None) -> bytes:
        """The evidence pack as canonical JSON; the same position and directory give the same bytes."""
        trace = await self._trace(actor, system, position)
        return await self._pack(trace, release)

    async def issue_evidence_pack(
        self, *, context: CommandContext, system: str, key: str, release: str | None, position: int | None
    ) -> Receipt:
        """Records that a pack was handed out: its ledger position and digest, so that its holder can prove it."""
        await self.access.require(system=system, actor=context.actor, roles=ISSUERS)
        trace = await self._trace(context.actor, system, position)
        issued = EvidencePackIssued(
            key=key,
            release=release,
            ledger_position=trace.position,
            digest=digest_of(await self._pack(trace, release)),
        )
        return await execute(
            self.store,
            context,
            Change(
                _pack_stream(system, key), pack_stream.evolve, lambda state: pack_stream.issue(state, issued=issued)
            ),
        )

    async def issued_pack(self, *, actor: Actor, system: str, key: str) -> bytes:
        """The bytes of an issued pack, made again from its ledger position."""
        await self.access.require_reader(system=system, actor=actor)
        events = await self.store.load(_pack_stream(system, key))
        issued = next((event.data for event in events if isinstance(event.data, EvidencePackIssued)), None)
        if issued is None:
            raise PackNotFound(
                f"No pack was issued as {key}.", why="The key names none.", next_step="Issue it, or check the key."
            )
        return await self.pack(actor=actor, system=system, release=issued.release, position=issued.ledger_position)

    async def review_text(self, *, actor: Actor, system: str, findings: str, position: int | None) -> Review:
        """What an auditor would sign after looking at the trail up to a position."""
        trace = await self._trace(actor, system, position)
        covered = pack_stream.review_bytes(
            system=system,
            ledger_position=trace.position,
            state_digest=state_digest(trace),
            findings=findings,
        )
        return Review(
            ledger_position=trace.position,
            state_digest=state_digest(trace),
            text=covered.decode(),
            digest=digest_of(covered),
        )

    async def review_audit_trail(
        self, *, context: CommandContext, system: str, key: str, findings: str, position: int, digest: str
    ) -> Receipt:
        """An auditor signs what they looked at and what they found."""
        await self.access.require_signer(system=system, actor=context.actor, roles=(Role.AUDITOR,))
        trace = await self._trace(context.actor, system, position)
        reviewed_digest = state_digest(trace)
        signature = context.sign(meaning="audit trail review", digest=digest)
        return await execute(
            self.store,
            context,
            Change(
                _pack_stream(system, key),
                pack_stream.evolve,
                lambda state: pack_stream.review(
                    state,
                    system=system,
                    key=key,
                    ledger_position=trace.position,
                    state_digest=reviewed_digest,
                    findings=findings,
                    signature=signature,
                ),
            ),
        )

    async def _trace(self, actor: Actor, system: str, position: int | None) -> Trace:
        await self.access.require_reader(system=system, actor=actor)
        if position is None:
            return await self.book.live(system)
        if position > await self.ledger.head():
            raise BeyondTheLedger(
                f"The ledger has not reached position {position}.",
                why="The state can be told as of what was recorded.",
                next_step="Name a position that the ledger has reached, or none for now.",
                fields=(FieldError(field="ledger_position", rule="at most the head of the ledger"),),
            )
        return await self.book.as_of(system, position)

    async def _pack(self, trace: Trace, release: str | None) -> bytes:
        events = _pack_events(await self.ledger.read(systems=[trace.system], after=0, to=trace.position))
        people = await self.names.people(evidence_pack.commitments(events))
        printed = {
            commitment: {name: value for name, value in asdict(person).items() if name != "name_commitment"}
            for commitment, person in people.items()
        }
        return evidence_pack.pack_bytes(trace, events=events, people=printed, release=release)


def _pack_stream(system: str, key: str) -> str:
    return stream_of(kind="pack", system=system, key=key)


def _pack_events(entries: Sequence[Entry]) -> list[PackEvent]:
    return [
        PackEvent(
            ledger_position=entry.position,
            service=entry.event.service,
            position=entry.event.position,
            leaf_hash=entry.event.leaf_hash,
            event=entry.event.raw.decode(),
        )
        for entry in entries
    ]
