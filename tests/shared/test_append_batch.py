"""Group commit: commands that come together share one transaction, and each has the answer it would have had alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from shared.append_batch import StoreAway
from shared.command import Change, CommandContext, execute
from shared.errors import Unavailable
from shared.event import Event, leaf_hash_of
from shared.event_store import (
    AnsweredBefore,
    IdempotencyKey,
    IdempotencyKeyReused,
    PostgresEventStore,
    Receipt,
    VersionConflict,
)
from shared.group_writer import WriterClosed
from shared.memory_event_store import MemoryEventStore
from shared.runtime import migrate_service
from tests.house import fresh_database
from tests.shared.counting import ACTOR, MAPPER, Counted, event_of
from tests.shared.cuttable import cuttable

SERVICE = "requirements"


@pytest.fixture
async def url(server_url: str) -> AsyncIterator[str]:
    """A database with the store of one service."""
    async with fresh_database(server_url) as address:
        await migrate_service(address, service=SERVICE)
        yield address


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresEventStore]:
    """A store with connections of its own, as another replica has."""
    async with asyncpg.create_pool(url, min_size=0, max_size=3) as pool:
        store = PostgresEventStore(pool=pool, service=SERVICE, mapper=MAPPER, **options)
        yield store
        await store.close()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresEventStore]:
    """The store on an empty database."""
    async with opened(url) as one:
        yield one


@contextlib.asynccontextmanager
async def held_back(url: str) -> AsyncIterator[asyncpg.Connection]:
    """While the block runs no append goes through, so that all that come after the first one are one batch."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"SELECT pg_advisory_lock(hashtext('{SERVICE}.append'))")
        yield connection
    finally:
        await connection.close()


def counted(stream: str, version: int, number: int = 0) -> Event:
    """One event of a stream."""
    return event_of(Counted(number=number), stream=stream, version=version)


def append(
    store: PostgresEventStore | MemoryEventStore, *events: Event, key: IdempotencyKey | None = None
) -> asyncio.Task[Receipt]:
    """The append on its way; its receipt names the first stream."""
    return asyncio.create_task(
        store.append(events, record=events[0].stream, version=events[0].version + len(events) - 1, key=key)
    )


def key_of(name: str, fingerprint: str = "f") -> IdempotencyKey:
    return IdempotencyKey(subject="person-1", key=name, fingerprint=fingerprint)


async def waiting(connection: asyncpg.Connection) -> int:
    """The process of the database that waits for the lock, as soon as there is one."""
    query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while (process := await connection.fetchval(query)) is None:  # noqa: ASYNC110 -- PostgreSQL has no event for it
        await asyncio.sleep(0.005)
    return int(process)


async def transactions(url: str) -> int:
    """How many different transactions wrote the stored events."""
    connection = await asyncpg.connect(url)
    try:
        number: int = await connection.fetchval(f"SELECT count(DISTINCT xmin::text) FROM {SERVICE}.event")
    finally:
        await connection.close()
    return number


async def test_commands_that_come_together_share_one_transaction(store: PostgresEventStore, url: str) -> None:
    """The first goes alone, since nothing waited; of the others one half is made ready while the other is written."""
    async with held_back(url):
        appends = [append(store, counted(f"a:s/{number}", 1)) for number in range(20)]
        await asyncio.sleep(0.05)
    receipts = await asyncio.gather(*appends)
    assert [receipt.events[0].position for receipt in receipts] == list(range(1, 21))
    assert await transactions(url) == 3


async def test_one_that_fails_fails_alone_and_whole(store: PostgresEventStore, url: str) -> None:
    """Conflict, key answered before, key reused: each is told its own reason, the others get positions without a hole."""
    await append(store, counted("a:s/old", 1), key=key_of("k"))
    async with held_back(url):
        first = append(store, counted("a:s/1", 1))
        conflicting = append(store, counted("a:s/2", 1), counted("a:s/2", 2), counted("a:s/old", 1))
        again = append(store, counted("a:s/old", 2), key=key_of("k"))
        reused = append(store, counted("a:s/old", 2), key=key_of("k", "g"))
        unwritable = append(store, counted("a:s/\0", 1))
        last = append(store, counted("a:s/2", 1), counted("a:s/3", 1))
        await asyncio.sleep(0.05)
    for failing, reason in (
        (conflicting, VersionConflict),
        (again, AnsweredBefore),
        (reused, IdempotencyKeyReused),
        (unwritable, asyncpg.CharacterNotInRepertoireError),
    ):
        with pytest.raises(reason):
            await failing
    assert [(await first).events[0].position, *(event.position for event in (await last).events)] == [2, 3, 4]
    assert await store.head() == 4
    assert [event.version for event in await store.load("a:s/2")] == [1]


