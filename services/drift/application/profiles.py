"""Reference profiles by digest: computed off the event loop, kept once, checked when they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import asyncpg
import msgspec
import numpy as np

from shared.errors import Unavailable
from shared.event import digest_of

from ..domain.production_rows import Rows
from ..domain.reference_profile import FeatureKind, ReferenceProfile, profile_reference

PROFILES_REMEMBERED_MAX = 64


class AlteredProfile(Unavailable):
    """The stored bytes of a reference profile do not have its digest."""


def compute_profile(
    *, model_digest: str, kinds: Mapping[str, FeatureKind], rows: Rows, window_s: int
) -> ReferenceProfile:
    """The profile of reference rows; if they have times, how much windows of this length vary is estimated too."""
    chunks = None if rows.times is None else np.floor(rows.times / window_s).astype(np.int64)
    return profile_reference(model_digest=model_digest, kinds=kinds, columns=rows.columns, chunks=chunks)


def _compute(model_digest: str, kinds: Mapping[str, FeatureKind], rows: Rows, window_s: int) -> ReferenceProfile:
    return compute_profile(model_digest=model_digest, kinds=kinds, rows=rows, window_s=window_s)


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """The artefacts of this service."""

    pool: asyncpg.Pool
    executor: Executor
    remembered: dict[str, ReferenceProfile] = field(default_factory=dict)

    async def compute(
        self, *, model_digest: str, kinds: Mapping[str, FeatureKind], rows: Rows, window_s: int
    ) -> ReferenceProfile:
        """As `compute_profile`, in the process pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, _compute, model_digest, kinds, rows, window_s)

    async def keep(self, profile: ReferenceProfile) -> None:
        """Durable when it returns; kept before the event that names it, so that no event names nothing."""
        await self.pool.execute(
            "INSERT INTO drift.reference_profile VALUES ($1, $2) ON CONFLICT DO NOTHING",
            profile.digest,
            profile.canonical(),
        )

    async def read(self, digest: str) -> ReferenceProfile:
        """The profile. AlteredProfile if it is not what the digest names."""
        if digest in self.remembered:
            return self.remembered[digest]
        content: bytes | None = await self.pool.fetchval(
            "SELECT content FROM drift.reference_profile WHERE digest = $1", digest
        )
        if content is None or digest_of(content) != digest:
            raise AlteredProfile(
                f"The reference profile {digest[:12]} is not what was approved.",
                why="Its stored bytes are gone or have another digest.",
                next_step="Restore the database from a backup.",
            )
        profile = msgspec.json.decode(content, type=ReferenceProfile)
        if len(self.remembered) >= PROFILES_REMEMBERED_MAX:
            self.remembered.clear()
        self.remembered[digest] = profile
        return profile
