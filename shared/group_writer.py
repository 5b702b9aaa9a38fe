"""Group commit: what arrives while one batch is being written is the next batch, so that many requests share one commit.

A request that is cancelled while it waits is not written; once it is on its way it is written all the same, and nobody is told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared.errors import Unavailable

REQUESTS_MAX = 256
BATCH_BYTES_MAX = 4 << 20
WAITING_REQUESTS_MAX = 4_096
WAITING_BYTES_MAX = 64 << 20


class Request(Protocol):
    """What can be written together with others."""

    @property
    def size(self) -> int:
        """About how many bytes it brings."""

    @property
    def claim(self) -> Hashable | None:
        """No two requests of one batch make the same claim; None makes none."""


RequestType = TypeVar("RequestType", bound=Request)
AnswerType = TypeVar("AnswerType")

Send = Callable[[Sequence[RequestType]], Awaitable[Sequence[AnswerType | Exception]]]
"""Writes a batch and tells each request's answer, or the error that is its answer, in order. It raises nothing."""


class TooMuchWaiting(Unavailable):
    """More is waiting to be written than the limits allow."""


class WriterClosed(Unavailable):
    """The service is ending: what was taken is still written, but nothing new is taken."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[RequestType, AnswerType]):
    request: RequestType
    answer: asyncio.Future[AnswerType]


class GroupWriter(Generic[RequestType, AnswerType]):
    """Takes requests one by one and writes them in batches, one batch at a time.

    A request that finds nothing on its way is written at once by its own task; a task of the writer's runs only while others wait.
    """

    def __init__(self, *, send: Send[RequestType, AnswerType]) -> None:
        self._send = send
        self._waiting: deque[_Waiting[RequestType, AnswerType]] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def write(self, request: RequestType) -> AnswerType:
        """The answer to the request once its batch is written. TooMuchWaiting and WriterClosed: it was not taken."""
        self._require_room(request)
        if self._idle.is_set():
            return await self._write_alone(request)
        answer: asyncio.Future[AnswerType] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, answer))
        self._waiting_bytes += request.size
        return await answer

    async def close(self) -> None:
        """Takes nothing more and returns when everything that was taken is answered."""
        self._closed = True
        await self._idle.wait()

    async def _write_alone(self, request: RequestType) -> AnswerType:
        self._idle.clear()
        try:
            (answer,) = await self._send([request])
        finally:
            if self._waiting:
                self._task = asyncio.create_task(self._write_all(), name="group writer")
            else:
                self._idle.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _require_room(self, request: RequestType) -> None:
        if self._closed:
            raise WriterClosed(
                "The service is ending.",
                why="It writes what it has taken and takes nothing new.",
                next_step="Send the same request again when it is back.",
            )
        full = self._waiting_bytes + request.size > WAITING_BYTES_MAX or len(self._waiting) >= WAITING_REQUESTS_MAX
        if self._waiting and full:
            raise TooMuchWaiting(
                "Too many requests are waiting to be written.",
                why=f"{len(self._waiting)} requests with {self._waiting_bytes} bytes wait; nothing of this one was written.",
                next_step="Send the same request again after the time in Retry-After.",
            )

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        batch: Sequence[_Waiting[RequestType, AnswerType]] = ()
        try:
            while batch := self._next_batch(told=max(1, len(batch))):
                answers = await self._send([one.request for one in batch])
                loop.call_soon(_tell, batch, answers)  # while the next one is on its way
        except BaseException:
            for one in (*batch, *self._waiting):
                one.answer.cancel()
            self._waiting.clear()
            self._waiting_bytes = 0
            raise
        finally:
            self._task = None
            self._idle.set()

    def _next_batch(self, *, told: int) -> list[_Waiting[RequestType, AnswerType]]:
        """The oldest requests that may go together, without those that were cancelled; empty when nothing waits.

        Half of those who wait and of the `told`, who were answered last: the other half is made ready while this one is written.
        """
        requests_max = min(REQUESTS_MAX, (len(self._waiting) + told + 1) // 2)
        batch: list[_Waiting[RequestType, AnswerType]] = []
        left: list[_Waiting[RequestType, AnswerType]] = []
        claims: set[Hashable] = set()
        room = BATCH_BYTES_MAX
        while self._waiting and room > 0 and len(batch) < requests_max:
            one = self._waiting.popleft()
            if one.answer.done():
                self._waiting_bytes -= one.request.size
            elif one.request.claim in claims:
                left.append(one)
            else:
                batch.append(one)
                room -= one.request.size
                claims |= {one.request.claim} - {None}
        self._waiting.extendleft(reversed(left))
        self._waiting_bytes -= sum(one.request.size for one in batch)
        return batch


def _tell(batch: Sequence[_Waiting[RequestType, AnswerType]], answers: Sequence[AnswerType | Exception]) -> None:
    for one, answer in zip(batch, answers, strict=True):
        if one.answer.done():
            continue
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)
