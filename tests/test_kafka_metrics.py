"""What /metrics says of Kafka: what waits for it, how long others were not heard, what it lost, and what came in by it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.composition import local_issuer
from shared.kafka_client import KafkaAway, Topics, partition_of
from shared.kafka_settings import KafkaSettings, Patience
from shared.settings import Settings
from tests.house import fresh_database
from tests.kafka_broker import KafkaBroker
from tests.serving import free_port, served
from tests.test_kafka_rights import PATIENCE_S, send
from tests.test_metrics import BODY, SYSTEMS, Metrics, scraped, until_shown

SOURCE = ("service=requirements",)
CONSUMER = ("consumer=ledger", "service=traceability", "source=requirements")
SILENCE = "prooftrail_source_silence_seconds"
SILENT_S = 8.0
"""Longer than a service that lives is ever silent, by several pulses."""


@dataclass(frozen=True)
class Pair:
    """One process that records, and one that learns of it by Kafka: where both show their metrics."""

    http: httpx.AsyncClient
    recording: int
    learning: int

    async def register(self, key: str) -> None:
        assert (await self.http.post(SYSTEMS, json={**BODY, "key": key})).status_code == 201

    async def recording_shows(self, holds: Callable[[Metrics], bool]) -> None:
        await until_shown(self.recording, holds)

    async def learning_shows(self, holds: Callable[[Metrics], bool]) -> None:
        await until_shown(self.learning, holds)


def cut_beginning(kafka: KafkaSettings, records: int) -> None:
    topics = Topics.of(kafka, Patience())
    topics._admin().delete_records({partition_of(kafka.event_topic("requirements")): records})
    topics.close()


@pytest.fixture
async def pair(server_url: str, tmp_path: Path, kafka: KafkaSettings) -> AsyncIterator[Pair]:
    """Three events, of which Kafka has lost the first two before the second process begins."""
    data, ports = tmp_path / "data", [free_port() for _ in range(3)]
    token = local_issuer(Settings(data=data)).mint(name="Olga Owner")
    settings = {
        "KAFKA_BOOTSTRAP": kafka.bootstrap[0],
        "KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "PROOFTRAIL_FEATURES_SUBJECT": "service:predictor",
        "PROOFTRAIL_FEED_URL": f"http://127.0.0.1:{ports[0]}",
        "PROOFTRAIL_MEASURE_S": "1",
    }
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(fresh_database(server_url)) for _ in range(2)]
        recording = {**settings, "PROOFTRAIL_PORT": str(ports[0]), "PROOFTRAIL_METRICS_PORT": str(ports[1])}
        learning = {**settings, "PROOFTRAIL_METRICS_PORT": str(ports[2])}
        address, _, _ = stack.enter_context(served(data, "requirements", database_url=urls[0], settings=recording))
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=address, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60
            )
        )
        running = Pair(http, ports[1], ports[2])
        for key in ("first", "second", "third"):
            await running.register(key)
        await asyncio.to_thread(until_length, kafka, 3)
        await asyncio.to_thread(cut_beginning, kafka, 2)
        stack.enter_context(served(data, "traceability", "drift", database_url=urls[1], settings=learning))
        yield running


def until_length(kafka: KafkaSettings, records: int) -> None:
    """The topic has had so many records."""
    topics, deadline = Topics.of(kafka, Patience()), time.monotonic() + PATIENCE_S
    found = 0
    while found < records:
        assert time.monotonic() < deadline, found
        with contextlib.suppress(KafkaAway):
            found = topics.end(kafka.event_topic("requirements"))
        time.sleep(0.1)
    topics.close()


def value(shown: Metrics, name: str, labels: tuple[str, ...] = ()) -> float:
    """What is shown, no number where nothing is."""
    return shown.get(name, {}).get(labels, math.nan)


async def test_an_operator_sees_what_kafka_does(pair: Pair, kafka: KafkaSettings, broker: KafkaBroker) -> None:
    """Events that were lost, rows that nobody can take, and a broker that is down: what waits, and what is not heard."""
    await pair.learning_shows(lambda shown: value(shown, "prooftrail_feed_gaps_total", SOURCE) >= 2)
    await pair.learning_shows(lambda shown: value(shown, "prooftrail_consumer_position", CONSUMER) == 3)
    await pair.learning_shows(lambda shown: value(shown, SILENCE, CONSUMER) < SILENT_S)
    await pair.learning_shows(lambda shown: value(shown, "prooftrail_features_lag") == 0)
    await asyncio.to_thread(send, kafka, kafka.features_topic, b"no rows")
    await pair.learning_shows(
        lambda shown: value(shown, "prooftrail_features_records_total", ("outcome=refused",)) == 1
    )
    await pair.recording_shows(lambda shown: value(shown, "prooftrail_relay_backlog", SOURCE) == 0)
    await asyncio.to_thread(broker.stop)
    await pair.register("fourth")
    await pair.recording_shows(
        lambda shown: (
            value(shown, "prooftrail_relay_backlog", SOURCE) == 1
            and value(shown, "prooftrail_relay_age_seconds", SOURCE) > 1
        )
    )
    await pair.learning_shows(lambda shown: value(shown, SILENCE, CONSUMER) > SILENT_S)
    assert value(await scraped(pair.learning), "prooftrail_consumer_lag", CONSUMER) == 0, "it has heard of no more"
    await asyncio.to_thread(broker.start)
    await pair.recording_shows(lambda shown: value(shown, "prooftrail_relay_backlog", SOURCE) == 0)
    await pair.learning_shows(
        lambda shown: (
            value(shown, SILENCE, CONSUMER) < SILENT_S and value(shown, "prooftrail_consumer_position", CONSUMER) == 4
        )
    )
