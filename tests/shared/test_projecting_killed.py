"""kill -9 at every step of projecting: no event is lost, none has an effect twice, and whoever starts next goes on.

At which time of the step, and in batches of how many events, is drawn by seed: FAULT_SEEDS says how many.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys

import pytest

from shared.projection import ProjectionRunner
from tests.serving import CHECKOUT
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES, Counted, Ignored, Poisoned, Tally
from tests.simulation.seeds import fault_seeds

FOLLOWING = ("read", "applied", "settled", "position stored", "committed", "buried")
REBUILDING = ("new tables made", "replayed", "switching", "switched", *FOLLOWING)
BATCHES = (7, 80)
EVENTS_OF_A_SOURCE = 200
PATIENCE_S = 60.0


async def projecting(stores: Stores, what: str, step: str, times: int, batch: int) -> int | None:
    """The exit code of a process that projects."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.shared.projecting_process", stores.url, what, step, str(times), str(batch),
        cwd=CHECKOUT, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await process.wait()
    return process.returncode


async def fill(stores: Stores) -> None:
    """Two hundred events of each source, poison among them."""
    for service in SOURCES:
        counter = stores.counter_of(service)
        await counter.count(*range(120))
        await counter.tell(Ignored(), Poisoned(how="value"), *(Counted(number=number) for number in range(78)))


def occasions(step: str, *, batch: int) -> int:
    """How often there is such a step before the first empty batch: one batch of each source has poison and does not get far."""
    if step in ("read", "applied", "settled", "position stored", "committed"):
        return (EVENTS_OF_A_SOURCE - 1) // batch
    return len(SOURCES) if step == "buried" else 1


@pytest.mark.parametrize(
    ("what", "step"),
    [*(("follow", step) for step in FOLLOWING), *(("rebuild", step) for step in REBUILDING)],
)
@pytest.mark.parametrize("seed", fault_seeds(1))
async def test_whoever_starts_next_goes_on(stores: Stores, what: str, step: str, seed: int) -> None:
    """Killed at some time of the step, its successor perhaps too; then every event took effect once or is a dead letter."""
    chosen = random.Random(seed)
    runner = ProjectionRunner(pool=stores.pool, feed=stores.feed, projection=Tally())
    await runner.prepare()
    await fill(stores)
    if what == "rebuild":
        await runner.catch_up()
    batch = chosen.randint(*BATCHES)
    times = chosen.randint(1, occasions(step, batch=batch))
    assert await projecting(stores, what, step, times, batch) == -signal.SIGKILL
    await projecting(stores, what, step, chosen.randint(1, 2), chosen.randint(*BATCHES))
    async with asyncio.timeout(PATIENCE_S):
        await runner.catch_up()
    applied = [tuple(row) for row in await stores.pool.fetch("SELECT source, position FROM drift_projection.applied")]
    buried = [letter[:2] for letter in await stores.dead_letters()]
    everything = [(source, position) for source in SOURCES for position in range(1, EVENTS_OF_A_SOURCE + 1)]
    assert sorted([*applied, *buried]) == sorted(everything)
    assert len(buried) == len(SOURCES)
    totals = {row["source"]: row["total"] for row in await stores.pool.fetch("SELECT * FROM drift_projection.tally")}
    assert totals == dict.fromkeys(SOURCES, sum(range(120)) + sum(range(78)))
