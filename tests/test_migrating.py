"""Migrations by the owner alone: services have the passwords of their own logins, wait for their schema, and can do no more."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from services.composition import SERVICES, DatabaseOutOfReach, local_issuer, migrate_all, until_migrated
from shared.database_roles import FEED, LoginMissing, address_for, given_logins
from shared.migrations import SchemaBehind
from shared.settings import InvalidSetting, Settings, read_settings
from tests.house import fresh_database
from tests.serving import CHECKOUT, bare_environment, served

SYSTEM = {"key": "loans", "name": "L", "intended_use": "tests", "risk_class": "limited", "reason": "tests"}


@dataclass(frozen=True)
class Place:
    """A database whose owner is no superuser; `address` names no user."""

    owner_url: str
    address: str
    logins: Path


async def made_owner(url: str, *, may: str) -> str:
    """The address of the database under a new owner of its, who is no superuser."""
    role = f"owner_{urlsplit(url).path[1:]}"
    administrator = await asyncpg.connect(url)
    try:
        await administrator.execute(f"CREATE ROLE {role} LOGIN {may} PASSWORD 'the-owner-alone'")
        await administrator.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} OWNER TO {role}")
    finally:
        await administrator.close()
    return address_for(url, role=role, password="the-owner-alone")


async def as_owner(place: Place, statement: str) -> None:
    owner = await asyncpg.connect(place.owner_url)
    try:
        await owner.execute(statement)
    finally:
        await owner.close()


@pytest.fixture
async def place(server_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    """With a password for each login, and nothing in it."""
    async with fresh_database(server_url) as url:
        folder = tmp_path / "logins"
        folder.mkdir()
        for number, user in enumerate((*SERVICES, FEED)):
            (folder / user).write_text(f"password-number-{number}\n")
        owner_url = await made_owner(url, may="CREATEROLE")
        yield Place(owner_url, address_for(url, role="", password="").replace(":@", ""), folder)


def migrate(place: Place, data: Path) -> subprocess.CompletedProcess[str]:
    """The job of a release, as a process of its own."""
    environment = {
        **bare_environment(),
        "DATABASE_URL": place.owner_url,
        "PROOFTRAIL_LOGINS": str(place.logins),
        "PROOFTRAIL_DATA": str(data),
    }
    return subprocess.run(
        [sys.executable, "-m", "services.command", "migrate"], cwd=CHECKOUT, env=environment, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@contextlib.contextmanager
def own_logins(place: Place, folder: Path, *users: str) -> Iterator[Path]:
    """Only the passwords of these logins."""
    folder.mkdir()
    for user in users:
        (folder / user).write_text((place.logins / user).read_text())
    yield folder


async def test_a_service_waits_for_the_owner_and_then_serves_under_its_own_login(place: Place, tmp_path: Path) -> None:
    """It has two passwords of six and no owner; the job comes later, and is run twice."""
    data = tmp_path / "data"
    token = local_issuer(Settings(data=data)).mint(name="Olga Owner")
    migrating = asyncio.get_running_loop().run_in_executor(None, _after, 2.0, place, tmp_path / "job")
    with (
        own_logins(place, tmp_path / "own", "requirements", FEED) as folder,
        served(data, "requirements", database_url=place.address, settings={"PROOFTRAIL_LOGINS": str(folder)}) as (
            address, _, _,
        ),
    ):  # fmt: skip
        first, second = await migrating
        async with httpx.AsyncClient(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        ) as http:
            answer = await http.post("/v1/systems", json=SYSTEM)
            assert answer.status_code == 201, answer.text
            info = (await http.get("/v1/info")).json()
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "requirements: shared/0001_event_store" in first.stdout
    assert (
        second.stdout
        == "The database is at this version. Logins: one for each service, none of which can change an event.\n"
    )
    assert "none of which can change an event" in info["database_roles"]
    own = await asyncpg.connect(given_logins(place.address, folder=place.logins).url("requirements"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await own.execute("DELETE FROM requirements.event")
    finally:
        await own.close()


def _after(seconds: float, place: Place, data: Path) -> tuple[subprocess.CompletedProcess[str], ...]:
    time.sleep(seconds)
    return migrate(place, data), migrate(place, data)


async def test_what_is_missing_is_named(place: Place) -> None:
    """No role yet; roles and no schema of this version; a file that holds no password."""
    logins = given_logins(place.address, folder=place.logins)
    with pytest.raises(DatabaseOutOfReach):
        await until_migrated(logins, patience_s=0)
    await migrate_all(place.owner_url, folder=place.logins)
    await until_migrated(logins, patience_s=0)
    await as_owner(place, "DELETE FROM releases.migration WHERE name LIKE '%0002%'")
    with pytest.raises(SchemaBehind, match="0002_append_batch"):
        await until_migrated(logins, patience_s=0)
    (place.logins / FEED).write_text("short")
    with pytest.raises(LoginMissing, match="feed"):
        await until_migrated(logins, patience_s=0)


async def test_a_newer_schema_stops_nobody_who_serves(place: Place) -> None:
    """The job of the next version runs before its processes: one of this version that starts meanwhile serves."""
    await migrate_all(place.owner_url, folder=place.logins)
    await as_owner(place, "INSERT INTO releases.migration VALUES ('migrations/9999_later', 'd')")
    await until_migrated(given_logins(place.address, folder=place.logins), patience_s=0)


async def test_an_owner_who_may_not_make_logins_is_told(server_url: str, tmp_path: Path) -> None:
    """Nothing falls back to the owner's login where own ones were asked for."""
    async with fresh_database(server_url) as url:
        owner_url = await made_owner(url, may="NOCREATEROLE")
        answer = await asyncio.to_thread(migrate, Place(owner_url, url, tmp_path), tmp_path / "data")
    assert answer.returncode == 2
    assert "CREATEROLE" in answer.stderr


def test_logins_belong_to_a_database_of_ones_own() -> None:
    """The embedded one has none."""
    with pytest.raises(InvalidSetting, match="DATABASE_URL"):
        read_settings({"PROOFTRAIL_LOGINS": "/logins"})
