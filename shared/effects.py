"""The effects of a batch of events on tables, gathered and executed together: one round trip for many rows.

A statement names its row by the first two of its arguments, or by fewer. Statements on one row are executed in the order in which
they came; those on different rows change places, so that equal ones go to the database side by side.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any

import asyncpg

KEY_ARGUMENTS = 2

_TABLE = re.compile(r"(?:INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)")

Fold = Callable[[asyncpg.Connection, Sequence[Any]], Awaitable[None]]
"""What is worked out of rows, for all items of a batch at once."""


class Effects:
    """What a projection writes to. Nothing is in the tables before `settle`."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._rounds: list[dict[str, list[tuple[Any, ...]]]] = []
        self._next_round: dict[tuple[Any, ...], int] = defaultdict(int)
        self._folds: dict[Fold, list[Any]] = {}

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Takes an INSERT, UPDATE or DELETE on one row."""
        row = (_table_of(statement), *arguments[:KEY_ARGUMENTS])
        number = self._next_round[row]
        self._next_round[row] = number + 1
        if number == len(self._rounds):
            self._rounds.append({})
        self._rounds[number].setdefault(statement, []).append(arguments)

    def fold(self, fold: Fold, item: Any) -> None:
        """Takes an item for a fold, which is called once with all of them when the statements are executed."""
        self._folds.setdefault(fold, []).append(item)

    async def settle(self) -> None:
        """Executes everything that was taken; what one statement raises is raised here."""
        rounds, folds = self._rounds, self._folds
        self._rounds, self._folds = [], {}
        self._next_round.clear()
        for statements in rounds:
            for statement, rows in statements.items():
                if len(rows) == 1:
                    await self._connection.execute(statement, *rows[0])
                else:
                    await self._connection.executemany(statement, rows)
        for fold, items in folds.items():
            await fold(self._connection, items)


@lru_cache(maxsize=1024)
def _table_of(statement: str) -> str:
    found = _TABLE.search(statement)
    return found[1] if found else ""
