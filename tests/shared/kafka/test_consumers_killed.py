"""kill -9 at every step of consuming, over a real Kafka: no event is lost, none has an effect twice, whoever starts next goes on.

CHAOS_SEEDS says how many rounds, each with other times of the steps; `make chaos` tries many.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
from dataclasses import dataclass, field

import pytest

from shared.event import Fact
from shared.kafka_client import Topics, partition_of
from shared.kafka_settings import KafkaSettings
from tests.shared.conftest import Stores
from tests.shared.counting import SOURCES, Counted, Counter, Poisoned
from tests.shared.kafka import consuming_process
from tests.shared.kafka.consumers import Consumers, consuming
from tests.shared.kafka.relays import PATIENCE, PATIENCE_S, relay_of, relaying, until_relayed

STEPS = (
    *(f"feed: {step}" for step in ("filled", "searched", "polled", "ends read")),
    *(f"ledger: {step}" for step in ("read", "written", "head moved", "committed")),
    *(f"projection: {step}" for step in ("read", "applied", "settled", "position stored", "committed", "buried")),
    *(f"reaction: {step}" for step in ("read", "taken", "position stored")),
)
"""The first must come while nothing is consumed yet: what the topics lack is filled once."""
CUT = 10
PROCESSES = multiprocessing.get_context("forkserver")
"""A process of its own for each step, without importing everything again."""
PROCESSES.set_forkserver_preload([consuming_process.__name__])


@dataclass
class Load:
    """Appends to both sources: numbers, and events that nobody can take."""

    stores: Stores
    counters: list[Counter] = field(init=False)
    told: int = 0

    def __post_init__(self) -> None:
        self.counters = [self.stores.counter_of(source) for source in SOURCES]

    async def append(self, count: int, *, poison: bool = False) -> None:
        """So many numbers for each, and a poisoned event."""
        for counter in self.counters:
            self.told += count
            facts: list[Fact] = [Counted(number=self.told + n) for n in range(count)]
            await counter.tell(*facts, *([Poisoned(how="value")] if poison else []))


@pytest.mark.parametrize("seed", range(int(os.environ.get("CHAOS_SEEDS", "1"))))
async def test_whoever_starts_next_goes_on(stores: Stores, kafka: KafkaSettings, seed: int) -> None:
    """One process after the other, each killed at the next step while events come; then one that is not."""
    chance = random.Random(seed)
    load, consumers = Load(stores), Consumers.of(stores, kafka)
    await consumers.prepare()
    async with relaying(*(relay_of(stores, kafka, source) for source in SOURCES)):
        await load.append(CUT + 1)
        for source in SOURCES:
            await until_relayed(stores, CUT + 1, source)
        await asyncio.to_thread(cut_beginnings, kafka)
        for step in STEPS:
            await killed_at(step, 1 if step == STEPS[0] else chance.randint(1, 1 + seed), kafka, load)
        async with consuming(consumers):
            await consumers.until_there()
    await consumers.assert_each_once()


def cut_beginnings(kafka: KafkaSettings) -> None:
    topics = Topics.of(kafka, PATIENCE)
    topics._admin().delete_records({partition_of(kafka.event_topic(source)): CUT for source in SOURCES})
    topics.close()


async def killed_at(step: str, times: int, kafka: KafkaSettings, load: Load) -> None:
    """A process that consumes what is appended meanwhile, until it is killed there."""
    process = PROCESSES.Process(
        target=consuming_process.consume, args=(load.stores.url, kafka.bootstrap[0], kafka.topic_prefix, step, times)
    )
    await load.append(3, poison=True)
    process.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while process.is_alive():
                await load.append(1)
                await asyncio.sleep(0.1)
    finally:
        process.terminate()
    assert process.exitcode == -signal.SIGKILL, f"{step} was not reached"
