"""A process that relays the events of the first source.

python -m tests.shared.kafka.relaying_process URL BOOTSTRAP PREFIX
"""

from __future__ import annotations

import asyncio
import sys

from shared.feed import StoreFeed
from shared.kafka_settings import KafkaSettings
from shared.runtime import open_pool
from tests.shared.conftest import Stores
from tests.shared.kafka.relays import relay_of


async def main(url: str, kafka: KafkaSettings) -> None:
    """Runs until it is killed."""
    async with await open_pool(url, connections_max=2, application_name="relay") as pool:
        await relay_of(Stores(url, pool, StoreFeed(pool=pool, dsn=url)), kafka).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], KafkaSettings(bootstrap=(sys.argv[2],), topic_prefix=sys.argv[3])))
