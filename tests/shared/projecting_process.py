"""A process that follows or rebuilds a projection, and kills itself at the n-th time of a step.

python -m tests.shared.projecting_process URL WHAT STEP TIMES BATCH      WHAT is `follow` or `rebuild`, BATCH a number of events
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from shared import projection
from shared.feed import StoreFeed
from shared.projection import ProjectionRunner
from shared.runtime import open_pool
from tests.shared.counting import Tally


async def main(url: str, what: str, step: str, times: int, batch: int) -> None:
    """Ends by itself when there is nothing left to do."""
    left = times

    def at(label: str) -> None:
        nonlocal left
        left -= label == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    projection.BATCH_EVENTS_MAX = batch
    async with await open_pool(url, connections_max=4, application_name="test") as pool:
        runner = ProjectionRunner(pool=pool, feed=StoreFeed(pool=pool, dsn=url), projection=Tally(), at_step=at)
        await (runner.catch_up() if what == "follow" else runner.rebuild())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
