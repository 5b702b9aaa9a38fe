"""The relay beside the library's own producer, and how soon a command is visible in another process, by way of Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.lean_http import LeanClient
from benchmarks.result import Result, compared, median, not_run, percentile, within
from benchmarks.seeding import Seed, append, requirements_approved
from benchmarks.visible import RATE_SHARE_MIN, open_loop
from services.composition import local_issuer
from shared.cloud_event import headers_of, source_of
from shared.event import RecordedEvent
from shared.feed import StoreFeed
from shared.kafka_client import Topics, end_producer, open_producer
from shared.kafka_settings import KafkaSettings, Patience
from shared.relay import Relay
from shared.runtime import migrate_service
from shared.settings import Settings
from tests.house import fresh_database
from tests.kafka_broker import CannotRun, KafkaBroker, installed
from tests.serving import served_apart

SERVICE = "requirements"
EVENTS = 60_000
ROUNDS = 3
THROUGHPUT_GOAL = 0.6
COMMANDS_A_SECOND = 100
"""Half of what one process is asked for: here relay, broker and a second process share the two cores."""
VISIBLE_LIMIT_MILLISECONDS = 500.0
THROUGHPUT = "relay, events to Kafka"
VISIBLE = f"append to Kafka to traceability at {COMMANDS_A_SECOND}/s, p99"


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Both on a broker of their own."""
    try:
        jars = await asyncio.to_thread(installed)
    except CannotRun as reason:
        return [not_run(name=name, why=str(reason), unit=unit) for name, unit in ((THROUGHPUT, "/s"), (VISIBLE, "ms"))]
    broker = KafkaBroker(jars=jars, folder=scratch / "kafka")
    await asyncio.to_thread(broker.start)
    try:
        return [await _throughput(server_url, broker), *await _visible(server_url, broker, scratch / "cluster")]
    finally:
        await asyncio.to_thread(broker.stop)


async def _throughput(server_url: str, broker: KafkaBroker) -> Result:
    """Ours from the first read to the last stored position; the library's from the first send to the last acknowledgement."""
    ours, peer = [], []
    async with fresh_database(server_url) as url:
        await migrate_service(url, service=SERVICE)
        connection = await asyncpg.connect(url)
        await append(connection, SERVICE, _seeds())
        async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
            feed = StoreFeed(pool=pool, dsn=url)
            events = list(await feed.read(service=SERVICE, after=0, limit=EVENTS))
            for number in range(ROUNDS + 1):
                kafka = KafkaSettings(bootstrap=(broker.plain,), topic_prefix=f"bench-{number}")
                peer.append(EVENTS / await asyncio.to_thread(_send_raw, events, kafka))
                await connection.execute(f"UPDATE {SERVICE}.relay SET position = 0")
                kafka = KafkaSettings(bootstrap=(broker.plain,), topic_prefix=f"bench-{number}-relay")
                ours.append(EVENTS / await _relay(url, feed, kafka))
        await connection.close()
    return compared(
        name=THROUGHPUT, ours=median(ours[1:]), peer=median(peer[1:]), peer_name="kafka-python alone, same records",
        unit="/s", goal=THROUGHPUT_GOAL, better="more",
    )  # fmt: skip


def _seeds() -> Iterator[Seed]:
    return requirements_approved(EVENTS)


def _send_raw(events: list[RecordedEvent], kafka: KafkaSettings) -> float:
    """Seconds for the same records by the same producer; they are made before."""
    topics = Topics.of(kafka, Patience())
    topics.ensure([SERVICE])
    topics.close()
    topic, source = kafka.event_topic(SERVICE), source_of(SERVICE).encode()
    records = [
        (
            event.stream.encode(),
            event.raw,
            headers_of(event.raw, source=source, leaf_hash=event.leaf_hash, epoch=b"1"),
            int(event.recorded_at.timestamp() * 1000),
        )
        for event in events
    ]
    producer = open_producer(kafka, Patience())
    began = time.perf_counter()
    sent: list[Any] = [
        producer.send(topic, key=key, value=value, headers=headers, partition=0, timestamp_ms=time_ms)
        for key, value, headers, time_ms in records
    ]
    producer.flush()
    seconds = time.perf_counter() - began
    assert sent[-1].get(1).offset == EVENTS - 1
    end_producer(producer)
    return seconds


async def _relay(url: str, feed: StoreFeed, kafka: KafkaSettings) -> float:
    began: list[float] = []
    done = asyncio.Event()

    def note(step: str) -> None:
        if not began:
            began.append(time.perf_counter())
        if step == "moved" and relay.position == EVENTS:
            done.set()

    relay = Relay(service=SERVICE, dsn=url, feed=feed, kafka=kafka, at_step=note)
    running = asyncio.create_task(relay.run())
    async with asyncio.timeout(120):
        await done.wait()
    seconds = time.perf_counter() - began[0]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return seconds


async def _visible(server_url: str, broker: KafkaBroker, folder: Path) -> list[Result]:
    """Two processes on two databases, with nothing between them but Kafka; commands come by an open loop."""
    token = local_issuer(Settings(data=folder)).mint(name="Ada Author", lifetime_s=3600)
    settings = {"KAFKA_BOOTSTRAP": broker.plain, "KAFKA_TOPIC_PREFIX": "bench-visible"}
    async with fresh_database(server_url) as first, fresh_database(server_url) as second:
        with served_apart(folder, {SERVICE: first, "traceability": second}, settings) as running:
            clients = [LeanClient(address=running[name].address, token=token) for name in (SERVICE, "traceability")]
            lags, rate = await open_loop(*clients, commands_a_second=COMMANDS_A_SECOND)
            for client in clients:
                await client.close()
    return [
        within(name=VISIBLE, ours=percentile(lags, 0.99), limit=VISIBLE_LIMIT_MILLISECONDS, unit="ms"),
        compared(
            name="commands acknowledged while that was measured over Kafka", ours=rate, peer=COMMANDS_A_SECOND,
            peer_name="offered", unit="commands/s", goal=RATE_SHARE_MIN, better="more",
        ),
    ]  # fmt: skip
