"""The feed: in order and without holes, woken by the store, and awake without it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from shared import feed as feed_module
from shared.feed import StoreFeed
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES

SOURCE = SOURCES[0]
PATIENCE_S = 60.0
"""How long a test waits for what must come; nothing is measured."""
NEVER_S = 3600.0
LISTENERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


@contextlib.asynccontextmanager
async def listening(stores: Stores) -> AsyncIterator[StoreFeed]:
    """The feed with its listener connected."""
    task = asyncio.create_task(stores.feed.listen())
    try:
        await listener_other_than(stores, None)
        yield stores.feed
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def listener_other_than(stores: Stores, process: int | None) -> int:
    """The process id of the listener's backend, once there is one that is another."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: int | None = await stores.pool.fetchval(LISTENERS)
            if found is not None and found != process:
                return found
            await asyncio.sleep(0.01)


async def waiting(feed: StoreFeed, after: int) -> asyncio.Task[None]:
    """A task that waits for a change; it has begun to wait."""
    task = asyncio.create_task(feed.changed(service=SOURCE, after=after))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_the_store_wakes_all_who_wait(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polling is out of the way here, so it is the notification that wakes them."""
    monkeypatch.setattr(feed_module, "POLL_SECONDS", NEVER_S)
    async with listening(stores) as feed:
        counter = stores.counter
        for position in range(3):
            waiters = [await waiting(feed, position) for _ in range(3)]
            await counter.count(1)
            await asyncio.wait_for(asyncio.gather(*waiters), PATIENCE_S)
            assert [event.position for event in await feed.read(service=SOURCE, after=position, limit=9)] == [
                position + 1
            ]


async def test_what_was_notified_before_one_waits_is_not_waited_for(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading nothing and waiting, an event may come; it must not be slept over."""
    monkeypatch.setattr(feed_module, "POLL_SECONDS", NEVER_S)
    async with listening(stores) as feed:
        first = await waiting(feed, 0)
        await stores.counter.count(1, 2)
        await asyncio.wait_for(first, PATIENCE_S)
        await asyncio.wait_for(feed.changed(service=SOURCE, after=1), PATIENCE_S)
        await waiting_ends_by_cancel(await waiting(feed, 2))


async def waiting_ends_by_cancel(task: asyncio.Task[None]) -> None:
    """Somebody who gives up waiting takes nothing from others."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_service_does_not_wake_those_who_wait_for_another(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification names its service."""
    monkeypatch.setattr(feed_module, "POLL_SECONDS", NEVER_S)
    async with listening(stores) as feed:
        mine = await waiting(feed, 0)
        other = asyncio.create_task(feed.changed(service=SOURCES[1], after=0))
        await stores.counter_of(SOURCES[1]).count(1)
        await asyncio.wait_for(other, PATIENCE_S)
        assert not mine.done()
        await waiting_ends_by_cancel(mine)


async def test_it_listens_again_after_its_connection_was_ended(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator, a restart or a network may end it at any time."""
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.01)
    async with listening(stores) as feed:
        counter = stores.counter
        for position in range(2):
            process = await listener_other_than(stores, None)
            assert await stores.pool.fetchval("SELECT pg_terminate_backend($1)", process)
            await listener_other_than(stores, process)
            monkeypatch.setattr(feed_module, "POLL_SECONDS", NEVER_S)
            waiter = await waiting(feed, position)
            monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.01)
            await counter.count(1)
            await asyncio.wait_for(waiter, PATIENCE_S)


async def test_without_a_listener_it_polls(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens here, and whoever follows still comes to the end."""
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.01)
    counter, seen = stores.counter, list[int]()
    for number in range(5):
        await counter.count(number, number)
        while len(seen) < 2 * (number + 1):
            await stores.feed.changed(service=SOURCE, after=len(seen))
            seen += [event.position for event in await stores.feed.read(service=SOURCE, after=len(seen), limit=1)]
    assert seen == list(range(1, 11))


async def test_a_cancellation_that_comes_with_a_signal_is_not_lost(stores: Stores) -> None:
    """A follower that is cancelled while it is being woken ends; otherwise its service would never close."""

    async def follow() -> None:
        while True:
            await stores.feed.changed(service=SOURCE, after=10**9)

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.01)
    stores.feed._wake(None, 0, "", f"{SOURCE}:1")
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
    task.cancel()
    assert done == {task}


async def test_the_pulse_tells_head_and_reactions(stores: Stores) -> None:
    """A service that never lived has not been alive since ever; its head is where its store is."""
    await stores.counter.count(1, 2, 3)
    before = await stores.feed.pulse(service=SOURCE)
    assert (before.head, before.reacted) == (3, {})
    await stores.pool.execute(f"UPDATE {SOURCE}.pulse SET at = now()")
    await stores.pool.execute(f"INSERT INTO {SOURCE}.reaction_position VALUES ('drift', 5), ('releases', 6)")
    after = await stores.feed.pulse(service=SOURCE)
    assert (after.head, after.reacted) == (3, {"drift": 5, "releases": 6})
    assert after.at > before.at
    assert await stores.feed.head(service=SOURCE) == 3
