"""Group reading: what is asked at about the same time is asked by one query, so that many requests share a round trip.

An answer is never older than its question: nobody joins a query that was sent before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from shared.database_connection import may_come_from_an_argument

QUESTIONS_MAX = 256

QuestionType = TypeVar("QuestionType")
AnswerType = TypeVar("AnswerType")


class GroupReader(Generic[QuestionType, AnswerType]):
    """Asks `read` one list of questions at a time; it gives the answers in the same order."""

    def __init__(self, *, read: Callable[[Sequence[QuestionType]], Awaitable[Sequence[AnswerType]]]) -> None:
        self._read = read
        self._waiting: list[tuple[QuestionType, asyncio.Future[AnswerType]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: QuestionType) -> AnswerType:
        """The answer; raises what `read` raises. A question that cannot be asked spoils no other one's answer."""
        answer: asyncio.Future[AnswerType] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._task is None:  # it begins after those that are ready now, so their questions go along
            self._task = asyncio.create_task(self._ask_all(), name="group reader")
        return await answer

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:QUESTIONS_MAX], self._waiting[QUESTIONS_MAX:]
                await self._ask_together([(question, answer) for question, answer in asked if not answer.done()])
        finally:
            for _, answer in self._waiting:
                answer.cancel()
            self._waiting.clear()
            self._task = None

    async def _ask_together(self, asked: Sequence[tuple[QuestionType, asyncio.Future[AnswerType]]]) -> None:
        try:
            answers = await self._read([question for question, _ in asked]) if asked else ()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the answer of those who wait
            if len(asked) > 1 and may_come_from_an_argument(error):
                for one in asked:
                    await self._ask_together([one])
                return
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        except BaseException:
            for _, answer in asked:
                answer.cancel()
            raise
        for (_, answer), told in zip(asked, answers, strict=True):
            if not answer.done():
                answer.set_result(told)
