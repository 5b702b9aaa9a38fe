"""Changes: plans agreed before, and requests on their way from cause to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from shared.access import Role
from shared.command import Change, CommandContext, execute, load_state, require_expected_version
from shared.event import Actor, Fact
from shared.event_store import Receipt

from ..domain import change_plan, change_request, model_version
from ..domain.change_plan import ChangePlan, PlanContent
from ..domain.change_request import (
    Cause,
    ChangeNotInState,
    ChangeRequest,
    ChangeRequestSubmitted,
    Classification,
    Finding,
    FindingOutcome,
)
from ..domain.evidence import CriterionInput, Standing, is_met
from .desk import APPROVERS, AUTHORS, Desk, change_plan_stream, change_request_stream, model_version_stream

ASSESSORS = (Role.AUTHOR, Role.REVIEWER, Role.APPROVER)
CLOSERS = (Role.AUTHOR, Role.APPROVER, Role.RELEASER)

_FINDING = """
SELECT v.key, v.status, v.suspect, v.post_hoc, v.model_digest, v.requirement,
       EXISTS (SELECT FROM requirement r WHERE r.system = $1 AND r.key = v.requirement AND r.revision = v.revision AND r.in_force)
           AS in_force,
       ARRAY(SELECT value FROM json_each_text(v.verdicts)) AS outcomes
FROM verification v WHERE v.system = $1 AND {condition} ORDER BY v.position
"""


_STANDING = """
SELECT json_build_object(
    'criteria', r.criteria, 'standing', s.standing,
    'datasets', (SELECT coalesce(json_object_agg(name || '@' || version, digest), '{}') FROM dataset
        WHERE system = $1 AND NOT withdrawn))::text
FROM requirement r LEFT JOIN standing s
    ON s.system = $1 AND s.model_digest = $2 AND s.requirement = r.key AND s.revision = r.revision
