"""A line to PostgreSQL that a test can cut: at the next request before it gets there, or at the next answer after the commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, quote, urlsplit

READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"
"""The end of an answer outside a transaction: what was asked is committed."""

Where = Literal["request", "answer"]


@dataclass
class CuttableLine:
    """Carries bytes both ways while it is `flowing`; `url` is the database behind it."""

    url: str
    cut_at: Where | None = None
    refuses: bool = False
    hides_the_end: bool = False
    """The server's last word arrives, and then nothing: as if the end of its stream were still on the way."""
    cuts: int = 0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def carry(self, near: tuple[asyncio.StreamReader, asyncio.StreamWriter], server: str) -> None:
        if self.refuses:
            near[1].close()
            return
        far = await _opened(server)
        self._writers |= {near[1], far[1]}
        await asyncio.gather(self._pass(near[0], far[1], "request"), self._pass(far[0], near[1], "answer"))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: Where) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.cut_at == kind and (kind == "request" or data.endswith(READY_FOR_QUERY)):
                    self.cut()
                await self.flowing.wait()
                writer.write(data)
        if not (self.hides_the_end and kind == "answer"):
            writer.close()

    def cut(self) -> None:
        """Ends every connection now."""
        self.cut_at = None
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def _opened(server: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(server)
    host = parse_qs(address.query).get("host", [address.hostname or "127.0.0.1"])[0]
    port = int(parse_qs(address.query).get("port", [address.port or 5432])[0])
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


@contextlib.asynccontextmanager
async def cuttable(server: str) -> AsyncIterator[CuttableLine]:
    """A line to the database of that URL."""
    address = urlsplit(server)
    line = CuttableLine(url="")
    line.flowing.set()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(line.carry((reader, writer), server))
        tasks.add(task)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    who = f"{quote(address.username or '')}:{quote(address.password or '')}"
    line.url = f"postgresql://{who}@127.0.0.1:{port}{address.path}?sslmode=disable"
    try:
        yield line
    finally:
        listener.close()
        line.flowing.set()
        line.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
