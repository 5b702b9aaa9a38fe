"""A folder for what must not be lost, contradicted or read by others: keys and the last state of signers and witnesses.

Each file is `<SHA-256 of the rest>` and, on the next line, JSON. It is replaced whole: written beside, synced, renamed over the
old one, the folder synced. So a killed process leaves the old file or the new one, and a file that is neither is noticed. `lock`
is held while somebody writes, or for as long as somebody wants to be the only one.

Steps of a write, told to `at` (a test may end the process there): `<file> written`, `<file> synced`, `<file> renamed`,
`<file> kept`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from shared.errors import ProoftrailError, Unavailable

WAIT_S = 5.0
POLL_S = 0.01

Step = Callable[[str], None]
Stamp = tuple[int, int, int] | None
"""What changes when a file is replaced; None while there is none."""

_Content = TypeVar("_Content", bound=msgspec.Struct)


class FolderInUse(Unavailable):
    """Another process holds the folder."""


class FolderDamaged(ProoftrailError):
    """A file is missing, torn or of somebody else. It is never made anew: that would forget what was signed."""


class FolderExposed(ProoftrailError):
    """Others on this machine may read the key, or replace it."""


def no_step(_label: str) -> None:
    """What is told to nobody."""


class KeptFolder:
    """The folder at `path`; made, for the owner alone, if there is none."""

    def __init__(self, path: Path, *, at: Step = no_step, wait_s: float = WAIT_S) -> None:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(path.parent)
        _require_closed(path, path.stat().st_mode & 0o022)
        self.path = path
        self._at, self._wait_s = at, wait_s
        self._counting = threading.Lock()
        self._holds = 0
        self._lock_file = -1

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs, no other process can write here. FolderInUse if one does not end in `wait_s`."""
        with self._counting:
            if self._holds == 0:
                self._lock_file = self._locked()
            self._holds += 1
        try:
            yield
        finally:
            with self._counting:
                self._holds -= 1
                if self._holds == 0:
                    os.close(self._lock_file)

    def stamp(self, name: str) -> Stamp:
        """Another value after each replacement of the file."""
        try:
            status = os.stat(f"{self.path}/{name}")  # half as dear as the path's own, and asked with every promise
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def read(self, name: str, content: type[_Content]) -> _Content | None:
        """The file; None if there is none. FolderDamaged, FolderExposed."""
        path = self.path / name
        try:
            with path.open("rb") as file:
                _require_closed(path, os.fstat(file.fileno()).st_mode & 0o077)
                digest, _, rest = file.read().partition(b"\n")
            if hashlib.sha256(rest).hexdigest().encode() != digest:
                raise damaged(path, "its bytes do not have the digest on its first line")
            return msgspec.json.decode(rest, type=content, strict=True)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise damaged(path, str(error)) from None

    def write(self, name: str, content: msgspec.Struct) -> None:
        """Replaces the file; durable when it returns. Only while the folder is held."""
        rest = msgspec.json.encode(content) + b"\n"
        beside = self.path / f"{name}.new"
        with self.held():
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
                file.flush()
                self._at(f"{name} written")
                os.fsync(file.fileno())
            self._at(f"{name} synced")
            beside.replace(self.path / name)
            self._at(f"{name} renamed")
            _sync_folder(self.path)
            self._at(f"{name} kept")

    def _locked(self) -> int:
        file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(POLL_S)
                    continue
                os.close(file)
                raise FolderInUse(
                    f"Another process holds {self.path}.",
                    why="Two that sign for one log could contradict each other.",
                    next_step="End the other process, or ask it to do this.",
                ) from None
            return file


def damaged(path: Path, why: str) -> FolderDamaged:
    """The error for a file that is not what it should be."""
    return FolderDamaged(
        f"{path} cannot be used: {why}.",
        why="It tells what was signed; one that is made anew would sign a second history beside the first.",
        next_step="Bring the folder back from its newest copy. If it is lost, move it away and run `prooftrail recover`.",
    )


def _require_closed(path: Path, open_bits: int) -> None:
    if open_bits:
        raise FolderExposed(
            f"Others on this machine may read or replace {path}.",
            why="Whoever has the key signs as this log.",
            next_step=f"Run chmod {'700' if path.is_dir() else '600'} {path}, and change the key if somebody may have read it.",
        )


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