WHERE r.system = $1 AND r.key = $3 AND r.in_force
"""


@dataclass(frozen=True, kw_only=True)
class ChangeControl:
    """The verbs of change plans and change requests."""

    desk: Desk

    async def draft_change_plan(
        self, *, context: CommandContext, system: str, key: str, content: PlanContent
    ) -> Receipt:
        """A new plan, or new content of the draft; If-Match is needed unless it is new."""
        await self.desk.access.require(system=system, actor=context.actor, roles=AUTHORS)

        def decide(plan: ChangePlan | None) -> Sequence[Fact]:
            facts = change_plan.draft(plan, key=key, author=context.actor.subject, content=content)
            if plan is not None and facts:
                require_expected_version(context)
            return facts

        return await execute(
            self.desk.store, context, Change(change_plan_stream(system, key), change_plan.evolve, decide)
        )

    async def approve_change_plan(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        return await execute(self.desk.store, context, self.plan_approval(context, system, key, digest, covers))

    def plan_approval(
        self, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str]
    ) -> Change[ChangePlan]:
        """The signature under a plan, to be executed alone or with others."""
        signature = context.sign(meaning="approval", digest=digest, covers=covers)
        stream = change_plan_stream(system, key)
        return Change(
            stream, change_plan.evolve, lambda plan: change_plan.approve(plan, record=stream, signature=signature)
        )

    async def change_plan(self, *, actor: Actor, system: str, key: str) -> tuple[ChangePlan, int]:
        """The plan and its version."""
        await self.desk.access.require_reader(system=system, actor=actor)
        plan, version = await load_state(self.desk.store, change_plan_stream(system, key), change_plan.evolve)
        return change_plan.existing(plan), version

    async def submit_change_request(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        cause: Cause,
        signal: str | None,
        model: str | None,
        baseline: str | None,
        candidate: str | None,
        impact_assessment: str,
    ) -> Receipt:
        """An author asks for a change."""
        await self.desk.access.require(system=system, actor=context.actor, roles=AUTHORS)
        submitted = ChangeRequestSubmitted(
            key=key,
            author=context.actor.subject,
            cause=cause,
            signal=signal,
            model=model,
            baseline=baseline,
            candidate=candidate,
            impact_assessment=impact_assessment,
        )
        return await execute(
            self.desk.store,
            context,
            Change(
                change_request_stream(system, key),
                change_request.evolve,
                lambda request: change_request.submit(request, submitted=submitted),
            ),
        )

    async def classify_change(
        self,
        *,
        context: CommandContext,
        system: str,
        key: str,
        classification: Classification,
        plan: str | None,
        modification: str | None,
        impact_assessment: str,
    ) -> Receipt:
        """A person assesses the change; If-Match is needed to replace an assessment."""
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=ASSESSORS)
        if (answered := await self.desk.answered(context)) is not None:
            return answered
        found = await self.desk.load(change_plan_stream(system, plan), change_plan.evolve) if plan else None

        def decide(request: ChangeRequest | None) -> Sequence[Fact]:
            facts = change_request.classify(
                request,
                author=context.actor.subject,
                classification=classification,
                plan=found,
                modification=modification,
                impact_assessment=impact_assessment,
            )
            if request is not None and request.classified is not None and facts:
                require_expected_version(context)
            return facts

        return await execute(
            self.desk.store, context, Change(change_request_stream(system, key), change_request.evolve, decide)
        )

    async def approve_change(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        return await execute(self.desk.store, context, self.change_approval(context, system, key, digest, covers))

    async def reject_change(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        return await execute(self.desk.store, context, self.change_rejection(context, system, key, digest, covers))

    def change_approval(
        self, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str]
    ) -> Change[ChangeRequest]:
        """The signature under a change request, to be executed alone or with others."""
        signature = context.sign(meaning="approval", digest=digest, covers=covers)
        stream = change_request_stream(system, key)
        return Change(
            stream,
            change_request.evolve,
            lambda request: change_request.approve(request, record=stream, signature=signature),
        )

    def change_rejection(
        self, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str]
    ) -> Change[ChangeRequest]:
        """The signature against a change request, to be executed alone or with others."""
        signature = context.sign(meaning="rejection", digest=digest, covers=covers)
        stream = change_request_stream(system, key)
        return Change(
            stream,
            change_request.evolve,
            lambda request: change_request.reject(request, record=stream, signature=signature),
        )

    async def implement_change(
        self, *, context: CommandContext, system: str, key: str, model: str, candidate: str
    ) -> Receipt:
        """An author names the registered model version that has the change; the plan's criteria are looked up here."""
        await self.desk.access.require(system=system, actor=context.actor, roles=AUTHORS)
        if (answered := await self.desk.answered(context)) is not None:
            return answered
        registered = model_version.standing(
            await self.desk.load(model_version_stream(system, model, candidate), model_version.evolve)
        )
        request = change_request.existing(
            await self.desk.load(change_request_stream(system, key), change_request.evolve)
        )
        _require_model(request, model)
        findings = await self._plan_findings(system, request, registered.digest)
        return await execute(
            self.desk.store,
            context,
            Change(
                change_request_stream(system, key),
                change_request.evolve,
                lambda state: change_request.implement(
                    state, candidate=candidate, model_digest=registered.digest, findings=findings
                ),
            ),
        )

    async def verify_change(
        self, *, context: CommandContext, system: str, key: str, verifications: Sequence[str]
    ) -> Receipt:
        """Somebody names the approved verifications of the candidate that show that the change did what it should."""
        await self.desk.access.require(system=system, actor=context.actor, roles=ASSESSORS)
        if (answered := await self.desk.answered(context)) is not None:
            return answered
        request = change_request.existing(
            await self.desk.load(change_request_stream(system, key), change_request.evolve)
        )
        await self.desk.read_all_of("verification")
        findings = [await self._finding(system, request.model_digest, one) for one in verifications]
        return await execute(
            self.desk.store,
            context,
            Change(
                change_request_stream(system, key),
                change_request.evolve,
                lambda state: change_request.verify(state, verifications=verifications, findings=findings),
            ),
        )

    async def close_change(self, *, context: CommandContext, system: str, key: str) -> Receipt:
        """The end of the request; the drift signal behind it is resolved by this event."""
        await self.desk.access.require(system=system, actor=context.actor, roles=CLOSERS)
        stream = change_request_stream(system, key)
        return await execute(self.desk.store, context, Change(stream, change_request.evolve, change_request.close))

    async def change_request(self, *, actor: Actor, system: str, key: str) -> tuple[ChangeRequest, int]:
        """The change request and its version."""
        await self.desk.access.require_reader(system=system, actor=actor)
        stream = change_request_stream(system, key)
        request, version = await load_state(self.desk.store, stream, change_request.evolve)
        return change_request.existing(request), version

    async def _plan_findings(self, system: str, request: ChangeRequest, digest: str) -> list[Finding]:
        """One finding for each criterion of the plan behind a predetermined change; none for other changes."""
        if request.classified is None or request.classified.plan is None:
            return []
        stream = change_plan_stream(system, request.classified.plan)
        plan = change_plan.existing(await self.desk.load(stream, change_plan.evolve))
        await self.desk.read_all_of("verification")
        return [
            await self._criterion_finding(system, digest, criterion.key, criterion.requirement)
            for criterion in plan.content.acceptance_criteria
        ]

    async def _criterion_finding(self, system: str, digest: str, criterion: str, requirement: str) -> Finding:
        """What the gate would find of the requirement in force for exactly this model."""
        text = await self.desk.pool.fetchval(_STANDING, system, digest, requirement)
        found = _standing_decoder.decode(text) if text is not None else _Found(criteria=(), standing=None, datasets={})
        standing = found.standing or Standing()
        outcome, verification = _verdict(found, standing)
        return Finding(criterion=criterion, requirement=requirement, outcome=outcome, verification=verification)

    async def _finding(self, system: str, digest: str | None, verification: str) -> Finding:
        row = await self.desk.pool.fetchrow(_FINDING.format(condition="v.key = $2"), system, verification)
        return Finding(
            criterion=verification,
            requirement=row["requirement"] if row is not None else "",
            outcome=_outcome(row, digest) if row is not None else "unverified",
            verification=verification,
        )


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    criteria: tuple[CriterionInput, ...]
    standing: Standing | None
    datasets: dict[str, str]


