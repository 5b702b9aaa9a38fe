"""The relay: follows the store of one service by position and sends each event to the service's topic in Kafka.

The events table is the outbox: whatever happens to Kafka, commands are accepted, and their events wait here. One relay at a time
leads, by a lock of its database session; each leader has a new epoch. A lock is no fence (records of the leader before may still
be on their way), so readers go by position and drop what they know. The position moves only over what was acknowledged without a
hole, and only for the leader of the last epoch.

Failure table
    broker away, slow, refusing     the tenure ends, the producer is thrown away, the next tenure starts at the stored position
    database away, lock lost        the same; sending stops at once
    a record fails, later ones not  the same; the later ones are sent again
    killed anywhere                 what was sent since the stored position is sent again: the same bytes, headers and order
    topic deleted or cut            noticed by its length (an offset is never below position - 1); everything is sent again from 1
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import asyncpg
import msgspec

from shared.database_connection import DatabaseConnection
from shared.event_sender import EventSender, Sent, StoredEvent, TopicReplaced
from shared.feed import Feed
from shared.figures import RELAY_AGE, RELAY_BACKLOG
from shared.kafka_client import opened
from shared.kafka_settings import KafkaSettings, Patience

BATCH_EVENTS_MAX = 1000
BATCH_BYTES_MAX = 4 << 20
BATCHES_ON_THEIR_WAY_MAX = 2

_log = logging.getLogger(__name__)

AnswerType = TypeVar("AnswerType")


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often a relay does what it does, in seconds. `check_s` is how late a topic is missed that was deleted."""

    retry_s: float = 1.0
    pulse_s: float = 2.0
    check_s: float = 5.0
    database_s: float = 10.0


class NoLeaderAnyMore(ConnectionError):
    """The connection that held the lock broke, or another leader has come."""


