"""Delivers the events of one service to its webhooks: each in order of position, at least once, as fast as its receiver takes them.

A webhook is a subscriber like any other: it is handed what its owner may see, from the tail in memory, and is but a position.
One process delivers those of a service, by a lock of its database session. Commands and other subscribers wait for nothing here.

Failure table
    receiver refuses, is slow or away      tried again later and later, events wait; after long, off until its owner resumes it
    killed between the answer and the row  delivered again: the same webhook-id and body
    database away, lock lost               deliveries stop; whoever leads next goes on from the stored positions
    role lost                              checked before every attempt: what its owner may not see any more is passed over
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import asyncpg
from opentelemetry import metrics

from shared.database_connection import DatabaseConnection
from shared.errors import ProoftrailError
from shared.event import Actor, RecordedEvent
from shared.figures import Figure
from shared.subscription import DATABASE_AWAY, Delivery, Subscriptions, Wish
from shared.webhooks.addresses import AllowedNetworks
from shared.webhooks.book import Book, Endpoint, Name, Patience
from shared.webhooks.sender import Sender, signed_headers

RETRY_SECONDS = 1.0
LOOK_SECONDS = 2.0
"""How late a webhook is noticed that another process registered."""
DATABASE_SECONDS_MAX = 10.0

_log = logging.getLogger(__name__)
_attempts = metrics.get_meter("prooftrail").create_counter(
    "prooftrail.webhook.attempts", unit="{attempt}", description="Deliveries that were tried, by what came of them"
)
_webhooks = Figure("prooftrail.webhooks", unit="{webhook}", description="Webhooks that are delivered, fail, or are off")
_behind = Figure(
    "prooftrail.webhooks.behind", unit="{event}", description="How far the one that is furthest behind is from the end"
)


class WebhookDelivery:
    """The deliveries of one service in this process, while it leads. `chance` gives numbers in [0, 1)."""

    def __init__(
        self,
        *,
        service: str,
        dsn: str,
        pool: asyncpg.Pool,
        subscriptions: Subscriptions,
        networks: AllowedNetworks,
        trusted: Callable[[], ssl.SSLContext],
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        patience: Patience | None = None,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.service = service
        self.patience = patience or Patience()
        self._dsn = dsn
        self._pool = pool
        self._subscriptions = subscriptions
        self._networks = networks
        self._trusted = trusted
        self._clock = clock
        self._chance = chance
        self._at_step = at_step
        self._changed = asyncio.Event()
        self._told = ""

    def wake(self) -> None:
        """Something was registered, changed or removed."""
        self._changed.set()

    async def run(self) -> None:
        """Runs until the streams of the process end. Without webhooks it holds no connection and no lock."""
        while not self._subscriptions.ending.is_set():
            try:
                if await self._look():
                    await self._lead()
                self._told = ""
            except DATABASE_AWAY as error:
                self._tell(f"{type(error).__name__}: {error}")
            await self._wait_for_change()

    def _tell(self, trouble: str) -> None:
        """Once, until something else is the matter."""
        if trouble != self._told:
            _log.warning("webhooks of %s wait: %s", self.service, trouble)
        self._told = trouble

    async def _look(self) -> bool:
        """Whether there is something to deliver; shown among the metrics, by every process, since any may be asked."""
        row = await self._pool.fetchrow(
            "SELECT count(*) FILTER (WHERE active AND failing_since IS NULL) AS working,"
            " count(*) FILTER (WHERE active AND failing_since IS NOT NULL) AS failing, count(*) FILTER (WHERE NOT active) AS off,"
            f" (SELECT position FROM {self.service}.head) - min(position) FILTER (WHERE active) AS behind"
            f" FROM {self.service}.webhook"
        )
        labels = {"service": self.service}
        states = ("working", "failing", "off")
        _webhooks.tell(self.service, *((row[state], {**labels, "state": state}) for state in states))
        _behind.tell(self.service, (max(0, row["behind"] or 0), labels))
        return bool(row["working"] or row["failing"]) and not self._subscriptions.ending.is_set()

    async def _wait_for_change(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._changed.wait()
        self._changed.clear()

    async def _lead(self) -> None:
        """Waits until no other process delivers, then does, while there are webhooks."""
        connection = await asyncpg.connect(
            self._dsn,
            connection_class=DatabaseConnection,
            timeout=DATABASE_SECONDS_MAX,
            command_timeout=DATABASE_SECONDS_MAX,
            # A position that a crash of the database forgets costs a repetition, not an event.
            server_settings={"application_name": f"prooftrail webhooks {self.service}", "synchronous_commit": "off"},
        )
        try:
            while await self._look():
                if await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", f"{self.service}.webhooks"):
                    await self._deliver_all(connection)
                    return
                await self._wait_for_change()
        finally:
            # Ends the session, and the lock with it.
            connection.terminate()

    async def _deliver_all(self, connection: asyncpg.Connection) -> None:
        connection.add_termination_listener(lambda _: self.wake())
        sender = Sender(networks=self._networks, trusted=await asyncio.to_thread(self._trusted))
        following: dict[Name, tuple[int, asyncio.Task[None]]] = {}
        try:
            book = Book(connection=connection, service=self.service)
            while await self._look():
                wanted = await book.active()
                await _end([following.pop(name)[1] for name in _outdated(following, wanted)])
                for name in wanted.keys() - following.keys():
                    task = asyncio.create_task(self._follow(book, sender, name), name=f"webhook {name.key}")
                    following[name] = (wanted[name], task)
                await self._wait_for_change()
        finally:
            await _end([task for _, task in following.values()])
            await sender.close()

    async def _follow(self, book: Book, sender: Sender, name: Name) -> None:
        """One webhook, as long as it is active. Every failure begins anew at the stored position, with the rights of then."""
        while endpoint := await book.endpoint(name):
            await asyncio.sleep(endpoint.wait_s)
            try:
                async with self._deliveries(endpoint) as deliveries:
                    async for delivery in deliveries:
                        if not await self._deliver(book, sender, endpoint, delivery):
                            break
            except (ProoftrailError, *DATABASE_AWAY) as error:
                _log.info("webhook %s of %s waits: %s", name.key, self.service, error)
                await asyncio.sleep(RETRY_SECONDS)

    @contextlib.asynccontextmanager
    async def _deliveries(self, endpoint: Endpoint) -> AsyncIterator[AsyncIterator[Delivery]]:
        async with contextlib.aclosing(self._subscriptions.follow(_wish(endpoint))) as deliveries:
            yield deliveries

    async def _deliver(self, book: Book, sender: Sender, endpoint: Endpoint, delivery: Delivery) -> bool:
        """False if something failed, which is written down, or if nothing may be written any more."""
        for event in delivery.events:
            if self._subscriptions.ending.is_set():
                return False
            if await self._subscriptions.still_shows(_wish(endpoint), event) and not await self._send(
                book, sender, endpoint, event
            ):
                return False
        return await book.delivered(endpoint, position=delivery.position, event=False)

    async def _send(self, book: Book, sender: Sender, endpoint: Endpoint, event: RecordedEvent) -> bool:
        now = self._clock()
        headers = signed_headers(event, secrets=endpoint.secrets_at(now), timestamp=int(now.timestamp()))
        failure = await sender.send(url=endpoint.url, event=event, headers=headers)
        _attempts.add(1, {"service": self.service, "outcome": "failed" if failure else "taken"})
        if failure is None:
            self._at_step("taken")
            return await book.delivered(endpoint, position=event.position, event=True)
        wait_s = self.patience.wait_s(endpoint.failures, chance=self._chance(), retry_after_s=failure.retry_after_s)
        if await book.failed(endpoint, failure, position=event.position - 1, wait_s=wait_s, patience=self.patience):
            _log.warning("webhook %s of %s is off: %s", endpoint.name.key, self.service, failure.trouble)
        return False


def _wish(endpoint: Endpoint) -> Wish:
    """It lasts as long as the role does, which is looked at again and again."""
    return Wish(
        actor=Actor(subject=endpoint.name.subject, kind=endpoint.kind, issuer=endpoint.issuer),
        after=endpoint.position,
        systems=endpoint.systems,
        names=endpoint.names,
        lasts_s=float("inf"),
    )


def _outdated(following: dict[Name, tuple[int, asyncio.Task[None]]], wanted: dict[Name, int]) -> list[Name]:
    return [name for name, (version, task) in following.items() if wanted.get(name) != version or task.done()]


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            _log.error("a webhook's deliveries ended", exc_info=result)