_standing_decoder = msgspec.json.Decoder(_Found)


def _verdict(found: _Found, standing: Standing) -> tuple[FindingOutcome, str | None]:
    if standing.not_met is not None:
        return "not met", standing.not_met
    if is_met(criteria=found.criteria, standing=standing, datasets=found.datasets):
        return "met", standing.used[0]
    return ("inconclusive", standing.inconclusive) if standing.inconclusive is not None else ("unverified", None)


def _outcome(row: dict[str, object], digest: str | None) -> FindingOutcome:
    """The worst verdict of a verification that counts for exactly this model; `unverified` for any other."""
    counts = row["status"] == "approved" and not row["suspect"] and not row["post_hoc"] and row["in_force"]
    outcomes = row["outcomes"]
    assert isinstance(outcomes, list)
    if not counts or row["model_digest"] != digest or not outcomes:
        return "unverified"
    if "not met" in outcomes:
        return "not met"
    return "inconclusive" if "inconclusive" in outcomes else "met"


def _require_model(request: ChangeRequest, model: str) -> None:
    if request.submitted.model not in (None, model):
        raise ChangeNotInState(
            f"{request.key} is a change of {request.submitted.model}, not of {model}.",
            why="The candidate is a version of the model that the change request names.",
            next_step="Name a version of that model, or submit another change request.",
        )
