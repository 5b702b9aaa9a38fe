"""The recorder tests of the `eventsourcing` library, run against our append and read paths through an adapter.

They apply as far as both have the same promise: atomic inserts that refuse a taken version, notification ids that are contiguous
and never interleave, reading by position with limits, and writers and readers beside each other.

They do not apply, and why:

    AggregateRecorderTestCase        a recorder that gives no positions (it must return None); ours always does
    optional_test_insert_subscribe   a blocking iterator over a thread; ours is Feed.changed, tested in test_feed.py
    ProcessRecorderTestCase,         tracking in the recorder; ours is a position beside each projection's rows, in one transaction
    TrackingRecorderTestCase         (test_projection.py), and a key in `answered` for reactions (test_reaction.py)
    InfrastructureFactoryTestCase    environment variables that name classes to import; we wire by hand and import no name
    its mapper tests                 compressor and cipher; we have neither. EventMapper keeps the contract (test_event.py)
    TranscoderTestCase               tagged JSON for any Python type; facts are typed structs
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from eventsourcing.persistence import ApplicationRecorder, IntegrityError, Notification, StoredEvent, Subscription
from eventsourcing.tests import persistence

from shared.append_batch import Answer, Appended, AppendRequest, BatchAppender
from shared.event_store import read_events, read_head
from shared.group_writer import GroupWriter
from shared.runtime import migrate_service
from tests.house import fresh_database

SERVICE = "requirements"
PAGE = 500

Result = TypeVar("Result")


class StoreRecorder(ApplicationRecorder):
    """Our store as the library calls it, from any thread; its versions start at 0, ours at 1, and its states are any bytes."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop, pool: asyncpg.Pool) -> None:
        self._loop = loop
        self._pool = pool
        self._appender = BatchAppender(pool=pool, service=SERVICE)
        self._writer: GroupWriter[AppendRequest, Answer] = GroupWriter(send=self._appender.send)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        future: Future[Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int]:
        events = [
            StoredEvent(
                originator_id=event.originator_id,
                originator_version=event.originator_version + 1,
                topic=event.topic,
                state=msgspec.json.encode({"state": event.state}),
            )
            for event in stored_events
        ]
        answer = self._run(
            self._writer.write(AppendRequest(events=events, record="r", version=1, key=None, size=len(events)))
        )
        if not isinstance(answer, Appended):
            raise IntegrityError(answer.outcome)
        return list(range(answer.first, answer.first + len(events)))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        assert gt is lte is limit is None
        assert not desc
        found = [one for one in self.select_notifications(None, 1 << 40) if one.originator_id == originator_id]
        return [StoredEvent(one.originator_id, one.originator_version, one.topic, one.state) for one in found]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        after = (start or 0) - (1 if start and inclusive_of_start else 0)
        selected: list[Notification] = []
        while page := self._run(read_events(self._pool, service=SERVICE, after=after, limit=min(limit, PAGE))):
            after = page[-1].position
            selected += [
                Notification(
                    event.stream, event.version - 1, event.name,
                    msgspec.convert(event.content()["state"], bytes), event.position,
                )
                for event in page
                if (not topics or event.name in topics) and (stop is None or event.position <= stop)
            ]  # fmt: skip
            if len(selected) >= limit or (stop is not None and after >= stop):
                break
        return selected[:limit]

    def max_notification_id(self) -> int | None:
        return self._run(read_head(self._pool, service=SERVICE)) or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        raise NotImplementedError

    async def close(self) -> None:
        await self._writer.close()
        await self._appender.close()


@contextlib.contextmanager
def recorder_on(server_url: str) -> Iterator[StoreRecorder]:
    """A recorder on an empty store, whose event loop runs in a thread of its own."""
    ready: Future[StoreRecorder] = Future()
    over = threading.Event()

    async def serve() -> None:
        async with fresh_database(server_url) as url:
            await migrate_service(url, service=SERVICE)
            async with asyncpg.create_pool(url, min_size=1, max_size=8) as pool:
                recorder = StoreRecorder(loop=asyncio.get_running_loop(), pool=pool)
                ready.set_result(recorder)
                await asyncio.to_thread(over.wait)
                await recorder.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield ready.result(timeout=60)
    finally:
        over.set()
        thread.join()


class OnOurStore(persistence.RecorderTestCase):
    """Gives each test of the library a recorder of its own."""

    INITIAL_VERSION = 0
    recorder: StoreRecorder

    @pytest.fixture(autouse=True)
    def _with_recorder(self, server_url: str) -> Iterator[None]:
        with recorder_on(server_url) as recorder:
            self.recorder = recorder
            yield

    def new_originator_id(self) -> str:
        return f"counter:s/{uuid4()}"


class TestApplicationRecorder(OnOurStore, persistence.ApplicationRecorderTestCase[StoreRecorder]):
    """Inserting, selecting, conflicts, limits, and ten writers beside two readers."""

    def create_recorder(self) -> StoreRecorder:
        return self.recorder


class TestNotificationsDoNotInterleave(OnOurStore, persistence.NonInterleavingNotificationIDsBaseCase):
    """What is inserted together stays together, also when two insert a thousand events each at once."""

    def create_recorder(self) -> ApplicationRecorder:
        return self.recorder
