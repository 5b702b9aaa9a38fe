"""kill -9 at every step of erase, backup, restore and move: done again it completes, and nothing half-done is taken for whole.

A part of the steps; all of them with DATA_STEPS=all, which `make killed` sets.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.composition import SERVICES, offline_house
from services.data_command import follow_erasures, migrations_of
from services.server import database
from shared.backup.manifest import read_manifest
from shared.backup.restoring import restore
from shared.backup.taking import back_up
from shared.embedded_postgres import EmbeddedPostgres
from shared.erasure import SOURCE
from shared.errors import ProoftrailError
from shared.moving import MARK, move, require_not_moved
from shared.runtime import utc_now
from shared.settings import Settings
from tests.data_process import quiet
from tests.house import fresh_database
from tests.serving import CHECKOUT
from tests.test_backup import leaves_of, register, restored
from tests.test_erasure import erased_in, events_in, owner_of, places_of
from tests.test_moving import client_of, contents, schemas_in

EVERY = os.environ.get("DATA_STEPS") == "all"
NAMED = ("requirements", "drift", "traceability")
"""The services that were shown the names of those who are erased here."""

ERASING = (
    ("decided", "drift"),
    *((step, "drift") for step in ("erased.json synced", "erased.json kept", "kept")),
    *((step, "drift") for step in ("issuer forgot", "webhooks deleted", "names deleted", "recorded")),
    ("kept", SOURCE),
    ("names deleted", SOURCE),
)
BACKING_UP = ("begun", "signers copied", "dumped", "files copied", "manifest written")
RESTORING = ("checked", "files copied", "erasures carried", "database restored", "events checked", "finished")
MOVING = ("source checked", "requirements copied", "traceability copied", "marked", "committed")


def some(steps: Sequence[Any], *chosen: int) -> list[Any]:
    """Those with these numbers, or all if all are asked for."""
    return list(steps) if EVERY else [steps[number] for number in chosen]


@dataclass(frozen=True)
class Store:
    """An embedded store that runs, with people to erase, and the folder beside its data."""

    data: Path
    url: str
    folder: Path


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent)


@pytest.fixture(scope="module")
async def store(folder: Path) -> AsyncIterator[Store]:
    """Three AI systems, sealed logs, a name for every step of an erasure."""
    with EmbeddedPostgres.start(folder / "data" / "postgres") as server:
        await fill(folder / "data", server.dsn)
        yield Store(data=folder / "data", url=server.dsn, folder=folder)


async def fill(data: Path, url: str) -> None:
    """What the store holds."""
    async with offline_house(settings=Settings(data=data), database_url=url) as house:
        assert house.issuer is not None
        owner = await client_of(house, "Olga Owner")
        async with owner.http:
            for number in range(3):
                await register(owner, f"system-{number}")
                owner.seen.clear()  # nobody reads along that it could wait for
        for number in range(len(ERASING)):
            subject = house.issuer.subject(name=name_of(number))
            for service in NAMED:
                await house.services[service].foundation.directory.commitment(subject=subject, name=name_of(number))
        for service in SERVICES:
            log = house.services[service].foundation.log
            async with log.sealer.alone() as connection:
                await log.sealer.seal_all(connection)


def name_of(number: int) -> str:
    """The printed name of the person who is erased at that step."""
    return f"Wilhelmina Vergissmeinnicht the {number}th"


async def killed(step: str, *arguments: str) -> None:
    """A process that does the work and ends at the step."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.data_process", step, *arguments, cwd=CHECKOUT, stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    _, told = await process.communicate()
    assert process.returncode == -signal.SIGKILL, told.decode()[-2000:]


