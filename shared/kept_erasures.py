"""Who was erased, kept beside the signer of each service and outside its database.

A database that is restored from before an erasure has the name again, and has forgotten that it went. `erased.json` tells it: each
opaque subject, how often it was erased, and on which ground. It is written before anything is deleted, so that no erasure is
carried out that only the database knows of. Backups hold it, as of their moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.log.kept_folder import KeptFolder, Step, no_step

FILE = "erased.json"


class KeptErasure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the subject was erased, and the ground of the last time."""

    times: int
    why: str


Erased = Mapping[str, KeptErasure]


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    erased: dict[str, KeptErasure] = {}


class KeptErasures:
    """The list in one folder, which is that of the signer. FolderDamaged, FolderExposed, FolderInUse as of `KeptFolder`."""

    def __init__(self, folder: Path, *, at: Step = no_step) -> None:
        self._folder = KeptFolder(folder, at=at)

    def known(self) -> Erased:
        """Everybody who was ever erased, as far as this folder knows."""
        kept = self._folder.read(FILE, _Kept)
        return {} if kept is None else kept.erased

    def remember(self, erased: Erased) -> None:
        """Adds them; durable when it returns. What is known already, or known of a later time, changes nothing."""
        with self._folder.held():
            before = self.known()
            after = merged(before, erased)
            if after != before:
                self._folder.write(FILE, _Kept(erased=after))


def merged(*lists: Erased) -> dict[str, KeptErasure]:
    """All of them, each subject as of its last time."""
    together: dict[str, KeptErasure] = {}
    for erased in lists:
        for subject, one in erased.items():
            if subject not in together or together[subject].times < one.times:
                together[subject] = one
    return together
