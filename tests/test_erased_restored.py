"""Who was erased stays erased when an older database comes back: in tables, feeds and new packs, before anything is served."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from services.composition import SERVICES, House, offline_house
from services.data_command import begin_again, follow_erasures
from shared.backup.restoring import restore
from shared.erasure import SOURCE, person_stream
from shared.errors import ProoftrailError
from shared.kept_erasures import FILE, KeptErasure, KeptErasures
from shared.settings import Settings
from tests.house import TestHouse, fresh_database, running_house
from tests.test_backup import covered, place, quiet, register, restored, taken
from tests.test_erasure import (
    NAME,
    NEVER_KEPT,
    SYSTEM,
    WHY,
    erase,
    erased_in,
    events_in,
    files_with,
    let_go,
    operator,
    owner_of,
    places_of,
    signed,
)
from tests.test_moving import client_of

__all__ = ["place"]


@pytest.fixture
async def house(server_url: str, place: Path) -> AsyncIterator[TestHouse]:
    """All services, where nothing is kept for a time after its end."""
    async with running_house(
        server_url=server_url, folder=place / "data", webhook_networks=(), **NEVER_KEPT
    ) as running:
        yield running


async def test_who_was_erased_after_the_backup_is_unreadable_in_what_is_restored(house: TestHouse, place: Path) -> None:
    """Every service tells it once more, in the new epoch; without the list the name is back."""
    owner, person = await signed(house)
    await let_go(owner, person)
    await taken(house, place / "backup")
    await erase(owner, person)

    async def finish(url: str, staging: Path) -> None:
        async with owner_of(url) as connection:
            assert await places_of(connection, NAME), "the backup has the name"
        await begin_again(Settings(data=staging), url, "the disk was lost")

    await restore(
        folder=place / "backup", data=place / "again", progress=quiet, newest=place / "data", finish=finish
    )  # fmt: skip
    assert NAME not in (place / "again" / "issuer" / "people.json").read_text()
    async with restored(place / "again") as again:
        url = again.runtime.database_url
        async with owner_of(url) as connection:
            assert await places_of(connection, NAME) == set()
            assert await files_with(connection, NAME) == set()
        assert erased_in(await events_in(url)) == dict.fromkeys(SERVICES, 1)
        assert NAME not in await told_by(again, "Olga Owner")


async def told_by(house: House, name: str) -> str:
    """The feeds and a new pack, as the person reads them."""
    for service in house.services.values():
        await service.foundation.projection.catch_up()
    await house.services[SOURCE].application.ledger.catch_up()
    reader = await client_of(house, name)
    async with reader.http:
        answers = [await reader.get(f"/v1/{service}/events", page_size=200) for service in SERVICES]
        pack = await reader.get(f"/v1/systems/{SYSTEM}/evidence-pack")
    assert name in json.dumps(pack)
    return json.dumps([*answers, pack])


async def test_a_folder_that_cannot_tell_who_was_erased_is_refused(house: TestHouse, place: Path) -> None:
    """Another deployment's, one older than the backup, one without signers; nothing is made."""
    await taken(house, place / "older")
    await restore(folder=place / "older", data=place / "old", progress=quiet)
    await register(house.client("Olga Owner"), "flights")
    await covered(house.house, "requirements")
    await taken(house, place / "backup")
    async with (
        fresh_database(house.house.runtime.database_url) as url,
        offline_house(settings=Settings(data=place / "other", database_url=url), database_url=url),
    ):
        pass
    for newest in ("old", "other", "nowhere"):
        with pytest.raises(ProoftrailError) as refused:
            await restore(folder=place / "backup", data=place / "again", progress=quiet, newest=place / newest)
        assert refused.value.reason == "not-newer", newest
        assert not (place / "again").exists()


async def test_a_database_from_before_the_erasure_is_erased_again_at_the_start_and_only_once(
    server_url: str, tmp_path: Path
) -> None:
    """As after a recovery to a point in time. Deleted before anything is served; who comes back later is left alone."""
    data = tmp_path / "data"
    async with fresh_database(server_url) as url:
        settings = Settings(data=data, database_url=url, retention_days=0)
        async with offline_house(settings=settings, database_url=url) as house:
            for service in ("requirements", "drift"):
                await house.services[service].foundation.directory.commitment(subject="person-1", name=NAME)
        async with copy_of(url) as older:
            async with offline_house(settings=settings, database_url=url) as house:
                erasure = house.services[SOURCE].application.erasure
                await erasure.erase_as_operator(context=operator(), subject="person-1", why=WHY)
                await follow_erasures(house)
            await check_older(settings, older)


@contextlib.asynccontextmanager
async def copy_of(url: str) -> AsyncIterator[str]:
    """The database as it is now, under another name."""
    name = url.partition("?")[0].rpartition("/")[2]
    copied = f"{name[:20]}_older"
    administrator = await asyncpg.connect(url.replace(f"/{name}", "/postgres"))
    try:
        await administrator.execute(f"CREATE DATABASE {copied} TEMPLATE {name}")
        yield url.replace(f"/{name}", f"/{copied}")
        await administrator.execute(f"DROP DATABASE {copied} WITH (FORCE)")
        for role in await administrator.fetch(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", f"prooftrail_{copied}_"
        ):
            await administrator.execute(f'DROP ROLE "{role["rolname"]}"')
    finally:
        await administrator.close()


async def check_older(settings: Settings, older: str) -> None:
    """Starts on the older database twice."""
    async with owner_of(older) as connection:
        assert await places_of(connection, NAME) == {"requirements.person", "drift.person"}
        async with offline_house(settings=settings, database_url=older) as house:
            assert await places_of(connection, NAME) == set()
            assert erased_in(await events_in(older)) == dict.fromkeys(SERVICES, 0)
            await house.services[SOURCE].foundation.eraser.record_again()
            await follow_erasures(house)
            told = [event.content() for event in (await events_in(older))["drift"]]
            assert [(one["stream"], one["data"]["why"]) for one in told] == [(person_stream("person-1"), WHY)]
            assert erased_in(await events_in(older)) == dict.fromkeys(SERVICES, 1)
            await house.services["drift"].foundation.directory.commitment(subject="person-1", name=NAME)
        (settings.data / "log" / "drift" / FILE).unlink()
        async with offline_house(settings=settings, database_url=older) as house:
            await house.services[SOURCE].foundation.eraser.record_again()
            assert await places_of(connection, NAME) == {"drift.person"}
            assert erased_in(await events_in(older)) == dict.fromkeys(SERVICES, 1)
    kept = KeptErasures(settings.data / "log" / "drift").known()
    assert kept == {"person-1": KeptErasure(times=1, why=WHY)}, "made again of what is recorded"
