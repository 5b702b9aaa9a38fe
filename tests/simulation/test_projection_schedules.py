"""Whatever the feed does and whenever processes die, a projection comes to the state of one event after the other.

`make simulate` tries many seeds. A failing seed is in the name of its test; `make simulate SEED=n` plays it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import asyncpg
import pytest

from services.drift.main import MIGRATIONS as DRIFT_MIGRATIONS
from services.drift.projections import DriftProjection
from services.releases.projections import ReleasesProjection
from services.requirements.projections import RequirementsProjection
from services.verification.main import MIGRATIONS as VERIFICATION_MIGRATIONS
from services.verification.projections import VerificationProjection
from shared import projection as projection_module
from shared.dead_letters import bury
from shared.effects import Effects, Fold
from shared.past_feed import PastFeed
from shared.projection import POISON, Projection, ProjectionRunner, State
from shared.runtime import migrate_service
from tests.house import fresh_database
from tests.simulation.disorder import AtStep, Histories, LawlessFeed, Simulation
from tests.simulation.histories import history
from tests.simulation.seeds import seeds

PROJECTIONS: tuple[type[Projection], ...] = (
    ReleasesProjection, VerificationProjection, DriftProjection, RequirementsProjection,
)  # fmt: skip
EVENTS_A_SOURCE = 40
STATES_REPLAYED = 3

Letters = list[tuple[str, int, str]]


class OneByOne(Effects):
    """Executes each statement when it comes, and folds after each event: what batches must be equal to."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        super().__init__(connection)
        self._pending: list[tuple[Fold, Any]] = []

    async def execute(self, statement: str, *arguments: Any) -> None:
        await self._connection.execute(statement, *arguments)

    def fold(self, fold: Fold, item: Any) -> None:
        self._pending.append((fold, item))

    async def settle(self) -> None:
        for fold, item in self._pending:
            await fold(self._connection, [item])


@pytest.fixture(scope="module")
async def pool(server_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A database with the stores of all services; what is committed may be lost with the machine, which is not killed here."""
    async with fresh_database(server_url) as url:
        scripts = {"verification": VERIFICATION_MIGRATIONS, "drift": DRIFT_MIGRATIONS}
        for service in ("requirements", "verification", "releases", "drift"):
            await migrate_service(url, service=service, scripts=scripts.get(service))
        async with asyncpg.create_pool(
            url, min_size=1, max_size=16, server_settings={"synchronous_commit": "off"}
        ) as opened:
            yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full pages are seldom full, and nobody rests."""
    monkeypatch.setattr(projection_module, "BATCH_EVENTS_MAX", 5)
    monkeypatch.setattr(projection_module, "RETRY_SECONDS", 0)
    monkeypatch.setattr(projection_module, "PACE_SECONDS", 0)


async def apply_one_by_one(pool: asyncpg.Pool, projection: Projection, histories: Histories) -> None:
    """One transaction an event; what it raises goes to the dead letters."""
    service = projection.service
    for source in projection.sources:
        for event in histories[source]:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(f"SET LOCAL search_path = {service}_projection, {service}")
                try:
                    async with connection.transaction():
                        effects = OneByOne(connection)
                        await projection.apply(effects, event)
                        await effects.settle()
                except POISON as error:
                    await bury(connection, service=service, event=event, reader="projection", error=error)
                await connection.execute("UPDATE position SET position = $2 WHERE source = $1", source, event.position)


async def result(pool: asyncpg.Pool, projection: Projection, feed: LawlessFeed) -> tuple[State, Letters]:
    """The state and the dead letters."""
    runner = ProjectionRunner(pool=pool, feed=feed, projection=projection)
    rows = await pool.fetch(f"SELECT source, position, reader FROM {projection.service}.dead_letter ORDER BY 1, 2, 3")
    return await runner.state(), [tuple(row) for row in rows]


async def anew(pool: asyncpg.Pool, projection: Projection, feed: LawlessFeed) -> None:
    """Empty tables and no dead letters."""
    await pool.execute(f"TRUNCATE {projection.service}.dead_letter")
    await pool.execute(f"DROP SCHEMA IF EXISTS {projection.service}_projection CASCADE")
    await ProjectionRunner(pool=pool, feed=PastFeed(feed=feed, positions={}), projection=projection).prepare()


@dataclass
class Play:
    """What one seed says, and what came of it in a database: the schedule, and what was seen on the way."""

    pool: asyncpg.Pool
    seed: int
    seen: list[State] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = Random(self.seed)
        self.projection: Projection = PROJECTIONS[self.seed % len(PROJECTIONS)]()
        self.histories = {
            source: history(source, count=EVENTS_A_SOURCE, chosen=chosen) for source in self.projection.sources
        }
        heads = dict.fromkeys(self.histories, EVENTS_A_SOURCE)
        self.everything = LawlessFeed(self.histories, heads, chosen, faults=("none",))
        self.whole = ProjectionRunner(pool=self.pool, feed=self.everything, projection=self.projection)
        self.simulation = Simulation(self.histories, self._open_process, self._look, self.seed)

    def _open_process(
        self, feed: LawlessFeed, at_step: AtStep
    ) -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
        runner = ProjectionRunner(pool=self.pool, feed=feed, projection=self.projection, at_step=at_step)
        return runner.run, runner.rebuild

    async def _look(self) -> None:
        self.seen.append(await self.whole.state())

    async def expected(self) -> tuple[State, Letters]:
        """The state and the dead letters of one event after the other."""
        await anew(self.pool, self.projection, self.everything)
        await apply_one_by_one(self.pool, self.projection, self.histories)
        return await result(self.pool, self.projection, self.everything)

    async def result(self) -> tuple[State, Letters]:
        """Those that the schedule leads to."""
        await anew(self.pool, self.projection, self.everything)
        await self.simulation.run()
        return await result(self.pool, self.projection, self.everything)


@pytest.mark.parametrize("seed", seeds(24))
async def test_any_schedule_gives_the_state_of_one_event_after_the_other(pool: asyncpg.Pool, seed: int) -> None:
    """Pages late, short, repeated, disordered or with holes; processes killed at any step; rebuilds in between.

    And what was seen on the way is what a replay up to there gives.
    """
    play = Play(pool, seed)
    expected = await play.expected()
    came = await play.result()
    told = "\n".join(play.simulation.schedule)
    assert came == expected, told
    for state in play.seen[:: max(1, len(play.seen) // STATES_REPLAYED)]:
        assert await play.whole.replayed(state.positions) == state, told


@pytest.mark.parametrize("seed", range(len(PROJECTIONS)))
async def test_a_seed_plays_the_same_again(pool: asyncpg.Pool, seed: int) -> None:
    """Act for act, and with the same states on the way; otherwise a seed that failed could not be played again."""
    first, second = Play(pool, seed), Play(pool, seed)
    assert await first.result() == await second.result()
    assert first.simulation.schedule == second.simulation.schedule
    assert (first.seen, len(first.seen) > 0) == (second.seen, True)
