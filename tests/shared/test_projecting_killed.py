"""kill -9 at every step of projecting: no event is lost, none has an effect twice, and whoever starts next is there in seconds."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from shared.projection import ProjectionRunner
from tests.serving import CHECKOUT
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES, Counted, Ignored, Poisoned, Tally

FOLLOWING = ("read", "applied", "settled", "position stored", "committed", "buried")
REBUILDING = ("new tables made", "replayed", "switching", "switched", *FOLLOWING)
PATIENCE_S = 60.0


async def projecting(stores: Stores, what: str, step: str, times: int) -> int | None:
    """The exit code of a process that projects."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.shared.projecting_process", stores.url, what, step, str(times), cwd=CHECKOUT,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await process.wait()
    return process.returncode


async def fill(stores: Stores) -> None:
    """Two hundred events of each source, poison among them."""
    for service in SOURCES:
        counter = stores.counter_of(service)
        await counter.count(*range(120))
        await counter.tell(Ignored(), Poisoned(how="value"), *(Counted(number=number) for number in range(78)))


@pytest.mark.parametrize(
    ("what", "step"),
    [*(("follow", step) for step in FOLLOWING), *(("rebuild", step) for step in REBUILDING)],
)
async def test_whoever_starts_next_goes_on(stores: Stores, what: str, step: str) -> None:
    """Killed at the first and at the second time; then every event took effect once or lies with the dead letters."""
    runner = ProjectionRunner(pool=stores.pool, feed=stores.feed, projection=Tally())
    await runner.prepare()
    await fill(stores)
    if what == "rebuild":
        await runner.catch_up()
    killed = [await projecting(stores, what, step, times) for times in (1, 2)]
    assert -signal.SIGKILL in killed, killed
    async with asyncio.timeout(PATIENCE_S):
        await runner.catch_up()
    applied = [tuple(row) for row in await stores.pool.fetch("SELECT source, position FROM drift_projection.applied")]
    buried = [letter[:2] for letter in await stores.dead_letters()]
    everything = [(source, position) for source in SOURCES for position in range(1, 201)]
    assert sorted([*applied, *buried]) == sorted(everything)
    assert len(buried) == len(SOURCES)
    totals = {row["source"]: row["total"] for row in await stores.pool.fetch("SELECT * FROM drift_projection.tally")}
    assert totals == dict.fromkeys(SOURCES, sum(range(120)) + sum(range(78)))
