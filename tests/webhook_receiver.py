"""A receiver of webhooks: a real HTTP server on loopback that keeps what it is sent and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

PATIENCE_SECONDS = 60.0
LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True)
class Received:
    """One request; header names are in lower case."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def position(self) -> int:
        return int(self.headers["ce-position"])

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


@dataclass(frozen=True)
class Answer:
    """What a request is answered: a status, or with `cut` nothing, after the request was taken; once `after` is set."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False
    after: asyncio.Event | None = None


@dataclass
class Receiver:
    """`answers` come first, one a request; then `always`."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=deque)
    always: Answer = Answer()
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def positions(self) -> list[int]:
        """The positions of all requests, in the order in which they came."""
        return [one.position for one in self.received]

    async def until(self, enough: Callable[[], bool]) -> None:
        """Returns once what came is enough."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._came:
            await self._came.wait_for(enough)

    async def until_position(self, position: int) -> None:
        """Returns once that event, or a later one, has come."""
        await self.until(lambda: any(one.position >= position for one in self.received))

    async def until_count(self, count: int) -> None:
        """Returns once so many requests have come."""
        await self.until(lambda: len(self.received) >= count)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        async with self._came:
            self.received.append(Received(headers, body))
            self._came.notify_all()
        answer = self.answers.popleft() if self.answers else self.always
        if answer.after is not None:
            await answer.after.wait()
        if answer.cut:
            raise ConnectionAbortedError("the receiver was told to break off")
        sent = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await send({"type": "http.response.body", "body": answer.body})


class _Cutting(uvicorn.Server):
    """No signals are caught: the tests have their own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def receiving(
    *, port: int = 0, certificate: Path | None = None, key: Path | None = None
) -> AsyncIterator[Receiver]:
    """A receiver on that port of loopback, or on a free one, until the block ends."""
    receiver = Receiver()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    scheme = "https" if certificate else "http"
    receiver.url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/events"
    server = _Cutting(
        uvicorn.Config(
            receiver, lifespan="off", log_level="critical", access_log=False, timeout_graceful_shutdown=1,
            ssl_certfile=certificate, ssl_keyfile=key,
        )
    )  # fmt: skip
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield receiver
    finally:
        server.should_exit = True
        await task
