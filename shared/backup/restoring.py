"""Restores a backup into a data folder that does not exist yet; it gets its name when all of it is there and checked.

Everything is made in `<data>.restoring` beside it, and finished there: also the new epoch of the logs, if there is to be one. A
restore that is cut off leaves that, and the next one begins anew.

The database of a backup has the names of people who were erased after it. Their subjects stand in the newest folder of the signers
(`shared.kept_erasures`): taken from there into the restored one, every service deletes them before it serves.

Steps, told to `at_step` (a test may end the process there): `checked`, `files copied`, `erasures carried`, `database restored`,
`events checked`, `finished`, `took place`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import asyncpg

from shared.backup.making import alone_in, clear, require_empty
from shared.backup.manifest import (
    DATA,
    DUMP,
    Manifest,
    check_file,
    copy_file,
    damaged,
    read_manifest,
    sync_folder,
)
from shared.backup.postgres_tools import restore_dump
from shared.backup.stores import store_digest
from shared.backup.taking import LOG, Progress, last_signed
from shared.embedded_postgres import EmbeddedPostgres
from shared.errors import Conflict
from shared.kept_erasures import Erased, KeptErasures, merged
from shared.log.kept_folder import Step, no_step
from shared.settings import make_open_folder

Finish = Callable[[str, Path], Awaitable[object]]
"""What is done with the restored database and its data folder before that takes its place."""


class NotNewer(Conflict):
    """The folder that shall tell who was erased after the backup is not that of its signers, or is older than the backup."""


async def nothing_more(_url: str, _data: Path) -> None:
    """The logs go on as they are."""


async def restore(
    *,
    folder: Path,
    data: Path,
    progress: Progress,
    newest: Path | None = None,
    finish: Finish = nothing_more,
    at_step: Step = no_step,
) -> Manifest:
    """Makes `data` from the backup, with an embedded PostgreSQL in it. `newest` is the newest data folder, or log folder, of the
    original, or a copy of it: it tells who was erased after the backup.

    Raises NoBackup, NewerBackup, BackupDamaged, TargetNotEmpty, BeingMade, NotNewer, StoreAltered, ToolFailed, and what
    EmbeddedPostgres.start raises.
    """
    manifest = read_manifest(folder)
    require_empty(data)
    erased = {} if newest is None else _erased_since(manifest, newest)
    _check(folder, manifest, progress)
    at_step("checked")
    staging = data.with_name(f"{data.name}.restoring")
    make_open_folder(staging)
    with alone_in(staging):
        _clear(staging)
        _copy_files(folder, manifest, staging)
        at_step("files copied")
        _carry_erasures(erased, manifest, staging)
        at_step("erasures carried")
        await _restore_database(folder, manifest, staging, progress, finish, at_step)
        _take_place(staging, data)
        at_step("took place")
    return manifest


def _erased_since(manifest: Manifest, newest: Path) -> Erased:
    """Who was erased, as far as any signer's folder there knows."""
    logs = newest / LOG if (newest / LOG).is_dir() else newest
    there = [service for service in manifest.services if last_signed(logs / service) is not None]
    older = [service for service in there if not _is_newer(manifest, logs, service)]
    if older or not there:
        raise NotNewer(
            f"{newest} does not tell who was erased after the backup.",
            why=f"Its signer of {older[0]} is another one, or older than that of the backup." if older
            else "There is no folder of a signer in it.",
            next_step="Name the newest data folder of the original, its log folder, or a copy of one of these.",
        )  # fmt: skip
    return merged(*(KeptErasures(logs / service).known() for service in there))


def _is_newer(manifest: Manifest, logs: Path, service: str) -> bool:
    """At least as new, and of the same log."""
    before, found = manifest.services[service].signed, last_signed(logs / service)
    if before is None or found is None:
        return before is None
    same_log = before.origin.rpartition("/")[0] == found.origin.rpartition("/")[0]
    return same_log and (found.epoch, found.size) >= (before.epoch, before.size)


def _clear(staging: Path) -> None:
    """Removes what a restore that was cut off left, once its PostgreSQL has ended."""
    EmbeddedPostgres.wait_until_ended(staging / "postgres")
    clear(staging)


def _copy_files(folder: Path, manifest: Manifest, staging: Path) -> None:
    for stored in manifest.files:
        if stored.path.startswith(f"{DATA}/"):
            copy_file(folder / stored.path, staging / stored.path.removeprefix(f"{DATA}/"))


def _carry_erasures(erased: Erased, manifest: Manifest, staging: Path) -> None:
    if erased:
        for service in manifest.services:
            KeptErasures(staging / LOG / service).remember(erased)


async def _restore_database(
    folder: Path, manifest: Manifest, staging: Path, progress: Progress, finish: Finish, at_step: Step
) -> None:
    with EmbeddedPostgres.start(staging / "postgres") as server:
        await restore_dump(
            url=server.dsn, file=folder / DUMP, progress=lambda _: progress("restoring the database", 0, None)
        )
        at_step("database restored")
        await _require_as_of(server.dsn, manifest, folder, progress)
        at_step("events checked")
        await finish(server.dsn, staging)
        at_step("finished")


def _take_place(staging: Path, data: Path) -> None:
    if data.exists():
        data.rmdir()
    staging.rename(data)
    sync_folder(data.parent)


def _check(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Every file is there and as it was, before anything is made of them."""
    total, done = sum(stored.length for stored in manifest.files), 0
    _require_listed(folder, (stored.path for stored in manifest.files))
    for stored in manifest.files:
        check_file(folder, stored)
        done += stored.length
        progress("checking the backup", done, total)


def _require_listed(folder: Path, paths: Iterable[str]) -> None:
    listed = set(paths)
    if DUMP not in listed:
        raise damaged(folder / DUMP, "the manifest does not name it")
    outside = [path for path in listed if Path(path).is_absolute() or ".." in Path(path).parts]
    if outside:
        raise damaged(folder / outside[0], "it lies outside the backup")


async def _require_as_of(url: str, manifest: Manifest, folder: Path, progress: Progress) -> None:
    """The stores are those of the manifest, event by event."""
    connection = await asyncpg.connect(url)
    try:
        for done, (service, as_of) in enumerate(manifest.services.items()):
            progress(f"checking the events of {service}", done, len(manifest.services))
            found = await store_digest(connection, service)
            if (found.position, found.leaf_hash) != (as_of.position, as_of.leaf_hash):
                raise damaged(folder / DUMP, f"{service} ends at {found.position}, not at {as_of.position}")
    finally:
        await connection.close()
