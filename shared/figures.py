"""Figures that are looked up from time to time rather than counted: how far readers are, what waits, what was buried.

Whoever looks one up tells it under a name of its own; what is told takes the place of all that this owner told before, so that
nothing stays visible that is not so any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from shared.feed import Feed

Labels = Mapping[str, str]
Measure = Callable[[], Awaitable[None]]
"""Looks something up and tells it."""

READERS = ("projection", "reaction", "features")
"""Who writes dead letters."""


class Figure:
    """A gauge that shows what its owners told last."""

    def __init__(self, name: str, *, unit: str, description: str) -> None:
        self._told: dict[Hashable, Sequence[Observation]] = {}
        metrics.get_meter("prooftrail").create_observable_gauge(
            name, callbacks=[self._observe], unit=unit, description=description
        )

    def tell(self, owner: Hashable, *values: tuple[float, Labels]) -> None:
        """Shows these values with their labels; without any, the owner shows nothing."""
        self._told[owner] = [Observation(value, dict(labels)) for value, labels in values]

    def _observe(self, _: CallbackOptions) -> list[Observation]:
        return [one for told in list(self._told.values()) for one in told]


RELAY_BACKLOG = Figure(
    "prooftrail.relay.backlog", unit="{event}", description="Events that are stored and not yet acknowledged by Kafka"
)
RELAY_AGE = Figure("prooftrail.relay.age", unit="s", description="How long the oldest of them has waited")
FEATURES_LAG = Figure(
    "prooftrail.features.lag", unit="{record}", description="Records of rows in our partitions that were not yet taken"
)
_position = Figure(
    "prooftrail.consumer.position", unit="{event}", description="The last position of the source that was taken"
)
_lag = Figure(
    "prooftrail.consumer.lag", unit="{event}", description="Events of the source that were recorded and not yet taken"
)
_silence = Figure(
    "prooftrail.source.silence",
    unit="s",
    description="How long ago the source last said that it lives, as far as it was heard here",
)
_dead_letters = Figure(
    "prooftrail.dead_letters", unit="{event}", description="Events that a reader could not take, which are kept aside"
)
_connections = Figure(
    "db.client.connection.count", unit="{connection}", description="Connections to PostgreSQL, idle or in use"
)
_connections_max = Figure(
    "db.client.connection.max", unit="{connection}", description="How many connections to PostgreSQL there may be"
)


async def tell_consumer(*, service: str, consumer: str, positions: Mapping[str, int], feed: Feed) -> None:
    """Shows how far the consumer of the service has got with each source, how far that is behind, and how old that knowledge is."""
    labels = {source: {"service": service, "consumer": consumer, "source": source} for source in positions}
    pulses = {source: await feed.pulse(service=source) for source in positions}
    now = datetime.now(UTC)
    owner = (service, consumer)
    _position.tell(owner, *((at, labels[source]) for source, at in positions.items()))
    _lag.tell(owner, *((max(0, pulses[source].head - at), labels[source]) for source, at in positions.items()))
    # A source that was never heard may be none that this deployment has.
    heard = {source: pulse.at for source, pulse in pulses.items() if pulse.at.year > 1}
    _silence.tell(owner, *((max(0.0, (now - at).total_seconds()), labels[source]) for source, at in heard.items()))


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Looks up what every service has: connections, positions, dead letters."""

    service: str
    pool: asyncpg.Pool
    feed: Feed
    reaction_sources: Sequence[str]
    every_s: float

    async def run(self, *further: Measure) -> None:
        """Runs for ever, with what else this service has to tell; while the database is away the last figures stay."""
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._tell_connections()
                await self._tell_positions()
                await self._tell_dead_letters()
                for measure in further:
                    await measure()
            await asyncio.sleep(self.every_s)

    def _tell_connections(self) -> None:
        size, idle = self.pool.get_size(), self.pool.get_idle_size()
        labels = {"db.client.connection.pool.name": self.service}
        states = (("idle", idle), ("used", size - idle))
        _connections.tell(
            self.service, *((count, {**labels, "db.client.connection.state": state}) for state, count in states)
        )
        _connections_max.tell(self.service, (self.pool.get_max_size(), labels))

    async def _tell_positions(self) -> None:
        rows = await self.pool.fetch(
            f"SELECT 'projection' AS consumer, source, position FROM {self.service}_projection.position"
            f" UNION ALL SELECT 'reaction', source, position FROM {self.service}.reaction_position"
        )
        positions: dict[str, dict[str, int]] = {
            "projection": {}, "reaction": dict.fromkeys(self.reaction_sources, 0),
        }  # fmt: skip
        for consumer, source, position in rows:
            positions[consumer][source] = position
        for consumer, by_source in positions.items():
            await tell_consumer(service=self.service, consumer=consumer, positions=by_source, feed=self.feed)

    async def _tell_dead_letters(self) -> None:
        rows = await self.pool.fetch(f"SELECT reader, count(*) FROM {self.service}.dead_letter GROUP BY reader")
        counts = {**dict.fromkeys(READERS, 0), **dict(rows)}
        _dead_letters.tell(
            self.service, *((count, {"service": self.service, "reader": reader}) for reader, count in counts.items())
        )
