"""Backup and restore: of one moment while everything runs, whole or not at all, and never a rollback that nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from services.composition import SERVICES, House, offline_house
from services.data_command import begin_again
from shared.backup.manifest import DUMP, MANIFEST, Manifest, read_manifest
from shared.backup.restoring import restore
from shared.backup.taking import back_up
from shared.embedded_postgres import EmbeddedPostgres
from shared.errors import ProoftrailError
from shared.event_store import read_events
from shared.log.checkpoint import parse_checkpoint
from shared.log.note import parse_note
from shared.log.upkeep import OPEN_END
from shared.runtime import utc_now
from shared.settings import Settings
from tests.house import Client, TestHouse, running_house

FILE = b"the evidence itself" * 100


def quiet(_what: str, _done: int, _total: int | None) -> None:
    """Nobody looks."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent)


@pytest.fixture
async def house(server_url: str, place: Path) -> AsyncIterator[TestHouse]:
    """All services at work."""
    async with running_house(server_url=server_url, folder=place / "data") as running:
        yield running


async def taken(house: TestHouse, folder: Path) -> Manifest:
    """A backup of the house as it runs."""
    runtime = house.house.runtime
    return await back_up(
        url=runtime.database_url, data=runtime.settings.data, folder=folder, services=SERVICES,
        settings=runtime.settings.printable(), at=utc_now(), progress=quiet,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def restored(data: Path) -> AsyncIterator[House]:
    """The services on a restored data folder."""
    with EmbeddedPostgres.start(data / "postgres") as server:
        settings = Settings(data=data)
        async with offline_house(settings=settings, database_url=server.dsn) as house:
            yield house


async def leaves_of(url: str) -> dict[str, list[str]]:
    """The leaf hashes of every service in order of position."""
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        return {
            service: [event.leaf_hash for event in await read_events(pool, service=service, after=0, limit=100_000)]
            for service in SERVICES
        }


async def sealed(house: House, service: str) -> tuple[str, int]:
    """Origin and size of a checkpoint over everything that there is."""
    log = house.services[service].foundation.log
    async with log.sealer.alone() as connection:
        await log.sealer.seal_all(connection)
    head = parse_checkpoint(parse_note((await log.tables.sealed()).note).text)
    return head.origin, head.size


async def covered(house: House, service: str) -> None:
    """Returns when the running house has sealed everything that there is."""
    foundation = house.services[service].foundation
    head = await foundation.store.head()
    async with asyncio.timeout(60):
        while (latest := await foundation.log.tables.latest()) is None or latest.size < head:  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.05)


async def register(person: Client, key: str) -> dict[str, Any]:
    """One command and its receipt."""
    receipt: dict[str, Any] = await person.post(
        "/v1/systems", key=key, name=key, intended_use="To be there again.", risk_class="limited"
    )
    return receipt


async def test_a_backup_under_load_has_everything_acknowledged_before_it_and_goes_on_after_a_restore(
    house: TestHouse, place: Path
) -> None:
    """The same bytes at the same positions, the same people, files and origins; nothing is refused, and it continues."""
    owner = house.client("Olga Owner")
    first = await register(owner, "flights")
    await owner.post("/v1/systems/flights:grant-role", subject=owner.subject, role="author")
    await owner.put("/v1/systems/flights/artefacts/" + stored_file(), FILE)
    before: list[dict[str, Any]] = [first]
    stop = asyncio.Event()

    async def load(number: int) -> None:
        person, count = house.client(f"Person {number}"), 0
        while not stop.is_set():
            count += 1
            before.append(await register(person, f"load-{number}-{count}"))

    writers = [asyncio.create_task(load(number)) for number in range(4)]
    await asyncio.sleep(1.5)
    acknowledged = list(before)
    manifest = await taken(house, place / "backup")
    stop.set()
    await asyncio.gather(*writers)
    assert len(before) > len(acknowledged) > 4
    originals = await leaves_of(house.house.runtime.database_url)

    await restore(folder=place / "backup", data=place / "again", progress=quiet)
    async with restored(place / "again") as again:
        found = await leaves_of(again.runtime.database_url)
        for service in SERVICES:
            position = manifest.services[service].position
            assert found[service] == originals[service][:position]
            assert again.services[service].foundation.log.sealer.refusal is None
        for receipt in acknowledged:
            for event in receipt["events"]:
                assert found["requirements"][event["position"] - 1] == event["leaf_hash"]
        signed = manifest.services["requirements"].signed
        assert signed is not None
        origin, size = await sealed(again, "requirements")
        assert (origin, size) == (signed.origin, len(found["requirements"]))
        assert size >= signed.size > 0
        await goes_on(again, owner)
    files = [file for file in (place / "again" / "artefacts").rglob("*") if file.is_file()]
    assert [file.read_bytes() for file in files] == [FILE]


