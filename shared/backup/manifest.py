"""What makes a folder a backup: `manifest.json`, written last, names every file with its length and digest.

    manifest.json    this; a folder without it is a backup that was cut off, and is never restored
    unfinished       there while it is made: a folder with it and without a manifest may be begun anew
    database.dump    the stores of all services as of one snapshot (pg_dump, custom format), without what is folded from them
    data/            the data folder as of the same moment: signers and witness (log/), issuer, evidence files

The folder holds private keys and names of people: it is made for its owner alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from shared.errors import Conflict, Invalid

MANIFEST = "manifest.json"
UNFINISHED = "unfinished"
DUMP = "database.dump"
DATA = "data"
FORMAT = "prooftrail-backup"
FORMAT_VERSION = 1
CHUNK_BYTES = 1 << 20


class NoBackup(Invalid):
    """The folder holds no backup, or one that was cut off."""


class NewerBackup(Invalid):
    """The backup was made by a newer version of Prooftrail."""


class BackupDamaged(Conflict):
    """A file of the backup is missing, or is not what it was when the backup was made."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: path inside the folder, length in bytes, hex SHA-256."""

    path: str
    length: int
    sha256: str


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The last tree that the signer of a service had signed."""

    origin: str
    epoch: int
    size: int


class StoreAsOf(msgspec.Struct, frozen=True, kw_only=True):
    """The store of one service at the snapshot: its last position (0: empty), the leaf hash there, what was signed of it."""

    position: int
    leaf_hash: str | None
    signed: Signed | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The backup as a whole. `settings` are those it was made under, without secrets, for a person to read."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    made_at: datetime
    postgresql: str
    services: Mapping[str, StoreAsOf]
    settings: Mapping[str, str]
    files: tuple[StoredFile, ...]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Makes the folder a backup; durable when it returns."""
    write_whole(folder / MANIFEST, manifest)


def write_whole(path: Path, content: msgspec.Struct) -> None:
    """Writes the file as JSON, the old one or the new one at any moment; durable when it returns."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    sync_folder(path.parent)


def read_manifest(folder: Path) -> Manifest:
    """Raises NoBackup, NewerBackup, BackupDamaged."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError:
        raise NoBackup(
            f"{folder} holds no backup.",
            why=f"There is no {MANIFEST} in it, which a backup gets last: this one was cut off, or it is another folder.",
            next_step="Name a folder that `prooftrail backup` has finished.",
        ) from None
    try:
        version = msgspec.json.decode(content)["format_version"]
        if version != FORMAT_VERSION:
            raise NewerBackup(
                f"{folder} has the format {version}; this version reads {FORMAT_VERSION}.",
                why="A newer version of Prooftrail made it.",
                next_step="Restore it with that version, or a newer one.",
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise damaged(folder / MANIFEST, f"it cannot be read ({error})") from error


def check_file(folder: Path, stored: StoredFile) -> None:
    """Reads the file and compares. BackupDamaged."""
    path = folder / stored.path
    try:
        found = describe(path, stored.path)
    except OSError as error:
        raise damaged(path, error.strerror or "it cannot be read") from error
    if found != stored:
        raise damaged(
            path, f"it has {found.length} bytes and the digest {found.sha256[:12]}..., not those of the manifest"
        )


def describe(file: Path, path: str) -> StoredFile:
    """Length and digest of the file, under the path that it has in the folder."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
        return StoredFile(path=path, length=opened.tell(), sha256=digest.hexdigest())


def copy_file(source: Path, target: Path) -> None:
    """Copies the content for the owner alone; durable when the folder is synced."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as original, os.fdopen(descriptor, "wb") as copied:
        while chunk := original.read(CHUNK_BYTES):
            copied.write(chunk)
        copied.flush()
        os.fsync(copied.fileno())


def sync_folder(folder: Path) -> None:
    """What was made or renamed in the folder is there after a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(path: Path, what: str) -> BackupDamaged:
    """The error for a file that is not as it was."""
    return BackupDamaged(
        f"{path}: {what}.",
        why="A backup is restored whole and as it was made, or not at all.",
        next_step="Take another copy of this backup, or another backup.",
    )
