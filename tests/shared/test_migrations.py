"""Migrations: each once, in order, under a lock; a database that another version wrote is refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from shared.migrations import (
    STORE_SCRIPTS,
    AlteredMigration,
    Migration,
    NewerSchema,
    migrate,
    scripts_in,
)
from tests.house import fresh_database

SERVICE = "drift"
FIRST = Migration(
    name="drift/0001_first", sql="CREATE TABLE {schema}.told (line text); INSERT INTO {schema}.told VALUES ('first');"
)
SECOND = Migration(name="drift/0002_second", sql="INSERT INTO {schema}.told VALUES ('{service}');")
THIRD = Migration(name="drift/0003_third", sql="ALTER TABLE {schema}.told ADD COLUMN more text;")
PROGRAM = """
import asyncio, sys
from shared.runtime import migrate_service
print(len(asyncio.run(migrate_service(sys.argv[1], service="drift"))))
"""


@pytest.fixture
async def url(server_url: str) -> AsyncIterator[str]:
    """An empty database."""
    async with fresh_database(server_url) as address:
        yield address


@pytest.fixture
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the empty database."""
    opened = await asyncpg.connect(url)
    yield opened
    await opened.close()


async def told(connection: asyncpg.Connection) -> list[str]:
    return [row["line"] for row in await connection.fetch("SELECT line FROM drift.told")]


async def test_each_is_applied_once_and_in_order(connection: asyncpg.Connection) -> None:
    """Again is nothing, and a newer version applies only what is new."""
    assert await migrate(connection, service=SERVICE, migrations=[FIRST, SECOND]) == [FIRST.name, SECOND.name]
    assert await migrate(connection, service=SERVICE, migrations=[FIRST, SECOND]) == []
    assert await migrate(connection, service=SERVICE, migrations=[FIRST, SECOND, THIRD]) == [THIRD.name]
    assert await told(connection) == ["first", "drift"]


async def test_a_database_of_a_newer_version_is_refused(connection: asyncpg.Connection) -> None:
    """What this version does not know it must not touch."""
    await migrate(connection, service=SERVICE, migrations=[FIRST, SECOND])
    with pytest.raises(NewerSchema, match="drift/0002_second") as refused:
        await migrate(connection, service=SERVICE, migrations=[FIRST, THIRD])
    assert refused.value.next_step
    assert not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM information_schema.columns WHERE table_name = 'told' AND column_name = 'more')"
    )


async def test_an_altered_migration_is_refused(connection: asyncpg.Connection) -> None:
    """An applied one never changes, not by a space."""
    await migrate(connection, service=SERVICE, migrations=[FIRST])
    with pytest.raises(AlteredMigration, match="drift/0001_first"):
        await migrate(connection, service=SERVICE, migrations=[Migration(name=FIRST.name, sql=FIRST.sql + " "), SECOND])
    assert await told(connection) == ["first"]


async def test_one_that_fails_leaves_nothing_of_any(connection: asyncpg.Connection) -> None:
    """All missing ones are one transaction."""
    broken = Migration(name="drift/0003_broken", sql="INSERT INTO {schema}.nowhere VALUES (1);")
    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(connection, service=SERVICE, migrations=[FIRST, SECOND, broken])
    assert not await connection.fetchval("SELECT to_regclass('drift.told') IS NOT NULL")
    assert len(await migrate(connection, service=SERVICE, migrations=[FIRST, SECOND])) == 2


async def test_two_processes_at_once_apply_each_once(url: str, connection: asyncpg.Connection) -> None:
    """Two replicas of a service start together."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, url, cwd=STORE_SCRIPTS.parent.parent, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    printed = [(await process.communicate())[0].decode().strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    scripts = scripts_in(STORE_SCRIPTS)
    assert sorted(printed) == sorted(["0", str(len(scripts))])
    assert await connection.fetchval("SELECT count(*) FROM drift.migration") == len(scripts)


async def test_services_have_schemas_of_their_own(connection: asyncpg.Connection) -> None:
    """The same scripts twice, with nothing shared."""
    for service in ("drift", "releases"):
        await migrate(connection, service=service, migrations=scripts_in(STORE_SCRIPTS))
    heads = await connection.fetch("SELECT table_schema FROM information_schema.tables WHERE table_name = 'head'")
    assert {row["table_schema"] for row in heads} == {"drift", "releases"}


def test_scripts_come_in_order_of_folder_and_number(tmp_path: Path) -> None:
    """Names say where a script comes from; other files are none."""
    for folder, names in (
        ("store", ("0002_b.sql", "0001_a.sql", "readme.sql", "__init__.py")),
        ("own", ("0001_c.sql",)),
    ):
        (tmp_path / folder / "migrations").mkdir(parents=True)
        for name in names:
            (tmp_path / folder / "migrations" / name).write_text("SELECT 1")
    found = scripts_in(tmp_path / "store" / "migrations", tmp_path / "own" / "migrations")
    assert [migration.name for migration in found] == ["store/0001_a", "store/0002_b", "own/0001_c"]


async def test_events_cannot_be_changed_or_removed(connection: asyncpg.Connection) -> None:
    """The seat belt under the permissions: the table itself refuses."""
    await migrate(connection, service=SERVICE, migrations=scripts_in(STORE_SCRIPTS))
    await connection.execute(
        "SELECT drift.append(NULL, NULL, NULL, 'a:s/1', 1, '{a:s/1}', '{1}', '{drift.x}', '{s}', '{\"{}\"}')"
    )
    for statement in ("UPDATE drift.event SET name = 'y'", "DELETE FROM drift.event", "TRUNCATE drift.event"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute(statement)
    assert await connection.fetchval("SELECT count(*) FROM drift.event") == 1
