"""Services as processes on databases of their own: what one records, the others learn by a real Kafka, and by nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from services.composition import local_issuer
from services.server import uvicorn_serving
from shared import topic_cursor
from shared.kafka_client import Topics, partition_of
from shared.kafka_settings import KafkaSettings, Patience
from shared.producer_feed import ProducerAway, ProducerFeed
from shared.settings import Settings
from tests.cluster import TestCluster, running_cluster
from tests.house import fresh_database
from tests.kafka_broker import KafkaBroker
from tests.serving import free_port, served

PATIENCE_S = 60.0
SERVICES_HERE = ("requirements", "traceability")


@pytest.fixture
async def cluster(server_url: str, tmp_path: Path, kafka: KafkaSettings) -> AsyncIterator[TestCluster]:
    """Two processes: one records, the other remembers."""
    settings = Settings(data=tmp_path / "data", after_timeout_s=PATIENCE_S)
    groups = tuple((name,) for name in SERVICES_HERE)
    async with running_cluster(
        server_url=server_url, folder=tmp_path / "data", kafka=kafka, groups=groups, settings=settings
    ) as running:
        yield running


async def register(cluster: TestCluster, *keys: str) -> None:
    """A command each; none waits for Kafka."""
    owner = cluster.door.client("Olga Owner")
    for key in keys:
        owner.seen.clear()
        await owner.post("/v1/systems", key=key, name=key, intended_use="tests", risk_class="limited")


def pool_of(cluster: TestCluster, service: str) -> asyncpg.Pool:
    return cluster.houses[service].services[service].foundation.pool


async def stored(pool: asyncpg.Pool, service: str = "requirements") -> list[tuple[Any, ...]]:
    rows = await pool.fetch(f"SELECT position, leaf_hash, event FROM {service}.event ORDER BY position")
    return [(row["position"], row["leaf_hash"].hex(), row["event"]) for row in rows]


async def remembered(pool: asyncpg.Pool, service: str = "requirements") -> list[tuple[Any, ...]]:
    """In order of the ledger, so that a repetition or an event out of order is seen."""
    rows = await pool.fetch(
        "SELECT service_position, leaf_hash, event FROM traceability.ledger WHERE service = $1 ORDER BY position",
        service,
    )
    return [(position, leaf if isinstance(leaf, str) else leaf.hex(), event) for position, leaf, event in rows]


async def assert_the_ledger_is_the_store(
    store: asyncpg.Pool, ledger: asyncpg.Pool, service: str = "requirements"
) -> None:
    """Event for event and byte for byte, once it has everything; none twice."""
    expected = await stored(store, service)
    async with asyncio.timeout(PATIENCE_S):
        while len(await remembered(ledger, service)) < len(expected):  # noqa: ASYNC110 -- it lies in the database
            await asyncio.sleep(0.05)
    assert await remembered(ledger, service) == expected


async def assert_whole(cluster: TestCluster) -> None:
    await assert_the_ledger_is_the_store(pool_of(cluster, "requirements"), pool_of(cluster, "traceability"))


async def test_what_one_process_records_another_shows(cluster: TestCluster) -> None:
    """A read that passes on what the command answered waits until Kafka has brought it."""
    owner = cluster.door.client("Olga Owner")
    await owner.post("/v1/systems", key="loans", name="Loans", intended_use="tests", risk_class="limited")
    state = await owner.get("/v1/systems/loans/state")
    assert list(state["records"]["ai-system"]) == ["loans"]
    assert await stored(pool_of(cluster, "traceability")) == [], "the other process has a store of its own"
    await assert_whole(cluster)


async def test_commands_are_accepted_whatever_becomes_of_kafka(
    cluster: TestCluster, kafka: KafkaSettings, broker: KafkaBroker
) -> None:
    """Killed, paused, its topic deleted: afterwards the ledger is the store."""
    await register(cluster, *(f"before-{n}" for n in range(5)))
    await asyncio.to_thread(broker.kill)
    await register(cluster, *(f"killed-{n}" for n in range(5)))
    await asyncio.to_thread(broker.start)
    await assert_whole(cluster)
    broker.pause()
    await register(cluster, *(f"paused-{n}" for n in range(5)))
    broker.resume()
    topics = Topics.of(kafka, Patience())
    await asyncio.to_thread(topics.delete, kafka.event_topic("requirements"))
    topics.close()
    await register(cluster, *(f"deleted-{n}" for n in range(5)))
    await assert_whole(cluster)
    await register(cluster, "after")
    await assert_whole(cluster)


async def test_what_kafka_lost_is_read_from_the_producer(
    server_url: str,
    tmp_path: Path,
    kafka: KafkaSettings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody cut the beginning of the topic; a process that starts afterwards asks the service over HTTP, with a token."""
    monkeypatch.setattr(topic_cursor, "GAP_SECONDS", 0.2)
    port = free_port()
    settings = Settings(data=tmp_path / "data", port=port, feed_urls=(("*", f"http://127.0.0.1:{port}"),))
    recording = running_cluster(
        server_url=server_url, folder=tmp_path / "data", kafka=kafka, groups=(("requirements",),), settings=settings
    )
    remembering = running_cluster(
        server_url=server_url, folder=tmp_path / "data", kafka=kafka, groups=(("traceability",),), settings=settings
    )
    async with recording as first, uvicorn_serving(first.houses["requirements"].app, settings):
        await register(first, *(f"system-{n}" for n in range(12)))
        store = pool_of(first, "requirements")
        async with asyncio.timeout(PATIENCE_S):
            while await store.fetchval("SELECT position FROM requirements.relay") < 12:  # noqa: ASYNC110 -- in the database
                await asyncio.sleep(0.05)
        await asyncio.to_thread(cut_beginning, kafka, 9)
        async with remembering as second:
            await assert_the_ledger_is_the_store(store, pool_of(second, "traceability"))
    assert "requirements:1 to 9 are missing" in caplog.text