async def test_an_erasure_that_was_killed_is_completed(store: Store) -> None:
    """Whoever starts next follows it: one event a service, no name, every event of before as it was."""
    settings = Settings(data=store.data, retention_days=0)
    for step, service in some(ERASING, 2, 6):
        name = name_of(ERASING.index((step, service)))
        async with offline_house(settings=settings, database_url=store.url) as house:
            assert house.issuer is not None
            subject = house.issuer.subject(name=name)
        before, events = await leaves_of(store.url), erased_in(await events_in(store.url))
        await killed(step, "erase", store.url, str(store.data), subject, service)
        async with offline_house(settings=settings, database_url=store.url) as house:
            await follow_erasures(house)
        assert erased_in(await events_in(store.url)) == {one: count + 1 for one, count in events.items()}, step
        after = await leaves_of(store.url)
        assert all(after[one][: len(before[one])] == before[one] for one in SERVICES)
        async with owner_of(store.url) as connection:
            assert await places_of(connection, name) == set(), step
        assert name not in (store.data / "issuer" / "people.json").read_text()


async def test_a_backup_that_was_killed_is_none_and_is_taken_again(store: Store) -> None:
    """Into the same folder; it is whole from the moment on that it has its manifest."""
    for step in some(BACKING_UP, 2, 4):
        folder = store.folder / f"backup killed at {step}"
        await killed(step, "backup", store.url, str(store.data), str(folder))
        if step == "manifest written":
            assert read_manifest(folder).services["requirements"].position > 0
            with pytest.raises(ProoftrailError) as whole:
                await taken(store, folder)
            assert whole.value.reason == "target-not-empty"
            continue
        with pytest.raises(ProoftrailError) as half:
            await restore(folder=folder, data=store.folder / "never", progress=quiet)
        assert half.value.reason == "no-backup", step
        assert not (store.folder / "never").exists()
        await taken(store, folder)
        assert {file.path for file in read_manifest(folder).files} >= {
            "database.dump",
            "data/log/requirements/state.json",
        }


async def taken(store: Store, folder: Path) -> None:
    """A backup, as the command takes it."""
    await back_up(
        url=store.url, data=store.data, folder=folder, services=SERVICES, settings={}, at=utc_now(), progress=quiet
    )  # fmt: skip


async def test_a_restore_that_was_killed_left_no_data_folder_and_is_done_again(store: Store) -> None:
    """Also when the new epoch had begun: it begins once, in the folder that takes the place."""
    backup, again = store.folder / "backup", store.folder / "again"
    await taken(store, backup)
    for step in some(RESTORING, 3, 5):
        await killed(step, "restore", str(backup), str(again), str(store.data))
        assert not again.exists(), step
    await killed("took place", "restore", str(backup), str(again), str(store.data))
    async with restored(again) as house:
        found, originals = await leaves_of(house.runtime.database_url), await leaves_of(store.url)
        for service in SERVICES:
            foundation = house.services[service].foundation
            assert found[service][: len(originals[service])] == originals[service]
            assert (foundation.log.signer.epoch, foundation.log.sealer.refusal) == (2, None)
        recovered = [event.name for event in (await events_in(house.runtime.database_url))["requirements"]]
        assert recovered.count("requirements.log-recovered") == 1
    with pytest.raises(ProoftrailError) as whole:
        await restore(folder=backup, data=again, progress=quiet)
    assert whole.value.reason == "target-not-empty"


async def test_a_move_that_was_killed_is_completed_and_never_leaves_two_stores_to_serve(
    store: Store, server_url: str
) -> None:
    """The target holds all or nothing, and before it holds anything the source is not served any more."""
    folder = store.data / "postgres"
    async with fresh_database(server_url) as target_url:
        for step in some(MOVING, 3, 4):
            await killed(step, "move", store.url, target_url, str(folder))
            arrived = await schemas_in(target_url)
            assert arrived == (len(SERVICES) if step == "committed" else 0), step
            assert (folder / MARK).exists() == (step in ("marked", "committed")), step
            if (folder / MARK).exists():
                with pytest.raises(ProoftrailError) as unfinished, database(Settings(data=store.data)):
                    pass
                assert unfinished.value.reason == "move-unfinished"
        await move(
            source_url=store.url, target_url=target_url, folder=folder, at=utc_now(), progress=quiet,
            migrations={service: migrations_of(service) for service in SERVICES},
        )  # fmt: skip
        assert await contents(target_url) == await contents(store.url)
    with pytest.raises(ProoftrailError) as moved:
        require_not_moved(folder)
    assert moved.value.reason == "store-moved"
    (folder / MARK).unlink()
