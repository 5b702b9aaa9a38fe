"""Gathered effects leave the same rows as statements executed one by one."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import asyncpg
import pytest

from shared.effects import Effects
from tests.house import fresh_database

TABLES = """
CREATE TABLE record (system text, key text, status text, writes integer NOT NULL, PRIMARY KEY (system, key));
CREATE TABLE holder (system text, place text, key text, PRIMARY KEY (system, place));
CREATE TABLE total (system text PRIMARY KEY, total bigint NOT NULL);
"""
STATEMENTS = (
    "INSERT INTO record VALUES ($1, $2, $3, 1) ON CONFLICT (system, key) DO UPDATE"
    " SET status = EXCLUDED.status, writes = record.writes + 1",
    "UPDATE record SET status = status || $3, writes = writes + 1 WHERE system = $1 AND key = $2",
    "DELETE FROM record WHERE system = $1 AND key = $2 AND status <> $3",
    "INSERT INTO holder VALUES ($1, $2, $3) ON CONFLICT (system, place) DO UPDATE SET key = EXCLUDED.key",
)


def _at_random(seed: int, count: int) -> list[tuple[str, tuple[str, str, str]]]:
    random = Random(seed)
    chosen = [random.choice(STATEMENTS) for _ in range(count)]
    return [(one, (random.choice("ab"), random.choice("xyz"), random.choice("123"))) for one in chosen]


async def _rows(connection: asyncpg.Connection) -> list[Any]:
    return [
        await connection.fetch(f"SELECT t::text FROM {table} t ORDER BY 1") for table in ("record", "holder", "total")
    ]


@pytest.mark.parametrize("seed", range(5))
async def test_the_rows_are_those_of_one_statement_after_the_other(server_url: str, seed: int) -> None:
    """Whatever rows they touch and in whatever order; batches may end anywhere."""
    statements = _at_random(seed, 300)
    async with fresh_database(server_url) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(TABLES)
        for statement, arguments in statements:
            await connection.execute(statement, *arguments)
        expected = await _rows(connection)
        await connection.execute("TRUNCATE record, holder, total")
        for start in range(0, len(statements), 50):
            effects = Effects(connection)
            for statement, arguments in statements[start : start + 50]:
                await effects.execute(statement, *arguments)
            await effects.settle()
        assert await _rows(connection) == expected
        await connection.close()


async def test_a_fold_sees_all_rows_and_is_called_once(server_url: str) -> None:
    """With every item, after the statements; settling twice does nothing twice."""
    calls: list[Sequence[Any]] = []

    async def add_up(connection: asyncpg.Connection, items: Sequence[str]) -> None:
        calls.append(list(items))
        await connection.execute(
            "INSERT INTO total SELECT system, sum(writes) FROM record WHERE system = ANY($1) GROUP BY system"
            " ON CONFLICT (system) DO UPDATE SET total = EXCLUDED.total",
            items,
        )

    async with fresh_database(server_url) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(TABLES)
        effects = Effects(connection)
        for key in "xyz":
            effects.fold(add_up, "a")
            await effects.execute(STATEMENTS[0], "a", key, "1")
        assert await _rows(connection) == [[], [], []]
        await effects.settle()
        await effects.settle()
        assert calls == [["a", "a", "a"]]
        assert await connection.fetchval("SELECT total FROM total WHERE system = 'a'") == 3
        await connection.close()
