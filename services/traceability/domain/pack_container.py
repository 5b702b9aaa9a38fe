"""The container of an exported pack: a ZIP whose every byte follows from the names and contents of its members.

Nothing is compressed, all times are 1980-01-01, and the only extra field is ZIP64's, where a size or an offset does not fit into
32 bits (APPNOTE 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3). So whoever knows the members can write the container again and compare.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

FULL = 0xFFFFFFFF
MANY = 0xFFFF
PLAIN_VERSION, ZIP64_VERSION = 20, 45
FIRST_OF_JANUARY_1980 = 0x0021
ZIP64_FIELD = 1


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A member that was written: `crc` is the CRC-32 of its bytes, `offset` where its head begins."""

    name: str
    size: int
    crc: int
    offset: int


def head_length(name: str, size: int) -> int:
    """How many bytes stand before the content of a member."""
    return len(head(name=name, size=size, crc=0))


def head(*, name: str, size: int, crc: int) -> bytes:
    """What stands before the content of a member."""
    extra = _zip64([size, size] if size >= FULL else [])
    fields = (*_common(extra, size=size, crc=crc), len(name), len(extra))
    return struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + name.encode("ascii") + extra


def directory(entries: Sequence[Entry]) -> bytes:
    """What stands behind all members."""
    lines = b"".join(map(_line, entries))
    start = entries[-1].offset + head_length(entries[-1].name, entries[-1].size) + entries[-1].size if entries else 0
    return lines + _end(count=len(entries), size=len(lines), start=start)


def _line(entry: Entry) -> bytes:
    large = [entry.size] * 2 if entry.size >= FULL else []
    extra = _zip64(large + ([entry.offset] if entry.offset >= FULL else []))
    common = _common(extra, size=entry.size, crc=entry.crc)
    rest = (len(entry.name), len(extra), 0, 0, 0, 0, min(entry.offset, FULL))
    return struct.pack("<4s6H3I5H2I", b"PK\x01\x02", common[0], *common, *rest) + entry.name.encode("ascii") + extra


def _common(extra: bytes, *, size: int, crc: int) -> tuple[int, ...]:
    """Version needed, flags, method, time, date, checksum and both sizes."""
    version = ZIP64_VERSION if extra else PLAIN_VERSION
    return version, 0, 0, 0, FIRST_OF_JANUARY_1980, crc, min(size, FULL), min(size, FULL)


def _zip64(values: Sequence[int]) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", ZIP64_FIELD, 8 * len(values), *values) if values else b""


def _end(*, count: int, size: int, start: int) -> bytes:
    counts = (min(count, MANY), min(count, MANY))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, *counts, min(size, FULL), min(start, FULL), 0)
    if count < MANY and size < FULL and start < FULL:
        return end
    versions = (ZIP64_VERSION, ZIP64_VERSION)
    large = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, *versions, 0, 0, count, count, size, start)
    return large + struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1) + end
