"""Folders that are made in many steps: one that was cut off is known as such and begun anew, and two are never made at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shared.errors import Conflict


class TargetNotEmpty(Conflict):
    """The folder to write into holds something."""


class BeingMade(Conflict):
    """Another process is making this folder."""


def require_empty(folder: Path) -> None:
    """TargetNotEmpty if the folder exists and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TargetNotEmpty(
            f"{folder} is not empty.",
            why="Nothing that is there is overwritten or mixed with something else.",
            next_step="Name a folder that does not exist yet, or remove what is in it.",
        )


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While the block runs no other process makes this folder, which exists. BeingMade."""
    held = os.open(folder, os.O_RDONLY)
    try:
        _lock(held, folder)
        yield
    finally:
        os.close(held)


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BeingMade(
            f"{folder} is being made by another process.",
            why="Two that write into one folder would mix what they write.",
            next_step="Let the other one end, or name another folder.",
        ) from None


def clear(folder: Path) -> None:
    """Removes everything in the folder."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
