"""A projection and a sealer at work while things break: in the end they have every event, and each took effect once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from shared.log.kept_folder import no_step
from shared.log.sealer import Sealer
from shared.projection import ProjectionRunner
from tests.shared.counting import READER, Tally
from tests.shared.log.sealed_store import SERVICE, SealedStore, reached, running, until

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Followers:
    """What follows the store of SERVICE in this process."""

    store: SealedStore
    projection: ProjectionRunner
    sealer: Sealer

    async def require_everything(self) -> None:
        """Returns once both have read to the end; what they made is what the events make, without a dead letter."""
        head = await self.store.store.head()
        await self.projection.wait({SERVICE: head}, timeout_s=PATIENCE_S)
        await until(lambda: self.sealer.size == head, seconds=PATIENCE_S)
        pool = self.store.pool
        applied = await pool.fetch(f"SELECT position FROM {READER}_projection.applied ORDER BY position")
        assert [position for (position,) in applied] == list(range(1, head + 1))
        assert await pool.fetchval(f"SELECT count(*) FROM {READER}.dead_letter") == 0
        state = await self.projection.state()
        assert state == await self.projection.replayed({SERVICE: head})
        checkpoints = await self.store.require_sound()
        assert (checkpoints[-1].size, self.sealer.refusal) == (head, None)


@contextlib.asynccontextmanager
async def following(
    url: str,
    folder: Path,
    *,
    projecting: Callable[[str], None] = no_step,
    sealing: Callable[[str], None] = no_step,
) -> AsyncIterator[Followers]:
    """Both at work on the database with the stores of SERVICE and READER, and telling their steps; neither may end by itself."""
    async with reached(url, folder) as store:
        projection = ProjectionRunner(
            pool=store.pool, feed=store.feed, projection=Tally(sources=(SERVICE,)), at_step=projecting
        )
        await projection.prepare()
        sealer = store.sealer(at_step=sealing)
        async with running(projection.run, sealer.run):
            yield Followers(store=store, projection=projection, sealer=sealer)
