"""Processes under load while Kafka is in trouble: every command is accepted, and afterwards the ledger is the stores.

The delivery timeout is short here, so that a pause can be longer. CHAOS_SEEDS says how often each trouble comes; `make chaos`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import asyncpg
import httpx
import pytest

from services.composition import local_issuer
from services.releases.projections import ReleasesProjection
from shared.feed import StoreFeed
from shared.kafka_client import Topics
from shared.kafka_settings import KafkaSettings, Patience
from shared.projection import ProjectionRunner
from shared.settings import Settings
from shared.split_feed import SplitFeed
from tests.house import fresh_database
from tests.kafka_broker import KafkaBroker
from tests.kafka_broker.proxy import TcpProxy
from tests.serving import served, served_apart
from tests.test_cluster import assert_the_ledger_is_the_store

RECORDING = ("requirements", "releases")
SERVING = (*RECORDING, "traceability")
REQUEST_S, DELIVERY_S = 2, 3
PATIENCE_S = 90.0
"""How long a test waits for what must come; nothing is measured."""
SYSTEM = {"key": "troubled", "name": "T", "intended_use": "tests", "risk_class": "limited", "reason": "load"}


@dataclass(kw_only=True)
class Deployment:
    """`addresses` are where services take commands, `pools` their databases as the owner of each."""

    addresses: dict[str, str]
    pools: dict[str, asyncpg.Pool]
    urls: dict[str, str]
    token: str
    kafka: KafkaSettings
    broker: KafkaBroker
    proxy: TcpProxy
    accepted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RECORDING, 0))

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Commands come while the block runs; each must be accepted."""
        ending = asyncio.Event()
        tasks = [asyncio.create_task(self._command(service, ending)) for service in RECORDING]
        try:
            yield
        finally:
            ending.set()
            await asyncio.gather(*tasks)

    async def _command(self, service: str, ending: asyncio.Event) -> None:
        async with self.client(service) as client:
            while not ending.is_set():
                key = f"k-{self.accepted[service]}"
                answer = await (
                    register(client, key) if service == "requirements" else raise_nonconformity(client, key)
                )
                assert answer.status_code == 201, answer.text
                self.accepted[service] += 1
                await asyncio.sleep(0.02)

    def client(self, service: str) -> httpx.AsyncClient:
        """Somebody who may command there."""
        return httpx.AsyncClient(
            base_url=self.addresses[service],
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=PATIENCE_S,
            trust_env=False,
        )

    async def until_accepted(self, more: int) -> None:
        """Until each service has accepted so many more."""
        wanted = {service: count + more for service, count in self.accepted.items()}
        async with asyncio.timeout(PATIENCE_S):
            while any(self.accepted[service] < count for service, count in wanted.items()):  # noqa: ASYNC110 -- a count
                await asyncio.sleep(0.02)

    async def assert_whole(self) -> None:
        """The ledger is the stores, byte for byte and in order; every event took effect once in the copies of the others."""
        for service in RECORDING:
            await assert_the_ledger_is_the_store(self.pools[service], self.pools["traceability"], service)
            assert await self.pools[service].fetchval(f"SELECT count(*) FROM {service}.dead_letter") == 0
        copies = ProjectionRunner(pool=self.pools["releases"], feed=self.stores, projection=ReleasesProjection())
        heads = {service: await self.stores.head(service=service) for service in RECORDING}
        async with asyncio.timeout(PATIENCE_S):
            while not heads.items() <= (await copies.positions()).items():  # noqa: ASYNC110 -- they are in the database
                await asyncio.sleep(0.05)
        kept = await copies.state()
        assert await copies.replayed(kept.positions) == kept

    @property
    def stores(self) -> SplitFeed:
        """What all services have recorded, straight from their databases; the others have recorded nothing."""
        near = {name: StoreFeed(pool=self.pools[name], dsn=self.urls[name]) for name in SERVING}
        others = SplitFeed(own=("releases",), near=near["releases"], far=near["traceability"])
        return SplitFeed(own=("requirements",), near=near["requirements"], far=others)


