"""A process that seals what is there, and may be killed at a step on the way.

python -m tests.shared.log.sealing_process URL FOLDER STEP TIMES BATCH      STEP `-`: none; BATCH: events a checkpoint
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from shared.feed import StoreFeed
from shared.log import sealer as sealer_module
from shared.log.sealer import Sealer
from shared.runtime import open_pool
from tests.shared.log.sealed_store import QUICK, SERVICE, signer_in


async def main(url: str, folder: Path, step: str, times: int, batch: int) -> None:
    """Kills itself at the n-th time of the step, or says the size that it sealed."""
    left = times

    def at(label: str) -> None:
        nonlocal left
        left -= label == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sealer_module.EVENTS_MAX = batch

    async with await open_pool(url, connections_max=2, application_name="test") as pool:
        sealer = Sealer(
            dsn=url, service=SERVICE, signer=signer_in(folder, at=at), feed=StoreFeed(pool=pool, dsn=url),
            pace=QUICK, at_step=at,
        )  # fmt: skip
        async with sealer.alone() as connection:
            print(await sealer.seal_all(connection), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
