"""Evidence files by content: stored under their SHA-256, checked when they are written and when they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from shared.errors import Conflict, FieldError, Invalid, NotFound
from shared.event import digest_of


class ArtefactDigestMismatch(Invalid):
    """The bytes do not have the digest they were sent under."""


class ArtefactMissing(NotFound):
    """No file with this digest was stored for the AI system."""


class ArtefactDamaged(Conflict):
    """The stored bytes do not have their digest any more."""


class Artefacts(Protocol):
    """Where evidence files are kept, apart for each AI system."""

    def put(self, *, system: str, digest: str, content: bytes) -> None:
        """Durable when it returns; the same again changes nothing. Raises ArtefactDigestMismatch."""

    def get(self, *, system: str, digest: str) -> bytes:
        """The bytes. Raises ArtefactMissing, ArtefactDamaged."""


class ArtefactFolder:
    """Files in a folder: <system>/<first two digits>/<digest>."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    def put(self, *, system: str, digest: str, content: bytes) -> None:
        if digest_of(content) != digest:
            raise ArtefactDigestMismatch(
                "The bytes do not have this digest.",
                why="Evidence is stored under the SHA-256 of its bytes.",
                next_step=f"Send the bytes whose SHA-256 is {digest}, or send these under their own.",
                fields=(FieldError(field="sha256", rule="the hex SHA-256 of the body"),),
            )
        file = self._file(system, digest)
        if file.exists() and digest_of(file.read_bytes()) == digest:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{digest}.{uuid4().hex}.new")
        with new.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        new.rename(file)

    def get(self, *, system: str, digest: str) -> bytes:
        file = self._file(system, digest)
        if not file.exists():
            raise ArtefactMissing(
                f"There is no evidence file {digest} of {system}.",
                why="It was never stored here.",
                next_step=f"Send it: PUT /v1/systems/{system}/artefacts/{digest}.",
            )
        content = file.read_bytes()
        if digest_of(content) != digest:
            raise ArtefactDamaged(
                f"The evidence file {digest} is damaged.",
                why="Its bytes do not have their digest any more.",
                next_step="Restore it from a backup, or send it again after removing the damaged file.",
            )
        return content

    def _file(self, system: str, digest: str) -> Path:
        return self._folder / system / digest[:2] / digest
