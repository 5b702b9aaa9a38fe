"""A connection of a pool, kept between uses that follow one another: taking it each time costs as much as a short statement."""

from __future__ import annotations

import asyncio

import asyncpg

KEEP_SECONDS = 0.02


class KeptConnection:
    """Taken from the pool at the first use and given back KEEP_SECONDS after the last one. One user at a time."""

    def __init__(self, *, pool: asyncpg.Pool, take_seconds_max: float) -> None:
        self._pool = pool
        self._take_seconds_max = take_seconds_max
        self._kept: asyncpg.pool.PoolConnectionProxy | None = None
        self._giving_back: asyncio.TimerHandle | None = None
        self._returns: set[asyncio.Task[None]] = set()

    async def take(self) -> asyncpg.pool.PoolConnectionProxy:
        """An open connection. Raises what the pool raises, TimeoutError after `take_seconds_max`."""
        if self._giving_back is not None:
            self._giving_back.cancel()
        if self._kept is None or not _is_open(self._kept):
            self._kept = None
            self._kept = await self._pool.acquire(timeout=self._take_seconds_max)
        return self._kept

    def rest(self) -> None:
        """The use is over; another one may follow."""
        self._giving_back = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._give_back_later)

    def drop(self) -> None:
        """Ends the connection; the next use takes another one."""
        kept, self._kept = self._kept, None
        if kept is not None and _is_open(kept):
            kept.terminate()

    async def give_back(self) -> None:
        """The use is over, and none follows."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await self._pool.release(kept)

    def _give_back_later(self) -> None:
        """It is let go of at once: whoever comes before it is back in the pool must take another one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            task = asyncio.create_task(self._pool.release(kept), name="give back a connection")
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)


def _is_open(connection: asyncpg.pool.PoolConnectionProxy) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has noticed that it broke, and has taken it back
        return False