async def register(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post("/v1/systems", json={**SYSTEM, "key": key})


async def raise_nonconformity(client: httpx.AsyncClient, key: str) -> httpx.Response:
    body = {"key": key, "record": f"model-version:{SYSTEM['key']}/m", "description": "load", "reason": "load"}
    return await client.post(f"/v1/systems/{SYSTEM['key']}/nonconformities", json=body)


@pytest.fixture(scope="module")
async def deployment(
    server_url: str, tmp_path_factory: pytest.TempPathFactory, kafka_of_the_run: KafkaBroker
) -> AsyncIterator[Deployment]:
    """A process for each service on a database of its own, and a second one of requirements: two relays want one lock."""
    broker, data = kafka_of_the_run, tmp_path_factory.mktemp("troubled") / "data"
    if not broker.runs:
        broker.start()
    kafka = KafkaSettings(
        bootstrap=(broker.proxied,),
        topic_prefix=f"troubled-{secrets.token_hex(4)}",
        patience=Patience(request_s=REQUEST_S, delivery_s=DELIVERY_S),
    )
    environment = {
        "KAFKA_BOOTSTRAP": kafka.bootstrap[0],
        "KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "KAFKA_REQUEST_TIMEOUT_S": str(REQUEST_S),
        "KAFKA_DELIVERY_TIMEOUT_S": str(DELIVERY_S),
    }
    token = local_issuer(Settings(data=data)).mint(name="Olga Owner")
    async with contextlib.AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(fresh_database(server_url)) for name in SERVING}
        pools = {
            name: await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=4))
            for name, url in urls.items()
        }
        proxy = await stack.enter_async_context(TcpProxy.between(broker.ports["PROXY"], broker.ports["PROXIED"]))
        processes = await asyncio.to_thread(stack.enter_context, served_apart(data, urls, environment))
        second = served(data, "requirements", database_url=urls["requirements"], settings=environment)
        await asyncio.to_thread(stack.enter_context, second)
        running = Deployment(
            addresses={name: one.address for name, one in processes.items()},
            pools=pools, urls=urls, token=token, kafka=kafka, broker=broker, proxy=proxy,
        )  # fmt: skip
        await begin(running)
        yield running
        if not broker.runs:
            broker.start()


async def begin(deployment: Deployment) -> None:
    """Until the system is known everywhere."""
    async with deployment.client("requirements") as client:
        assert (await client.post("/v1/systems", json=SYSTEM)).status_code == 201
    async with asyncio.timeout(PATIENCE_S), deployment.client("releases") as client:
        while (answer := await raise_nonconformity(client, "first")).status_code == 404:  # noqa: ASYNC110 -- it comes by Kafka
            await asyncio.sleep(0.1)
        assert answer.status_code == 201, answer.text


Trouble = Callable[[Deployment], AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def stopped(deployment: Deployment) -> AsyncIterator[None]:
    await asyncio.to_thread(deployment.broker.stop)
    yield
    await asyncio.to_thread(deployment.broker.start)


@contextlib.asynccontextmanager
async def killed(deployment: Deployment) -> AsyncIterator[None]:
    await asyncio.to_thread(deployment.broker.kill)
    yield
    await asyncio.to_thread(deployment.broker.start)


@contextlib.asynccontextmanager
async def paused_for_longer_than_the_delivery_timeout(deployment: Deployment) -> AsyncIterator[None]:
    deployment.broker.pause()
    yield
    await asyncio.sleep(DELIVERY_S + REQUEST_S)
    deployment.broker.resume()


@contextlib.asynccontextmanager
async def cut_and_delayed(deployment: Deployment) -> AsyncIterator[None]:
    for delay_s in (0.2, 0.05):
        deployment.proxy.delay_s = delay_s
        deployment.proxy.cut()
        await deployment.until_accepted(5)
    yield
    deployment.proxy.cut()
    deployment.proxy.delay_s = 0.0


@contextlib.asynccontextmanager
async def half_open(deployment: Deployment) -> AsyncIterator[None]:
    deployment.proxy.swallow = True
    yield
    await asyncio.sleep(DELIVERY_S + REQUEST_S)
    deployment.proxy.swallow = False
    deployment.proxy.cut()


@contextlib.asynccontextmanager
async def two_relays_and_the_leader_ended_again_and_again(deployment: Deployment) -> AsyncIterator[None]:
    pool = deployment.pools["requirements"]
    for _ in range(3):
        epoch = await pool.fetchval("SELECT epoch FROM requirements.relay")
        await pool.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()"
            " AND a.application_name = 'prooftrail relay requirements'"
        )
        async with asyncio.timeout(PATIENCE_S):
            while await pool.fetchval("SELECT epoch FROM requirements.relay") == epoch:  # noqa: ASYNC110 -- in the database
                await asyncio.sleep(0.05)
        await deployment.until_accepted(5)
    yield


@contextlib.asynccontextmanager
async def topics_deleted(deployment: Deployment) -> AsyncIterator[None]:
    topics = Topics.of(deployment.kafka, Patience())
    for service in RECORDING:
        await asyncio.to_thread(topics.delete, deployment.kafka.event_topic(service))
    topics.close()
    yield


OFTEN: tuple[Trouble, ...] = (
    paused_for_longer_than_the_delivery_timeout,
    cut_and_delayed,
    two_relays_and_the_leader_ended_again_and_again,
    topics_deleted,
)
"""What `make test` does to processes; `make chaos` does the others too."""
TROUBLES = (*OFTEN, stopped, killed, half_open) * int(os.environ.get("CHAOS_SEEDS", "0")) or OFTEN


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda one: one.__name__)
async def test_commands_are_accepted_and_the_ledger_is_the_stores(deployment: Deployment, trouble: Trouble) -> None:
    """Event for event, and no effect twice."""
    async with deployment.under_load():
        async with trouble(deployment):
            await deployment.until_accepted(20)
        await deployment.until_accepted(5)
    await deployment.assert_whole()
