"""Nonconformities: what does not conform, what is done about it, and whether that works."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.access import Role
from shared.command import Change, CommandContext, execute, load_state
from shared.event import Actor, stream_of
from shared.event_store import Receipt

from ..domain import nonconformity, release
from ..domain.nonconformity import CorrectiveActionPlanned, CorrectiveActionVerified, Nonconformity, NonconformityRaised
from ..domain.release import RUNNING, Release
from .desk import Desk, nonconformity_stream, release_stream

WORKERS = (Role.AUTHOR, Role.REVIEWER, Role.APPROVER, Role.RELEASER)


@dataclass(frozen=True, kw_only=True)
class Nonconformities:
    """The verbs of nonconformities."""

    desk: Desk

    async def raise_nonconformity(
        self, *, context: CommandContext, system: str, key: str, record: str, description: str
    ) -> Receipt:
        """Whoever may see the AI system may say that something in it does not conform."""
        await self.desk.access.require_reader(system=system, actor=context.actor)
        raised = NonconformityRaised(key=key, record=record, description=description, author=context.actor.subject)
        return await self._raise(context, system, raised)

    async def report_observed_digest(
        self, *, context: CommandContext, system: str, environment: str, observed_digest: str
    ) -> Receipt:
        """What was seen in traffic. Another digest than that of the running release is recorded as a nonconformity, once.

        The receipt has no events if the running release was seen, or if the same was reported before.
        """
        reporters = (*WORKERS, Role.SERVICE)
        await self.desk.access.require(system=system, actor=context.actor, roles=reporters)
        await self.desk.read_all_of("releases")
        running = await self._running(system, environment)
        key = await self._open_key(system, f"{environment}-{observed_digest[:16]}")
        place = stream_of(kind="environment", system=system, key=environment)
        raised = NonconformityRaised(
            key=key,
            record=release_stream(system, running.key) if running is not None else place,
            description=f"{environment} runs the digest {observed_digest}, which is not released there.",
            author=context.actor.subject,
        )
        if running is not None and running.model_digest == observed_digest:
            change = Change(nonconformity_stream(system, key), nonconformity.evolve, lambda _state: ())
            return await execute(self.desk.store, context, change)
        return await self._raise(context, system, raised)

    async def plan_corrective_action(
        self, *, context: CommandContext, system: str, key: str, action: str, responsible: str, due_at: datetime
    ) -> Receipt:
        await self.desk.access.require(system=system, actor=context.actor, roles=WORKERS)
        planned = CorrectiveActionPlanned(
            key=key, action=action, responsible=responsible, due_at=due_at, author=context.actor.subject
        )
        return await execute(
            self.desk.store,
            context,
            Change(
                nonconformity_stream(system, key),
                nonconformity.evolve,
                lambda state: nonconformity.plan_corrective_action(state, planned=planned, at=context.at),
            ),
        )

    async def verify_corrective_action(
        self, *, context: CommandContext, system: str, key: str, effectiveness: str
    ) -> Receipt:
        """A person who neither planned nor carried out the action says that it works."""
        roles = (Role.REVIEWER, Role.APPROVER)
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=roles)
        verified = CorrectiveActionVerified(key=key, effectiveness=effectiveness, verified_by=context.actor.subject)
        return await execute(
            self.desk.store,
            context,
            Change(
                nonconformity_stream(system, key),
                nonconformity.evolve,
                lambda state: nonconformity.verify_corrective_action(state, verified=verified),
            ),
        )

    async def nonconformity(self, *, actor: Actor, system: str, key: str) -> tuple[Nonconformity, int]:
        """The nonconformity and its version."""
        await self.desk.access.require_reader(system=system, actor=actor)
        stream = nonconformity_stream(system, key)
        state, version = await load_state(self.desk.store, stream, nonconformity.evolve)
        return nonconformity.existing(state), version

    async def _raise(self, context: CommandContext, system: str, raised: NonconformityRaised) -> Receipt:
        return await execute(
            self.desk.store,
            context,
            Change(
                nonconformity_stream(system, raised.key),
                nonconformity.evolve,
                lambda state: nonconformity.raise_nonconformity(state, raised=raised),
            ),
        )

    async def _running(self, system: str, environment: str) -> Release | None:
        key = await self.desk.pool.fetchval(
            "SELECT release FROM environment WHERE system = $1 AND environment = $2", system, environment
        )
        state = await self.desk.load(release_stream(system, key), release.evolve) if key is not None else None
        return state if state is not None and state.status in RUNNING else None

    async def _open_key(self, system: str, cause: str) -> str:
        """The key for this cause; a recurrence after the nonconformity was closed gets the next number."""
        number = 1
        while True:
            key = nonconformity.key_for(cause if number == 1 else f"{cause}-{number}")
            state = await self.desk.load(nonconformity_stream(system, key), nonconformity.evolve)
            if state is None or state.status != "closed":
                return key
            number += 1
