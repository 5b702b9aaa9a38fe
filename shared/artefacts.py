"""Evidence files by content: named by their SHA-256, apart for each AI system, checked when they are written and when read.

A file is never overwritten. What was cut off while it was written has another name or none, so it never reads as whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from shared.errors import Conflict, FieldError, Invalid, NotFound, Unavailable
from shared.settings import Settings

ARTEFACT_BYTES_MAX = 64 << 20
"""The largest file that is taken. One at a time is held in memory while it is written; reading in chunks holds one chunk."""

CHUNK_BYTES = 1 << 20

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SYSTEM = re.compile(r"[a-z][a-z0-9-]{1,62}")


class ArtefactDigestMismatch(Invalid):
    """The bytes do not have the digest they were sent under."""


class ArtefactTooLarge(Invalid):
    """The bytes are more than ARTEFACT_BYTES_MAX."""


class ArtefactMissing(NotFound):
    """No file with this digest was stored for the AI system."""


class ArtefactDamaged(Conflict):
    """The stored bytes do not have their digest any more."""


class ArtefactsUnreachable(Unavailable):
    """The place where evidence files are kept cannot be read or written now."""


class Artefacts(Protocol):
    """Where evidence files are kept. Every method may raise ArtefactsUnreachable, or a subclass that says what is wrong."""

    def require_usable(self) -> None:
        """Writes and reads a probe, so that what is wrong is said at start and not with the first evidence."""

    def put(self, *, system: str, digest: str, content: bytes) -> None:
        """Durable when it returns; the same again changes nothing.

        Raises ArtefactDigestMismatch and ArtefactTooLarge before anything is written, and ArtefactDamaged if other bytes are
        there under this name: they stay, as what happened to them is not known.
        """

    def chunks(self, *, system: str, digest: str) -> Iterator[bytes]:
        """The bytes in chunks of about CHUNK_BYTES. Raises ArtefactMissing, and ArtefactDamaged after the last chunk.

        Whoever passes chunks on before the end must be able to take them back.
        """

    def get(self, *, system: str, digest: str) -> bytes:
        """All bytes, checked. Raises ArtefactMissing, ArtefactDamaged."""

    def length(self, *, system: str, digest: str) -> int:
        """The number of bytes, all of them read and checked. Raises ArtefactMissing, ArtefactDamaged."""


class ReadsInChunks:
    """`get` and `length` of an implementation that has `chunks`."""

    def chunks(self, *, system: str, digest: str) -> Iterator[bytes]:
        """As in Artefacts."""
        raise NotImplementedError

    def get(self, *, system: str, digest: str) -> bytes:
        """As in Artefacts."""
        whole = io.BytesIO()
        for chunk in self.chunks(system=system, digest=digest):
            whole.write(chunk)
        return whole.getvalue()

    def length(self, *, system: str, digest: str) -> int:
        """As in Artefacts."""
        return sum(len(chunk) for chunk in self.chunks(system=system, digest=digest))


class ArtefactFolder(ReadsInChunks):
    """Files in a folder: <system>/<first two digits>/<digest>. Several processes may share it."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    def require_usable(self) -> None:
        probe = self._folder / f"{uuid4().hex}.new"
        with _folder_problems(self._folder):
            probe.parent.mkdir(parents=True, exist_ok=True)
            _write_durably(probe, b"probe")
            probe.unlink()

    def put(self, *, system: str, digest: str, content: bytes) -> None:
        require_content(digest=digest, content=content)
        file = self._folder / name_of(system=system, digest=digest)
        new = file.with_name(f"{digest}.{uuid4().hex}.new")
        with _folder_problems(self._folder):
            if not file.exists():
                _make_folders(file.parent, below=self._folder)
                _write_durably(new, content)
                _publish(new, file)
                return
        self.length(system=system, digest=digest)

    def chunks(self, *, system: str, digest: str) -> Iterator[bytes]:
        file = self._folder / name_of(system=system, digest=digest)
        with _folder_problems(self._folder):
            try:
                opened = file.open("rb")
            except FileNotFoundError:
                raise missing(system=system, digest=digest) from None
            with opened:
                yield from checked(iter(lambda: opened.read(CHUNK_BYTES), b""), digest=digest)