def stored_file() -> str:
    """The address of the evidence file."""
    return hashlib.sha256(FILE).hexdigest()


async def goes_on(house: House, known: Client) -> None:
    """The same person with the same token, and the next position."""
    transport = httpx.ASGITransport(app=house.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://house") as http:
        person = Client(http=http, name=known.name, subject=known.subject, token=known.token, seen={})
        receipt = await register(person, "after-the-restore")
        head = await house.services["requirements"].foundation.store.head()
        assert receipt["position"] == f"requirements:{head}"
        assert receipt["promise"] is not None
        origin, size = await sealed(house, "requirements")
        assert (origin.rpartition("/")[2], size) == ("1", head)


async def test_an_old_backup_beside_a_newer_signer_is_refused_as_a_rollback(house: TestHouse, place: Path) -> None:
    """The memory of what was signed is outside the database."""
    owner = house.client("Olga Owner")
    await register(owner, "flights")
    await taken(house, place / "backup")
    await register(owner, "later")
    await covered(house.house, "requirements")
    newer = house.house.runtime.settings.data / "log"
    await restore(folder=place / "backup", data=place / "again", progress=quiet)
    shutil.rmtree(place / "again" / "log")
    shutil.copytree(newer, place / "again" / "log")
    async with restored(place / "again") as again:
        log = again.services["requirements"].foundation.log
        assert log.sealer.refusal is not None
        assert log.sealer.refusal.reason == "rollback-noticed"
        assert log.promise([]) is None


async def test_a_restore_that_may_have_lost_something_begins_a_new_epoch_of_every_log(
    house: TestHouse, place: Path
) -> None:
    """Told in the log itself; the key stays, so that those who pinned it see it."""
    owner = house.client("Olga Owner")
    await register(owner, "flights")
    manifest = await taken(house, place / "backup")
    await register(owner, "lost")
    keys = {service: built.foundation.log.signer.vkey for service, built in house.house.services.items()}
    await restore(folder=place / "backup", data=place / "again", progress=quiet)
    with EmbeddedPostgres.start(place / "again" / "postgres") as server:
        await begin_again(Settings(data=place / "again"), server.dsn, "the disk was lost")
    async with restored(place / "again") as again:
        for service in SERVICES:
            log = again.services[service].foundation.log
            assert log.sealer.refusal is None
            assert (log.signer.epoch, log.signer.vkey) == (2, keys[service])
            position = manifest.services[service].position
            told = (
                await read_events(again.services[service].foundation.pool, service=service, after=position, limit=9)
            )[0]
            assert told.name == f"{service}.log-recovered"
            data = told.content()["data"]
            assert (data["epoch"], data["lost_first"], data["lost_last"]) == (2, position + 1, OPEN_END)
            assert data["why"] == "the disk was lost"
            origin, size = await sealed(again, service)
            assert origin.endswith(f"/{service}/2")
            assert size == position + 1


async def test_a_backup_that_was_cut_off_or_damaged_is_never_restored(house: TestHouse, place: Path) -> None:
    """Without its manifest it is none; with one byte flipped, one file gone or cut, nothing is made of it."""
    await register(house.client("Olga Owner"), "flights")
    await taken(house, place / "backup")
    manifest = read_manifest(place / "backup")
    paths = [file.path for file in manifest.files]
    assert DUMP in paths
    assert {"data/log/requirements/state.json", "data/log/witness/keys.json", "data/issuer/key.json"} <= set(paths)

    async def refusal(backup: Path) -> str:
        with pytest.raises(ProoftrailError) as refused:
            await restore(folder=backup, data=place / "again", progress=quiet)
        assert not (place / "again").exists()
        return refused.value.reason

    for number, path in enumerate(paths):
        broken = place / f"broken-{number}"
        shutil.copytree(place / "backup", broken)
        content = bytearray((broken / path).read_bytes())
        content[len(content) // 2] ^= 1
        (broken / path).write_bytes(content)
        assert await refusal(broken) == "backup-damaged", path
        (broken / path).write_bytes(content[:-1])
        assert await refusal(broken) == "backup-damaged", path
        (broken / path).unlink()
        assert await refusal(broken) == "backup-damaged", path
        shutil.rmtree(broken)
    (place / "backup" / MANIFEST).write_bytes((place / "backup" / MANIFEST).read_bytes()[:-20])
    assert await refusal(place / "backup") == "backup-damaged"
    (place / "backup" / MANIFEST).unlink()
    assert await refusal(place / "backup") == "no-backup"


async def test_nothing_is_overwritten_and_a_restore_that_was_cut_off_is_done_again(
    house: TestHouse, place: Path
) -> None:
    """The folder gets its name when all of it is there."""
    await register(house.client("Olga Owner"), "flights")
    await taken(house, place / "backup")
    with pytest.raises(ProoftrailError) as taken_twice:
        await taken(house, place / "backup")
    assert taken_twice.value.reason == "target-not-empty"
    with pytest.raises(ProoftrailError) as onto_data:
        await restore(folder=place / "backup", data=house.house.runtime.settings.data, progress=quiet)
    assert onto_data.value.reason == "target-not-empty"

    def cut_off(what: str, _done: int, _total: int | None) -> None:
        if what.startswith("checking the events of drift"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await restore(folder=place / "backup", data=place / "again", progress=cut_off)
    assert (place / "again.restoring").exists()
    assert not (place / "again").exists()
    await restore(folder=place / "backup", data=place / "again", progress=quiet)
    async with restored(place / "again") as again:
        assert await leaves_of(again.runtime.database_url) == await leaves_of(house.house.runtime.database_url)


async def test_signers_of_another_deployment_are_not_backed_up_with_this_database(
    house: TestHouse, place: Path
) -> None:
    """Restored together they would not fit; so it is said while it can be mended."""
    await register(house.client("Olga Owner"), "flights")
    await covered(house.house, "requirements")
    runtime = house.house.runtime
    with pytest.raises(ProoftrailError) as refused:
        await back_up(
            url=runtime.database_url, data=place / "elsewhere", folder=place / "backup", services=SERVICES, settings={},
            at=utc_now(), progress=quiet,
        )  # fmt: skip
    assert refused.value.reason == "other-signer"
    assert not (place / "backup" / MANIFEST).exists()


async def test_a_backup_is_for_its_owner_alone_and_keeps_no_password(house: TestHouse, place: Path) -> None:
    """It holds private keys and names of people, and a manifest that can be shown."""
    await register(house.client("Olga Owner"), "flights")
    await taken(house, place / "backup")
    assert (place / "backup").stat().st_mode & 0o077 == 0
    manifest = json.loads((place / "backup" / MANIFEST).read_text())
    assert manifest["settings"]["database_url"].startswith("postgresql://")
    assert "prooftrail:" not in json.dumps(manifest)
