"""Lists that people page through, from the read models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.event import Actor

from .desk import Desk


@dataclass(frozen=True, kw_only=True)
class Listings:
    """Each list has up to `limit` + 1 rows above the key `after`, in order of key."""

    desk: Desk

    async def model_versions(
        self, *, actor: Actor, system: str, after: Sequence[str], limit: int
    ) -> list[dict[str, Any]]:
        """Model versions above (model, version)."""
        await self.desk.access.require_reader(system=system, actor=actor)
        rows = await self.desk.pool.fetch(
            "SELECT model, version, digest, parent, withdrawn FROM model_version"
            " WHERE system = $1 AND (model, version) > ($2, $3) ORDER BY model, version LIMIT $4",
            system,
            *after,
            limit + 1,
        )
        return [dict(row) for row in rows]

    async def change_plans(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        return await self._page("SELECT key, status, title, model FROM change_plan", actor, system, after, limit)

    async def change_requests(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        columns = "key, status, cause, signal, classification, model, baseline, candidate"
        return await self._page(f"SELECT {columns} FROM change_request", actor, system, after, limit)

    async def releases(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        columns = "key, status, environment, model, version, model_digest, gate_allowed, emergency, sign_off_due"
        return await self._page(f"SELECT {columns} FROM release", actor, system, after, limit)

    async def waivers(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        """Each waiver with its state now: in force, expired or revoked."""
        await self.desk.access.require_reader(system=system, actor=actor)
        rows = await self.desk.pool.fetch(
            "SELECT key, kind, release, requirement, granted_to, compensating_control, expires_at,"
            " CASE WHEN revoked THEN 'revoked' WHEN expires_at::timestamptz <= $4 THEN 'expired' ELSE 'in force' END AS state"
            " FROM waiver WHERE system = $1 AND key > $2 ORDER BY key LIMIT $3",
            system,
            after,
            limit + 1,
            self.desk.clock(),
        )
        return [dict(row) for row in rows]

    async def nonconformities(self, *, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        return await self._page("SELECT key, status, record FROM nonconformity", actor, system, after, limit)

    async def _page(self, select: str, actor: Actor, system: str, after: str, limit: int) -> list[dict[str, Any]]:
        await self.desk.access.require_reader(system=system, actor=actor)
        rows = await self.desk.pool.fetch(
            f"{select} WHERE system = $1 AND key > $2 ORDER BY key LIMIT $3", system, after, limit + 1
        )
        return [dict(row) for row in rows]