def open_artefacts(settings: Settings) -> Artefacts:
    """The bucket of the settings, otherwise the folder in the data folder; not tried yet."""
    if settings.artefacts is None:
        return ArtefactFolder(folder=settings.data / "artefacts")
    from shared.artefact_bucket import ArtefactBucket

    return ArtefactBucket(address=settings.artefacts, plain_http=settings.artefacts_plain_http)


def name_of(*, system: str, digest: str) -> str:
    """Where the file lies below the folder or prefix; a name that could lead elsewhere is that of no file."""
    if not _SYSTEM.fullmatch(system) or not _DIGEST.fullmatch(digest):
        raise missing(system=system, digest=digest)
    return f"{system}/{digest[:2]}/{digest}"


def require_content(*, digest: str, content: bytes) -> None:
    """Raises ArtefactTooLarge and ArtefactDigestMismatch."""
    if len(content) > ARTEFACT_BYTES_MAX:
        raise ArtefactTooLarge(
            f"The file has {len(content)} bytes.",
            why=f"An evidence file has at most {ARTEFACT_BYTES_MAX} bytes.",
            next_step="Split it, or leave out what the evidence does not need.",
            fields=(FieldError(field="body", rule=f"at most {ARTEFACT_BYTES_MAX} bytes"),),
        )
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtefactDigestMismatch(
            "The bytes do not have this digest.",
            why="Evidence is stored under the SHA-256 of its bytes.",
            next_step=f"Send the bytes whose SHA-256 is {digest}, or send these under their own.",
            fields=(FieldError(field="sha256", rule="the hex SHA-256 of the body"),),
        )


def checked(chunks: Iterable[bytes], *, digest: str) -> Iterator[bytes]:
    """The chunks, and ArtefactDamaged after the last one if all together do not have the digest."""
    seen = hashlib.sha256()
    for chunk in chunks:
        seen.update(chunk)
        yield chunk
    if seen.hexdigest() != digest:
        raise ArtefactDamaged(
            f"The evidence file {digest} is damaged.",
            why="Its bytes do not have their digest any more.",
            next_step="Restore it from a backup, or send it again after removing the damaged file.",
        )


def missing(*, system: str, digest: str) -> ArtefactMissing:
    """The error for a file that is not there."""
    return ArtefactMissing(
        f"There is no evidence file {digest} of {system}.",
        why="It was never stored here.",
        next_step=f"Send it: PUT /v1/systems/{system}/artefacts/{digest}.",
    )


def _write_durably(file: Path, content: bytes) -> None:
    try:
        with file.open("xb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _publish(new: Path, file: Path) -> None:
    """Gives the written file its name, unless somebody else was faster: their bytes were checked as ours were."""
    with contextlib.suppress(FileExistsError):
        os.link(new, file)
    new.unlink()
    _sync_folder(file.parent)


def _make_folders(folder: Path, *, below: Path) -> None:
    """Makes the folders with their entries on disk, so that a file that is durable is found after a loss of power."""
    if folder.exists():
        return
    if folder != below:
        _make_folders(folder.parent, below=below)
    folder.mkdir(parents=True, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _folder_problems(folder: Path) -> Iterator[None]:
    """A full disk or a folder of somebody else, told as what it is."""
    try:
        yield
    except OSError as error:
        raise ArtefactsUnreachable(
            f"The folder of evidence files, {folder}, cannot be used: {error.strerror}.",
            why="Evidence counts only when it is kept.",
            next_step="Make the folder writable for this account and free space on its disk, then try again.",
        ) from error
