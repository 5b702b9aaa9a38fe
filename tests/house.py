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

from services.composition import SERVICES, House, open_house
from shared.local_issuer import LocalIssuer
from shared.positions import format_positions, parse_positions
from shared.settings import Settings


@dataclass
class Client:
    """One person or service at the HTTP door; it passes on the positions that any client of the house was given."""

    http: httpx.AsyncClient
    subject: str
    token: str
    seen: dict[str, int]

    async def request(
        self, method: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None, **query: Any
    ) -> httpx.Response:
        """The raw answer. `after` is added by itself unless the query has one."""
        query = {"after": format_positions(self.seen), **query}
        answer = await self.http.request(
            method,
            path,
            params=query,
            json=body,
            headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
        )
        for service, position in parse_positions(answer.headers.get("Prooftrail-Position", "")).items():
            self.seen[service] = max(position, self.seen.get(service, 0))
        return answer

    async def post(self, path: str, /, *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """The JSON of a successful command; `reason` is filled in."""
        answer = await self.request("POST", path, body={"reason": "part of the test", **body}, headers=headers)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def refused(self, path: str, /, *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """The problem of a refused command; it must be a whole problem document."""
        answer = await self.request("POST", path, body={"reason": "part of the test", **body}, headers=headers)
        return problem_of(answer)

    async def get(self, path: str, /, **query: Any) -> Any:
        """The JSON of a successful read."""
        answer = await self.request("GET", path, **query)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def sign(self, service: str, record: str, *, decision: str = "sign") -> Any:
        """Fetches what would be signed and signs (or declines) exactly that."""
        shown = await self.get(f"/v1/{service}/signable", record=record)
        item = {"record": record, "digest": shown["digest"], "meaning": shown["meaning"]}
        return await self.post(f"/v1/{service}/signatures", decision=decision, items=[item])


def problem_of(answer: httpx.Response) -> Any:
    """The problem document of an error; fails if the answer is none."""
    assert answer.status_code >= 400, f"expected a refusal, got {answer.status_code} {answer.text}"
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert problem["reason"]
    return problem


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
        return Client(http=self.http, subject=self.issuer.subject(name=name, kind=kind), token=token, seen=self.seen)


@contextlib.asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """A new database on the server, dropped afterwards; gives its URL."""
    name = f"test_{uuid4().hex}"
    administrator = await asyncpg.connect(server_url)
    try:
        await administrator.execute(f"CREATE DATABASE {name}")
        yield _with_database(server_url, name)
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
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
