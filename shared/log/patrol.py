"""The patrol reads sealed events again: do their bytes, their hashes and the tiles still give the root that was signed?

It runs once after a start and then once a day, a tile at a time with long pauses, so that nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

import asyncpg

from shared.errors import Conflict, ProoftrailError
from shared.log.checkpoint import parse_checkpoint
from shared.log.growth import Growth
from shared.log.merkle import Frontier
from shared.log.note import parse_note
from shared.log.row_check import EventsMissing, read_stored
from shared.log.sealer import DATABASE_AWAY, Sealer
from shared.log.signer import LogSigner

EVENTS_MAX = 256
"""Events of one batch: a tile, which takes a millisecond or two."""

RESTS = 9
"""How many times as long as it works it rests."""

AGAIN_SECONDS = 86_400.0
AFTER_ALARM_SECONDS = 60.0

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the events read and the events to read."""


class TileAltered(Conflict):
    """The events are those that were sealed or not; the stored hash of a tile is another than theirs."""


class HistoryAltered(Conflict):
    """Events and tiles fit each other, and do not give the root that was signed."""


async def walk(
    pool: asyncpg.Pool, *, service: str, size: int, pause: Callable[[float], float] = lambda took: RESTS * took
) -> AsyncIterator[Growth]:
    """The tree of the first `size` events, batch by batch from their bytes. EventAltered, EventsMissing at the first bad one.

    After each batch it sleeps for what `pause` makes of the seconds that the batch took.
    """
    tree = Frontier()
    while tree.size < size:
        began = time.monotonic()
        limit = min(EVENTS_MAX, size - tree.size)
        stored = await read_stored(pool, service=service, after=tree.size, limit=limit)
        if len(stored) < limit:
            raise EventsMissing(service, tree.size)
        growth = Growth(tree, stored.leaves())
        yield growth
        tree = growth.after
        await asyncio.sleep(pause(time.monotonic() - began))


async def require_untouched(pool: asyncpg.Pool, *, service: str, size: int, root: bytes) -> None:
    """Reads the first `size` events and their tiles. Raises what the first bad place is guilty of."""
    after = Frontier()
    async for growth in walk(pool, service=service, size=size):
        made = {(level, number): hash_ for level, number, hash_ in growth.tiles()}
        await _require_tiles(pool, service, made)
        after = growth.after
    if after.root() != root:
        raise HistoryAltered(
            f"The first {size} events of {service} are not those that were signed.",
            why="Every event fits its own hash and its tile, but together they give another root: history was rewritten.",
            next_step="Keep this database as evidence, restore a backup beside it and compare; receipts and packs hold the hashes.",
        )


class Patrol:
    """Tells the sealer of one service what it finds, while that sealer leads."""

    def __init__(self, *, pool: asyncpg.Pool, service: str, signer: LogSigner, sealer: Sealer) -> None:
        self._pool, self._service, self._signer, self._sealer = pool, service, signer, sealer

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await self._sealer.leading.wait()
            try:
                while (found := await self.look()) is not None:
                    self._sealer.alarm(found)
                    await asyncio.sleep(AFTER_ALARM_SECONDS)
            except DATABASE_AWAY as error:
                _log.warning("%s cannot be looked through now: %s", self._service, error)
                await asyncio.sleep(AFTER_ALARM_SECONDS)
                continue
            self._sealer.alarm(None)
            await asyncio.sleep(AGAIN_SECONDS)

    async def look(self) -> ProoftrailError | None:
        """What is wrong with the events that were signed, None if nothing is."""
        note = self._signer.note
        if note is None:
            return None
        signed = parse_checkpoint(parse_note(note).text)
        try:
            await require_untouched(self._pool, service=self._service, size=signed.size, root=signed.root)
        except ProoftrailError as found:
            return found
        return None


async def _require_tiles(pool: asyncpg.Pool, service: str, made: dict[tuple[int, int], bytes]) -> None:
    stored = await pool.fetch(
        f"SELECT t.level, t.number, t.hash FROM unnest($1::smallint[], $2::bigint[]) w(level, number)"
        f" JOIN {service}.log_tile t USING (level, number)",
        [level for level, _ in made],
        [number for _, number in made],
    )
    held = {(row["level"], row["number"]): row["hash"] for row in stored}
    for place, hash_ in made.items():
        if held.get(place) != hash_:
            level, number = place
            raise TileAltered(
                f"Tile {number} of level {level} of {service} is missing or altered,"
                f" or events from {service}:{number * 256**level + 1} on are.",
                why="The stored hash of a tile is not that of its events.",
                next_step=f"Run `prooftrail rebuild {service}`: it makes the tiles again and checks them against the signed root.",
            )
