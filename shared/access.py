"""Roles per AI system: a read copy, in every service, of the grants that the requirements service records.

Deny by default. Whoever holds no role in an AI system learns nothing of it, not even that it exists.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum

import asyncpg

from shared.effects import Effects
from shared.errors import NotFound, Refused
from shared.event import Actor, RecordedEvent
from shared.group_reader import GroupReader
from shared.token_errors import OnlyPersonsSign

SOURCE = "requirements"
ROLE_CHANGES = frozenset(
    {"requirements.ai-system-registered", "requirements.role-granted", "requirements.role-revoked"}
)
"""The events that give or take a role."""


class Role(StrEnum):
    """What a subject may do in one AI system. The owner grants and revokes the others."""

    OWNER = "owner"
    AUTHOR = "author"
    REVIEWER = "reviewer"
    APPROVER = "approver"
    RELEASER = "releaser"
    AUDITOR = "auditor"
    SERVICE = "service"


class MissingRole(Refused):
    """The caller holds a role in this AI system, but none that allows the verb."""


class AiSystemNotFound(NotFound):
    """No such AI system, or none in which the caller holds a role."""


TABLES_SQL = """
CREATE TABLE role_grant (
    system     text NOT NULL,
    subject    text NOT NULL,
    role       text NOT NULL,
    PRIMARY KEY (system, subject, role)
);
CREATE INDEX role_grant_by_subject ON role_grant (subject);
"""


async def apply(effects: Effects, event: RecordedEvent) -> None:
    """Folds registrations, grants and revocations into the copy; other events have no effect."""
    if event.name == "requirements.ai-system-registered":
        await _grant(effects, event.system, event.data()["owner"], Role.OWNER)
    elif event.name == "requirements.role-granted":
        data = event.data()
        await _grant(effects, event.system, data["subject"], data["role"])
    elif event.name == "requirements.role-revoked":
        data = event.data()
        await effects.execute(
            "DELETE FROM role_grant WHERE system = $1 AND subject = $2 AND role = $3",
            event.system,
            data["subject"],
            data["role"],
        )


async def _grant(effects: Effects, system: str | None, subject: str, role: str) -> None:
    await effects.execute("INSERT INTO role_grant VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", system, subject, role)


class Access:
    """Answers who may do what, from the copy of one service."""

    def __init__(self, *, pool: asyncpg.Pool, service: str) -> None:
        self._pool = pool
        self._schema = f"{service}_projection"
        self._asked: GroupReader[tuple[str, str], frozenset[Role]] = GroupReader(read=self._roles)

    async def roles(self, *, system: str, subject: str) -> frozenset[Role]:
        """The roles of the subject in the AI system; empty if none."""
        return await self._asked.ask((system, subject))

    async def _roles(self, asked: Sequence[tuple[str, str]]) -> list[frozenset[Role]]:
        rows = await self._pool.fetch(
            f"SELECT array(SELECT role FROM {self._schema}.role_grant g WHERE g.system = a.system AND g.subject = a.subject)"
            " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a (system, subject, number) ORDER BY number",
            [system for system, _ in asked],
            [subject for _, subject in asked],
        )
        return [frozenset(role for role in Role if role in held) for (held,) in rows]

    async def systems(self, *, subject: str) -> list[str]:
        """The keys of all AI systems in which the subject holds a role, in order."""
        rows = await self._pool.fetch(
            f"SELECT DISTINCT system FROM {self._schema}.role_grant WHERE subject = $1 ORDER BY system", subject
        )
        return [row["system"] for row in rows]

    async def systems_of(self, *, subjects: Collection[str]) -> dict[str, frozenset[str]]:
        """The keys of the AI systems in which each subject holds a role; subjects without any are left out."""
        rows = await self._pool.fetch(
            f"SELECT subject, array_agg(DISTINCT system) AS systems FROM {self._schema}.role_grant"
            " WHERE subject = ANY ($1) GROUP BY subject",
            subjects,
        )
        return {row["subject"]: frozenset(row["systems"]) for row in rows}

    async def require_reader(self, *, system: str, actor: Actor) -> frozenset[Role]:
        """The caller's roles in the system; AiSystemNotFound without any."""
        roles = await self.roles(system=system, subject=actor.subject)
        if not roles:
            raise AiSystemNotFound(
                f"There is no AI system {system!r} that you can see.",
                why="Reading needs a role in the AI system.",
                next_step="Ask its owner for a role; if it was granted a moment ago, pass the position of the grant as `after`.",
            )
        return roles

    async def require(self, *, system: str, actor: Actor, roles: Collection[Role]) -> None:
        """Refuses unless the caller holds one of the roles."""
        held = await self.require_reader(system=system, actor=actor)
        if not held & set(roles):
            wanted = " or ".join(sorted(roles))
            raise MissingRole(
                f"This needs the role {wanted} in {system}; you are {' and '.join(sorted(held))}.",
                why="Rights are given per AI system, and what is not given is denied.",
                next_step=f"Ask the owner of {system} to grant you {wanted}, or ask somebody who holds it.",
            )

    async def require_signer(self, *, system: str, actor: Actor, roles: Collection[Role]) -> None:
        """Refuses unless the caller is a person and holds one of the roles."""
        if actor.kind != "person":
            raise OnlyPersonsSign(
                "A service cannot sign.",
                why="Services and assistants may draft; only persons sign.",
                next_step="Have a person with the role " + " or ".join(sorted(roles)) + " sign.",
            )
        await self.require(system=system, actor=actor, roles=roles)
