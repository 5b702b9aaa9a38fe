"""The use cases of monitoring plans: define, set the reference, approve, activate, read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from shared.access import Access, Role
from shared.command import Change, CommandContext, Folds, execute, require_expected_version
from shared.errors import Conflict, FieldError, Refused
from shared.event import Actor, Fact, RecordedEvent, key_of, system_of
from shared.event_store import EventStore, Receipt
from shared.signing import Decision, NothingToSign, Signable, SignItem, signable_of

from .. import consumed_events as consumed
from ..domain import monitoring_plan
from ..domain.monitoring_plan import Definition, MonitoringPlan, PlanNotInState
from ..domain.production_rows import Value, parse_rows
from ..domain.reference_profile import ReferenceProfile
from .ingestion import CLOCK_SKEW_S
from .profiles import Profiles
from .streams import APPROVERS, AUTHORS, plan_stream

REFERENCE_VALUES_MAX = 2_000_000


class ModelVersionNotRegistered(Conflict):
    """The plan names a model version that is unknown here, has another digest, or was withdrawn."""


class OwnerWithoutRole(Refused):
    """The owner of a plan is somebody who holds a role in the AI system."""


@dataclass(frozen=True, kw_only=True)
class Plans:
    """What people and other systems can ask about monitoring plans."""

    store: EventStore
    access: Access
    pool: asyncpg.Pool
    profiles: Profiles
    folds: Folds[MonitoringPlan]

    async def define_monitoring_plan(
        self, *, context: CommandContext, system: str, key: str, definition: Definition
    ) -> Receipt:
        """A new plan, or other content for one that is not approved; If-Match is needed unless it is new."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        await self._require_model_version(system, definition)
        if not await self.access.roles(system=system, subject=definition.owner):
            raise OwnerWithoutRole(
                f"{definition.owner!r} holds no role in {system}.",
                why="The owner of a plan is told of its signals and answers for their triage.",
                next_step="Name somebody with a role, or have the owner of the AI system grant one.",
                fields=(FieldError(field="/owner", rule="a subject with a role in the AI system"),),
            )

        def decide(state: MonitoringPlan | None) -> Sequence[Fact]:
            facts = monitoring_plan.define(state, key=key, author=context.actor.subject, definition=definition)
            if state is not None and facts:
                require_expected_version(context)
            return facts

        return await execute(
            self.store, context, Change(plan_stream(system, key), monitoring_plan.evolve, decide, folds=self.folds)
        )

    async def _require_model_version(self, system: str, definition: Definition) -> None:
        known = await self.pool.fetchrow(
            "SELECT digest, withdrawn FROM model_version WHERE system = $1 AND model = $2 AND version = $3",
            system,
            definition.model,
            definition.version,
        )
        if known is None or known["withdrawn"] or known["digest"] != definition.model_digest:
            raise ModelVersionNotRegistered(
                f"There is no model version {definition.model} {definition.version} with this digest to watch.",
                why="A plan is for exactly one registered model version that was not withdrawn.",
                next_step="Register it first; if that was a moment ago, pass its position as `after`.",
                fields=(FieldError(field="/model_digest", rule="the digest of the registered model version"),),
            )

    async def set_reference(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        rows: int,
        event_time: Sequence[float | str] | None,
        features: Mapping[str, Sequence[Value]],
    ) -> Receipt:
        """Computes the reference profile from rows of the training or tuning data; the rows are not kept."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        plan, _ = await self._load(system, key)
        definition = plan.definition
        kinds = {feature.name: feature.kind for feature in definition.features}
        # Millions of values: apart from the event loop, so that nobody waits for them.
        parsed = await asyncio.to_thread(
            parse_rows,
            count=rows,
            times=event_time,
            features=features,
            kinds=kinds,
            latest=context.at.timestamp() + CLOCK_SKEW_S,
            values_max=REFERENCE_VALUES_MAX,
        )
        profile = await self.profiles.compute(
            model_digest=definition.model_digest, kinds=kinds, rows=parsed, window_s=definition.window_s
        )
        await self.profiles.keep(profile)
        return await execute(self.store, context, self._reference_change(context, system, key, definition, profile))

    def _reference_change(
        self, context: CommandContext, system: str, key: str, computed_for: Definition, profile: ReferenceProfile
    ) -> Change[MonitoringPlan]:
        def decide(state: MonitoringPlan | None) -> Sequence[Fact]:
            if state is not None and state.definition != computed_for:
                raise PlanNotInState(
                    f"Plan {key} was defined anew while its reference was computed.",
                    why="A reference profile fits one definition.",
                    next_step="Send the reference again.",
                )
            return monitoring_plan.set_reference(
                state,
                author=context.actor.subject,
                digest=profile.digest,
                rows=profile.rows,
                chunks=profile.chunks,
                features=profile.features,
            )

        return Change(plan_stream(system, key), monitoring_plan.evolve, decide, folds=self.folds)

    async def approve_monitoring_plan(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        plan, _ = await self._load(system, key)
        await self._require_model_version(system, plan.definition)
        return await execute(self.store, context, self._approval(context, plan_stream(system, key), digest, covers))

    async def activate_monitoring_plans(self, event: RecordedEvent, context: CommandContext) -> None:
        """Reaction: where a release was deployed, the approved plans of its model version begin to watch."""
        deployed = consumed.fields_of(event, consumed.ReleaseDeployed)
        system = event.system or ""
        rows = await self.pool.fetch(
            "SELECT key FROM monitoring_plan WHERE system = $1 AND model_digest = $2 AND status = 'approved' ORDER BY key",
            system,
            deployed.model_digest,
        )
        changes = [self._activation(system, row["key"], deployed.environment, deployed.key) for row in rows]
        if changes:
            await execute(self.store, context, *changes)

    async def activate_approved_plan(self, event: RecordedEvent, context: CommandContext) -> None:
        """Reaction: a plan that is approved after its model version was deployed begins to watch at once."""
        system, key = event.system or "", key_of(event.stream)
        rows = await self.pool.fetch(
            "SELECT environment, release FROM deployment WHERE system = $1 AND model_digest = $2 ORDER BY environment",
            system,
            event.content()["data"]["model_digest"],
        )
        if rows:
            await execute(self.store, context, self._activation_everywhere(system, key, rows))

    def _activation(self, system: str, key: str, environment: str, release: str) -> Change[MonitoringPlan]:
        return self._activation_everywhere(system, key, [{"environment": environment, "release": release}])

    def _activation_everywhere(
        self, system: str, key: str, deployments: Sequence[Mapping[str, str]]
    ) -> Change[MonitoringPlan]:
        def decide(state: MonitoringPlan | None) -> Sequence[Fact]:
            return [
                fact
                for deployment in deployments
                for fact in monitoring_plan.activate(
                    state, environment=deployment["environment"], release=deployment["release"]
                )
            ]

        return Change(plan_stream(system, key), monitoring_plan.evolve, decide, folds=self.folds)

    async def monitoring_plan(self, *, actor: Actor, system: str, key: str) -> tuple[MonitoringPlan, int]:
        """The plan with its watches, and its version."""
        await self.access.require_reader(system=system, actor=actor)
        return await self._load(system, key)

    async def reference_profile(self, *, actor: Actor, system: str, key: str) -> tuple[ReferenceProfile, int]:
        """The whole profile, with the names of category levels, for whoever holds a role."""
        plan, version = await self.monitoring_plan(actor=actor, system=system, key=key)
        return await self.profiles.read(monitoring_plan.reference_of(plan).digest), version

    async def monitoring_plans(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` + 1 plans above the key `after`, with the environments that they watch."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT key, model, version, model_digest, owner, status, reference_profile, ARRAY(SELECT environment FROM"
            " plan_activation a WHERE a.system = p.system AND a.plan = p.key ORDER BY environment) AS environments"
            " FROM monitoring_plan p WHERE system = $1 AND key > $2 ORDER BY key LIMIT $3",
            system,
            after,
            limit + 1,
        )
        return [dict(row) for row in rows]

    async def drift_windows(
        self, *, actor: Actor, system: str, key: str, environment: str | None, after: tuple[int, str], limit: int
    ) -> list[dict[str, Any]]:
        """Up to `limit` + 1 windows above (start in seconds since 1970, environment), as their events say."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT content FROM drift_window WHERE system = $1 AND plan = $2 AND ($3::text IS NULL OR environment = $3)"
            " AND (start, environment) > ($4, $5) ORDER BY start, environment LIMIT $6",
            system,
            key,
            environment,
            *after,
            limit + 1,
        )
        return [msgspec.json.decode(row["content"]) for row in rows]

    async def awaiting_signature(self, *, actor: Actor) -> Sequence[Signable]:
        """Plans with a reference that this person may approve: approver in the AI system, and not an author."""
        rows = await self.pool.fetch(
            "SELECT p.system, p.key FROM monitoring_plan p JOIN role_grant g ON g.system = p.system"
            " WHERE p.status = 'draft' AND p.reference_profile IS NOT NULL AND g.subject = $1 AND g.role = $2"
            " ORDER BY p.system, p.key LIMIT 200",
            actor.subject,
            Role.APPROVER,
        )
        waiting = []
        for row in rows:
            plan, version = await self._load(row["system"], row["key"])
            if plan.status == "draft" and plan.reference is not None and actor.subject not in plan.authors:
                waiting.append(_signable(row["system"], plan, version))
        return waiting

    async def signable(self, *, actor: Actor, record: str) -> Signable:
        system = _system_of_plan(record)
        plan, version = await self.monitoring_plan(actor=actor, system=system, key=key_of(record))
        return _signable(system, plan, version)

    async def sign(self, *, context: CommandContext, decision: Decision, items: Sequence[SignItem]) -> Receipt:
        covers = [item.digest for item in items]
        change = self._approval if decision == "sign" else self._refusal
        for item in items:
            system = _system_of_plan(item.record)
            await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
            if decision == "sign":
                plan, _ = await self._load(system, key_of(item.record))
                await self._require_model_version(system, plan.definition)
        return await execute(
            self.store, context, *(change(context, item.record, item.digest, covers) for item in items)
        )

    def _approval(
        self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[MonitoringPlan]:
        signature = context.sign(meaning="approval", digest=digest, covers=covers)
        return Change(
            stream,
            monitoring_plan.evolve,
            lambda state: monitoring_plan.approve(state, signature=signature),
            folds=self.folds,
        )

    def _refusal(
        self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[MonitoringPlan]:
        signature = context.sign(meaning="rejection", digest=digest, covers=covers)
        return Change(
            stream,
            monitoring_plan.evolve,
            lambda state: monitoring_plan.decline(state, signature=signature),
            folds=self.folds,
        )

    async def _load(self, system: str, key: str) -> tuple[MonitoringPlan, int]:
        state, version = await self.folds.load(self.store, plan_stream(system, key))
        return monitoring_plan.existing(state), version


def _signable(system: str, plan: MonitoringPlan, version: int) -> Signable:
    definition = plan.definition
    return signable_of(
        record=plan_stream(system, plan.key),
        system=system,
        title=f"{plan.key}: monitoring of {definition.model} {definition.version}",
        meaning="approval",
        roles=APPROVERS,
        canonical=monitoring_plan.signable_bytes(plan),
        before=None,
        version=version,
    )


def _system_of_plan(record: str) -> str:
    system = system_of(record)
    if system is None or record != plan_stream(system, key_of(record)):
        raise NothingToSign(
            f"{record!r} is no record that this service signs.",
            why="Monitoring plans are signed here, as monitoring-plan:<system>/<key>.",
            next_step="GET awaiting-signature lists what waits for you.",
            fields=(FieldError(field="record", rule="monitoring-plan:<system>/<key>"),),
        )
    return system
