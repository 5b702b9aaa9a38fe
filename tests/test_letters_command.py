"""`prooftrail dead-letters`: a foreign event that drift cannot read, seen by an operator, and taken once it can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.foreign import append_foreign
from tests.house import fresh_database
from tests.serving import CHECKOUT, bare_environment, served

NONE_LEFT, SOME_LEFT = 0, 1


def dead_letters(url: str, data: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "services.command", "dead-letters", *arguments], cwd=CHECKOUT, check=False,
        env={**bare_environment(), "DATABASE_URL": url, "PROOFTRAIL_DATA": str(data)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == "" or done.returncode in (NONE_LEFT, SOME_LEFT), done.stderr
    return done.returncode, done.stdout


async def test_an_operator_sees_them_and_has_them_taken(server_url: str, tmp_path: Path) -> None:
    """While drift serves: listed with reader, place and reason; a replay that mends nothing leaves them; one that can, none."""
    data = tmp_path / "data"
    async with fresh_database(server_url) as url:
        with served(data, "drift", database_url=url):
            assert dead_letters(url, data) == (NONE_LEFT, "There are no dead letters.\n")
            position = await append_foreign(url, "requirements", "role-granted", "ai-system:loans", nonsense=True)
            await until_buried(url)
            code, listed = dead_letters(url, data, "drift")
            assert code == SOME_LEFT
            assert f"drift: projection of requirements:{position}  " in listed
            assert dead_letters(url, data, "drift", "--replay")[0] == SOME_LEFT
            connection = await asyncpg.connect(url)
            # What is mended is mostly code; here the event becomes one that drift does not read.
            await connection.execute("SET session_replication_role = replica")
            await connection.execute("UPDATE requirements.event SET name = 'requirements.of-no-interest'")
            await connection.close()
            assert dead_letters(url, data, "drift", "--replay") == (NONE_LEFT, "There are no dead letters.\n")


async def until_buried(url: str) -> None:
    """Returns once the projection has given up."""
    connection = await asyncpg.connect(url)
    try:
        for _ in range(600):
            if await connection.fetchval("SELECT count(*) FROM drift.dead_letter") >= 1:
                return
            await connection.execute("SELECT pg_sleep(0.1)")
    finally:
        await connection.close()
    pytest.fail("nothing was buried in a minute")
