"""All that consumes events, fed by Kafka: a projection, the ledger, and a reaction whose effect is a command."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from services.traceability.ledger import Ledger
from services.traceability.main import MIGRATIONS
from shared.command import Change, CommandContext, execute
from shared.event import EventMapper, Fact, RecordedEvent
from shared.event_store import PostgresEventStore
from shared.feed import StoreFeed
from shared.kafka_feed import KafkaFeed
from shared.kafka_settings import KafkaSettings
from shared.projection import ProjectionRunner
from shared.reaction import Reactions
from shared.runtime import migrate_service
from tests.shared.conftest import Stores
from tests.shared.counting import READER, SOURCES, Counted, Poisoned, Tally
from tests.shared.kafka.relays import PATIENCE, PATIENCE_S

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Echoed(Fact, frozen=True, kw_only=True):
    """What the reader does because of a Counted event."""

    TOPIC: ClassVar[str] = "drift.echoed"


@dataclass(frozen=True, kw_only=True)
class Consumers:
    """A process that consumes. `stores` is the database of all, where what Kafka lost is read too."""

    stores: Stores
    feed: KafkaFeed
    projection: ProjectionRunner
    ledger: Ledger
    reactions: Reactions

    @classmethod
    def of(
        cls,
        stores: Stores,
        kafka: KafkaSettings,
        *,
        sources: Sequence[str] = SOURCES,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> Consumers:
        """`at_step` is told the reader and its step."""

        def steps_of(reader: str) -> Callable[[str], None]:
            return lambda label: at_step(f"{reader}: {label}")

        fill = partial(read_from_producer, asyncio.get_running_loop(), stores.feed)
        feed = KafkaFeed(kafka=kafka, services=sources, fill=fill, patience=PATIENCE, at_step=steps_of("feed"))
        projection = ProjectionRunner(
            pool=stores.pool, feed=feed, projection=Tally(sources=sources), at_step=steps_of("projection")
        )
        return cls(
            stores=stores,
            feed=feed,
            projection=projection,
            ledger=Ledger(
                pool=stores.pool, feed=feed, sources=tuple(sources), timeout_s=1.0, at_step=steps_of("ledger")
            ),
            reactions=Reactions(
                service=READER,
                handlers={Counted.TOPIC: partial(echo, stores)},
                sources=tuple(sources),
                pool=stores.pool,
                feed=feed,
                projection=projection,
                clock=lambda: NOW,
                at_step=steps_of("reaction"),
            ),
        )

    async def prepare(self) -> None:
        """Makes the tables; once a database, while the stores are empty and there may be no topic yet."""
        await migrate_service(self.stores.url, service="traceability", scripts=MIGRATIONS)
        tally = Tally(sources=self.ledger.sources)
        await ProjectionRunner(pool=self.stores.pool, feed=self.stores.feed, projection=tally).prepare()

    async def run(self) -> None:
        """Runs for ever."""
        await asyncio.gather(self.feed.listen(), self.projection.run(), self.ledger.run(), self.reactions.run())

    async def until_there(self) -> None:
        """Until each of them has taken what the stores hold now; somebody must run them."""
        heads = {source: await self.stores.feed.head(service=source) for source in self.ledger.sources}
        async with asyncio.timeout(PATIENCE_S):
            while await self._behind(heads):  # noqa: ASYNC110 -- the positions are in the database
                await asyncio.sleep(0.05)

    async def _behind(self, heads: dict[str, int]) -> bool:
        reacted = {source: await self.reactions.position(source) for source in heads}
        return any(at != heads for at in (reacted, await self.projection.positions(), await self.ledger.positions()))

    async def assert_each_once(self) -> None:
        """The ledger is the stores, event for event; every event took effect once, or lies with the dead letters."""
        stored = {
            source: await self.stores.feed.read(service=source, after=0, limit=10**6) for source in self.ledger.sources
        }
        kept = await self.ledger.read(systems=None, after=0)
        assert [entry.position for entry in kept] == list(range(1, len(kept) + 1))
        for source, events in stored.items():
            assert [entry.event for entry in kept if entry.event.service == source] == events
        everything = [event for events in stored.values() for event in events]
        await self._assert_projected_once(everything)
        numbers = [event.position for event in everything if event.name == Counted.TOPIC]
        echoes = await self.stores.pool.fetchval(f"SELECT count(*) FROM {READER}.event")
        assert echoes == len(numbers)

    async def _assert_projected_once(self, events: Sequence[RecordedEvent]) -> None:
        rows = await self.stores.pool.fetch(f"SELECT source, position FROM {READER}_projection.applied")
        buried = [letter[:2] for letter in await self.stores.dead_letters()]
        assert Counter([*map(tuple, rows), *buried]) == Counter((event.service, event.position) for event in events)
        assert set(buried) == {(event.service, event.position) for event in events if event.name == Poisoned.TOPIC}
        totals = Counter[str]()
        for event in events:
            totals[event.service] += event.content()["data"].get("number", 0)
        rows = await self.stores.pool.fetch(f"SELECT source, sum(total)::int FROM {READER}_projection.tally GROUP BY 1")
        assert dict(map(tuple, rows)) == totals


@contextlib.asynccontextmanager
async def consuming(consumers: Consumers) -> AsyncIterator[None]:
    """They run until the block ends; they must not have ended by themselves."""
    running = asyncio.create_task(consumers.run())
    try:
        yield
    finally:
        running.cancel()
        (ended,) = await asyncio.gather(running, return_exceptions=True)
        await consumers.feed.close()
        assert isinstance(ended, asyncio.CancelledError), ended


async def echo(stores: Stores, event: RecordedEvent, context: CommandContext) -> None:
    """The command that an event causes: an event in a stream of its own."""
    store = PostgresEventStore(pool=stores.pool, service=READER, mapper=EventMapper([Echoed]))
    change: Change[int] = Change(
        f"echo:s/{event.service}-{event.position}", lambda state, _: (state or 0) + 1, lambda _: (Echoed(),)
    )
    await execute(store, context, change)


def read_from_producer(
    loop: asyncio.AbstractEventLoop, feed: StoreFeed, service: str, after: int, limit: int
) -> Sequence[RecordedEvent]:
    """Asked on a thread for what the topic lacks."""
    reading: Any = feed.read(service=service, after=after, limit=limit)
    found: Sequence[RecordedEvent] = asyncio.run_coroutine_threadsafe(reading, loop).result()
    return found
