"""The signing door of verification: test cases, verifications in review, suspicions to clear, runs to void."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from shared.access import Access
from shared.command import Change, CommandContext, execute
from shared.errors import Conflict, FieldError
from shared.event import Actor, key_of, system_of
from shared.event_store import EventStore, Receipt
from shared.signing import Decision, NothingToSign, Signable, SignItem, signable_of

from ..domain import evaluation_run, test_case, verification
from .evaluation_runs import SECOND_PERSONS, EvaluationRuns
from .streams import case_stream, run_stream, verification_stream
from .test_cases import APPROVERS, TestCases
from .verifications import REVIEWERS, Verifications

WAITING_MAX = 200


class CannotDecline(Conflict):
    """Only a verification in review can be declined here."""


@dataclass(frozen=True, kw_only=True)
class VerificationSigning:
    """Implements shared.signing.Signing."""

    store: EventStore
    access: Access
    pool: asyncpg.Pool
    test_cases: TestCases
    runs: EvaluationRuns
    verifications: Verifications

    async def awaiting_signature(self, *, actor: Actor) -> Sequence[Signable]:
        """Drafts of test cases, verifications in review and suspects that this person may sign and did not write."""
        rows = await self.pool.fetch(
            "SELECT 'test-case' AS kind, t.system, t.key FROM test_case t JOIN role_grant g ON g.system = t.system"
            " WHERE t.status = 'draft' AND t.author <> $1 AND g.subject = $1 AND g.role = 'approver'"
            " UNION SELECT 'verification', v.system, v.key FROM verification v JOIN role_grant g ON g.system = v.system"
            " WHERE v.status IN ('in review', 'suspect') AND v.author <> $1 AND g.subject = $1"
            " AND g.role IN ('reviewer', 'approver') ORDER BY 2, 1, 3 LIMIT $2",
            actor.subject,
            WAITING_MAX,
        )
        waiting = []
        for row in rows:
            stream = f"{row['kind']}:{row['system']}/{row['key']}"
            waiting.append(await self.signable(actor=actor, record=stream))
        return waiting

    async def signable(self, *, actor: Actor, record: str) -> Signable:
        system, key = _names(record)
        if record == case_stream(system, key):
            return await self._test_case(actor, system, key)
        if record == verification_stream(system, key):
            return await self._verification(actor, system, key)
        if record == run_stream(system, key):
            return await self._run(actor, system, key)
        raise _nothing_to_sign(record)

    async def sign(self, *, context: CommandContext, decision: Decision, items: Sequence[SignItem]) -> Receipt:
        covers = [item.digest for item in items]
        changes = [await self._change(context, decision, item, covers) for item in items]
        return await execute(self.store, context, *changes)

    async def _change(
        self, context: CommandContext, decision: Decision, item: SignItem, covers: Sequence[str]
    ) -> Change[Any]:
        system, key = _names(item.record)
        if item.record == verification_stream(system, key):
            await self.access.require_signer(system=system, actor=context.actor, roles=REVIEWERS)
            if decision == "decline":
                return self.verifications.rejection(context, item.record, item.digest, covers)
            if item.meaning == "suspicion cleared":
                return self.verifications.clearance(context, item.record, item.digest, covers)
            return await self.verifications.approval(context, system, item.record, item.digest, covers)
        if decision == "decline":
            raise CannotDecline(
                f"{item.record} cannot be declined.",
                why="A draft that nobody signs does not count, and a run that nobody voids stands.",
                next_step="Leave it unsigned and tell its author what to change.",
            )
        if item.record == case_stream(system, key):
            await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
            return self.test_cases.approval(context, item.record, item.digest, covers)
        if item.record == run_stream(system, key):
            await self.access.require_signer(system=system, actor=context.actor, roles=SECOND_PERSONS)
            return self.runs.voiding(context, item.record, item.digest, covers)
        raise _nothing_to_sign(item.record)

    async def _test_case(self, actor: Actor, system: str, key: str) -> Signable:
        state, version = await self.test_cases.test_case(actor=actor, system=system, key=key)
        latest, before = state.latest, state.in_force
        return signable_of(
            record=case_stream(system, key),
            system=system,
            title=f"{key} revision {latest.number}: {latest.content.title}",
            meaning="approval",
            roles=APPROVERS,
            canonical=test_case.signable_bytes(state, latest.number),
            before=test_case.signable_bytes(state, before.number) if before and before != latest else None,
            version=version,
        )

    async def _verification(self, actor: Actor, system: str, key: str) -> Signable:
        state, version = await self.verifications.verification(actor=actor, system=system, key=key)
        recorded = state.recorded
        return signable_of(
            record=verification_stream(system, key),
            system=system,
            title=f"{key}: {recorded.requirement} on {recorded.model} {recorded.version}: {recorded.outcome}",
            meaning="suspicion cleared" if state.status == "suspect" else "approval",
            roles=REVIEWERS,
            canonical=verification.signable_bytes(state),
            before=None,
            version=version,
        )

    async def _run(self, actor: Actor, system: str, key: str) -> Signable:
        state, version = await self.runs.evaluation_run(actor=actor, system=system, key=key)
        return signable_of(
            record=run_stream(system, key),
            system=system,
            title=f"void the evaluation run {key}",
            meaning="void",
            roles=SECOND_PERSONS,
            canonical=evaluation_run.signable_bytes(state),
            before=None,
            version=version,
        )


def _names(record: str) -> tuple[str, str]:
    system = system_of(record)
    if system is None or not key_of(record):
        raise _nothing_to_sign(record)
    return system, key_of(record)


def _nothing_to_sign(record: str) -> NothingToSign:
    return NothingToSign(
        f"{record!r} is no record that this service signs.",
        why="Signed here are test-case:, verification: and run:<system>/<key>.",
        next_step="GET awaiting-signature lists what waits for you.",
        fields=(FieldError(field="record", rule="test-case:, verification: or run:<system>/<key>"),),
    )
