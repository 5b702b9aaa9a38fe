"""The use cases of test cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from shared.access import Access, Role
from shared.command import Change, CommandContext, execute, load_state, require_expected_version
from shared.event import Actor, Fact
from shared.event_store import EventStore, Receipt

from ..domain import test_case
from ..domain.test_case import Procedure, TestCase
from .grounds import Grounds
from .streams import case_stream

AUTHORS = (Role.AUTHOR, Role.SERVICE)
APPROVERS = (Role.APPROVER,)


@dataclass(frozen=True, kw_only=True)
class TestCases:
    """Define, approve, retire."""

    __test__ = False

    store: EventStore
    access: Access
    pool: asyncpg.Pool
    grounds: Grounds

    async def define_test_case(self, *, context: CommandContext, system: str, key: str, content: Procedure) -> Receipt:
        """A new test case or revision, for approved requirement revisions; If-Match is needed unless it is new."""
        await self.access.require(system=system, actor=context.actor, roles=AUTHORS)
        await self.grounds.revisions(system=system, named=content.requirements)

        def decide(state: TestCase | None) -> Sequence[Fact]:
            facts = test_case.define(state, key=key, author=context.actor.subject, content=content)
            if state is not None and facts:
                require_expected_version(context)
            return facts

        return await execute(self.store, context, Change(case_stream(system, key), test_case.evolve, decide))

    async def approve_test_case(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        return await execute(self.store, context, self.approval(context, case_stream(system, key), digest, covers))

    async def retire_test_case(self, *, context: CommandContext, system: str, key: str, digest: str) -> Receipt:
        await self.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        signature = context.sign(meaning="retirement", digest=digest)
        change = Change(
            case_stream(system, key), test_case.evolve, lambda state: test_case.retire(state, signature=signature)
        )
        return await execute(self.store, context, change)

    def approval(self, context: CommandContext, stream: str, digest: str, covers: Sequence[str]) -> Change[TestCase]:
        """The change that approving makes, for acts of signing that cover several records."""
        signature = context.sign(meaning="approval", digest=digest, covers=covers)
        return Change(stream, test_case.evolve, lambda state: test_case.approve(state, signature=signature))

    async def test_case(self, *, actor: Actor, system: str, key: str) -> tuple[TestCase, int]:
        await self.access.require_reader(system=system, actor=actor)
        state, version = await load_state(self.store, case_stream(system, key), test_case.evolve)
        if state is None:
            raise test_case.TestCaseMissing(
                f"There is no test case {key} in {system}.",
                why="It was never defined.",
                next_step="List the test cases of the AI system.",
            )
        return state, version

    async def test_cases(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` + 1 test cases above the key, each with its latest revision."""
        await self.access.require_reader(system=system, actor=actor)
        rows = await self.pool.fetch(
            "SELECT key, revision, title, status FROM test_case WHERE system = $1 AND key > $2 ORDER BY key LIMIT $3",
            system,
            after,
            limit + 1,
        )
        return [dict(row) for row in rows]
