"""A leader that lost its lock while records were on their way: they arrive after those of its successor, and nobody is misled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.kafka_settings import KafkaSettings
from tests.kafka_broker import KafkaBroker
from tests.kafka_broker.proxy import TcpProxy
from tests.serving import CHECKOUT
from tests.shared.conftest import Stores
from tests.shared.kafka.consumers import Consumers, consuming
from tests.shared.kafka.relays import (
    PATIENCE_S,
    SOURCE,
    assert_whole,
    records_of,
    relay_of,
    relayed,
    relaying,
    until_relayed,
)
from tests.shared.kafka.test_kafka_feed import read_to, reading, until_heard

EVENTS = 60


@contextlib.asynccontextmanager
async def leading(stores: Stores, kafka: KafkaSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that relays, and leads."""
    arguments = ("-m", "tests.shared.kafka.relaying_process", stores.url, kafka.bootstrap[0], kafka.topic_prefix)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=CHECKOUT, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await stores.counter.count(0)
        await until_relayed(stores, 1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until_held(proxy: TcpProxy, raw: bytes) -> None:
    """Until a whole request with the event is on its way."""
    async with asyncio.timeout(PATIENCE_S):
        while not any(raw in sent and is_whole(sent) for sent in proxy.held):  # noqa: ASYNC110 -- it comes from outside
            await asyncio.sleep(0.01)


def is_whole(requests: bytes) -> bool:
    """Each begins with its length in four bytes."""
    at = 0
    while at < len(requests):
        at += 4 + int.from_bytes(requests[at : at + 4])
    return at == len(requests)


async def take_the_lead_away(stores: Stores) -> None:
    """Ends the connection that holds the lock, as a database does that believes the other side dead."""
    await stores.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE application_name = 'prooftrail relay {SOURCE}' AND datname = current_database()"
    )


def epochs_of(records: list[Any]) -> list[int]:
    return [int(dict(record.headers)["ce_epoch"]) for record in records]


async def until_late(kafka: KafkaSettings) -> None:
    """Until records of a leader lie behind those of its successor."""
    async with asyncio.timeout(PATIENCE_S):
        while (epochs := epochs_of(await records_of(kafka))) == sorted(epochs):  # noqa: ASYNC110 -- they are in Kafka
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("what", ["stopped", "killed"])
async def test_late_records_mislead_nobody(
    stores: Stores, kafka: KafkaSettings, broker: KafkaBroker, what: str
) -> None:
    """Whoever has followed all the time, and whoever comes afterwards, has what the store has; once."""
    through = KafkaSettings(bootstrap=(broker.proxied,), topic_prefix=kafka.topic_prefix)
    counter = stores.counter
    await stores.pool.execute(f"UPDATE {SOURCE}.pulse SET at = now()")
    followers = Consumers.of(stores, kafka, sources=(SOURCE,))
    await followers.prepare()
    async with (
        TcpProxy.between(broker.ports["PROXY"], broker.ports["PROXIED"]) as proxy,
        leading(stores, through) as leader,
        consuming(followers),
    ):
        proxy.hold()
        await counter.count(*range(EVENTS), key="b")
        (event,) = await stores.feed.read(service=SOURCE, after=1, limit=1)
        await until_held(proxy, event.raw)
        leader.send_signal(signal.SIGSTOP if what == "stopped" else signal.SIGKILL)
        assert await relayed(stores) == 1
        async with relaying(relay_of(stores, kafka)):
            await take_the_lead_away(stores)
            await counter.count(*range(EVENTS), key="b")
            await until_relayed(stores, 1 + 2 * EVENTS)
            proxy.release()
            await until_late(kafka)
            async with reading(kafka) as feed:
                await until_heard(feed)
                stored = await stores.feed.read(service=SOURCE, after=0, limit=1000)
                assert await read_to(feed, len(stored)) == stored
            if what == "stopped":
                leader.send_signal(signal.SIGCONT)
            await counter.count(*range(EVENTS), key="b")
            await until_relayed(stores, 1 + 3 * EVENTS)
        await followers.until_there()
    await followers.assert_each_once()
    await assert_whole(stores, kafka)
