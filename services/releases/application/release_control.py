"""Releases: from candidate to released, and every way a release can end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from shared.access import Role
from shared.advisory_lock import advisory_lock
from shared.command import Change, CommandContext, execute, load_state
from shared.event import Actor, Fact, require_not_future
from shared.event_store import Receipt

from ..domain import change_request, model_version, release, release_decisions, sign_off
from ..domain.difference import Difference, differences
from ..domain.evidence import Evidence
from ..domain.model_version import ModelVersionRegistered
from ..domain.release import OPEN, RUNNING, Release, ReleaseAdopted, ReleaseCandidateOpened, SignOffRole
from .desk import AUTHORS, RELEASERS, Desk, change_request_stream, model_version_stream, release_stream
from .gate_keeper import GateKeeper
from .waivers import waivers_of_release

EVALUATORS = (Role.AUTHOR, Role.REVIEWER, Role.APPROVER, Role.RELEASER, Role.SERVICE)
ROLES: dict[SignOffRole, Role] = {"reviewer": Role.REVIEWER, "approver": Role.APPROVER, "releaser": Role.RELEASER}


@dataclass(frozen=True, kw_only=True)
class ReleaseControl:
    """The verbs of releases."""

    desk: Desk
    gate: GateKeeper
    _deploying: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def open_release_candidate(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        model: str,
        version: str,
        environment: str,
        change_request: str | None,
        also_required: Sequence[SignOffRole] = (),
    ) -> Receipt:
        """An author proposes a registered model version; what changed and what was tested is computed here."""
        await self.desk.access.require(system=system, actor=context.actor, roles=AUTHORS)
        if (answered := await self.desk.answered(context)) is not None:
            return answered
        registered = await self._registered(system, model, version)
        await self._require_change_request(system, change_request)
        await self.desk.read_all_of("releases")
        evidence = await self.gate.evidence_before(
            system=system, release=key, model_digest=registered.digest, environment=environment
        )
        previous = await self._newest(system, environment)
        opened = ReleaseCandidateOpened(
            key=key,
            author=context.actor.subject,
            model=model,
            version=version,
            model_digest=registered.digest,
            environment=environment,
            previous=previous,
            change_request=change_request,
            required_roles=_required_roles(also_required),
            verifications=tuple(sorted({one for item in evidence for one in item.verifications})),
            waivers=tuple(one.content.key for one in await waivers_of_release(self.desk, system, key)),
            changes=await self._changes(system, previous, registered, evidence),
        )
        return await self._execute(context, system, key, partial(release_decisions.open_candidate, opened=opened))

    async def adopt_release(
        self,
        *,
        context: CommandContext,
        system: str,
        model: str,
        version: str,
        environment: str,
        effective_at: datetime | None = None,
    ) -> Receipt:
        """The owner or a releaser tells what already runs; once per AI system and environment."""
        await self.desk.access.require(system=system, actor=context.actor, roles=(Role.OWNER, Role.RELEASER))
        if (answered := await self.desk.answered(context)) is not None:
            return answered
        registered = await self._registered(system, model, version)
        key = release_decisions.baseline_key(environment)
        adopted = ReleaseAdopted(
            key=key,
            model=model,
            version=version,
            model_digest=registered.digest,
            environment=environment,
            reporter=context.actor.subject,
            effective_at=effective_at,
        )
        require_not_future(effective_at, at=context.at)
        async with self._alone_in(system, environment):
            newest = await self._newest(system, environment)
            decide = partial(release_decisions.adopt, adopted=adopted, newest=newest)
            return await self._execute(context, system, key, decide)

    async def evaluate_gate(self, *, context: CommandContext, system: str, key: str) -> Receipt:
        """Asks the gate and records the answer if it changed."""
        await self.desk.access.require(system=system, actor=context.actor, roles=EVALUATORS)
        await self.desk.read_all_of("releases")
        decision = await self.gate.decide(system=system, release=key)
        return await self._execute(context, system, key, partial(release_decisions.record_gate, decision=decision))

    async def sign_off_release(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        role: SignOffRole,
        digest: str,
        covers: Sequence[str] = (),
    ) -> Receipt:
        change = await self.sign_off_change(context, system, key, role, digest, covers)
        return await execute(self.desk.store, context, change)

    async def decline_sign_off(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        role: SignOffRole,
        digest: str,
        covers: Sequence[str] = (),
    ) -> Receipt:
        change = await self.decline_change(context, system, key, role, digest, covers)
        return await execute(self.desk.store, context, change)

    async def sign_off_change(
        self, context: CommandContext, system: str, key: str, role: SignOffRole, digest: str, covers: Sequence[str]
    ) -> Change[Release]:
        """The signature under a release in one role, to be executed alone or with others."""
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=(ROLES[role],))
        await self.desk.read_all_of("releases")
        evidence = await self.gate.evidence(system=system, release=key)
        waivers = await waivers_of_release(self.desk, system, key)
        signature = context.sign(meaning=sign_off.MEANINGS[role], digest=digest, covers=covers)
        stream = release_stream(system, key)
        return Change(
            stream,
            release.evolve,
            lambda state: sign_off.sign_off(
                state, role=role, evidence=evidence, waivers=waivers, record=stream, signature=signature
            ),
        )

    async def decline_change(
        self, context: CommandContext, system: str, key: str, role: SignOffRole, digest: str, covers: Sequence[str]
    ) -> Change[Release]:
        """The signature against a release in one role, to be executed alone or with others."""
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=(ROLES[role],))
        evidence = await self.gate.evidence(system=system, release=key)
        signature = context.sign(meaning=f"declined: {sign_off.MEANINGS[role]}", digest=digest, covers=covers)
        stream = release_stream(system, key)
        return Change(
            stream,
            release.evolve,
            lambda state: sign_off.decline(state, role=role, evidence=evidence, record=stream, signature=signature),
        )

    async def approve_release(self, *, context: CommandContext, system: str, key: str) -> Receipt:
        """A person with a say in the release closes the decision: gate and sign-offs must be there."""
        roles = (Role.APPROVER, Role.RELEASER)
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=roles)
        await self.desk.read_all_of("releases")
        decision = await self.gate.decide(system=system, release=key)
        decide = partial(release_decisions.approve, decision=decision, by=context.actor.subject)
        return await self._execute(context, system, key, decide)

    async def deploy_release(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        environment: str,
        observed_digest: str,
        emergency: bool = False,
        effective_at: datetime | None = None,
    ) -> Receipt:
        """A releaser or a deploying service reports what runs, now or since `effective_at`.

        In an emergency a releaser decides before the gate does.
        """
        if emergency:
            await self.desk.access.require_signer(system=system, actor=context.actor, roles=RELEASERS)
        else:
            await self.desk.access.require(system=system, actor=context.actor, roles=(*RELEASERS, Role.SERVICE))
        async with self._alone_in(system, environment):
            newest = await self._newest(system, environment)
            await self._require_in_order(context, system, environment, effective_at)
            if emergency:
                decide = partial(release_decisions.deploy_in_emergency, at=context.at)
            else:
                decision = await self.gate.decide(system=system, release=key)
                decide = partial(release_decisions.deploy, decision=decision)
            deploy = partial(
                decide,
                environment=environment,
                observed_digest=observed_digest,
                reporter=context.actor.subject,
                newest=newest,
                effective_at=effective_at,
            )
            superseding = await self._superseding(system, newest, by=key, effective_at=effective_at)
            changes = (Change(release_stream(system, key), release.evolve, deploy), *superseding)
            return await execute(self.desk.store, context, *changes)

    async def suspend_release(
        self, *, context: CommandContext, system: str, key: str, effective_at: datetime | None = None
    ) -> Receipt:
        """One releaser and a reason; no gate and no other service is asked."""
        await self.desk.access.require(system=system, actor=context.actor, roles=RELEASERS)
        await self._require_since_it_runs(context, system, key, effective_at)
        decide = partial(
            release_decisions.suspend, by=context.actor.subject, reason=context.reason, effective_at=effective_at
        )
        return await self._execute(context, system, key, decide)

    async def roll_back_release(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        to: str | None = None,
        observed_digest: str | None = None,
        effective_at: datetime | None = None,
    ) -> Receipt:
        """Back to the release that this one replaced, or to `to`: one releaser, a reason, and nothing but our own records."""
        await self.desk.access.require(system=system, actor=context.actor, roles=RELEASERS)
        state = release.existing(await self.desk.load(release_stream(system, key), release.evolve))
        target = to or state.supersedes
        by = context.actor.subject
        await self._require_in_order(context, system, state.environment, effective_at)
        back = partial(release_decisions.roll_back, to=target, by=by, reason=context.reason, effective_at=effective_at)
        changes = [Change(release_stream(system, key), release.evolve, back)]
        if target is not None:
            again = partial(
                release_decisions.run_again,
                environment=state.environment,
                observed_digest=observed_digest,
                reporter=by,
                effective_at=effective_at,
            )
            changes.append(Change(release_stream(system, target), release.evolve, again))
        return await execute(self.desk.store, context, *changes)

    async def withdraw_release(
        self, *, context: CommandContext, system: str, key: str, effective_at: datetime | None = None
    ) -> Receipt:
        """Whoever works on a candidate may withdraw it; a release that has run is withdrawn by a releaser."""
        state = await self.desk.load(release_stream(system, key), release.evolve)
        may = (Role.AUTHOR, Role.APPROVER, Role.RELEASER) if state is None or state.status in OPEN else RELEASERS
        await self.desk.access.require(system=system, actor=context.actor, roles=may)
        await self._require_since_it_runs(context, system, key, effective_at)
        decide = partial(
            release_decisions.withdraw, by=context.actor.subject, reason=context.reason, effective_at=effective_at
        )
        return await self._execute(context, system, key, decide)

    async def release(self, *, actor: Actor, system: str, key: str) -> tuple[Release, int]:
        """The release and its version."""
        await self.desk.access.require_reader(system=system, actor=actor)
        state, version = await load_state(self.desk.store, release_stream(system, key), release.evolve)
        return release.existing(state), version

    async def _execute(
        self, context: CommandContext, system: str, key: str, decide: partial[Sequence[Fact]]
    ) -> Receipt:
        return await execute(self.desk.store, context, Change(release_stream(system, key), release.evolve, decide))

    @contextlib.asynccontextmanager
    async def _alone_in(self, system: str, environment: str) -> AsyncIterator[None]:
        """One deployment at a time in an environment, whichever process records it, on a copy that has all before it."""
        name = f"releases.environment:{system}/{environment}"
        async with self._deploying, self.desk.pool.acquire() as connection, advisory_lock(connection, name):
            await self.desk.read_all_of("releases")
            yield

    async def _newest(self, system: str, environment: str) -> str | None:
        """The release that the environment has, or had last."""
        key: str | None = await self.desk.pool.fetchval(
            "SELECT release FROM environment WHERE system = $1 AND environment = $2", system, environment
        )
        return key

    async def _require_since_it_runs(
        self, context: CommandContext, system: str, key: str, effective_at: datetime | None
    ) -> None:
        state = await self.desk.load(release_stream(system, key), release.evolve) if effective_at else None
        if state is not None:
            await self._require_in_order(context, system, state.environment, effective_at)

    async def _require_in_order(
        self, context: CommandContext, system: str, environment: str, effective_at: datetime | None
    ) -> None:
        """What is told late has happened, and not before the environment got what it has."""
        if effective_at is None:
            return
        require_not_future(effective_at, at=context.at)
        await self.desk.read_all_of("releases")
        since: str | None = await self.desk.pool.fetchval(
            "SELECT since FROM environment WHERE system = $1 AND environment = $2", system, environment
        )
        release_decisions.require_in_order(
            effective_at,
            since=datetime.fromisoformat(since) if since is not None else None,
            what=f"the last deployment in {environment}",
        )

    async def _superseding(
        self, system: str, newest: str | None, *, by: str, effective_at: datetime | None
    ) -> list[Change[Release]]:
        """The release that gives way, unless it ended before."""
        if newest is None or newest == by:
            return []
        state = await self.desk.load(release_stream(system, newest), release.evolve)
        if state is None or state.status not in (*RUNNING, "suspended"):
            return []
        decide = partial(release_decisions.supersede, by=by, effective_at=effective_at)
        return [Change(release_stream(system, newest), release.evolve, decide)]

    async def _registered(self, system: str, model: str, version: str) -> ModelVersionRegistered:
        stream = model_version_stream(system, model, version)
        return model_version.standing(await self.desk.load(stream, model_version.evolve))

    async def _require_change_request(self, system: str, key: str | None) -> None:
        if key is not None:
            stream = change_request_stream(system, key)
            change_request.existing(await self.desk.load(stream, change_request.evolve))

    async def _changes(
        self, system: str, previous: str | None, registered: ModelVersionRegistered, evidence: Sequence[Evidence]
    ) -> tuple[Difference, ...]:
        """Against the release before it; nothing for the first release of an environment."""
        if previous is None:
            return ()
        before = release.existing(await self.desk.load(release_stream(system, previous), release.evolve))
        stream = model_version_stream(system, before.model, before.version)
        version = model_version.existing(await self.desk.load(stream, model_version.evolve))
        return differences(
            before=version.registered,
            after=registered,
            requirements_before={one.requirement: one.revision for one in before.evidence},
            requirements_after={one.requirement: one.revision for one in evidence},
        )


def _required_roles(also_required: Sequence[SignOffRole]) -> tuple[SignOffRole, ...]:
    """The two that every release needs, and what its author asks for in addition."""
    more = tuple(sorted(set(also_required) - set(sign_off.REQUIRED_ROLES)))
    return (*more, *sign_off.REQUIRED_ROLES)
