"""What happens without a person asking: an escalated drift signal opens a record, and a deadline that passed is told."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from uuid import uuid4

import asyncpg

from shared.command import Change, CommandContext, execute
from shared.errors import ProoftrailError
from shared.event import Actor, RecordedEvent, stream_of, system_of

from .. import consumed_events as consumed
from ..domain import change_request, nonconformity, release
from ..domain.change_request import ChangeRequestSubmitted
from ..domain.nonconformity import NonconformityRaised
from ..published_events import SERVICE
from .desk import Desk, change_request_stream, nonconformity_stream, release_stream

_log = logging.getLogger(__name__)

_OVERDUE = """
SELECT r.system, r.key FROM release r
WHERE r.sign_off_due IS NOT NULL AND r.sign_off_due::timestamptz <= $1 AND r.status NOT IN ('withdrawn', 'rolled back')
    AND (SELECT count(*) FROM sign_off s WHERE s.system = r.system AND s.release = r.key AND NOT s.declined)
        < json_array_length(r.required_roles)
"""


@dataclass(frozen=True, kw_only=True)
class Escalations:
    """Reactions and deadlines. `check_s` is how often deadlines are compared with the clock, in seconds."""

    desk: Desk
    check_s: float

    async def take_escalation(self, event: RecordedEvent, context: CommandContext) -> None:
        """One escalated drift signal, one open change request or nonconformity, however often the event is seen."""
        signal = consumed.read(event, consumed.DriftSignalEscalated)
        system = system_of(event.stream)
        if system is None:
            raise ValueError(f"{event.stream} belongs to no AI system")
        if signal.to == "change request":
            await self._open_change_request(context, system, signal)
        else:
            await self._raise_nonconformity(context, system, event.stream, signal)

    async def _open_change_request(
        self, context: CommandContext, system: str, signal: consumed.DriftSignalEscalated
    ) -> None:
        submitted = ChangeRequestSubmitted(
            key=change_request.key_for_signal(signal.key),
            author=context.actor.subject,
            cause="drift signal",
            signal=signal.key,
            model=signal.model,
            baseline=signal.version,
            candidate=None,
            impact_assessment=f"Not assessed yet: drift signal {signal.key} of monitoring plan {signal.plan} was escalated.",
        )
        await execute(
            self.desk.store,
            context,
            Change(
                change_request_stream(system, submitted.key),
                change_request.evolve,
                lambda request: change_request.open_for_signal(request, submitted=submitted),
            ),
        )

    async def _raise_nonconformity(
        self, context: CommandContext, system: str, record: str, signal: consumed.DriftSignalEscalated
    ) -> None:
        await self._raise(
            context,
            system,
            NonconformityRaised(
                key=nonconformity.key_for(signal.key),
                record=record,
                description=f"Drift signal {signal.key} of {signal.model} version {signal.version} was escalated.",
                author=context.actor.subject,
            ),
        )

    async def _raise(self, context: CommandContext, system: str, raised: NonconformityRaised) -> None:
        await execute(
            self.desk.store,
            context,
            Change(
                nonconformity_stream(system, raised.key),
                nonconformity.evolve,
                lambda state: nonconformity.raise_nonconformity(state, raised=raised),
            ),
        )

    async def watch_deadlines(self) -> None:
        """Runs for ever: an emergency release without its sign-offs past the deadline becomes a nonconformity."""
        while True:
            try:
                await self.tell_overdue_sign_offs()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ProoftrailError) as error:
                _log.warning("deadlines cannot be checked now: %s", error)
            await asyncio.sleep(self.check_s)

    async def tell_overdue_sign_offs(self) -> None:
        """Raises one nonconformity for each emergency release whose sign-offs are overdue now."""
        for row in await self.desk.pool.fetch(_OVERDUE, self.desk.clock()):
            await self._tell_overdue(row["system"], row["key"])

    async def _tell_overdue(self, system: str, key: str) -> None:
        raised = NonconformityRaised(
            key=nonconformity.key_for(f"{key}-sign-off"),
            record=release_stream(system, key),
            description=f"The emergency release {key} was not signed off by its deadline.",
            author=f"service:{SERVICE}",
        )
        told = await self.desk.load(nonconformity_stream(system, raised.key), nonconformity.evolve)
        state = await self.desk.load(release_stream(system, key), release.evolve)
        if told is None and state is not None and not state.signed_off:
            await self._raise(
                self._context(f"the deadline of {stream_of(kind='release', system=system, key=key)} passed"),
                system,
                raised,
            )

    def _context(self, reason: str) -> CommandContext:
        actor = Actor(subject=f"service:{SERVICE}", kind="service", issuer="prooftrail")
        return CommandContext(actor=actor, reason=reason, at=self.desk.clock(), correlation=uuid4().hex)
