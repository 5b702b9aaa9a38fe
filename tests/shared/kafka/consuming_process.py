"""A process that consumes, and kills itself at the n-th time of a step."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from shared import topic_cursor
from shared.feed import StoreFeed
from shared.kafka_settings import KafkaSettings
from shared.runtime import open_pool
from tests.shared.conftest import Stores
from tests.shared.kafka.consumers import Consumers


async def main(url: str, kafka: KafkaSettings, step: str, times: int) -> None:
    """Runs until it is killed."""
    left = times

    def at(label: str) -> None:
        nonlocal left
        left -= label == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    topic_cursor.GAP_SECONDS = 0.2
    async with await open_pool(url, connections_max=10, application_name="consumers") as pool:
        await Consumers.of(Stores(url, pool, StoreFeed(pool=pool, dsn=url)), kafka, at_step=at).run()


def consume(url: str, bootstrap: str, prefix: str, step: str, times: int) -> None:
    """What the process does."""
    logging.disable()
    asyncio.run(main(url, KafkaSettings(bootstrap=(bootstrap,), topic_prefix=prefix), step, times))
