"""A connection that the server has ended is over at once, also while the end of its stream has not arrived."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.database_connection import DatabaseConnection
from shared.log.sealer import DATABASE_AWAY, Sealer
from tests.shared.cuttable import cuttable
from tests.shared.log.sealed_store import QUICK, SERVICE, running, sealed_store, until

STATEMENTS: dict[str, Callable[[asyncpg.Connection], Awaitable[Any]]] = {
    "execute": lambda connection: connection.execute("SELECT 1"),
    "executemany": lambda connection: connection.executemany("SELECT $1::integer", [(1,), (2,)]),
    "fetch": lambda connection: connection.fetch("SELECT 1"),
    "fetchval": lambda connection: connection.fetchval("SELECT 1"),
    "fetchrow": lambda connection: connection.fetchrow("SELECT 1"),
    "copy": lambda connection: connection.copy_records_to_table("anything", records=[(1,)]),
}


async def end(server_url: str, whose: str) -> None:
    """The server says its last word to those connections and ends them."""
    administrator = await asyncpg.connect(server_url)
    for (backend,) in await administrator.fetch(f"SELECT pid FROM pg_stat_activity WHERE {whose}"):
        assert await administrator.fetchval("SELECT pg_terminate_backend($1, 60000)", backend), (
            "it did not end in a minute"
        )
    await administrator.close()


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_whoever_uses_it_next_is_told_that_the_database_is_away(server_url: str, statement: str) -> None:
    """In a way that followers know, and the connection is closed: nobody takes it for a mistake of the program."""
    async with cuttable(server_url) as line:
        line.hides_the_end = True
        connection = await asyncpg.connect(line.url, connection_class=DatabaseConnection)
        await end(server_url, f"pid = {connection.get_server_pid()}")
        with pytest.raises(DATABASE_AWAY):
            await STATEMENTS[statement](connection)
        assert connection.is_closed()


async def test_the_sealer_goes_on_over_a_new_connection(server_url: str, tmp_path: Path) -> None:
    """It keeps one for as long as it leads; the end of that one does not end the sealer."""
    async with sealed_store(server_url, tmp_path) as store, cuttable(store.url) as line:
        line.hides_the_end = True
        sealer = Sealer(dsn=line.url, service=SERVICE, signer=store.signer, feed=store.feed, pace=QUICK)
        async with running(sealer.run):
            await store.append(3)
            await until(lambda: sealer.size == 3)
            await end(store.url, f"application_name = 'prooftrail {SERVICE} sealer'")
            await store.append(4)
            await until(lambda: sealer.size == 7)
