"""The use cases of traceability: read as of now or as of any past position, issue a pack, record a review."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, BinaryIO

import msgspec

from shared.access import Access, Role
from shared.command import Change, CommandContext, execute
from shared.directory import Names
from shared.errors import NotFound
from shared.event import Actor, digest_of, stream_of
from shared.event_store import EventStore, Receipt

from .domain import evidence_pack, pack_stream
from .domain.effective import said
from .domain.evidence_pack import PackEvent
from .domain.gaps import Gap, gaps
from .domain.matrix import Row, rows
from .domain.pack_stream import EvidencePackIssued
from .domain.trace import Record, Trace, state_digest
from .erasure import PersonErasure
from .ledger import Entry, Ledger
from .pack_deployment import DeploymentExport
from .pack_export import PackExport
from .pack_writer import temporary_file
from .trace_book import Seen, TraceBook, When

ISSUERS = (Role.OWNER, Role.AUTHOR, Role.REVIEWER, Role.APPROVER, Role.RELEASER, Role.AUDITOR)


class PackNotFound(NotFound):
    """No pack was issued under this key."""


class RecordNotFound(NotFound):
    """The ledger knows no such record in this AI system."""


class StateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The state as of a ledger position: records by kind with their status, and the digest of all of it.

    `recorded_at` is the time of the last event that is known, `as_of` the moment at which all this was true.
    """

    system: str
    as_of: datetime | None
    known_at: datetime | None
    ledger_position: int
    recorded_at: datetime | None
    service_positions: Mapping[str, int]
    state_digest: str
    records: Mapping[str, Mapping[str, str]]


