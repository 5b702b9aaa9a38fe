"""The use cases of evaluation runs: store evidence, open, record, void."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg

from shared.access import Access, Role
from shared.artefacts import Artefacts
from shared.command import Change, CommandContext, execute, load_state
from shared.errors import FieldError, Invalid
from shared.event import Actor, Signature
from shared.event_store import EventStore, Receipt
from shared.signing import Signable, signable_of

from ..domain import evaluation_run
from ..domain.evaluation_run import Artefact, Conditions, EvaluationRun, Grade, Measurement, Subject
from ..domain.predictions import Demand, measure
from ..domain.test_case import RequirementRevision
from .grounds import Grounds, Revision
from .streams import run_stream
from .test_cases import AUTHORS

SECOND_PERSONS = (Role.REVIEWER, Role.APPROVER)
CLOCK_SKEW = timedelta(minutes=2)
ATTESTATION = "attestation"
"""The meaning of the signature of somebody who answers for figures that were computed elsewhere."""


class TimeInTheFuture(Invalid):
    """A time that a client claims has not come yet."""


class NoPredictions(Invalid):
    """A recomputed run needs the predictions that its figures are computed from."""


class EvaluationDemanded(Invalid):
    """What was sent does not fit the grade of the run."""


@dataclass(frozen=True, kw_only=True)
class RunToRecord:
    """What a client sends of a run. `predictions` is the digest of a stored file, for grade recomputed."""

    key: str
    subject: Subject
    requirements: tuple[RequirementRevision, ...]
    nonce: str | None
    grade: Grade
    conditions: Conditions
    predictions: str | None
    measurements: tuple[Measurement, ...]
    artefacts: tuple[Artefact, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationRuns:
    """Everything about runs; `executor` computes metrics apart from the event loop."""

    store: EventStore
    access: Access
    pool: asyncpg.Pool
    grounds: Grounds
    artefacts: Artefacts
    executor: Executor

    async def store_artefact(self, *, actor: Actor, system: str, digest: str, content: bytes) -> None:
        await self.access.require(system=system, actor=actor, roles=AUTHORS)
        await asyncio.to_thread(self.artefacts.put, system=system, digest=digest, content=content)

    async def artefact(self, *, actor: Actor, system: str, digest: str) -> bytes:
        await self.access.require_reader(system=system, actor=actor)
        return await asyncio.to_thread(self.artefacts.get, system=system, digest=digest)

    async def open_evaluation_run(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        subject: Subject,
        requirements: Sequence[RequirementRevision],
    ) -> Receipt:
        """Binds a run before it is made: digests, and the approvals of the criteria it is for."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        revisions = await self._grounded(system, subject, requirements)
        approvals = tuple(revision.approval for revision in revisions)
        nonce = context.new_id()
        change = Change(
            run_stream(system, key),
            evaluation_run.evolve,
            lambda state: evaluation_run.open_run(
                state, key=key, author=context.actor.subject, subject=subject, approvals=approvals, nonce=nonce
            ),
        )
        return await execute(self.store, context, change)

    async def record_evaluation_run(self, *, context: CommandContext, system: str, run: RunToRecord) -> Receipt:
        """Records a run; with grade recomputed, the figures are computed here from the stored predictions."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        return await self._record(context, system, run, None)

    async def _record(
        self, context: CommandContext, system: str, run: RunToRecord, attestation: Signature | None
    ) -> Receipt:
        _refuse_future(run.conditions, at=context.at)
        revisions = await self._grounded(system, run.subject, run.requirements)
        for artefact in run.artefacts:
            await self._require_stored(system, artefact)
        measurements = await self._measurements(system, run, revisions)
        started = run.conditions.claimed_started_at
        post_hoc = started is None or any(started < revision.approved_at for revision in revisions)
        change = Change(
            run_stream(system, run.key),
            evaluation_run.evolve,
            lambda state: evaluation_run.record(
                state,
                key=run.key,
                author=context.actor.subject,
                subject=run.subject,
                approvals=tuple(revision.approval for revision in revisions),
                post_hoc=post_hoc,
                nonce=run.nonce,
                grade=run.grade,
                conditions=run.conditions,
                measurements=measurements,
                artefacts=run.artefacts,
                attestation=attestation,
            ),
        )
        return await execute(self.store, context, change)

    async def preview_attestation(self, *, actor: Actor, system: str, run: RunToRecord) -> Signable:
        """What a reviewer or approver would sign to answer for the figures of the run; nothing is stored."""
        await self.access.require(system=system, actor=actor, roles=SECOND_PERSONS)
        return signable_of(
            record=run_stream(system, run.key),
            system=system,
            title=f"attest {len(run.measurements)} figures of {run.key}",
            meaning=ATTESTATION,
            roles=SECOND_PERSONS,
            canonical=evaluation_run.attestable_bytes(key=run.key, subject=run.subject, measurements=run.measurements),
            before=None,
            version=0,
        )

    async def attest_evaluation_run(
        self, *, context: CommandContext, system: str, run: RunToRecord, digest: str
    ) -> Receipt:
        """Records a run whose figures a known party, a reviewer or approver of the AI system, answers for by signature."""
        await self.access.require_signer(system=system, actor=context.actor, roles=SECOND_PERSONS)
        return await self._record(context, system, run, context.sign(meaning=ATTESTATION, digest=digest))

    async def void_evaluation_run(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=SECOND_PERSONS)
        return await execute(self.store, context, self.voiding(context, run_stream(system, key), digest, covers))

    def voiding(
        self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]
    ) -> Change[EvaluationRun]:
        """The change that voiding makes."""
        signature = context.sign(meaning="void", digest=digest, covers=covers)
        return Change(stream, evaluation_run.evolve, lambda state: evaluation_run.void(state, signature=signature))

    async def evaluation_run(self, *, actor: Actor, system: str, key: str) -> tuple[EvaluationRun, int]:
        await self.access.require_reader(system=system, actor=actor)
        state, version = await load_state(self.store, run_stream(system, key), evaluation_run.evolve)
        if state is None:
            raise evaluation_run.RunMissing(
                f"There is no evaluation run {key} in {system}.",
                why="It was neither opened nor recorded.",
                next_step="List the runs of the AI system.",
            )
        return state, version

    async def evaluation_runs(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` + 1 runs above the key; every attempt, also voided ones."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT key, model, version, model_digest, dataset, dataset_version, status FROM evaluation_run"
            " WHERE system = $1 AND key > $2 ORDER BY key LIMIT $3",
            system,
            after,
            limit + 1,
        )
        return [dict(row) for row in rows]

    async def _grounded(
        self, system: str, subject: Subject, requirements: Sequence[RequirementRevision]
    ) -> list[Revision]:
        await self.grounds.require_dataset(
            system=system, name=subject.dataset, version=subject.dataset_version, digest=subject.dataset_digest
        )
        await self.grounds.require_model(
            system=system, model=subject.model, version=subject.version, digest=subject.model_digest
        )
        return await self.grounds.revisions(system=system, named=requirements)

    async def _measurements(
        self, system: str, run: RunToRecord, revisions: Sequence[Revision]
    ) -> tuple[Measurement, ...]:
        if run.grade != "recomputed":
            return run.measurements
        if run.predictions is None or run.measurements:
            raise NoPredictions(
                "A recomputed run is computed here, from its predictions.",
                why="Figures that a client sends are claimed, not recomputed.",
                next_step="Store the predictions as an artefact and name their digest, without measurements.",
                fields=(FieldError(field="/predictions", rule="the digest of a stored file, and no measurements"),),
            )
        content = await asyncio.to_thread(self.artefacts.get, system=system, digest=run.predictions)
        _require_named(run)
        work = partial(
            measure,
            content=content,
            demands=demands_of(revisions, run.subject),
            decision_threshold=run.conditions.decision_threshold,
            seed=run.conditions.seed,
        )
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)

    async def _require_stored(self, system: str, artefact: Artefact) -> None:
        length = await asyncio.to_thread(self.artefacts.length, system=system, digest=artefact.digest)
        if length != artefact.length:
            raise EvaluationDemanded(
                f"{artefact.name} has {length} bytes, not {artefact.length}.",
                why="The event carries digest and length of each evidence file.",
                next_step="Send the length of the stored bytes.",
                fields=(FieldError(field="/artefacts", rule=f"length {length} for {artefact.digest}"),),
            )


def demands_of(revisions: Sequence[Revision], subject: Subject) -> list[Demand]:
    """The figures that the criteria ask for on this dataset version, each once, in order."""
    wanted = {
        (criterion.metric, criterion.slice, criterion.level)
        for revision in revisions
        for criterion in revision.criteria
        if (criterion.dataset, criterion.dataset_version) == (subject.dataset, subject.dataset_version)
    }
    ordered = sorted(wanted, key=lambda one: (one[0], one[1], one[2] or 0.0))
    return [Demand(metric=metric, slice=slice_name, level=level) for metric, slice_name, level in ordered]


def _require_named(run: RunToRecord) -> None:
    """The event says which file the figures come from, and how long it is."""
    if run.predictions not in {artefact.digest for artefact in run.artefacts}:
        raise NoPredictions(
            "The predictions are not among the artefacts of the run.",
            why="The event carries digest and length of the file that its figures are computed from.",
            next_step="Name the predictions in `artefacts` too, and say there whether they hold personal data.",
            fields=(FieldError(field="/artefacts", rule=f"one with the digest {run.predictions}"),),
        )


def _refuse_future(conditions: Conditions, *, at: datetime) -> None:
    for field in ("claimed_started_at", "claimed_ended_at"):
        moment = getattr(conditions, field)
        if moment is not None and moment > at + CLOCK_SKEW:
            raise TimeInTheFuture(
                f"{field} lies in the future.",
                why="A run that is recorded has been made.",
                next_step="Send the time at which it happened.",
                fields=(FieldError(field=f"/{field}", rule="not later than now"),),
            )
