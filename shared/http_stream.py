"""The subscribers' door of a service: its events as server-sent events, resumable by position."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.types import Receive, Scope, Send

from shared.errors import ProoftrailError
from shared.event import Actor, RecordedEvent
from shared.http_doors import PROBLEMS, Doors, SystemKey
from shared.http_pages import credentials
from shared.subscription import Delivery, Subscriptions, Wish

CUT = "prooftrail.cut"
"""The ASGI extension that breaks a connection off: without it a peer that reads nothing keeps it half open."""
WRITE = "prooftrail.write"
"""The ASGI extension that writes a chunk of a response that has begun, without the way through every layer: True if it was taken.
For each event there is one chunk a subscriber, and a thousand of those."""
FRAMES_BYTES_MAX = 4 << 20
RETRY_MILLISECONDS = 1_000
ENDING_SECONDS_MAX = 2.0
"""How long a client may take to read the end of its stream."""
POSITION_MAX = 2**62
MEDIA_TYPE = "text/event-stream"

_log = logging.getLogger(__name__)

DESCRIPTION = """Server-sent events: those that are there above the position, then those to come, for as long as the stream is open.

`id` is the position, `event` the name, `data` the exact text that was stored. A comment with an `id` comes when nothing happens.
A stream ends when the service goes, when the token expires, and when nothing is read from it: resume with Last-Event-ID."""

Position = Annotated[int, Query(ge=0, le=POSITION_MAX, description="Events above it; 0 is the first event.")]
LastEventId = Annotated[
    int | None, Header(ge=0, le=POSITION_MAX, description="Where an earlier stream ended; goes before from_position.")
]
Systems = Annotated[list[SystemKey], Query(max_length=50, description="Only these AI systems; none means all you see.")]
Names = Annotated[list[str], Query(max_length=100, description="Only events with these names; none means all.")]


def stream_router(*, doors: Doors, subscriptions: Subscriptions) -> APIRouter:
    """GET /v1/<service>/events/stream."""
    router = APIRouter(prefix=f"/v1/{doors.service}", tags=["feed"], responses=PROBLEMS)
    frames = Frames()

    @router.get(
        "/events/stream",
        operation_id=f"stream_{doors.service}_events",
        summary="Events as they happen",
        description=DESCRIPTION,
        response_class=Response,
        responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "The stream"}},
    )
    async def stream_events(
        request: Request,
        actor: Annotated[Actor, Depends(doors.reader)],
        from_position: Position = 0,
        last_event_id: LastEventId = None,
        system: Systems = [],  # noqa: B006 -- FastAPI copies it
        name: Names = [],  # noqa: B006 -- FastAPI copies it
    ) -> Response:
        caller = await doors.verifier.verify(credentials(request))
        wish = Wish(
            actor=actor,
            after=from_position if last_event_id is None else last_event_id,
            systems=frozenset(system),
            names=frozenset(name),
            lasts_s=(caller.expires_at - doors.clock()).total_seconds(),
        )
        return EventStream(
            await subscriptions.open(wish),
            frames=frames,
            ending=subscriptions.ending,
            send_seconds_max=subscriptions.send_s_max,
        )

    return router


class Frames:
    """Deliveries of one service as text/event-stream (HTML Living Standard, 9.2.6), written once for all who get the same."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], bytes] = {}
        self._bytes = 0

    def of(self, delivery: Delivery) -> bytes:
        """A heartbeat moves the client's position all the same."""
        if not delivery.events:
            return b": heartbeat\nid: %d\n\n" % delivery.position
        positions = tuple([event.position for event in delivery.events])
        frames = self._kept.get(positions)
        return self._keep(positions, b"".join(map(_frame, delivery.events))) if frames is None else frames

    def _keep(self, positions: tuple[int, ...], frames: bytes) -> bytes:
        if self._bytes + len(frames) > FRAMES_BYTES_MAX:
            self._kept.clear()
            self._bytes = 0
        self._kept[positions] = frames
        self._bytes += len(frames)
        return frames


class EventStream(Response):
    """Sends deliveries until they end, the client goes, or it takes nothing for `send_seconds_max`.

    `ending` is set when the process goes: then a client that takes nothing is not waited for.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        deliveries: AsyncGenerator[Delivery, None],
        *,
        frames: Frames,
        ending: asyncio.Event,
        send_seconds_max: float,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._deliveries = deliveries
        self._frames = frames
        self._ending = ending
        self._send_seconds_max = send_seconds_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        write = scope.get("extensions", {}).get(WRITE, _is_not_taken)
        sending = asyncio.ensure_future(self._send_all(send, write))
        leaving = asyncio.ensure_future(_left(receive))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({sending, leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                await asyncio.wait({sending, leaving}, timeout=ENDING_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done() and not (sending.done() and sending.result()):
                _log.info("a subscriber of %s takes nothing and is cut off", scope["path"])
                _cut(scope)
        finally:
            for task in (sending, leaving, ending):
                task.cancel()
            await asyncio.gather(sending, leaving, ending, return_exceptions=True)

    async def _send_all(self, send: Send, write: Callable[[bytes], bool]) -> bool:
        """False if the client took nothing for too long."""
        try:
            await self._send(send, b"retry: %d\n\n" % RETRY_MILLISECONDS)
            with contextlib.suppress(ProoftrailError):  # the stream ends: the client asks again, and is told why
                async with contextlib.aclosing(self._deliveries) as deliveries:
                    async for delivery in deliveries:
                        frames = self._frames.of(delivery)
                        if not write(frames):
                            await self._send(send, frames)
            await self._send(send, b"", more=False)
        except TimeoutError:
            return False
        return True

    async def _send(self, send: Send, chunk: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._send_seconds_max):
            await send({"type": "http.response.body", "body": chunk, "more_body": more})


def _cut(scope: Scope) -> None:
    """Without the extension the server closes the connection, which a peer that reads nothing holds half open."""
    cut: Callable[[], None] | None = scope.get("extensions", {}).get(CUT)
    if cut is not None:
        cut()


def _is_not_taken(_chunk: bytes) -> bool:
    return False


def _frame(event: RecordedEvent) -> bytes:
    data = event.raw.replace(b"\n", b"\ndata: ")
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.position, event.name.encode(), data)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
