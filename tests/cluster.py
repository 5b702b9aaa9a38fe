"""A deployment of several processes for tests: each house serves some services on its own database and reads the rest by Kafka."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from services.composition import SERVICES, House, open_house
from shared.kafka_settings import KafkaSettings
from shared.local_issuer import LocalIssuer
from shared.settings import Settings
from tests.house import TestHouse, fresh_database


@dataclass(frozen=True)
class Gateway:
    """Gives each request to the house that has a route for it, as an ingress does."""

    houses: Sequence[House]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving = [house for house in self.houses if _serves(house, scope)] or self.houses
        await serving[0].app(scope, receive, send)


def _serves(house: House, scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in house.app.routes)


@dataclass(frozen=True)
class TestCluster:
    """The houses by their first service, and people who reach all of them at one address."""

    __test__ = False

    houses: dict[str, House]
    door: TestHouse


@contextlib.asynccontextmanager
async def running_cluster(
    *,
    server_url: str,
    folder: Path,
    kafka: KafkaSettings,
    groups: Sequence[Sequence[str]] = tuple((name,) for name in SERVICES),
    settings: Settings | None = None,
    one_database: bool = False,
    as_user: Callable[[KafkaSettings, str], KafkaSettings] = lambda kafka, _: kafka,
) -> AsyncIterator[TestCluster]:
    """One house for each group of services. They share the folder with the embedded issuer, Kafka, and nothing else.

    `as_user` gives each its own settings of Kafka, by its first service.
    """
    houses: dict[str, House] = {}
    async with contextlib.AsyncExitStack() as stack:
        shared = await stack.enter_async_context(fresh_database(server_url)) if one_database else None
        for group in groups:
            url = await stack.enter_async_context(fresh_database(server_url)) if shared is None else shared
            configured = replace(
                settings or Settings(data=folder), data=folder, kafka=as_user(kafka, group[0]), database_url=url
            )
            houses[group[0]] = await stack.enter_async_context(
                open_house(settings=configured, database_url=url, names=group)
            )
        transport = httpx.ASGITransport(app=Gateway(list(houses.values())), raise_app_exceptions=False)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://cluster"))
        first = next(iter(houses.values()))
        assert isinstance(first.issuer, LocalIssuer)
        yield TestCluster(houses=houses, door=TestHouse(house=first, http=http, issuer=first.issuer))
