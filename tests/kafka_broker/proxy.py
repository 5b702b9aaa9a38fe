"""A TCP proxy on loopback that delays, cuts, holds back, or swallows what passes through it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

CHUNK_BYTES = 64 << 10


@dataclass
class TcpProxy:
    """`delay_s` holds each chunk back; with `swallow` what comes goes nowhere, and the connections stay open.

    After `hold` what comes stays here until `release`, whatever becomes of those who sent it.
    """

    target: int
    delay_s: float = 0.0
    swallow: bool = False
    _held: list[tuple[asyncio.StreamWriter, bytes]] = field(default_factory=list)
    _released: asyncio.Event | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    @contextlib.asynccontextmanager
    async def between(cls, port: int, target: int) -> AsyncIterator[TcpProxy]:
        """Leads from one port to the other while the block runs."""
        proxy = cls(target=target)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", port)
        try:
            yield proxy
        finally:
            server.close()
            proxy.release()
            while proxy._tasks:
                proxy.cut()
                await asyncio.wait(proxy._tasks, timeout=0.1)

    def cut(self) -> None:
        """Ends every connection at once."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """From now on nothing goes through."""
        self._released = asyncio.Event()

    @property
    def held(self) -> list[bytes]:
        """What is held back, of each connection."""
        writers = dict.fromkeys(writer for writer, _ in self._held)
        return [b"".join(chunk for to, chunk in self._held if to is writer) for writer in writers]

    def release(self) -> None:
        """What was held back goes on its way, and what comes goes through again."""
        for writer, chunk in self._held:
            writer.write(chunk)
        self._held.clear()
        if self._released is not None:
            self._released.set()
        self._released = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = [writer]
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(back)
            self._writers.add(back)
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except OSError:
            return
        finally:
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await asyncio.sleep(self.delay_s)
            if self._released is not None:
                self._held.append((writer, chunk))
            elif not self.swallow:
                writer.write(chunk)
                await writer.drain()
        if self._released is not None:
            await self._released.wait()
        writer.close()
