"""Projections: each event once, whatever happens; thrown away and folded again, they are the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import asyncpg
import pytest

from shared import projection as projection_module
from shared.effects import Effects
from shared.event import RecordedEvent
from shared.feed import StoreFeed
from shared.projection import NotThereYet, ProjectionRunner
from tests.shared.conftest import Stores
from tests.shared.counting import POISONS, READER, SOURCES, Counted, Ignored, Poisoned, Tally

PATIENCE_S = 60.0
"""How long a test waits for what must come; nothing is measured."""


@contextlib.asynccontextmanager
async def runner_of(stores: Stores, tally: Tally | None = None) -> AsyncIterator[ProjectionRunner]:
    """A runner with connections of its own, as in a process of its own."""
    async with asyncpg.create_pool(stores.url, min_size=1, max_size=4) as pool:
        runner = ProjectionRunner(pool=pool, feed=stores.feed, projection=tally or Tally())
        await runner.prepare()
        yield runner


@contextlib.asynccontextmanager
async def following(*runners: ProjectionRunner) -> AsyncIterator[None]:
    """The runners at work until the block ends."""
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


async def totals(stores: Stores) -> dict[tuple[str, str], int]:
    """What the tally says, by source and key."""
    rows = await stores.pool.fetch(f"SELECT source, key, total FROM {READER}_projection.tally")
    return {(row["source"], row["key"]): row["total"] for row in rows}


async def applied(stores: Stores) -> list[tuple[str, int]]:
    """Every time an event took effect: source and position."""
    rows = await stores.pool.fetch(f"SELECT source, position FROM {READER}_projection.applied ORDER BY 1, 2")
    return [tuple(row) for row in rows]


async def test_the_position_is_stored_with_the_effect(stores: Stores) -> None:
    """A batch that cannot be finished leaves neither: the next attempt starts where the last one did."""
    tally = Tally(stop_at=3)
    async with runner_of(stores, tally) as stopping:
        await stores.counter.count(1, 2, 3, 4)
        attempt = asyncio.create_task(stopping.catch_up())
        await asyncio.wait_for(tally.stopped.wait(), PATIENCE_S)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
    assert (await applied(stores), await totals(stores)) == ([], {})
    async with runner_of(stores) as runner:
        assert await runner.positions() == dict.fromkeys(SOURCES, 0)
        await runner.catch_up()
        assert await runner.positions() == {"requirements": 4, "releases": 0}
    assert await applied(stores) == [("requirements", position) for position in (1, 2, 3, 4)]
    assert await totals(stores) == {("requirements", "a"): 10}


async def test_a_database_that_goes_away_loses_nothing(stores: Stores) -> None:
    """The backend is ended while it works on a batch; the follower takes it up again."""
    tally = Tally(stop_at=3)
    async with runner_of(stores, tally) as runner:
        await stores.counter.count(1, 2, 3, 4)
        attempt = asyncio.create_task(runner.catch_up())
        await asyncio.wait_for(tally.stopped.wait(), PATIENCE_S)
        ended = await stores.pool.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        assert len(ended) == 1
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        tally.stop_at = None
        async with following(runner):
            await runner.wait({"requirements": 4}, timeout_s=PATIENCE_S)
    assert await applied(stores) == [("requirements", position) for position in (1, 2, 3, 4)]


async def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(stores: Stores) -> None:
    """Kept with its reason, without an effect of its own, and without holding up what follows."""
    counter = stores.counter
    async with runner_of(stores) as runner:
        for how in POISONS:
            await counter.tell(Poisoned(how=how), Counted(number=1))
        async with following(runner):
            await runner.wait({"requirements": 2 * len(POISONS)}, timeout_s=PATIENCE_S)
    odd, even = [range(start, 2 * len(POISONS) + 1, 2) for start in (1, 2)]
    letters = await stores.dead_letters()
    assert [letter[:3] for letter in letters] == [("requirements", position, "projection") for position in odd]
    assert all(letter[3].partition(":")[0].endswith("Error") for letter in letters)
    assert await totals(stores) == {("requirements", "a"): len(POISONS)}
    assert await applied(stores) == [("requirements", position) for position in even]


class Hesitant(StoreFeed):
    """Has nothing every second time, as a feed that first has to fetch what its topic lacks."""

    asked = 0

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        self.asked += 1
        return await super().read(service=service, after=after, limit=limit) if self.asked % 2 else ()


async def test_poison_from_a_feed_that_hesitates_is_put_aside_too(stores: Stores) -> None:
    """What was delivered is gone through event by event; to ask again would find nothing, each time."""
    runner = ProjectionRunner(pool=stores.pool, feed=stores.feed, projection=Tally(sources=SOURCES[:1]))
    await runner.prepare()
    await stores.counter.tell(Counted(number=1), Poisoned(how="value"), Counted(number=2))
    hesitating = ProjectionRunner(
        pool=stores.pool, feed=Hesitant(pool=stores.pool, dsn=stores.url), projection=Tally(sources=SOURCES[:1])
    )
    await hesitating.catch_up()
    assert await runner.positions() == {SOURCES[0]: 3}
    assert [letter[:2] for letter in await stores.dead_letters()] == [(SOURCES[0], 2)]


async def test_two_runners_side_by_side_apply_each_event_once(stores: Stores) -> None:
    """Two processes of one service share its tables, and poison is nobody else's loss."""
    counters = {service: stores.counter_of(service) for service in SOURCES}
    async with runner_of(stores) as one, runner_of(stores) as other, following(one, other):
        for number in range(60):
            for counter in counters.values():
                await counter.count(number, number)
                if number % 7 == 0:
                    await counter.tell(Poisoned(how="value"))
        heads = {service: await counter.store.head() for service, counter in counters.items()}
        for runner in (one, other):
            await runner.wait(heads, timeout_s=PATIENCE_S)
    buried = [letter[:2] for letter in await stores.dead_letters()]
    everything = [(source, position) for source in sorted(SOURCES) for position in range(1, heads[source] + 1)]
    assert sorted([*await applied(stores), *buried]) == everything
    assert len(buried) == 2 * 9
    assert await totals(stores) == dict.fromkeys(((source, "a") for source in SOURCES), 2 * sum(range(60)))


