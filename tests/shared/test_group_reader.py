"""Group reading: together, never older than the question, and nobody pays for another one's question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from shared.group_reader import QUESTIONS_MAX, GroupReader


class Counter:
    """Answers each question with how many queries had been sent when its query was; holds queries back while `open` is not set."""

    def __init__(self) -> None:
        self.queries: list[list[int]] = []
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def read(self, questions: Sequence[int]) -> list[tuple[int, int]]:
        self.queries.append(list(questions))
        self.asked.set()
        sent = len(self.queries)
        await self.open.wait()
        if any(question < 0 for question in questions):
            raise asyncpg.DataError("a negative number")
        if 0 in questions:
            raise ConnectionResetError("the connection broke")
        return [(question, sent) for question in questions]


async def test_questions_of_one_moment_are_asked_together() -> None:
    """Sixteen that ask at the same time cost one query, and each has its own answer."""
    counter = Counter()
    reader = GroupReader(read=counter.read)
    assert await asyncio.gather(*map(reader.ask, range(1, 17))) == [(number, 1) for number in range(1, 17)]
    assert counter.queries == [list(range(1, 17))]


async def test_nobody_joins_a_query_that_is_on_its_way() -> None:
    """What is asked after a query was sent, even the same question, is answered by a later one."""
    counter = Counter()
    reader = GroupReader(read=counter.read)
    counter.open.clear()
    first = asyncio.create_task(reader.ask(7))
    await counter.asked.wait()
    later = [asyncio.create_task(reader.ask(question)) for question in (7, 8)]
    await asyncio.sleep(0)
    counter.open.set()
    assert await asyncio.gather(first, *later) == [(7, 1), (7, 2), (8, 2)]


async def test_a_question_that_cannot_be_asked_fails_alone() -> None:
    """An argument that the database refuses is the error of the one who sent it."""
    counter = Counter()
    reader = GroupReader(read=counter.read)
    answers = await asyncio.gather(*map(reader.ask, (1, -2, 3)), return_exceptions=True)
    assert answers[0] == (1, 2)
    assert isinstance(answers[1], asyncpg.DataError)
    assert answers[2] == (3, 4)


async def test_a_broken_connection_is_told_to_all_and_the_next_question_is_asked_anew() -> None:
    """It is not tried once for each of those who wait: that would take as long as all their patience together."""
    counter = Counter()
    reader = GroupReader(read=counter.read)
    answers = await asyncio.gather(*map(reader.ask, (0, 1, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionResetError] * 3
    assert len(counter.queries) == 1
    assert await reader.ask(1) == (1, 2)


async def test_one_who_gives_up_takes_nobody_along() -> None:
    """The others are answered, and a question that nobody waits for any more is not asked."""
    counter = Counter()
    reader = GroupReader(read=counter.read)
    counter.open.clear()
    tasks = [asyncio.create_task(reader.ask(1))]
    await counter.asked.wait()
    tasks += [asyncio.create_task(reader.ask(question)) for question in (2, 3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[1].cancel()
    counter.open.set()
    assert await tasks[2] == (3, 2)
    assert counter.queries == [[1], [3]]
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def test_a_query_has_a_limit() -> None:
    """More questions than the limit are asked by several queries, in order."""
    counter = Counter()
    reader = GroupReader(read=counter.read)
    asked = range(1, QUESTIONS_MAX + 3)
    assert [question for question, _ in await asyncio.gather(*map(reader.ask, asked))] == list(asked)
    assert [len(query) for query in counter.queries] == [QUESTIONS_MAX, 2]
