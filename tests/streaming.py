"""The house behind a real HTTP server, and a client of server-sent events for tests and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from services.composition import House
from services.server import uvicorn_serving
from shared.settings import Settings
from tests.serving import free_port


@contextlib.asynccontextmanager
async def http_serving(house: House) -> AsyncIterator[int]:
    """Serves the house on a free port of loopback."""
    settings = Settings(data=Path("unused"), port=free_port())
    async with uvicorn_serving(house.app, settings, ending=house.end_streams):
        yield settings.port


@dataclass(frozen=True)
class Received:
    """One event of the stream, or with an empty name a heartbeat."""

    position: int
    name: str
    data: str


class EventSource:
    """One open stream. What it received last is where it resumes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int) -> None:
        self._reader = reader
        self._writer = writer
        self.status = status
        self.headers: dict[str, str] = {}
        self.retry_ms: int | None = None

    @classmethod
    async def connect(
        cls,
        port: int,
        path: str,
        *,
        token: str,
        receive_buffer: int = 0,
        headers: Mapping[str, str] | None = None,
        **query: object,
    ) -> EventSource:
        """Sends the request and reads the head of the answer. `receive_buffer` is SO_RCVBUF."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 16)
        lines = [
            f"GET {path}?{urlencode(query, doseq=True)} HTTP/1.1", "Host: house", f"Authorization: Bearer {token}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()), "", "",
        ]  # fmt: skip
        writer.write("\r\n".join(lines).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        source = cls(reader, writer, int(head[0].split()[1]))
        source.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        return source

    async def body(self) -> bytes:
        """What is left of an answer that is no stream."""
        return await self._reader.readexactly(int(self.headers["content-length"]))

    async def __aiter__(self) -> AsyncIterator[Received]:
        """What comes, heartbeats too, until the stream ends."""
        rest = b""
        while chunk := await self._chunk():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                received = self._read(block.decode())
                if received is not None:
                    yield received

    def _read(self, block: str) -> Received | None:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
            return None
        return Received(int(fields["id"]), fields.get("event", ""), fields.get("data", ""))

    async def _chunk(self) -> bytes:
        """The next chunk of the body (RFC 9112, 7.1); empty at the end, and when the connection broke."""
        try:
            size = int(await self._reader.readline() or b"0", 16)
            return (await self._reader.readexactly(size + 2))[:-2]
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def close(self) -> None:
        """Breaks the connection off, as a client that is killed does."""
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def take(source: EventSource, count: int) -> list[Received]:
    """The next `count` events, without heartbeats; fewer if the stream ends."""
    events = []
    async for received in source:
        if received.name:
            events.append(received)
        if len(events) == count:
            break
    return events
