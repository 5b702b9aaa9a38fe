"""A client that costs little, so that on two cores the server is what is measured: HTTP/1.1 on kept connections, nothing more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec


class Unexpected(Exception):
    """An answer that is no success."""


@dataclass
class LeanClient:
    """Requests of one caller to one server; as many connections as requests at a time."""

    address: str
    token: str
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of a successful command."""
        return await self._request("POST", path, msgspec.json.encode(body))

    async def get(self, path: str) -> Any:
        """The JSON of a successful read."""
        return await self._request("GET", path, b"")

    async def _request(self, method: str, path: str, body: bytes) -> Any:
        reader, writer = await self._taken()
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        content = await reader.readexactly(length)
        self._idle.append((reader, writer))
        if not head.startswith(b"http/1.1 2"):
            raise Unexpected(content.decode())
        return msgspec.json.decode(content)

    async def _taken(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # the server ends connections that were idle for long
                return reader, writer
            writer.close()
        return await self._connect()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.address)
        return await asyncio.open_connection(parts.hostname, parts.port)

    async def close(self) -> None:
        """Ends all connections."""
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()
