"""A process that delivers webhooks, and kills itself at the n-th time of a step.

python -m tests.shared.webhook_process URL STEP TIMES
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from shared.runtime import open_pool
from tests.shared.webhook_deliveries import delivering


async def main(url: str, step: str, times: int) -> None:
    """Does not end by itself."""
    left = times

    def at(label: str) -> None:
        nonlocal left
        left -= label == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    async with (
        await open_pool(url, connections_max=4, application_name="test") as pool,
        delivering(url, pool, at_step=at),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
