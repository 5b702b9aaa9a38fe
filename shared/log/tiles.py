"""The tiles as state that can be thrown away: made again from the bytes of the events, and checked against the signed root."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

from shared.event import digest_of
from shared.log.merkle import Frontier
from shared.log.patrol import HistoryAltered, walk
from shared.log.proofs import LogTables

Progress = Callable[[str, int, int], None]


class LogTiles:
    """The table `log_tile` of one service."""

    def __init__(self, *, pool: asyncpg.Pool, service: str) -> None:
        self._pool = pool
        self._service = service

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"{self._service}_log"

    async def catch_up(self) -> None:
        """Nothing: the sealer alone goes on, since what it makes is signed."""

    async def rebuild(self, progress: Progress | None = None) -> None:
        """Makes all tiles below the last checkpoint again. EventAltered, EventsMissing, HistoryAltered if they cannot be made."""
        latest = await LogTables(connection=self._pool, service=self._service).latest()
        if latest is None:
            return
        tiles: list[tuple[int, int, bytes]] = []
        after = Frontier()
        async for growth in walk(self._pool, service=self._service, size=latest.size, pause=lambda _: 0):
            tiles += growth.tiles()
            after = growth.after
            if progress is not None:
                progress("its events", after.size, latest.size)
        if after.root() != latest.root:
            raise HistoryAltered(
                f"The events of {self._service} do not give the root of its checkpoint at {latest.size} events.",
                why="Events, leaf hashes or the checkpoint were altered in the database.",
                next_step="Keep this database as evidence, restore a backup beside it and compare.",
            )
        await self._replace(tiles, latest.size)

    async def _replace(self, tiles: list[tuple[int, int, bytes]], size: int) -> None:
        """Those below the size only: the sealer may be adding others."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                f"DELETE FROM {self._service}.log_tile WHERE (number + 1) * (256::numeric ^ level) <= $1", size
            )
            await connection.executemany(
                f"INSERT INTO {self._service}.log_tile (level, number, hash) VALUES ($1, $2, $3)"
                " ON CONFLICT (level, number) DO UPDATE SET hash = EXCLUDED.hash",
                tiles,
            )

    async def state_digest(self) -> str:
        """Hex SHA-256 over all tiles."""
        rows = await self._pool.fetch(
            f"SELECT level, number, hash FROM {self._service}.log_tile ORDER BY level, number"
        )
        return digest_of("\n".join(f"{r['level']} {r['number']} {r['hash'].hex()}" for r in rows).encode())
