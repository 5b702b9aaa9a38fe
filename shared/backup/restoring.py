"""Restores a backup into a data folder that does not exist yet; it gets its name when all of it is there and checked.

Everything is made in `<data>.restoring` beside it. A restore that is cut off leaves that, and the next one begins anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import asyncpg

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
from shared.backup.taking import Progress, require_empty
from shared.embedded_postgres import EmbeddedPostgres
from shared.settings import make_open_folder


async def restore(*, folder: Path, data: Path, progress: Progress) -> Manifest:
    """Makes `data` from the backup, with an embedded PostgreSQL in it.

    Raises NoBackup, NewerBackup, BackupDamaged, TargetNotEmpty, StoreAltered, ToolFailed, and what EmbeddedPostgres.start raises.
    """
    manifest = read_manifest(folder)
    require_empty(data)
    _check(folder, manifest, progress)
    staging = _staging(data)
    for stored in manifest.files:
        if stored.path.startswith(f"{DATA}/"):
            copy_file(folder / stored.path, staging / stored.path.removeprefix(f"{DATA}/"))
    with EmbeddedPostgres.start(staging / "postgres") as server:
        await restore_dump(
            url=server.dsn, file=folder / DUMP, progress=lambda _: progress("restoring the database", 0, None)
        )
        await _require_as_of(server.dsn, manifest, folder, progress)
    _take_place(staging, data)
    return manifest


def _staging(data: Path) -> Path:
    """An empty folder beside the target; what a restore that was cut off left there is removed."""
    staging = data.with_name(f"{data.name}.restoring")
    if staging.exists():
        shutil.rmtree(staging)
    make_open_folder(staging)
    return staging


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