async def test_two_on_the_same_stream_in_one_batch_and_the_second_is_decided_again(
    store: PostgresEventStore, url: str
) -> None:
    """The loser loads and decides again; nobody renumbers what it decided."""
    seen: list[int] = []

    def decide(state: int | None) -> list[Counted]:
        seen.append(state or 0)
        return [Counted(number=1)]

    change: Change[int] = Change("a:s/1", lambda state, _: (state or 0) + 1, decide)
    contexts = [
        CommandContext(actor=ACTOR, reason="counting", at=datetime.now(UTC), correlation=str(number))
        for number in range(5)
    ]
    async with held_back(url):
        commands = [asyncio.create_task(execute(store, context, change)) for context in contexts]
        await asyncio.sleep(0.05)
    receipts = await asyncio.gather(*commands)
    assert sorted(receipt.version for receipt in receipts) == [1, 2, 3, 4, 5]
    assert seen[:5] == [0, 0, 0, 0, 0]
    assert len(seen) > 5
    assert [event.version for event in await store.load("a:s/1")] == [1, 2, 3, 4, 5]


async def test_the_same_request_twice_at_once_is_done_once(store: PostgresEventStore, url: str) -> None:
    """Both get the same receipt, whether they met in one batch or not."""
    async with held_back(url):
        appends = [append(store, counted("a:s/1", 1), key=key_of("k")) for _ in range(4)]
        await asyncio.sleep(0.05)
    answers = await asyncio.gather(*appends, return_exceptions=True)
    receipts = [answer.receipt if isinstance(answer, AnsweredBefore) else answer for answer in answers]
    assert receipts == [receipts[0]] * 4
    assert isinstance(receipts[0], Receipt)
    assert await store.head() == 1


async def test_every_ai_system_keeps_its_chain_inside_a_batch(store: PostgresEventStore, url: str) -> None:
    """Count and previous hash go on from one command of a batch to the next, past those that failed."""
    async with held_back(url):
        appends = [append(store, counted(f"a:{'st'[n % 2]}/{n}", 1 + (n == 3))) for n in range(8)]
        await asyncio.sleep(0.05)
    answers = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(answer, VersionConflict) for answer in answers] == [n == 3 for n in range(8)]
    for system in "st":
        events = [event for event in await store.read(after=0, limit=100) if event.system == system]
        assert [event.content()["system_sequence"] for event in events] == list(range(1, len(events) + 1))
        previous = [event.content()["system_previous"] for event in events]
        assert previous == [None, *(leaf_hash_of(event.raw) for event in events[:-1])]


async def test_a_cancelled_command_is_not_written_while_it_waits_and_breaks_nobody(
    store: PostgresEventStore, url: str
) -> None:
    """What is on its way is written all the same; what waits is taken out."""
    async with held_back(url) as connection:
        alone = append(store, counted("a:s/0", 1))
        await waiting(connection)
        appends = [append(store, counted(f"a:s/{number}", 1)) for number in range(1, 5)]
        await asyncio.sleep(0.02)
        appends[1].cancel()
    await asyncio.gather(alone, *appends, return_exceptions=True)
    assert [event.stream for event in await store.read(after=0, limit=10)] == ["a:s/0", "a:s/1", "a:s/3", "a:s/4"]


async def test_a_batch_whose_command_is_cancelled_on_its_way_is_told_to_the_others(
    store: PostgresEventStore, url: str
) -> None:
    """The batch belongs to all that are in it."""
    async with held_back(url):
        appends = [append(store, counted(f"a:s/{number}", 1)) for number in range(4)]
        await asyncio.sleep(0.05)
        appends[0].cancel()  # it went alone
    await asyncio.wait(appends)
    assert appends[0].cancelled()
    assert [appends[number].result().record for number in (1, 2, 3)] == ["a:s/1", "a:s/2", "a:s/3"]


async def test_closing_answers_what_was_taken_and_takes_nothing_new(url: str) -> None:
    """No command is lost between the last answer and the end."""
    async with opened(url) as store:
        async with held_back(url):
            appends = [append(store, counted(f"a:s/{number}", 1)) for number in range(10)]
            await asyncio.sleep(0.05)
            closing = asyncio.create_task(store.close())
            await asyncio.sleep(0.01)
            with pytest.raises(WriterClosed):
                await append(store, counted("a:s/late", 1))
        await closing
        assert all(task.done() for task in appends)
        assert await store.head() == 10


@pytest.mark.parametrize("key", [None, key_of("k")])
async def test_an_answer_lost_after_the_commit_is_found_again(url: str, key: IdempotencyKey | None) -> None:
    """The command was carried out, so its receipt is the answer and not an error, with a key or without; it is stored once."""
    async with cuttable(url) as line, opened(line.url) as store:
        await append(store, counted("a:s/0", 1))
        line.cut_at = "answer"
        receipt = await append(store, counted("a:s/1", 1), counted("b:t/1", 1), key=key)
        stored = await store.read(after=1, limit=10)
        assert [(e.position, e.leaf_hash, e.recorded_at) for e in receipt.events] == [
            (event.position, event.leaf_hash, event.recorded_at) for event in stored
        ]
        assert (line.cuts, await store.head(), receipt.position) == (1, 3, "requirements:3")


