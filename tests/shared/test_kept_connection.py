"""A connection that is kept is in one pair of hands: its holder's or the pool's."""

from __future__ import annotations

import asyncio

import asyncpg

from shared.kept_connection import KEEP_SECONDS, KeptConnection


async def test_one_that_is_going_back_is_not_taken_again(server_url: str) -> None:
    """Between the end of its time and its way back to the pool somebody may come for it."""
    async with asyncpg.create_pool(server_url, min_size=1, max_size=4) as pool:
        kept = KeptConnection(pool=pool, take_seconds_max=60.0)
        for _ in range(20):
            mine = await kept.take()
            kept._give_back_later()
            following = await kept.take()
            assert following is not mine
            async with pool.acquire() as other:
                both = asyncio.gather(following.fetchval("SELECT pg_sleep(0.001)"), other.fetchval("SELECT 1"))
                assert (await both)[1] == 1
            kept.rest()
        await kept.give_back()


async def test_one_that_rests_is_taken_again_and_then_goes_back(server_url: str) -> None:
    """Uses that follow one another have the same connection; after a rest the pool has it whole."""
    async with asyncpg.create_pool(server_url, min_size=1, max_size=1) as pool:
        kept = KeptConnection(pool=pool, take_seconds_max=60.0)
        first = await kept.take()
        kept.rest()
        assert await kept.take() is first
        kept.rest()
        await asyncio.sleep(2 * KEEP_SECONDS)
        async with pool.acquire(timeout=60) as connection:
            assert await connection.fetchval("SELECT 1") == 1
