"""Deliveries twice, late, out of order and cut off: after thousands of schedules a projection is what the serial one is.

A schedule follows from its seed: which of two runners reads next, what the feed hands it, and where it is cut off. SIMULATION_SEEDS
says how many are tried (`make simulate`), SIMULATION_SEED replays one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from shared.event import RecordedEvent
from shared.feed import Feed, StoreFeed
from shared.projection import ProjectionRunner
from tests.shared.conftest import Stores
from tests.shared.counting import READER, SOURCES, Ignored, Poisoned, Tally

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "15"))
SEED = os.environ.get("SIMULATION_SEED")
STEPS = 40
EVENTS = 60


@dataclass
class Deliveries:
    """What a feed may hand out: at least once, in any order, late, and with things missing in between."""

    feed: StoreFeed
    random: Random

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        """Some of the events about the position, some of them twice."""
        start = max(0, after - self.random.randrange(5))
        events = list(await self.feed.read(service=service, after=start, limit=self.random.randrange(1, 25)))
        kept = [event for event in events if self.random.random() < 0.95]
        kept += [event for event in events if self.random.random() < 0.1]
        if self.random.random() < 0.5:
            self.random.shuffle(kept)
        return kept

    async def changed(self, *, service: str, after: int) -> None:
        """Wakes at once, with or without reason."""

    async def head(self, *, service: str) -> int:
        return await self.feed.head(service=service)

    async def pulse(self, *, service: str) -> object:
        return await self.feed.pulse(service=service)

    async def listen(self) -> None:
        """Nobody is told anything."""


async def _seed_events(stores: Stores) -> Mapping[str, int]:
    heads = {}
    random = Random(0)
    for service in SOURCES:
        counter = stores.counter_of(service)
        while await counter.store.head() < EVENTS:
            await counter.count(
                *(random.randrange(100) for _ in range(random.randrange(1, 4))), key=random.choice("abc")
            )
            if random.random() < 0.1:
                await counter.tell(Ignored(), Poisoned(how=random.choice(("value", "integrity"))))
        heads[service] = await counter.store.head()
    return heads


async def _fresh(stores: Stores, feed: Feed) -> ProjectionRunner:
    runner = ProjectionRunner(pool=stores.pool, feed=feed, projection=Tally())
    await stores.pool.execute(f"DROP SCHEMA IF EXISTS {READER}_projection CASCADE; DELETE FROM {READER}.dead_letter")
    await runner.prepare()
    return runner


async def _empty(stores: Stores, feed: Feed) -> None:
    """Both at the beginning, without events read yet: `prepare` replays what it is handed."""
    await stores.pool.execute(
        f"SET search_path = {READER}_projection; TRUNCATE tally, applied; UPDATE position SET position = 0;"
        f" DELETE FROM {READER}.dead_letter; RESET search_path"
    )


async def _cut_off_somewhere(runner: ProjectionRunner, source: str, random: Random) -> None:
    """One batch; often its process ends before the batch does."""
    task = asyncio.create_task(runner._advance(source))
    for _ in range(random.choice((1, 2, 3, 5, 8, 13, 21, 10_000))):
        if task.done():
            break
        await asyncio.sleep(0)
    else:
        if random.random() < 0.7:
            task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _after_schedule(stores: Stores, seed: int) -> tuple[str, list[tuple[str, int, str, str]]]:
    """The digest of the projection and its dead letters after the schedule of the seed and a quiet end."""
    random = Random(seed)
    chaos = Deliveries(feed=stores.feed, random=random)
    runners = [ProjectionRunner(pool=stores.pool, feed=chaos, projection=Tally()) for _ in range(2)]  # type: ignore[arg-type]
    await _empty(stores, stores.feed)
    for _ in range(STEPS):
        together = [
            _cut_off_somewhere(random.choice(runners), random.choice(SOURCES), random)
            for _ in range(random.randrange(1, 4))
        ]
        await asyncio.gather(*together)
    quiet = ProjectionRunner(pool=stores.pool, feed=stores.feed, projection=Tally())
    await quiet.catch_up()
    return await quiet.state_digest(), await stores.dead_letters()


async def test_every_schedule_ends_like_the_serial_one(stores: Stores) -> None:
    """Same digest, same dead letters; the seed of one that does not is printed, and SIMULATION_SEED=... replays it."""
    await _seed_events(stores)
    serial = await _fresh(stores, stores.feed)
    await serial.catch_up()
    expected = (await serial.state_digest(), await stores.dead_letters())
    for seed in [int(SEED)] if SEED is not None else range(SEEDS):
        assert await _after_schedule(stores, seed) == expected, f"replay it: SIMULATION_SEED={seed} make simulate"


async def test_the_digest_is_the_same_at_every_position(stores: Stores) -> None:
    """A projection that is folded live, batch by batch, and one that is folded anew up to there are equal at each position."""
    heads = await _seed_events(stores)
    live = await _fresh(stores, UpTo(stores.feed, dict.fromkeys(SOURCES, 0)))
    for position in range(1, max(heads.values()) + 1, 7):
        feed = UpTo(stores.feed, dict.fromkeys(SOURCES, position))
        live = ProjectionRunner(pool=stores.pool, feed=feed, projection=Tally())
        await live.catch_up()
        before = await live.state_digest()
        await live.rebuild()
        assert await live.state_digest() == before, position


class UpTo(StoreFeed):
    """The stores as they were at these positions."""

    def __init__(self, feed: StoreFeed, last: Mapping[str, int]) -> None:
        super().__init__(pool=feed._pool, dsn=feed._dsn)
        self._last = last

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        events = await super().read(service=service, after=after, limit=limit)
        return [event for event in events if event.position <= self._last[service]]

    async def head(self, *, service: str) -> int:
        return min(await super().head(service=service), self._last[service])