class Relay:
    """Sends the events of one service while it leads, and waits to lead otherwise. `feed` reads the service's own store."""

    def __init__(
        self,
        *,
        service: str,
        dsn: str,
        feed: Feed,
        kafka: KafkaSettings,
        pace: Pace | None = None,
        patience: Patience | None = None,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.service = service
        self.epoch = 0
        self.position = 0
        self.leads = False
        self._dsn = dsn
        self._feed = feed
        self._kafka = kafka
        self._pace = pace or Pace()
        self._patience = patience or kafka.patience
        self._at_step = at_step
        self._told = ""
        self._too_large: set[int] = set()

    async def run(self) -> None:
        """Runs for ever."""
        await _first_to_fail(self._follow(), self._measure())

    async def _follow(self) -> None:
        """One tenure after the other, whatever ends them."""
        while True:
            try:
                async with self._leadership() as connection:
                    await self._serve(connection)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self._tell(f"{type(error).__name__}: {error}")
            await asyncio.sleep(self._pace.retry_s)

    def _tell(self, trouble: str) -> None:
        """Once, until something else is the matter."""
        if trouble != self._told:
            _log.warning("the events of %s wait to be sent: %s", self.service, trouble)
        self._told = trouble

    @contextlib.asynccontextmanager
    async def _leadership(self) -> AsyncIterator[asyncpg.Connection]:
        """Waits until no other relay of the service leads; leads while the block runs."""
        connection = await asyncpg.connect(
            self._dsn,
            connection_class=DatabaseConnection,
            timeout=self._pace.database_s,
            command_timeout=self._pace.database_s,
            # A position that a crash of the database forgets costs a repetition, not an event.
            server_settings={"application_name": f"prooftrail relay {self.service}", "synchronous_commit": "off"},
        )
        try:
            while not await self._take_lead(connection):  # noqa: ASYNC110 -- the lock is in the database
                await asyncio.sleep(self._pace.retry_s)
            row = await connection.fetchrow(
                f"UPDATE {self.service}.relay SET epoch = epoch + 1 RETURNING epoch, position"
            )
            self.epoch, self.position = row["epoch"], row["position"]
            yield connection
        finally:
            # Ends the session, and the lock with it.
            connection.terminate()

    async def _take_lead(self, connection: asyncpg.Connection) -> bool:
        self.leads = await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", f"{self.service}.relay")
        return self.leads

    async def _serve(self, connection: asyncpg.Connection) -> None:
        """One tenure: until something fails."""
        threads = ThreadPoolExecutor(max_workers=3, thread_name_prefix=f"relay {self.service}")
        sender: EventSender | None = None
        try:
            sender = await opened(
                threads,
                lambda: EventSender(
                    service=self.service,
                    epoch=self.epoch,
                    kafka=self._kafka,
                    patience=self._patience,
                    too_large=self._too_large,
                ),
                close=EventSender.close,
            )
            await self._require_whole_topic(connection, sender, threads)
            await _first_to_fail(
                self._send_events(connection, sender, threads),
                self._beat(sender, threads),
                _until_closed(connection),
            )
        finally:
            if sender is not None:
                await _on(threads, sender.abort)
                # Not waited for: a thread may have a last question to Kafka.
                threads.submit(sender.close)
            threads.shutdown(wait=False)

    async def _require_whole_topic(
        self, connection: asyncpg.Connection, sender: EventSender, threads: ThreadPoolExecutor
    ) -> None:
        """Begins again from the first event when the topic cannot hold what was acknowledged."""
        records = await _on(threads, sender.end)
        if records < self.position:
            _log.error(
                "the topic of %s has %d records and should have %d at least; all events are sent again",
                self.service, records, self.position,
            )  # fmt: skip
            self.position = 0
            await connection.execute(f"UPDATE {self.service}.relay SET position = 0 WHERE epoch = $1", self.epoch)

    async def _send_events(
        self, connection: asyncpg.Connection, sender: EventSender, threads: ThreadPoolExecutor
    ) -> None:
        on_their_way: deque[Sent] = deque()
        events = await self._stored(connection, after=self.position)
        while True:
            if events:
                self._at_step("read")
                sending = _on(threads, sender.send, events)
                sent, events = await asyncio.gather(sending, self._stored(connection, after=events[-1].position))
                on_their_way.append(sent)
                self._at_step("sent")
            if on_their_way and (not events or len(on_their_way) == BATCHES_ON_THEIR_WAY_MAX):
                await self._settle(connection, on_their_way.popleft(), sender, threads)
            if not on_their_way and not events:
                await self._wait_for_events()
                events = await self._stored(connection, after=self.position)

    async def _settle(
        self, connection: asyncpg.Connection, sent: Sent, sender: EventSender, threads: ThreadPoolExecutor
    ) -> None:
        """Moves the position over what was acknowledged; raises what the rest failed of."""
        acknowledged, failure = await _on(threads, sender.settle, sent)
        self._at_step("acknowledged")
        if acknowledged > self.position:
            moved = await connection.fetchval(
                f"UPDATE {self.service}.relay SET position = $1 WHERE epoch = $2 AND position < $1 RETURNING position",
                acknowledged,
                self.epoch,
            )
            if moved is None:
                raise NoLeaderAnyMore(f"epoch {self.epoch} is over")
            self.position = acknowledged
            self._at_step("moved")
        if failure is not None:
            raise failure
        if self._told:
            _log.warning("the events of %s are being sent again", self.service)
            self._told = ""

    async def _wait_for_events(self) -> None:
        """Until there are some, or it is time to ask the database for a sign of life."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.check_s):
                await self._feed.changed(service=self.service, after=self.position)

    async def _stored(self, connection: asyncpg.Connection, *, after: int) -> list[StoredEvent]:
        """The next events, as many as a batch may have."""
        rows = await connection.fetch(
            "SELECT position, stream, recorded_at, leaf_hash, event FROM ("
            " SELECT position, stream, recorded_at, leaf_hash, event, sum(octet_length(event)) OVER (ORDER BY position) AS bytes"
            f" FROM {self.service}.event WHERE position > $1 ORDER BY position LIMIT $2"
            ") next WHERE bytes - octet_length(event) < $3 ORDER BY position",
            after,
            BATCH_EVENTS_MAX,
            BATCH_BYTES_MAX,
        )
        return [
            StoredEvent(position, stream, int(recorded_at.timestamp() * 1000), leaf_hash.hex(), raw)
            for position, stream, recorded_at, leaf_hash, raw in rows
        ]

    async def _beat(self, sender: EventSender, threads: ThreadPoolExecutor) -> None:
        """Tells others that the service lives and how far it is, and looks whether its topic is still there."""
        loop = asyncio.get_running_loop()
        checked_at = loop.time()
        while True:
            pulse = await self._feed.pulse(service=self.service)
            await _on(threads, sender.send_pulse, pulse)
            if loop.time() >= checked_at + self._pace.check_s:
                checked_at, acknowledged = loop.time(), self.position
                if await _on(threads, sender.end) < acknowledged:
                    raise TopicReplaced(f"the topic of {self.service} is shorter than it was")
            await asyncio.sleep(self._pace.pulse_s)

    async def _measure(self) -> None:
        """How much waits, and since when: told by the relay that leads, or led last; by another one no more."""
        labels = {"service": self.service}
        while True:
            await asyncio.sleep(self._pace.pulse_s)
            if not self.leads:
                RELAY_BACKLOG.tell(self.service)
                RELAY_AGE.tell(self.service)
                continue
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                head = await self._feed.head(service=self.service)
                oldest = await self._feed.read(service=self.service, after=self.position, limit=1)
                waited = (datetime.now(UTC) - oldest[0].recorded_at).total_seconds() if oldest else 0.0
                RELAY_BACKLOG.tell(self.service, (max(0, head - self.position), labels))
                RELAY_AGE.tell(self.service, (max(0.0, waited), labels))


async def _on(threads: ThreadPoolExecutor, call: Callable[..., AnswerType], *arguments: Any) -> AnswerType:
    return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)


async def _until_closed(connection: asyncpg.Connection) -> None:
    """Raises NoLeaderAnyMore when the connection breaks."""
    closed = asyncio.Event()
    connection.add_termination_listener(lambda _: closed.set())
    if not connection.is_closed():
        await closed.wait()
    raise NoLeaderAnyMore("the connection that held the lock broke")


async def _first_to_fail(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all of them until one raises; ends the others and raises that."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
