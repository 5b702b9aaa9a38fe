"""Takes a backup while everything runs: stores, signers and witness as of one moment, evidence files after it.

The order is what makes it one:

1. Signers and witness are held: nobody signs. What they have signed is in the stores, since they sign only what was stored.
2. A snapshot of the database is opened, and the folders of signers and witness are copied. Both take milliseconds.
3. They are let go. From here on everything runs on, and the dump reads the snapshot.
4. Evidence files are copied: every one that an event of the snapshot names was stored before that event.
5. The manifest is written.

Cut off anywhere before that, the folder is no backup, and taking it again begins anew. Steps, told to `at_step` (a test may end the
process there): `begun`, `signers copied`, `dumped`, `files copied`, `manifest written`.

So in a backup no store has a checkpoint that its signer does not know, which would stop sealing (SignerBehind) or hide a rollback;
and no signer has signed more than its store holds, which would be reported as a rollback that was none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import asyncpg
import msgspec

from shared.backup.making import alone_in, clear, require_empty
from shared.backup.manifest import (
    DATA,
    DUMP,
    MANIFEST,
    UNFINISHED,
    Manifest,
    Signed,
    StoreAsOf,
    copy_file,
    describe,
    sync_folder,
    write_manifest,
)
from shared.backup.postgres_tools import dump_schemas
from shared.errors import Conflict
from shared.log.kept_folder import KeptFolder, Step, no_step

LOG = "log"
STATE = "state.json"
NOT_COPIED = frozenset({"postgres", LOG})
"""The embedded database is dumped, and the log folder is copied at its own moment."""

Progress = Callable[[str, int, int | None], None]
"""What is being done, how far it is, and how far it has to go, None if that is not known."""


class OtherSigner(Conflict):
    """The data folder is not that of the signers of this database."""


class _State(msgspec.Struct, frozen=True):
    origin: str
    epoch: int
    size: int


def last_signed(folder: Path) -> Signed | None:
    """The last tree that the signer of this folder signed; None if there is no folder, or no signer in it."""
    state = KeptFolder(folder).read(STATE, _State) if folder.is_dir() else None
    return None if state is None else Signed(origin=state.origin, epoch=state.epoch, size=state.size)


async def back_up(
    *,
    url: str,
    data: Path,
    folder: Path,
    services: Sequence[str],
    settings: Mapping[str, str],
    at: datetime,
    progress: Progress,
    at_step: Step = no_step,
) -> Manifest:
    """Writes the backup of the database at `url` and of the data folder; a folder without its manifest is none.

    Raises TargetNotEmpty, BeingMade, OtherSigner, ToolFailed, FolderInUse (a signer is held by somebody else for long).
    """
    _make(folder)
    with alone_in(folder):
        _begin(folder)
        at_step("begun")
        version, stores = await _copy_one_moment(url, data, folder, services, progress, at_step)
        _copy_rest(data, folder / DATA, progress)
        at_step("files copied")
        manifest = Manifest(
            made_at=at,
            postgresql=version,
            services=stores,
            settings=dict(settings),
            files=tuple(
                describe(file, str(file.relative_to(folder))) for file in _files(folder) if file.name != UNFINISHED
            ),
        )
        write_manifest(folder, manifest)
        at_step("manifest written")
        (folder / UNFINISHED).unlink()
    return manifest


def _make(folder: Path) -> None:
    if not folder.is_dir():
        require_empty(folder)
        folder.mkdir(mode=0o700, parents=True)


def _begin(folder: Path) -> None:
    """The folder is empty but for the mark, for its owner alone; what a backup that was cut off left in it is removed."""
    if (folder / UNFINISHED).exists() and not (folder / MANIFEST).exists():
        clear(folder)
    require_empty(folder)
    folder.chmod(0o700)
    (folder / UNFINISHED).touch(mode=0o600)
    sync_folder(folder)


async def _copy_one_moment(
    url: str, data: Path, folder: Path, services: Sequence[str], progress: Progress, at_step: Step
) -> tuple[str, dict[str, StoreAsOf]]:
    """Dumps the database and copies the signers, all as of one moment: PostgreSQL's version, and what the stores held."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            with _signers_held(data / LOG):
                snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
                stores = {service: await _store_as_of(connection, data, service) for service in services}
                _copy_tree(data / LOG, folder / DATA / LOG, lambda _: None)
            at_step("signers copied")
            await dump_schemas(
                url=url,
                snapshot=snapshot,
                schemas=services,
                file=folder / DUMP,
                progress=lambda size: progress("dumping the database", size, None),
            )
            at_step("dumped")
        version = connection.get_server_version()
    finally:
        await connection.close()
    return f"{version.major}.{version.minor}", stores


@contextlib.contextmanager
def _signers_held(log: Path) -> Iterator[None]:
    """While the block runs no signer and no witness writes."""
    with contextlib.ExitStack() as stack:
        for folder in sorted(_folders(log)):
            stack.enter_context(KeptFolder(folder).held())
        yield


def _folders(log: Path) -> list[Path]:
    return [entry for entry in log.iterdir() if entry.is_dir()] if log.is_dir() else []


async def _store_as_of(connection: asyncpg.Connection, data: Path, service: str) -> StoreAsOf:
    row = await connection.fetchrow(
        f"SELECT h.position, e.leaf_hash, (SELECT max(ARRAY[epoch, size]) FROM {service}.log_checkpoint) AS sealed"
        f" FROM {service}.head h LEFT JOIN {service}.event e USING (position)"
    )
    folder = data / LOG / service
    signed = last_signed(folder)
    if row["sealed"] is not None and (signed is None or tuple(row["sealed"]) > (signed.epoch, signed.size)):
        raise OtherSigner(
            f"The signer of {service} in {folder} has not signed what the database holds.",
            why="Its folder is missing, or is that of another deployment or an older copy; restored together they do not fit.",
            next_step="Set PROOFTRAIL_DATA to the data folder of the processes that serve this database.",
        )
    return StoreAsOf(
        position=row["position"],
        leaf_hash=None if row["leaf_hash"] is None else row["leaf_hash"].hex(),
        signed=signed,
    )


def _copy_rest(data: Path, target: Path, progress: Progress) -> None:
    entries = [entry for entry in sorted(data.iterdir()) if entry.name not in NOT_COPIED] if data.is_dir() else []
    files = [file for entry in entries for file in ([entry] if entry.is_file() else _files(entry))]
    total = sum(file.stat().st_size for file in files)
    done = 0

    def copied(size: int) -> None:
        nonlocal done
        done += size
        progress("copying evidence files", done, total)

    for entry in entries:
        _copy_tree(entry, target / entry.name, copied)


def _copy_tree(source: Path, target: Path, copied: Callable[[int], None]) -> None:
    """Copies every file that counts; the folders are made for their owner alone."""
    if source.is_file():
        copy_file(source, target)
        copied(target.stat().st_size)
    for file in _files(source):
        place = target / file.relative_to(source)
        copy_file(file, place)
        copied(place.stat().st_size)
    for made in {target, *(file.parent for file in _files(target))}:
        if made.is_dir():
            sync_folder(made)


def _files(folder: Path) -> list[Path]:
    """The files below, in order; without locks, and without what is still being written."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.name != "lock" and file.suffix not in {".new", ".part"}
    )