async def test_a_rebuild_gives_the_same_state(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """And tells how far it is; the dead letters stay as they were."""
    monkeypatch.setattr(projection_module, "BATCH_EVENTS_MAX", 500)
    for service in SOURCES:
        counter = stores.counter_of(service)
        await counter.count(*range(700))
        await counter.tell(Ignored(), Poisoned(how="data"))
    told: list[tuple[str, int, int]] = []
    async with runner_of(stores) as runner:
        await runner.catch_up()
        before, letters = await runner.state_digest(), await stores.dead_letters()
        await runner.rebuild(lambda source, done, total: told.append((source, done, total)))
        assert (await runner.state_digest(), await stores.dead_letters()) == (before, letters)
    assert told == [(source, done, 702) for source in SOURCES for done in (500, 702)]


async def test_a_rebuild_takes_up_what_it_can_read_now(stores: Stores) -> None:
    """A reader that was mended leaves no dead letter behind, so that nobody denies because of one."""

    class Mended(Tally):
        async def apply(self, effects: Effects, event: RecordedEvent) -> None:
            if event.name != Poisoned.TOPIC:
                await super().apply(effects, event)

    await stores.counter.tell(Poisoned(how="value"), Counted(number=1))
    async with runner_of(stores) as runner:
        await runner.catch_up()
    assert len(await stores.dead_letters()) == 1
    async with runner_of(stores, Mended()) as runner:
        await runner.rebuild()
    assert await stores.dead_letters() == []
    assert await totals(stores) == {("requirements", "a"): 1}


async def test_the_digest_tells_states_apart(stores: Stores) -> None:
    """A row more, or one number another, is another digest."""
    counter, digests = stores.counter, set()
    async with runner_of(stores) as runner:
        for number in (1, 2):
            await counter.count(number)
            await runner.catch_up()
            digests.add(await runner.state_digest())
        await stores.pool.execute(f"UPDATE {READER}_projection.tally SET total = total + 1")
        assert len(digests | {await runner.state_digest()}) == 3


async def test_at_every_position_a_replay_gives_the_live_state(stores: Stores) -> None:
    """Wherever the two sources stand, poison included; the tables at work and the dead letters stay as they are."""
    states = []
    async with runner_of(stores) as runner:
        for number in range(15):
            for service in SOURCES:
                counter = stores.counter_of(service)
                await counter.count(*range(number % 4), number, key=f"{number}")
                if number % 5 == 0:
                    await counter.tell(Poisoned(how=POISONS[number % len(POISONS)]), key=f"poisoned {number}")
                await runner.catch_up()
                states.append(await runner.state())
        letters = await stores.dead_letters()
        for state in states:
            assert await runner.replayed(state.positions) == state
        assert await runner.state() == states[-1]
    assert len({state.digest for state in states}) == len(states)
    assert (await stores.dead_letters(), len(letters)) == (letters, 6)


async def test_a_row_that_somebody_changed_is_noticed(stores: Stores) -> None:
    """The events say something else, whatever follows."""
    async with runner_of(stores) as runner:
        await stores.counter.count(1, 2)
        await runner.catch_up()
        await stores.pool.execute(f"UPDATE {READER}_projection.tally SET total = total + 1")
        await stores.counter_of("releases").count(3)
        await runner.catch_up()
        state = await runner.state()
        assert await runner.replayed(state.positions) != state
        await runner.rebuild()
        assert await runner.replayed(state.positions) == await runner.state()


async def test_a_rebuild_beside_a_follower_loses_and_doubles_nothing(stores: Stores) -> None:
    """Events go on arriving, readers go on reading, and nobody finds less than they have seen."""
    counters = [stores.counter_of(service) for service in SOURCES]
    enough = asyncio.Event()

    async def append() -> None:
        while not enough.is_set():
            for counter in counters:
                await counter.count(1, 2, 3)

    async def read() -> None:
        seen = 0
        while not enough.is_set():
            count = len(await applied(stores))
            assert count >= seen
            seen = count

    async with runner_of(stores) as live, runner_of(stores) as rebuilding, following(live):
        tasks = [asyncio.create_task(append()), asyncio.create_task(read())]
        for _ in range(5):
            await rebuilding.rebuild()
        enough.set()
        await asyncio.gather(*tasks)
        heads = {counter.service: await counter.store.head() for counter in counters}
        await live.wait(heads, timeout_s=PATIENCE_S)
        lived = await live.state_digest()
    everything = [(source, position) for source in sorted(SOURCES) for position in range(1, heads[source] + 1)]
    assert await applied(stores) == everything
    async with runner_of(stores) as runner:
        await runner.rebuild()
        assert await runner.state_digest() == lived


async def test_two_rebuilds_at_once_come_out_whole(stores: Stores) -> None:
    """Two new processes that start together both find the tables; neither builds into the other's."""
    await stores.counter.count(*range(600))
    async with (
        asyncpg.create_pool(stores.url, min_size=1, max_size=2) as pool,
        asyncpg.create_pool(stores.url, min_size=1, max_size=2) as other_pool,
    ):
        runners = [ProjectionRunner(pool=one, feed=stores.feed, projection=Tally()) for one in (pool, other_pool)]
        assert sorted(await asyncio.gather(*(runner.prepare() for runner in runners))) == [False, True]
        await asyncio.gather(*(runner.rebuild() for runner in runners))
        assert len(await applied(stores)) == 600
        assert await runners[0].state_digest() == await runners[1].state_digest()


async def test_other_tables_or_sources_are_built_anew(stores: Stores) -> None:
    """A new version of the code finds its own tables; the same version touches nothing."""
    await stores.counter.count(1, 2)
    await stores.counter_of("releases").count(4)
    with_more = Tally(tables_sql=Tally().tables_sql + "ALTER TABLE tally ADD COLUMN more text;")
    async with runner_of(stores) as runner:
        await runner.catch_up()
        assert not await runner.prepare()
    async with runner_of(stores, with_more) as runner:
        assert await stores.pool.fetchval(f"SELECT count(more) = 0 FROM {READER}_projection.tally")
        assert len(await applied(stores)) == 3
        assert not await runner.prepare()
    async with runner_of(stores, replace(with_more, sources=SOURCES[:1])) as runner:
        assert await runner.positions() == {"requirements": 2}
        assert await totals(stores) == {("requirements", "a"): 3}


async def test_a_rebuild_that_was_killed_leaves_the_old_tables_at_work(stores: Stores) -> None:
    """Half-built tables are nobody's state; the next rebuild begins again."""
    await stores.counter.count(1, 2, 3)
    async with runner_of(stores) as runner:
        await runner.catch_up()
        digest, stopping = await runner.state_digest(), Tally(stop_at=2)
        killed = asyncio.create_task(
            ProjectionRunner(pool=stores.pool, feed=stores.feed, projection=stopping).rebuild()
        )
        await asyncio.wait_for(stopping.stopped.wait(), PATIENCE_S)
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        assert await runner.state_digest() == digest
        await runner.rebuild()
        assert await runner.state_digest() == digest


async def test_waiting_for_what_was_read_and_for_what_was_not(stores: Stores) -> None:
    """A source that is not read is not waited for; one that has not come so far is, until the time is up."""
    async with runner_of(stores) as runner:
        await stores.counter.count(1)
        await runner.wait({"traceability": 99}, timeout_s=0)
        with pytest.raises(NotThereYet, match="requirements:1") as late:
            await runner.wait({"requirements": 1, "releases": 0}, timeout_s=0)
        assert late.value.status == 503
        async with following(runner):
            await runner.wait({"requirements": 1}, timeout_s=PATIENCE_S)
        await runner.wait({"requirements": 1}, timeout_s=0)