def cut_beginning(kafka: KafkaSettings, records: int) -> None:
    topics = Topics.of(kafka, Patience())
    topics._admin().delete_records({partition_of(kafka.event_topic("requirements")): records})
    topics.close()


async def test_only_our_own_processes_read_a_whole_feed(cluster: TestCluster) -> None:
    """Everybody else sees the AI systems in which they hold a role."""
    await register(cluster, "loans")
    stranger = cluster.door.client("Sam Stranger")
    assert (await stranger.get("/v1/requirements/events"))["events"] == []
    process = cluster.door.client("Prooftrail feed", kind="service")
    assert [event["position"] for event in (await process.get("/v1/requirements/events"))["events"]] == [1]


async def test_a_feed_that_does_not_show_everything_fills_no_gap(cluster: TestCluster, tmp_path: Path) -> None:
    """A token without the right to the whole feed, none at all, or nobody there: better no event than a hole."""
    await register(cluster, "loans", "flights")
    stranger = cluster.door.client("Sam Stranger")
    await stranger.post("/v1/systems", key="own", name="Own", intended_use="tests", risk_class="limited")
    house, port = cluster.houses["requirements"], free_port()
    async with uvicorn_serving(house.app, Settings(data=tmp_path, port=port)):
        for token, at, refusal in (
            (stranger.token, port, "does not show everything"),
            ("no token", port, "401"),
            (stranger.token, free_port(), "requirements at http"),
        ):
            address = f"http://127.0.0.1:{at}"
            feed = ProducerFeed(address={"requirements": address}.__getitem__, token=partial(str, token))
            with pytest.raises(ProducerAway, match=refusal):
                await asyncio.to_thread(feed.read, "requirements", 0, 9)
            feed.close()


async def test_processes_that_are_killed_go_on_where_they_were(
    server_url: str, tmp_path: Path, kafka: KafkaSettings
) -> None:
    """`python -m services requirements` and `python -m services traceability`, ended with SIGKILL one after the other."""
    data = tmp_path / "data"
    token = local_issuer(Settings(data=data)).mint(name="Olga Owner")
    settings = {"KAFKA_BOOTSTRAP": ",".join(kafka.bootstrap), "KAFKA_TOPIC_PREFIX": kafka.topic_prefix}
    async with contextlib.AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(fresh_database(server_url)) for name in SERVICES_HERE}
        pools = {
            name: await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=2))
            for name, url in urls.items()
        }
        with contextlib.ExitStack() as processes:
            address, recording, remembering = start(processes, data, urls, settings)
            accepted = await load(address, token, first=0, number=20)
            os.kill(remembering, signal.SIGKILL)
            accepted = await load(address, token, first=accepted, number=20)
            os.kill(recording, signal.SIGKILL)
        with contextlib.ExitStack() as processes:
            address, _, _ = start(processes, data, urls, settings)
            accepted = await load(address, token, first=accepted, number=20)
            await assert_the_ledger_is_the_store(pools["requirements"], pools["traceability"])
        assert len(await stored(pools["requirements"])) == accepted == 60


def start(
    stack: contextlib.ExitStack, data: Path, urls: dict[str, str], settings: dict[str, str]
) -> tuple[str, int, int]:
    """Both processes: where one records, and the numbers of both."""
    address, _, recording = stack.enter_context(
        served(data, "requirements", database_url=urls["requirements"], settings=settings)
    )
    _, _, remembering = stack.enter_context(
        served(data, "traceability", database_url=urls["traceability"], settings=settings)
    )
    return address, recording, remembering


async def load(address: str, token: str, *, first: int, number: int) -> int:
    """Registers AI systems; gives how many there are then."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60, trust_env=False) as client:
        for at in range(first, first + number):
            body = {"key": f"s-{at}", "name": "S", "intended_use": "u", "risk_class": "limited", "reason": "load"}
            answer = await client.post("/v1/systems", json=body)
            assert answer.status_code == 201, answer.text
    return first + number


async def test_the_name_of_a_person_whom_another_service_knows_is_printed_until_it_is_erased(
    cluster: TestCluster,
) -> None:
    """Requirements has it in its own database; traceability, which prints it, by way of Kafka."""
    await register(cluster, "loans")
    requirements = cluster.houses["requirements"].services["requirements"].foundation
    (event,) = await requirements.store.read(after=await requirements.store.head() - 1, limit=1)
    commitment = event.content()["actor"]["name_commitment"]
    names = cluster.houses["traceability"].services["traceability"].application.names
    async with asyncio.timeout(PATIENCE_S):
        while not (people := await names.people([commitment])):  # noqa: ASYNC110 -- it comes by Kafka
            await asyncio.sleep(0.05)
    assert people[commitment].name == "Olga Owner"
    assert "requirements" in await names.holding(people[commitment].subject)
    await requirements.directory.erase(people[commitment].subject)
    async with asyncio.timeout(PATIENCE_S):
        while await names.people([commitment]):  # noqa: ASYNC110 -- it comes by Kafka
            await asyncio.sleep(0.05)