class TimelineLine(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `effective_at` is since when it is true, or without `as_of` since when the event itself says so."""

    ledger_position: int
    service: str
    position: int
    recorded_at: datetime
    effective_at: datetime | None
    name: str
    record: str
    actor: Mapping[str, Any]
    reason: str
    causation: str | None


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
    clock: Callable[[], datetime]
    erasure: PersonErasure
    packs: PackExport

    async def wait(self, after: Mapping[str, int]) -> None:
        """Holds a request until the ledger has everything up to `after`."""
        await self.ledger.wait(after)

    async def entries(self, *, actor: Actor, system: str, after: int, limit: int) -> list[Entry]:
        """Up to `limit` ledger entries of the AI system above the ledger position."""
        await self.access.require_reader(system=system, actor=actor)
        return await self.ledger.read(systems=[system], after=after, limit=limit)

    async def timeline(
        self, *, actor: Actor, system: str, when: When, after: int, limit: int
    ) -> tuple[list[TimelineLine], int, int]:
        """The next `limit` known entries without those not true yet at `as_of`, their last position, and the last known one."""
        await self.access.require_reader(system=system, actor=actor)
        known, _ = await self.book.reach(when, now=self.clock())
        entries = await self.ledger.read(systems=[system], after=after, to=known, limit=limit)
        since = {} if when.as_of is None else await self.book.true_from(system, known)
        lines = [_line(entry, since.get(entry.position)) for entry in entries]
        shown = [line for line in lines if when.as_of is None or since[line.ledger_position] <= when.as_of]
        return shown, lines[-1].ledger_position if lines else after, known

    async def matrix(
        self, *, actor: Actor, system: str, after: str, limit: int, model_digest: str | None, when: When
    ) -> tuple[list[Row], Seen]:
        """Up to `limit` + 1 rows of the matrix above the requirement key."""
        seen = await self.seen(actor=actor, system=system, when=when)
        return rows(seen.trace, after=after, limit=limit + 1, model_digest=model_digest), seen

    async def gaps(self, *, actor: Actor, system: str, when: When) -> tuple[list[Gap], Seen]:
        """All gaps; dates are compared with `as_of`, without it with the moment up to which everything is known."""
        seen = await self.seen(actor=actor, system=system, when=when)
        return gaps(seen.trace, at=seen.at), seen

    async def state(self, *, actor: Actor, system: str, when: When) -> StateAnswer:
        """The state, with its digest."""
        seen = await self.seen(actor=actor, system=system, when=when)
        trace = seen.trace
        return StateAnswer(
            system=system,
            as_of=seen.as_of,
            known_at=seen.known_at,
            ledger_position=trace.position,
            recorded_at=trace.recorded_at,
            service_positions=dict(trace.services),
            state_digest=state_digest(trace),
            records={
                kind: {key: r.status for key, r in found.items()} for kind, found in sorted(trace.by_kind.items())
            },
        )

    async def record(self, *, actor: Actor, system: str, stream: str, when: When) -> Record:
        """One record with its status, fields, revisions and events."""
        seen = await self.seen(actor=actor, system=system, when=when)
        found = seen.trace.records.get(stream)
        if found is None:
            raise RecordNotFound(
                f"The ledger holds no record {stream} of {system}.",
                why="It had not happened, or was not known, at this moment.",
                next_step="Check the name, or pass the position of its event as `after`.",
            )
        return found

    async def pack(self, *, actor: Actor, system: str, release: str | None, when: When) -> bytes:
        """The evidence pack as canonical JSON; the same position, as_of and directory give the same bytes."""
        seen = await self.seen(actor=actor, system=system, when=when)
        return await self._pack(seen.trace, release, as_of=when.as_of)

    async def archive(
        self, *, actor: Actor, system: str, release: str | None, when: When, page: Callable[[bytes], str]
    ) -> BinaryIO:
        """The exported pack, from its first byte: the evidence pack, its page, and everything that proves it. NotYetSealed."""
        seen = await self.seen(actor=actor, system=system, when=when)
        position = seen.trace.position
        content = await self._pack(seen.trace, release, as_of=when.as_of)
        entries = await self.ledger.read(systems=[system], after=0, to=position)
        pages = {"pack.json": content, "pack.html": page(content).encode()}
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(temporary_file())
            await self.packs.write_system(file, system=system, position=position, entries=entries, pages=pages)
            file.seek(0)
            stack.pop_all()
        return file

    async def export(self, file: BinaryIO) -> dict[str, int]:
        """The pack of the whole deployment, for whoever holds its database; returns the number of events by service."""
        return await DeploymentExport(packs=self.packs).write(file)

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
        when = When(known=issued.ledger_position)
        return await self.pack(actor=actor, system=system, release=issued.release, when=when)

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

    async def seen(self, *, actor: Actor, system: str, when: When) -> Seen:
        """What a reader sees of the AI system from a moment on each time axis."""
        await self.access.require_reader(system=system, actor=actor)
        return await self.book.seen(system, when, now=self.clock())

    async def _trace(self, actor: Actor, system: str, position: int | None) -> Trace:
        return (await self.seen(actor=actor, system=system, when=When(known=position))).trace

    async def _pack(self, trace: Trace, release: str | None, *, as_of: datetime | None = None) -> bytes:
        position = trace.position
        events = _pack_events(await self.ledger.read(systems=[trace.system], after=0, to=position))
        people = await self.names.people(evidence_pack.commitments(events))
        printed = {
            commitment: {name: value for name, value in asdict(person).items() if name != "name_commitment"}
            for commitment, person in people.items()
        }
        if trace.position != position:  # the live trace went on meanwhile
            trace = await self.book.as_of(trace.system, position)
        return evidence_pack.pack_bytes(trace, events=events, people=printed, release=release, as_of=as_of)


def _line(entry: Entry, since: datetime | None) -> TimelineLine:
    content = entry.event.content()
    return TimelineLine(
        ledger_position=entry.position,
        service=entry.event.service,
        position=entry.event.position,
        recorded_at=entry.event.recorded_at,
        effective_at=since or said(name=entry.event.name, data=content["data"]),
        name=entry.event.name,
        record=entry.event.stream,
        actor=content["actor"],
        reason=content["reason"],
        causation=content["causation"],
    )


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
