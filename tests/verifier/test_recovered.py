"""A deployment that was taken up again from a backup: lawful, never silent, and nothing that was promised before is hidden."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.data_command import begin_again
from shared.log.upkeep import recover
from shared.runtime import utc_now
from shared.settings import Settings
from tests.house import TestHouse, fresh_database
from tests.requirements.test_http_api import staffed
from tests.test_logs import serve
from tests.verifier.sealed_house import SealedHouse, quick_seals
from tests.verifier.test_export import exported
from verifier.prooftrail_verify import Brought, Code, Pins, verify

GRANT = "/v1/systems/flight-delay:grant-role"


@contextlib.asynccontextmanager
async def backup(server_url: str, database_url: str) -> AsyncIterator[str]:
    """A copy of the database as it is now, dropped afterwards with the logins that were made for it."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    administrator = await asyncpg.connect(server_url)
    await administrator.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name}")
    try:
        yield database_url.replace(name, f"{name}_backup")
    finally:
        await administrator.execute(f"DROP DATABASE {name}_backup WITH (FORCE)")
        for role in await administrator.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE $1", f"%{name}_backup%"):
            await administrator.execute(f'DROP ROLE "{role["rolname"]}"')
        await administrator.close()


@pytest.fixture(autouse=True)
def _quick_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_seals(monkeypatch)


async def test_a_recovered_log_is_proven_and_what_it_lost_is_told(server_url: str, tmp_path: Path) -> None:
    """Checkpoints from before the loss fit; one of the lost time was given up by the record; a lost promise is a fork."""
    kept: dict[str, Any] = {}

    async def before(house: TestHouse) -> None:
        await staffed(house)
        sealed = SealedHouse(house)
        await sealed.seal()
        kept.update(pins=sealed.pins, older=sealed.signers["requirements"].note)

    async def lost(house: TestHouse) -> None:
        receipt = await house.client("Olga Owner").post(GRANT, subject="person-1", role="auditor")
        sealed = SealedHouse(house)
        await sealed.seal()
        kept.update(promise=receipt["promise"], given_up=sealed.signers["requirements"].note)

    async def after(house: TestHouse) -> None:
        service = house.house.services["requirements"]
        await recover(store=service.foundation.store, log=service.foundation.log, why="the disk died", clock=utc_now)
        await house.client("Olga Owner").post(GRANT, subject="person-2", role="auditor")
        sealed = SealedHouse(house)
        await sealed.seal()
        kept.update(pack=(await sealed.exported()).getvalue())

    async with fresh_database(server_url) as database_url:
        await serve(database_url, tmp_path, before)
        async with backup(server_url, database_url) as backup_url:
            await serve(database_url, tmp_path, lost)
            await serve(backup_url, tmp_path, after)

    pins: Pins = kept["pins"]
    report = verify(io.BytesIO(kept["pack"]), pins, Brought(checkpoints=[kept["older"], kept["given_up"]]))
    assert report.code is Code.PROVEN, report.text()
    told = "\n".join(report.not_proven)
    assert "requirements: taken up from a backup, this is epoch 2" in told
    assert "requirements: the checkpoint of size 4 was given up by a recorded recovery" in told
    broken = verify(io.BytesIO(kept["pack"]), pins, Brought(promises=[kept["promise"]]))
    assert broken.failure is not None
    assert (broken.code, broken.failure.position) == (Code.FORK, 4)


async def test_what_a_restored_deployment_lost_is_told_though_nobody_knows_how_much(
    server_url: str, tmp_path: Path
) -> None:
    """Database and log folder came from one backup: checkpoints after it are given up, also when the log has outgrown them."""
    kept: dict[str, Any] = {}
    folder, copy = tmp_path / "data", tmp_path / "copy"

    async def before(house: TestHouse) -> None:
        await staffed(house)
        sealed = SealedHouse(house)
        await sealed.seal()
        kept.update(pins=sealed.pins, older=sealed.signers["requirements"].note)

    async def lost(house: TestHouse) -> None:
        await house.client("Olga Owner").post(GRANT, subject="person-1", role="auditor")
        sealed = SealedHouse(house)
        await sealed.seal()
        kept.update(given_up=sealed.signers["requirements"].note)

    async def after(house: TestHouse) -> None:
        for number in (2, 3):
            await house.client("Olga Owner").post(GRANT, subject=f"person-{number}", role="auditor")
        await house.client("Olga Owner").get("/v1/systems/flight-delay/state")
        sealed = SealedHouse(house)
        await sealed.seal()
        kept.update(packs=[await sealed.exported(), io.BytesIO(await exported(sealed, person="Olga Owner"))])

    async with fresh_database(server_url) as database_url:
        await serve(database_url, folder, before)
        shutil.copytree(folder, copy)
        async with backup(server_url, database_url) as backup_url:
            await serve(database_url, folder, lost)
            settings = Settings(data=copy, database_url=backup_url, deployment="acme")
            await begin_again(settings, backup_url, "the disk was lost")
            await serve(backup_url, copy, after)

    for pack in kept["packs"]:
        report = verify(pack, kept["pins"], Brought(checkpoints=[kept["older"], kept["given_up"]]))
        assert report.code is Code.PROVEN, report.text()
        assert "requirements: taken up from a backup, this is epoch 2" in report.not_proven
        given_up = "requirements: the checkpoint of size 4 was given up by a recorded recovery"
        assert given_up in report.not_proven
