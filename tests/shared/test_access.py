"""Roles per AI system: deny by default, and what a service copies is what the owner granted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import pytest

from services.requirements.domain.ai_system import (
    FACTS,
    AiSystemRegistered,
    IntendedUseRevised,
    RoleGranted,
    RoleRevoked,
)
from shared import access
from shared.access import Access, AiSystemNotFound, MissingRole, Role
from shared.event import Actor, EventMapper, Fact, RecordedEvent
from shared.event_store import PostgresEventStore
from shared.projection import ProjectionRunner
from shared.token_errors import OnlyPersonsSign
from tests.round_trip import envelope
from tests.shared.conftest import Stores
from tests.shared.counting import READER

OWNER, ADA, BEN = "person-owner", "person-ada", "person-ben"


class Copy:
    """The copy of the roles that every service keeps, and nothing else."""

    service = READER
    sources: Sequence[str] = (access.SOURCE,)
    tables_sql = access.TABLES_SQL

    async def apply(self, connection: asyncpg.Connection, event: RecordedEvent) -> None:
        await access.apply(connection, event)


@dataclass
class Rights:
    """Grants as the requirements service records them, and what another service knows of them."""

    store: PostgresEventStore
    copy: ProjectionRunner
    access: Access
    pool: asyncpg.Pool

    async def told(self, system: str, *facts: Fact) -> None:
        """These facts of the AI system, recorded and copied."""
        stream = f"ai-system:{system}"
        version = len(await self.store.load(stream))
        events = [envelope(fact, stream=stream, version=version + at) for at, fact in enumerate(facts, start=1)]
        await self.store.append(events, record=stream, version=version + len(facts), key=None)
        await self.copy.catch_up()


@pytest.fixture
async def rights(stores: Stores) -> Rights:
    """A service that has copied the registration of one AI system."""
    runner = ProjectionRunner(pool=stores.pool, feed=stores.feed, projection=Copy())
    await runner.prepare()
    store = PostgresEventStore(pool=stores.pool, service=access.SOURCE, mapper=EventMapper(FACTS))
    rights = Rights(store=store, copy=runner, access=Access(pool=stores.pool, service=READER), pool=stores.pool)
    await rights.told("s", registered("s"))
    return rights


def registered(key: str, owner: str = OWNER) -> AiSystemRegistered:
    return AiSystemRegistered(key=key, name=key, intended_use="x", risk_class="high", owner=owner)


def actor(subject: str, kind: str = "person") -> Actor:
    return Actor(subject=subject, kind=kind, issuer="https://issuer.test")  # type: ignore[arg-type]


async def test_whoever_registers_owns_and_nobody_else_is_anything(rights: Rights) -> None:
    """A stranger is told that there is no such system."""
    assert await rights.access.roles(system="s", subject=OWNER) == {Role.OWNER}
    assert await rights.access.roles(system="s", subject=ADA) == frozenset()
    with pytest.raises(AiSystemNotFound):
        await rights.access.require_reader(system="s", actor=actor(ADA))
    with pytest.raises(AiSystemNotFound):
        await rights.access.require(system="s", actor=actor(ADA), roles=[Role.AUTHOR])


async def test_a_grant_counts_until_it_is_revoked(rights: Rights) -> None:
    """Twice granted is once granted; the other roles stay."""
    author, approver = RoleGranted(subject=ADA, role="author"), RoleGranted(subject=ADA, role="approver")
    await rights.told("s", author, author, approver)
    assert await rights.access.require_reader(system="s", actor=actor(ADA)) == {Role.AUTHOR, Role.APPROVER}
    await rights.told("s", RoleRevoked(subject=ADA, role="author"))
    assert await rights.access.roles(system="s", subject=ADA) == {Role.APPROVER}
    await rights.told("s", RoleRevoked(subject=ADA, role="approver"), author)
    assert await rights.access.roles(system="s", subject=ADA) == {Role.AUTHOR}


async def test_a_role_counts_in_its_own_system_only(rights: Rights) -> None:
    """And the list of systems is that of the caller, in order."""
    await rights.told("t", registered("t", BEN), RoleGranted(subject=ADA, role="auditor"))
    await rights.told("a", registered("a", ADA))
    with pytest.raises(AiSystemNotFound):
        await rights.access.require_reader(system="s", actor=actor(ADA))
    assert await rights.access.systems(subject=ADA) == ["a", "t"]
    assert await rights.access.systems(subject=OWNER) == ["s"]
    assert await rights.access.systems(subject="person-nobody") == []


async def test_only_the_wanted_roles_open(rights: Rights) -> None:
    """Ownership does not stand in for a role, and no role for ownership."""
    await rights.told(
        "s", *(RoleGranted(subject=f"a-{role}", role=role.value) for role in Role if role is not Role.OWNER)
    )
    for held in Role:
        somebody = actor(OWNER if held is Role.OWNER else f"a-{held}")
        await rights.access.require(system="s", actor=somebody, roles=list(Role))
        for wanted in Role:
            if wanted is held:
                await rights.access.require(system="s", actor=somebody, roles=[wanted])
                continue
            with pytest.raises(MissingRole, match=wanted.value) as refused:
                await rights.access.require(system="s", actor=somebody, roles=[wanted])
            assert held.value in refused.value.what
        with pytest.raises(MissingRole):
            await rights.access.require(system="s", actor=somebody, roles=[])


async def test_only_a_person_with_the_role_signs(rights: Rights) -> None:
    """A service that was granted the role by mistake does not."""
    await rights.told("s", RoleGranted(subject=ADA, role="approver"), RoleGranted(subject="machine", role="approver"))
    await rights.access.require_signer(system="s", actor=actor(ADA), roles=[Role.APPROVER])
    with pytest.raises(OnlyPersonsSign):
        await rights.access.require_signer(system="s", actor=actor("machine", "service"), roles=[Role.APPROVER])
    with pytest.raises(MissingRole):
        await rights.access.require_signer(system="s", actor=actor(ADA), roles=[Role.RELEASER])


async def test_a_role_of_a_newer_version_opens_nothing_here(rights: Rights) -> None:
    """It is copied and has no meaning."""
    await rights.told("s", RoleGranted(subject=ADA, role="oracle"))
    assert await rights.access.roles(system="s", subject=ADA) == frozenset()
    with pytest.raises(AiSystemNotFound):
        await rights.access.require_reader(system="s", actor=actor(ADA))


async def test_names_are_compared_exactly(rights: Rights) -> None:
    """Neither case nor a pattern of SQL finds another system or another subject."""
    await rights.told("s", RoleGranted(subject=ADA, role="author"))
    for system, subject in (
        ("S", ADA),
        ("%", ADA),
        ("_", ADA),
        ("s", ADA.upper()),
        ("s", "person%"),
        ("s' OR true --", ADA),
    ):
        assert await rights.access.roles(system=system, subject=subject) == frozenset()


async def test_a_rebuild_gives_the_same_rights(rights: Rights) -> None:
    """They are folded from facts, those without an effect included."""
    await rights.told("s", RoleGranted(subject=ADA, role="author"), RoleGranted(subject=BEN, role="author"))
    await rights.told(
        "s", IntendedUseRevised(intended_use="y", risk_class="high"), RoleRevoked(subject=BEN, role="author")
    )
    before = await rights.copy.state_digest()
    await rights.copy.rebuild()
    assert await rights.copy.state_digest() == before
    assert await rights.access.roles(system="s", subject=ADA) == {Role.AUTHOR}
