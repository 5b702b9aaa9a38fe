"""Who may have a person forgotten, and when. The decision is recorded here; every service follows it (`shared.erasure`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import msgspec

from shared.access import Access, Role
from shared.command import Change, CommandContext, execute
from shared.directory import Names
from shared.erasure import DECIDED, Why, erasure_fact, erasures_after, person_stream
from shared.errors import Conflict, FieldError, NotFound, Refused
from shared.event import Actor, stream_of
from shared.event_store import EventStore, Receipt, read_head
from shared.projection import ProjectionRunner

from .domain.retention import Held, held
from .ledger import Ledger
from .published_events import SERVICE

NAMED_MAX = 5
LOOK_AGAIN_SECONDS = 0.02
PERSON_ERASED = erasure_fact(SERVICE)


class PersonUnknown(NotFound):
    """No directory holds a name of the subject, and none was ever erased."""


class NotTheOwner(Refused):
    """Forgetting a person touches every AI system that they left traces in; its owners answer for these."""


class OneselfErased(Refused):
    """Nobody removes the names under their own acts."""


class RolesStillHeld(Conflict):
    """Whoever holds a role may act at any moment, and others must be able to see who that is."""


class NameStillNeeded(Conflict):
    """Records rest on signatures of the person, or have to be kept; `fields` names them."""


@dataclass(frozen=True, kw_only=True)
class PersonErasure:
    """The use case. `keeping` is how long a record is kept after its end; `timeout_s` bounds the wait for all services."""

    pool: asyncpg.Pool
    store: EventStore
    access: Access
    projection: ProjectionRunner
    ledger: Ledger
    names: Names
    services: tuple[str, ...]
    clock: Callable[[], datetime]
    keeping: timedelta
    timeout_s: float

    async def erase_person(self, *, context: CommandContext, subject: str, why: Why) -> tuple[Receipt, tuple[str, ...]]:
        """By a person: the owner of every AI system in which the subject left traces, and somebody else.

        The receipt, and the services that have not followed yet. Raises the errors above; NotThereYet while the ledger is behind.
        """
        owned = await self._owned(context.actor)
        if context.actor.subject == subject:
            raise OneselfErased(
                "You cannot have yourself forgotten.",
                why="Somebody else weighs whether the names under signatures may go.",
                next_step="Ask another owner of these AI systems, or the operator (`prooftrail erase`).",
            )
        await self._reach_heads()
        if not set(await self._systems_with(subject)) <= owned:
            raise NotTheOwner(
                "This person left traces in AI systems that you do not own.",
                why="The owner of an AI system answers for what its records can show.",
                next_step="Have the operator do it (`prooftrail erase`).",
            )
        receipt = await self._decide(context, subject, why)
        return receipt, await self._followed(receipt)

    async def erase_as_operator(self, *, context: CommandContext, subject: str, why: Why) -> Receipt:
        """By whoever runs commands on the machine of the deployment. The services follow when their reactions run."""
        await self.projection.catch_up()
        await self.ledger.catch_up()
        return await self._decide(context, subject, why)

    async def pending(self, position: int) -> tuple[str, ...]:
        """The services that have not yet carried out everything that was decided up to the position."""
        reached = {service: await self._reacted(service) for service in self.services}
        return tuple(service for service in self.services if reached[service] < position)

    async def _owned(self, actor: Actor) -> frozenset[str]:
        systems = await self.access.systems(subject=actor.subject)
        roles = {system: await self.access.roles(system=system, subject=actor.subject) for system in systems}
        owned = frozenset(system for system, held_in in roles.items() if Role.OWNER in held_in)
        if actor.kind != "person" or not owned:
            raise NotTheOwner(
                "Only the owner of an AI system may have a person forgotten.",
                why="Rights are given per AI system, and what is not given is denied.",
                next_step="Ask an owner, or the operator (`prooftrail erase`).",
            )
        return owned

    async def _reach_heads(self) -> None:
        heads = {service: await read_head(self.pool, service=service) for service in self.services}
        await self.ledger.wait(heads)
        await self.projection.wait(heads, timeout_s=self.timeout_s)

    async def _systems_with(self, subject: str) -> list[str]:
        """The AI systems whose events name the subject."""
        rows = await self.pool.fetch(
            f"SELECT DISTINCT system FROM {SERVICE}.ledger WHERE system IS NOT NULL AND position($1::bytea IN event) > 0"
            " ORDER BY system",
            msgspec.json.encode(subject),
        )
        return [row["system"] for row in rows]

    async def _decide(self, context: CommandContext, subject: str, why: Why) -> Receipt:
        await self._require_erasable(subject)
        holding, last = await self.names.holding(subject), await self._last_decision(subject)
        if not holding and not last:
            raise PersonUnknown(
                f"No directory holds a name of {subject}.",
                why="An entry is made when a person first sends a command; there is none, and none was erased.",
                next_step="Check the subject: it stands in the `actor` of the person's events.",
            )
        # What was decided before and is not carried out everywhere yet needs no second decision.
        due = holding and not (last and await self.pending(last))
        facts = (PERSON_ERASED(subject=subject, why=why),) if due else ()
        return await execute(self.store, context, Change(person_stream(subject), erasures_after, lambda _: facts))

    async def _last_decision(self, subject: str) -> int:
        position: int | None = await self.pool.fetchval(
            f"SELECT max(position) FROM {SERVICE}.event WHERE stream = $1 AND name = $2",
            person_stream(subject),
            DECIDED,
        )
        return position or 0

    async def _require_erasable(self, subject: str) -> None:
        held_roles = await self._roles(subject)
        needed = [one for system in await self._systems_with(subject) for one in await self._held(system, subject)]
        owned = {one.record for one in needed}
        # Who owns an AI system that has rested for its time of keeping has nobody to hand it over to, and nothing to answer for.
        roles = [
            f"{role} of {system}"
            for system, role in held_roles
            if role != Role.OWNER or _system_stream(system) in owned
        ]
        if roles:
            raise RolesStillHeld(
                f"{subject} still holds roles: {_listed(roles)}.",
                why="Whoever may act must be known by name to those who rely on it.",
                next_step="Have the owners revoke the roles first; an owner hands the AI system over by granting the role owner to"
                " somebody else, or the operator does it (`prooftrail hand-over`).",
                fields=tuple(FieldError(field=role, rule="revoked") for role in roles),
            )
        if needed:
            raise NameStillNeeded(
                f"The name of {subject} is still needed: {_listed([one.record for one in needed])}.",
                why=f"{needed[0].record}: {needed[0].because}. A record without the name proves nothing to an inspector.",
                next_step="Let these records end (supersede, retire, withdraw, revoke, hand over) and their time of keeping pass.",
                fields=tuple(FieldError(field=one.record, rule=one.because) for one in needed),
            )

    async def _roles(self, subject: str) -> list[tuple[str, Role]]:
        systems = await self.access.systems(subject=subject)
        return [
            (system, role)
            for system in systems
            for role in sorted(await self.access.roles(system=system, subject=subject))
        ]

    async def _held(self, system: str, subject: str) -> list[Held]:
        entries = await self.ledger.read(systems=[system], after=0)
        events = (entry.event.content() for entry in entries)
        return await asyncio.to_thread(
            lambda: list(held(events, subject=subject, at=self.clock(), keeping=self.keeping))
        )

    async def _followed(self, receipt: Receipt) -> tuple[str, ...]:
        """Waits for the services, and returns those that are late."""
        position = int(receipt.position.rpartition(":")[2])
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        late = await self.pending(position)
        while late and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            late = await self.pending(position)
        return late

    async def _reacted(self, service: str) -> int:
        position: int | None = await self.pool.fetchval(
            f"SELECT position FROM {service}.reaction_position WHERE source = $1", SERVICE
        )
        return position or 0


def _system_stream(system: str) -> str:
    return stream_of(kind="ai-system", system=system)


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
