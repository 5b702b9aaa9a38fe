"""Writes the members of an exported pack one after the other into a file, and the signed manifest as the last one."""

from __future__ import annotations

import hashlib
import struct
import tempfile
import zlib
from collections.abc import AsyncIterable, Iterable
from typing import BinaryIO

from shared.errors import Conflict

from .domain.pack_container import Entry, directory, head
from .domain.pack_proof import Listed

CRC_AT = struct.calcsize("<4s5H")
"""Where in the head of a member its checksum stands: it is known last."""


def temporary_file() -> BinaryIO:
    """A file without a name, gone when it is closed: a pack is too large for memory, and its heads are written last."""
    return tempfile.TemporaryFile(prefix="prooftrail-pack-")


class MemberChanged(Conflict):
    """A member has not the length that it was announced with: what it is made from changed in between."""


class PackWriter:
    """Holds one member's chunk at a time. `file` is empty, and can be sought in."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._entries: list[Entry] = []
        self.listed: list[Listed] = []

    def add(self, name: str, content: bytes) -> None:
        """A member that is held whole."""
        self.add_chunks(name, len(content), [content])

    def add_chunks(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """A member of `size` bytes. MemberChanged if the chunks are another number of bytes."""
        member = _Member(self._file, name, size)
        for chunk in chunks:
            member.write(chunk)
        self._keep(member)

    async def add_stream(self, name: str, size: int, chunks: AsyncIterable[bytes]) -> None:
        """The same for chunks that are still being read."""
        member = _Member(self._file, name, size)
        async for chunk in chunks:
            member.write(chunk)
        self._keep(member)

    def finish(self, manifest: str) -> None:
        """The manifest, and what stands behind all members."""
        self.add("manifest", manifest.encode())
        self._file.write(directory(self._entries))
        self._file.flush()

    def _keep(self, member: _Member) -> None:
        entry, listed = member.end()
        self._entries.append(entry)
        self.listed.append(listed)


class _Member:
    """One member while it is written."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self._file, self._name, self._size = file, name, size
        self._offset = file.tell()
        self._digest, self._crc, self._written = hashlib.sha256(), 0, 0
        file.write(head(name=name, size=size, crc=0))

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._crc = zlib.crc32(chunk, self._crc)
        self._written += len(chunk)
        self._file.write(chunk)

    def end(self) -> tuple[Entry, Listed]:
        if self._written != self._size:
            raise MemberChanged(
                f"{self._name} has {self._written} bytes instead of {self._size}.",
                why="What it is made from changed while the pack was written.",
                next_step="Ask for the pack again.",
            )
        end = self._file.tell()
        self._file.seek(self._offset + CRC_AT)
        self._file.write(struct.pack("<I", self._crc))
        self._file.seek(end)
        return (
            Entry(name=self._name, size=self._size, crc=self._crc, offset=self._offset),
            Listed(name=self._name, length=self._size, digest=self._digest.hexdigest()),
        )