@pytest.mark.parametrize("where", ["request", "answer"])
async def test_a_batch_whose_line_is_cut_answers_each_command_as_if_it_were_not(url: str, where: Any) -> None:
    """Also those that failed in it: they fail once more, for the same reason."""
    async with cuttable(url) as line, opened(line.url) as store:
        await append(store, counted("a:s/old", 1))
        async with held_back(url) as connection:
            first = append(store, counted("a:s/0", 1))
            await waiting(connection)
            appends = [append(store, counted(f"a:s/{number}", 1)) for number in (1, 2)]
            conflicting = append(store, counted("a:s/old", 1, 7))
            await asyncio.sleep(0.02)
            line.cut_at = where
        await asyncio.gather(first, *appends)
        with pytest.raises(VersionConflict):
            await conflicting
        assert (line.cuts, await store.head()) == (1, 4)


async def test_another_event_under_the_lost_version_is_a_conflict(url: str) -> None:
    """Only one's own bytes are one's own: what another replica stored there meanwhile is not taken for it."""
    async with cuttable(url) as line, opened(line.url) as store, opened(url) as other:
        async with held_back(url) as connection:
            lost = append(store, counted("a:s/1", 1, 1))
            process = await waiting(connection)
            faster = append(other, counted("a:s/1", 1, 2))
            await asyncio.sleep(0.02)
            line.refuses = True
            await connection.execute("SELECT pg_terminate_backend($1)", process)
            await asyncio.sleep(0.02)
        await faster
        line.refuses = False
        with pytest.raises(VersionConflict):
            await lost
        assert [event.data for event in await other.load("a:s/1")] == [Counted(number=2)]


async def test_a_database_that_stays_away_is_told_in_time_and_whether_anything_may_be_stored(url: str) -> None:
    """Nothing was sent: nothing was written. It was sent: nobody can tell, and the error says so. Later it works again."""
    async with cuttable(url) as line, opened(line.url, give_up_s=1.5) as store:
        line.refuses = True
        with pytest.raises(StoreAway, match="did not answer") as away:
            await append(store, counted("a:s/1", 1))
        assert not away.value.may_be_stored
        line.refuses = False
        await append(store, counted("a:s/1", 1))
        line.cut_at, line.refuses = "answer", True
        with pytest.raises(StoreAway) as unknown:
            await append(store, counted("a:s/2", 1))
        assert unknown.value.may_be_stored
        line.refuses = False
        assert (await append(store, counted("a:s/3", 1))).position == "requirements:3"


async def test_a_statement_that_was_cancelled_is_sent_again(store: PostgresEventStore, url: str) -> None:
    """An administrator, or a timeout of the server's, ended it; nothing was written."""
    async with held_back(url) as connection:
        task = append(store, counted("a:s/1", 1))
        process = await waiting(connection)
        await connection.execute("SELECT pg_cancel_backend($1)", process)
        await waiting(connection)
    assert (await task).position == "requirements:1"


async def test_closed_connections_are_unavailable_at_once(url: str) -> None:
    """Nobody waits for a pool that will not come back."""
    async with opened(url) as store:
        await append(store, counted("a:s/1", 1))
    with pytest.raises(Unavailable):
        await append(store, counted("a:s/2", 1))


async def test_batches_answer_as_one_command_after_the_other(url: str) -> None:
    """The same commands, in the same order, to a store in memory that knows no batches: same answers, same bytes."""
    async with opened(url) as store:
        clock = datetime(2026, 1, 1, tzinfo=UTC)
        serial = MemoryEventStore(service=SERVICE, mapper=MAPPER, clock=lambda: clock)
        chosen = random.Random(4)
        for _ in range(25):
            commands = [_some_command(chosen) for _ in range(chosen.randint(1, 12))]
            async with held_back(url):
                appends = [append(store, *events, key=key) for events, key in commands]
                await asyncio.sleep(0.02)
            answers = await asyncio.gather(*appends, return_exceptions=True)
            expected = [await _outcome(append(serial, *events, key=key)) for events, key in commands]
            assert [_told(answer) for answer in answers] == expected
        assert [_placed(event) for event in await store.read(after=0, limit=1000)] == [
            _placed(event) for event in await serial.read(after=0, limit=1000)
        ]


def _some_command(chosen: random.Random) -> tuple[Sequence[Event], IdempotencyKey | None]:
    """Up to three events over few streams, so that many conflict; every key is new, since equal ones wait for another batch."""
    streams = [chosen.choice(("a:s/1", "a:s/2", "b:t/1", "log::x")) for _ in range(chosen.randint(1, 3))]
    first = {stream: chosen.randint(1, 9) for stream in streams}
    events = [counted(stream, first[stream] + streams[:at].count(stream)) for at, stream in enumerate(streams)]
    return events, chosen.choice((None, key_of(str(chosen.random()))))


async def _outcome(task: asyncio.Task[Receipt]) -> object:
    return _told((await asyncio.gather(task, return_exceptions=True))[0])


def _told(answer: object) -> object:
    if isinstance(answer, Receipt):
        return [event.position for event in answer.events]
    return type(answer).__name__


def _placed(event: Any) -> tuple[object, ...]:
    content = event.content()
    return (event.position, event.stream, event.version, content["system"], content["system_sequence"], content["id"])
