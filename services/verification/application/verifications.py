"""The use cases of verifications: record, submit, approve, reject, mark suspect, clear."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from shared.access import Access, Role
from shared.artefacts import Artefacts
from shared.command import Change, CommandContext, execute, load_state
from shared.errors import Conflict, Invalid
from shared.event import Actor, Fact, RecordedEvent
from shared.event_store import EventStore, Receipt

from ..domain import evaluation_run, suspicion, test_case, verification
from ..domain.evaluation_run import EvaluationRunRecorded
from ..domain.predictions import Comparison, Demand, compare_runs
from ..domain.verification import Verification, VerificationMarkedSuspect, VerificationRecorded
from .grounds import Grounds, Revision
from .streams import case_stream, run_stream, verification_stream
from .test_cases import AUTHORS

REVIEWERS = (Role.REVIEWER, Role.APPROVER)


class CaseDoesNotVerify(Conflict):
    """The test case in force does not verify this requirement revision."""


class RunDoesNotCount(Conflict):
    """The run was voided, or was never recorded."""


class NotComparable(Invalid):
    """A run without predictions cannot be compared row by row."""


@dataclass(frozen=True, kw_only=True)
class Verifications:
    """Everything about verifications; `executor` compares runs apart from the event loop."""

    store: EventStore
    access: Access
    pool: asyncpg.Pool
    grounds: Grounds
    artefacts: Artefacts
    executor: Executor

    async def record_verification(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        test_case_key: str,
        requirement: str,
        run_key: str,
        compare_with_run: str | None,
    ) -> Receipt:
        """Judges a run against the criteria of the requirement revision that the test case verifies."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        case_revision, revision = await self._case(system, test_case_key, requirement)
        run = await self._run(system, run_key)
        verdicts = verification.judge(criteria=revision.criteria, run=run)
        recorded = VerificationRecorded(
            key=key,
            author=context.actor.subject,
            test_case=test_case_key,
            test_case_revision=case_revision,
            requirement=requirement,
            requirement_revision=revision.approval.revision,
            model=run.model,
            version=run.version,
            model_digest=run.model_digest,
            dataset=run.dataset,
            dataset_version=run.dataset_version,
            dataset_digest=run.dataset_digest,
            run=run_key,
            post_hoc=run.post_hoc,
            grade=run.grade,
            attempt=await self.grounds.attempts(system=system, run=run),
            verdicts=verdicts,
            outcome=verification.worst(verdicts),
            comparison=await self._comparison(system, run, compare_with_run, revision),
        )
        change = Change(
            verification_stream(system, key),
            verification.evolve,
            lambda state: verification.record(state, recorded=recorded),
        )
        return await execute(self.store, context, change)

    async def submit_verification(self, *, context: CommandContext, system: str, key: str) -> Receipt:
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        change = Change(verification_stream(system, key), verification.evolve, verification.submit)
        return await execute(self.store, context, change)

    async def approve_verification(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=REVIEWERS)
        change = await self.approval(context, system, verification_stream(system, key), digest, covers)
        return await execute(self.store, context, change)

    async def reject_verification(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=REVIEWERS)
        return await execute(
            self.store, context, self.rejection(context, verification_stream(system, key), digest, covers)
        )

    async def clear_suspicion(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=REVIEWERS)
        return await execute(
            self.store, context, self.clearance(context, verification_stream(system, key), digest, covers)
        )

    async def approval(
        self, context: CommandContext, system: str, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[Verification]:
        """The change that approving makes; what no longer stands under it is looked up before."""
        state, _ = await load_state(self.store, stream, verification.evolve)
        broken = await self.grounds.broken(system=system, rests=_rests(state.recorded)) if state is not None else None
        signature = context.sign(meaning="approval", digest=digest, covers=covers)
        return Change(
            stream,
            verification.evolve,
            lambda state: verification.approve(state, signature=signature, broken=broken),
        )

    def rejection(
        self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[Verification]:
        """The change that rejecting makes."""
        signature = context.sign(meaning="rejection", digest=digest, covers=covers)
        return Change(stream, verification.evolve, lambda state: verification.reject(state, signature=signature))

    def clearance(
        self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[Verification]:
        """The change that clearing a suspicion makes."""
        signature = context.sign(meaning="suspicion cleared", digest=digest, covers=covers)
        return Change(
            stream, verification.evolve, lambda state: verification.clear_suspicion(state, signature=signature)
        )

    async def mark_suspect(
        self, *, context: CommandContext, event: RecordedEvent, ground: suspicion.Node, explanation: str
    ) -> Receipt | None:
        """Marks exactly what depends on the ground that the event took away; None if nothing does."""
        system = event.system
        if system is None:
            return None
        keys = suspicion.dependents(await self.grounds.graph(system=system), ground)
        if not keys:
            return None
        changes = [self._suspicion(system, key, event, explanation) for key in keys]
        return await execute(self.store, context, *changes)

    def _suspicion(self, system: str, key: str, event: RecordedEvent, explanation: str) -> Change[Verification]:
        cause = VerificationMarkedSuspect(
            key=key,
            cause_event=event.name,
            cause_service=event.service,
            cause_position=event.position,
            cause_record=event.stream,
            explanation=explanation,
        )

        def decide(state: Verification | None) -> Sequence[Fact]:
            return verification.mark_suspect(state, cause=cause)

        return Change(verification_stream(system, key), verification.evolve, decide)

    async def verification(self, *, actor: Actor, system: str, key: str) -> tuple[Verification, int]:
        await self.access.require_reader(system=system, actor=actor)
        state, version = await load_state(self.store, verification_stream(system, key), verification.evolve)
        if state is None:
            raise verification.VerificationMissing(
                f"There is no verification {key} in {system}.",
                why="It was never recorded.",
                next_step="List the verifications of the AI system.",
            )
        return state, version

    async def verifications(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` + 1 verifications above the key."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT key, requirement, requirement_revision, model, version, run, outcome, status FROM verification"
            " WHERE system = $1 AND key > $2 ORDER BY key LIMIT $3",
            system,
            after,
            limit + 1,
        )
        return [dict(row) for row in rows]

    async def _case(self, system: str, key: str, requirement: str) -> tuple[int, Revision]:
        """The number of the test case's revision in force, and the requirement revision that it verifies."""
        case, _ = await load_state(self.store, case_stream(system, key), test_case.evolve)
        in_force = case.in_force if case is not None else None
        named = [one for one in in_force.content.requirements if one.key == requirement] if in_force else []
        if in_force is None or not named:
            raise CaseDoesNotVerify(
                f"No approved test case {key} verifies {requirement}.",
                why="A verification is made by an approved test case that names the requirement revision.",
                next_step="Define the test case for this requirement and have it approved.",
            )
        return in_force.number, await self.grounds.revision(system=system, key=requirement, revision=named[0].revision)

    async def _run(self, system: str, key: str) -> EvaluationRunRecorded:
        run, _ = await load_state(self.store, run_stream(system, key), evaluation_run.evolve)
        if run is None or run.recorded is None or run.status == "voided":
            raise RunDoesNotCount(
                f"The run {key} cannot be judged: it is {run.status if run is not None else 'unknown'}.",
                why="Verdicts are on runs that were recorded and stand.",
                next_step="Record the run, or name another one.",
            )
        return run.recorded

    async def _comparison(
        self, system: str, run: EvaluationRunRecorded, other_key: str | None, revision: Revision
    ) -> tuple[Comparison, ...]:
        if other_key is None:
            return ()
        other = await self._run(system, other_key)
        ours, theirs = await self._predictions(system, run), await self._predictions(system, other)
        work = partial(
            compare_runs,
            content=ours,
            other=theirs,
            demands=[Demand(metric=c.metric, slice=c.slice, level=c.level) for c in revision.criteria],
            thresholds=(run.decision_threshold, other.decision_threshold),
            seed=run.seed,
            other_run=other.key,
            other_version=other.version,
        )
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)

    async def _predictions(self, system: str, run: EvaluationRunRecorded) -> bytes:
        artefact = next((artefact for artefact in run.artefacts if artefact.name == "predictions"), None)
        if artefact is None:
            raise NotComparable(
                f"The run {run.key} has no artefact named predictions.",
                why="Two versions are compared row by row on their predictions.",
                next_step="Record both runs with their predictions, or leave compare_with_run out.",
            )
        return await asyncio.to_thread(self.artefacts.get, system=system, digest=artefact.digest)


def _rests(recorded: VerificationRecorded) -> suspicion.RestsOn:
    return suspicion.RestsOn(
        key=recorded.key,
        requirement=recorded.requirement,
        requirement_revision=recorded.requirement_revision,
        model=recorded.model,
        version=recorded.version,
        dataset=recorded.dataset,
        dataset_version=recorded.dataset_version,
        run=recorded.run,
    )
