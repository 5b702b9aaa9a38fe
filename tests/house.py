"""The house for tests: all named services in this process on a fresh database, and clients that speak HTTP to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from demo.client import Client, problem_of
from services.composition import SERVICES, House, open_house
from shared.local_issuer import LocalIssuer
from shared.settings import Settings

__all__ = ["Client", "TestHouse", "fresh_database", "problem_of", "running_house"]


@dataclass
class TestHouse:
    """A running house and the people in it."""

    __test__ = False

    house: House
    http: httpx.AsyncClient
    issuer: LocalIssuer
    seen: dict[str, int] = field(default_factory=dict)

    def client(self, name: str, *, kind: Any = "person", auth_time: datetime | None = None) -> Client:
        """Somebody with a fresh token; the same name is the same subject."""
        token = self.issuer.mint(name=name, kind=kind, auth_time=auth_time)
        return Client(
            http=self.http,
            name=name,
            subject=self.issuer.subject(name=name, kind=kind),
            token=token,
            seen=self.seen,
        )


@contextlib.asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """A new database on the server, dropped afterwards; gives its URL."""
    name = f"test_{uuid4().hex}"
    administrator = await asyncpg.connect(server_url)
    try:
        await administrator.execute(f"CREATE DATABASE {name}")
        yield _with_database(server_url, name)
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
        for role in await administrator.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE $1", f"prooftrail_{name}_%"
        ):
            await administrator.execute(f'DROP ROLE "{role["rolname"]}"')
    finally:
        await administrator.close()


def _with_database(url: str, name: str) -> str:
    address, question, query = url.partition("?")
    return f"{address.rpartition('/')[0]}/{name}{question}{query}"


@contextlib.asynccontextmanager
async def running_house(
    *, server_url: str, folder: Path, names: Sequence[str] = SERVICES, **settings: Any
) -> AsyncIterator[TestHouse]:
    """All named services on a fresh database, with the embedded issuer, reached in process."""
    async with fresh_database(server_url) as database_url:
        configured = Settings(data=folder, database_url=database_url, **settings)
        async with (
            open_house(settings=configured, database_url=database_url, names=names) as house,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=house.app, raise_app_exceptions=False), base_url="http://house"
            ) as http,
        ):
            assert house.issuer is not None
            yield TestHouse(house=house, http=http, issuer=house.issuer)
