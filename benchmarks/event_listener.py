"""A subscriber that costs little, so that a thousand of them and the service fit on two cores."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime

CONNECT_SECONDS_MAX = 30.0
EVENT = b"\nevent: "
_RECORDED_AT = b'"recorded_at":"'


@dataclass
class Arrivals:
    """What arrived at all listeners. With `measuring`, the seconds from recording to arrival of each event at each of them."""

    measuring: bool = False
    delays: list[float] = field(default_factory=list)
    _recorded: dict[int, float] = field(default_factory=dict)

    def note(self, position: int, frame: bytes) -> None:
        """An event has arrived now."""
        if not self.measuring:
            return
        recorded_at = self._recorded.get(position)
        if recorded_at is None:
            start = frame.index(_RECORDED_AT) + len(_RECORDED_AT)
            recorded_at = datetime.fromisoformat(frame[start : frame.index(b'"', start)].decode()).timestamp()
            self._recorded[position] = recorded_at
        self.delays.append(time.time() - recorded_at)


class Listener(asyncio.Protocol):
    """One stream of server-sent events. `position` is the last event; `whole` that none was missing, twice or out of order."""

    def __init__(self, arrivals: Arrivals, *, after: int) -> None:
        self.position = after
        self.whole = True
        self.ended = False
        self.opened = asyncio.get_running_loop().create_future()
        self._arrivals = arrivals
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("the stream ended before it began"))

    def data_received(self, data: bytes) -> None:
        """A frame ends with an empty line; what HTTP puts between chunks stands before the frame that follows."""
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n\n") + 2
        if end < len(b"\n\n"):
            self._rest = data
            return
        frames, self._rest = data[:end], data[end:]
        self._take(frames)
        if not self.opened.done():
            self.opened.set_result(frames.startswith(b"HTTP/1.1 200"))

    def _take(self, frames: bytes) -> None:
        """No event holds a line break, so counting lines counts events."""
        count = frames.count(EVENT)
        if not count:
            return
        last = frames.rfind(EVENT)
        position = int(frames[frames.rfind(b"id: ", 0, last) + len(b"id: ") : last])
        self.whole = self.whole and position == self.position + count
        self.position = position
        if self._arrivals.measuring:
            for at, frame in enumerate(frames.split(EVENT)[1:], start=position - count + 1):
                self._arrivals.note(at, frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def listen(port: int, path: str, *, token: str, after: int, arrivals: Arrivals) -> Listener:
    """An open stream of the events above `after`. Raises ConnectionError if it is refused."""
    request = (
        f"GET {path}?from_position={after} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()
    transport, listener = await asyncio.get_running_loop().create_connection(
        lambda: Listener(arrivals, after=after), "127.0.0.1", port
    )
    transport.write(request)
    async with asyncio.timeout(CONNECT_SECONDS_MAX):
        if not await listener.opened:
            raise ConnectionError("the stream was refused")
    return listener
