"""The use cases of requirements: load, decide, save. One keyword-only method per verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg

from shared.access import Access, AiSystemNotFound, Role
from shared.command import Change, CommandContext, execute, load_state, require_expected_version
from shared.errors import FieldError
from shared.event import Actor, Fact, key_of, require_not_future, stream_of, system_of
from shared.event_store import EventStore, Receipt
from shared.signing import Decision, NothingToSign, Signable, SignItem, require_meaning, signable_of

from .domain import ai_system, dataset, requirement
from .domain.acceptance_criterion import AcceptanceCriterion, InvalidCriterion
from .domain.ai_system import AiSystem, RiskClass
from .domain.dataset import Dataset, DatasetRegistered
from .domain.requirement import Classification, Content, Requirement

AUTHORS = (Role.AUTHOR, Role.SERVICE)
APPROVERS = (Role.APPROVER,)
MEANING = "approval"
"""What a signer is shown that the signature means; declining it is a rejection."""


def system_stream(system: str) -> str:
    """The stream of an AI system."""
    return stream_of(kind="ai-system", system=system)


def dataset_stream(system: str, name: str, version: str) -> str:
    """The stream of one dataset version."""
    return stream_of(kind="dataset", system=system, key=f"{name}@{version}")


def requirement_stream(system: str, key: str) -> str:
    """The stream of a requirement with all its revisions."""
    return stream_of(kind="requirement", system=system, key=key)


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What people and other systems can ask of this service."""

    store: EventStore
    access: Access
    pool: asyncpg.Pool

    async def register_ai_system(
        self, *, context: CommandContext, key: str, name: str, intended_use: str, risk_class: RiskClass
    ) -> Receipt:
        """Any signed-in caller may register an AI system and becomes its owner."""
        return await execute(
            self.store,
            context,
            Change(
                system_stream(key),
                ai_system.evolve,
                lambda state: ai_system.register(
                    state,
                    key=key,
                    name=name,
                    intended_use=intended_use,
                    risk_class=risk_class,
                    owner=context.actor.subject,
                ),
            ),
        )

    async def revise_intended_use(
        self, *, context: CommandContext, system: str, intended_use: str, risk_class: RiskClass
    ) -> Receipt:
        await self.access.require_reader(system=system, actor=context.actor)
        return await execute(
            self.store,
            context,
            Change(
                system_stream(system),
                ai_system.evolve,
                lambda state: ai_system.revise_intended_use(
                    state, intended_use=intended_use, risk_class=risk_class, by=context.actor.subject
                ),
            ),
        )

    async def grant_role(self, *, context: CommandContext, system: str, subject: str, role: str) -> Receipt:
        return await self._change_role(context, system, ai_system.grant_role, subject, role)

    async def revoke_role(self, *, context: CommandContext, system: str, subject: str, role: str) -> Receipt:
        return await self._change_role(context, system, ai_system.revoke_role, subject, role)

    async def hand_over_as_operator(self, *, context: CommandContext, system: str, subject: str) -> Receipt:
        """By whoever runs commands on the machine of the deployment: the subject becomes the only owner."""
        return await execute(
            self.store,
            context,
            Change(system_stream(system), ai_system.evolve, lambda state: ai_system.hand_over(state, to=subject)),
        )

    async def _change_role(
        self, context: CommandContext, system: str, verb: ai_system.RoleVerb, subject: str, role: str
    ) -> Receipt:
        """Decided on the aggregate alone, so that an owner need not wait for the copy of the registration."""
        state, _ = await load_state(self.store, system_stream(system), ai_system.evolve)
        if state is None or not self._concerns(state, context.actor):
            await self.access.require_reader(system=system, actor=context.actor)
        return await execute(
            self.store,
            context,
            Change(
                system_stream(system),
                ai_system.evolve,
                lambda state: verb(state, subject=subject, role=role, by=context.actor.subject),
            ),
        )

    async def ai_system(self, *, actor: Actor, system: str) -> tuple[AiSystem, int]:
        """The AI system and its version, for whoever holds a role in it."""
        state, version = await load_state(self.store, system_stream(system), ai_system.evolve)
        if state is None or not self._concerns(state, actor):
            raise AiSystemNotFound(
                f"There is no AI system {system!r} that you can see.",
                why="Reading needs a role in the AI system.",
                next_step="Ask its owner for a role, or register it.",
            )
        return state, version

    @staticmethod
    def _concerns(state: AiSystem, actor: Actor) -> bool:
        return actor.subject in state.owners or any(subject == actor.subject for subject, _ in state.grants)

    async def register_dataset(self, *, context: CommandContext, system: str, registered: DatasetRegistered) -> Receipt:
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        return await execute(
            self.store,
            context,
            Change(
                dataset_stream(system, registered.name, registered.version),
                dataset.evolve,
                lambda state: dataset.register(state, registered=registered),
            ),
        )

    async def withdraw_dataset(
        self, *, context: CommandContext, system: str, name: str, version: str, effective_at: datetime | None = None
    ) -> Receipt:
        """Nothing should rest on the version, since `effective_at` if that is known to be earlier than now."""
        await self.access.require(system=system, actor=context.actor, roles=(Role.AUTHOR, Role.APPROVER))
        require_not_future(effective_at, at=context.at)
        withdraw = partial(dataset.withdraw, effective_at=effective_at)
        return await execute(
            self.store, context, Change(dataset_stream(system, name, version), dataset.evolve, withdraw)
        )

    async def dataset(self, *, actor: Actor, system: str, name: str, version: str) -> tuple[Dataset, int]:
        await self.access.require_reader(system=system, actor=actor)
        state, stream_version = await load_state(self.store, dataset_stream(system, name, version), dataset.evolve)
        if state is None:
            raise dataset.DatasetMissing(
                f"There is no dataset {name} version {version} in {system}.",
                why="It was never registered.",
                next_step="List the datasets of the AI system.",
            )
        return state, stream_version

    async def draft_requirement(
        self, *, context: CommandContext, system: str, key: str, classification: Classification, content: Content
    ) -> Receipt:
        """A new requirement, a new revision, or new content of a draft; If-Match is needed unless it is new."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        criteria = {f"/criteria/{index}": criterion for index, criterion in enumerate(content.criteria)}

        def decide(state: Requirement | None) -> Sequence[Fact]:
            facts = requirement.draft(
                state, key=key, classification=classification, author=context.actor.subject, content=content
            )
            if state is not None and facts:
                require_expected_version(context)
            return facts

        return await execute(
            self.store,
            context,
            Change(requirement_stream(system, key), requirement.evolve, decide),
            check=lambda: self._require_datasets(system, criteria),
        )

    async def revise_acceptance_criterion(
        self, *, context: CommandContext, system: str, key: str, criterion: AcceptanceCriterion
    ) -> Receipt:
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        require_expected_version(context)
        return await execute(
            self.store,
            context,
            Change(
                requirement_stream(system, key),
                requirement.evolve,
                lambda state: requirement.revise_criterion(state, author=context.actor.subject, criterion=criterion),
            ),
            check=lambda: self._require_datasets(system, {"/criterion": criterion}),
        )

    async def submit_requirement(self, *, context: CommandContext, system: str, key: str) -> Receipt:
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        stream = requirement_stream(system, key)
        return await execute(
            self.store,
            context,
            Change(stream, requirement.evolve, requirement.submit),
            check=lambda: self._require_measurable(stream),
        )

    async def approve_requirement(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        stream = requirement_stream(system, key)
        return await execute(
            self.store,
            context,
            self._approval(context, stream, digest, covers),
            check=lambda: self._require_measurable(stream),
        )

    async def reject_requirement(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        return await execute(
            self.store, context, self._rejection(context, requirement_stream(system, key), digest, covers)
        )

    async def retire_requirement(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        signature = context.sign(meaning="retirement", digest=digest, covers=covers)
        return await execute(
            self.store,
            context,
            Change(
                requirement_stream(system, key),
                requirement.evolve,
                lambda state: requirement.retire(state, signature=signature),
            ),
        )

    async def requirement(self, *, actor: Actor, system: str, key: str) -> tuple[Requirement, int]:
        """The requirement with all its revisions, and its version."""
        await self.access.require_reader(system=system, actor=actor)
        state, version = await load_state(self.store, requirement_stream(system, key), requirement.evolve)
        if state is None:
            raise requirement.RequirementMissing(
                f"There is no requirement {key} in {system}.",
                why="It was never drafted.",
                next_step="List the requirements of the AI system.",
            )
        return state, version

    async def ai_systems(self, *, actor: Actor, after: str, limit: int) -> list[dict[str, str]]:
        """Up to `limit` + 1 AI systems above the key `after` in which the caller holds a role."""
        rows = await self.pool.fetch(
            "SELECT key, name FROM ai_system WHERE key > $2 AND key IN (SELECT system FROM role_grant WHERE subject = $1)"
            " ORDER BY key LIMIT $3",
            actor.subject,
            after,
            limit + 1,
        )
        return [dict(row) for row in rows]

    async def datasets(self, *, actor: Actor, system: str, after: Sequence[str], limit: int) -> list[dict[str, Any]]:
        """Up to `limit` + 1 dataset versions above (name, version)."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT name, version, digest, purpose, withdrawn FROM dataset"
            " WHERE system = $1 AND (name, version) > ($2, $3) ORDER BY name, version LIMIT $4",
            system,
            *after,
            limit + 1,
        )
        return [dict(row) for row in rows]

    async def requirements(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` + 1 requirements above the key `after`, each with its latest revision."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT key, revision, status, title FROM requirement WHERE system = $1 AND key > $2 ORDER BY key LIMIT $3",
            system,
            after,
            limit + 1,
        )
        return [dict(row) for row in rows]

    async def awaiting_signature(self, *, actor: Actor) -> Sequence[Signable]:
        """Revisions in review that this person may approve: approver in the AI system, and not an author."""
        rows = await self.pool.fetch(
            "SELECT r.system, r.key FROM requirement r JOIN role_grant g ON g.system = r.system"
            " WHERE r.status = 'in review' AND g.subject = $1 AND g.role = 'approver' ORDER BY r.system, r.key LIMIT 200",
            actor.subject,
        )
        waiting = []
        for row in rows:
            state, version = await self.requirement(actor=actor, system=row["system"], key=row["key"])
            if state.latest.status == "in review" and actor.subject not in state.latest.authors:
                waiting.append(_signable(row["system"], state, version))
        return waiting

    async def signable(self, *, actor: Actor, record: str) -> Signable:
        system = system_of(record)
        if system is None or record != requirement_stream(system, key_of(record)):
            raise _nothing_to_sign(record)
        state, version = await self.requirement(actor=actor, system=system, key=key_of(record))
        return _signable(system, state, version)

    async def sign(self, *, context: CommandContext, decision: Decision, items: Sequence[SignItem]) -> Receipt:
        require_meaning(items, MEANING)
        covers = [item.digest for item in items]
        change = self._approval if decision == "sign" else self._rejection
        for item in items:
            system = system_of(item.record)
            if system is None or item.record != requirement_stream(system, key_of(item.record)):
                raise _nothing_to_sign(item.record)
            await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        streams = [item.record for item in items] if decision == "sign" else []
        return await execute(
            self.store,
            context,
            *(change(context, item.record, item.digest, covers) for item in items),
            check=lambda: self._require_measurable(*streams),
        )

    def _approval(
        self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[Requirement]:
        signature = context.sign(meaning=MEANING, digest=digest, covers=covers)
        return Change(stream, requirement.evolve, lambda state: requirement.approve(state, signature=signature))

    def _rejection(
        self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[Requirement]:
        signature = context.sign(meaning="rejection", digest=digest, covers=covers)
        return Change(stream, requirement.evolve, lambda state: requirement.reject(state, signature=signature))

    async def _require_datasets(self, system: str, criteria: Mapping[str, AcceptanceCriterion]) -> None:
        """The criteria of a request, by JSON pointer, are measured on registered test datasets that still stand."""
        broken = [
            FieldError(field=f"{pointer}/dataset", rule="a registered test dataset, not withdrawn")
            for pointer, criterion in criteria.items()
            if not await self._is_measurable(system, criterion)
        ]
        if broken:
            raise InvalidCriterion(
                "A criterion names a dataset version that cannot be used.",
                why="A criterion is measured on a registered dataset version with purpose test that is not withdrawn.",
                next_step="Register the dataset first, or name another version.",
                fields=tuple(broken),
            )

    async def _require_measurable(self, *streams: str) -> None:
        """What goes to review or comes into force can still be measured: a dataset may have been withdrawn since the draft."""
        for stream in streams:
            state, _ = await load_state(self.store, stream, requirement.evolve)
            if state is None or state.latest.status not in ("draft", "in review"):
                continue
            for criterion in state.latest.content.criteria:
                if not await self._is_measurable(str(system_of(stream)), criterion):
                    raise requirement.DatasetGone(
                        f"Criterion {criterion.key} of {state.key} is measured on {criterion.dataset} version"
                        f" {criterion.dataset_version}, which was withdrawn.",
                        why="What cannot be measured any more cannot be demanded.",
                        next_step="Have the revision rejected if it is in review, and name another dataset version in it.",
                    )

    async def _is_measurable(self, system: str, criterion: AcceptanceCriterion) -> bool:
        stream = dataset_stream(system, criterion.dataset, criterion.dataset_version)
        state, _ = await load_state(self.store, stream, dataset.evolve)
        return state is not None and not state.withdrawn and state.registered.purpose == "test"


def _signable(system: str, state: Requirement, version: int) -> Signable:
    latest, before = state.latest, state.in_force
    return signable_of(
        record=requirement_stream(system, state.key),
        system=system,
        title=f"{state.key} revision {latest.number}: {latest.content.title}",
        meaning=MEANING,
        roles=APPROVERS,
        canonical=requirement.signable_bytes(state, latest.number),
        before=requirement.signable_bytes(state, before.number) if before and before != latest else None,
        version=version,
    )


def _nothing_to_sign(record: str) -> NothingToSign:
    return NothingToSign(
        f"{record!r} is no record that this service signs.",
        why="Requirements are signed here, as requirement:<system>/<key>.",
        next_step="GET awaiting-signature lists what waits for you.",
        fields=(FieldError(field="record", rule="requirement:<system>/<key>"),),
    )
