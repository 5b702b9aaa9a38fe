"""Fresh databases in which some services have their stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from shared.feed import StoreFeed
from shared.runtime import migrate_service
from tests.house import fresh_database
from tests.shared.counting import READER, SOURCES, Counter


@dataclass(frozen=True)
class Stores:
    """Two services that count and one that reads them, in one database."""

    url: str
    pool: asyncpg.Pool
    feed: StoreFeed

    @property
    def counter(self) -> Counter:
        """A counter of the first source, whose streams are new."""
        return Counter(pool=self.pool)

    def counter_of(self, service: str) -> Counter:
        """A counter of that source, whose streams are new."""
        return Counter(pool=self.pool, service=service)

    async def dead_letters(self) -> list[tuple[str, int, str, str]]:
        """What the reader could not take: source, position, reader and error."""
        rows = await self.pool.fetch(
            f"SELECT source, position, reader, error FROM {READER}.dead_letter ORDER BY 1, 2, 3"
        )
        return [tuple(row) for row in rows]


@pytest.fixture
async def stores(server_url: str) -> AsyncIterator[Stores]:
    """The stores of the counting services, empty."""
    async with fresh_database(server_url) as url:
        for service in (*SOURCES, READER):
            await migrate_service(url, service=service)
        async with asyncpg.create_pool(url, min_size=1, max_size=10) as pool:
            yield Stores(url=url, pool=pool, feed=StoreFeed(pool=pool, dsn=url))
