"""The people of the demo's story at the Services of a cluster: one client that sends each request to the service that serves it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

import httpx

from demo.__main__ import PEOPLE, PIPELINE
from demo.client import Client
from tests.kubernetes.identities import Identities
from tests.kubernetes.overlay import NODE_PORTS

REQUEST_SECONDS_MAX = 120.0


class Routes(httpx.AsyncBaseTransport):
    """Finds the service by method and path, as its OpenAPI document tells them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._transport = httpx.AsyncHTTPTransport()
        self._routes: list[tuple[str, re.Pattern[str], int]] = []

    async def learn(self) -> None:
        """Asks every service what it serves."""
        for port in NODE_PORTS.values():
            request = httpx.Request("GET", f"http://{self._address}:{port}/openapi.json")
            answer = await self._transport.handle_async_request(request)
            await answer.aread()
            for path, verbs in httpx.Response(200, content=answer.content).json()["paths"].items():
                pattern = re.compile(re.sub(r"\\{[^}]*\\}", "[^/:]+", re.escape(path)))
                self._routes += [(verb.upper(), pattern, port) for verb in verbs]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer of the first service that has the route."""
        found = [
            port for verb, path, port in self._routes if verb == request.method and path.fullmatch(request.url.path)
        ]
        request.url = request.url.copy_with(host=self._address, port=found[0])
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Ends its connections."""
        await self._transport.aclose()


@contextlib.asynccontextmanager
async def routed(address: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that knows all services as one."""
    routes = Routes(address)
    await routes.learn()
    async with httpx.AsyncClient(transport=routes, base_url="http://cluster", timeout=REQUEST_SECONDS_MAX) as http:
        yield http


def people_of(identities: Identities, http: httpx.AsyncClient) -> dict[str, Client]:
    """Everybody in the story, each with a token of their own."""
    seen: dict[str, int] = {}

    def client(name: str, *, person: bool) -> Client:
        return Client(
            http=http,
            name=name,
            subject=identities.subject(name),
            token=identities.token(name, person=person),
            seen=seen,
        )

    return {
        **{role: client(name, person=True) for role, name in PEOPLE.items()},
        "pipeline": client(PIPELINE, person=False),
    }
