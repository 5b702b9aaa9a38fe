"""A lock of the whole deployment, by name, for as long as a block runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import asyncpg


@contextlib.asynccontextmanager
async def advisory_lock(connection: asyncpg.Connection, name: str) -> AsyncIterator[None]:
    """Waits for the lock and holds it on this connection while the block runs."""
    await _execute(connection, "SELECT pg_advisory_lock(hashtext($1))", name)
    try:
        yield
    finally:
        await _execute(connection, "SELECT pg_advisory_unlock(hashtext($1))", name)


async def _execute(connection: asyncpg.Connection, statement: str, name: str) -> None:
    """A connection that was cut off here, or cancelled, may hold the lock: it is ended, and the lock with it."""
    try:
        await connection.execute(statement, name)
    except BaseException:
        connection.terminate()
        raise
