"""Where tiles lie and how entries lie in a bundle (C2SP tlog-tiles).

tile/0/x001/x234/067          256 leaf hashes from 1234067 * 256 on
tile/1/000.p/7                the first 7 hashes of a tile that is not full
tile/entries/x001/x234/067    the leaves themselves, each after its length in two bytes
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from shared.errors import FieldError, Invalid

TILE_BITS = 8
TILE_WIDTH = 1 << TILE_BITS
ENTRY_BYTES_MAX = 2**16 - 1
LEVEL_MAX = 63

_PATH = re.compile(r"((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)
_ELEMENTS_MAX = 6


class NoSuchTilePath(Invalid):
    """A path that names no tile, or names one in another way than the one way there is."""


class MalformedBundle(Invalid):
    """Bytes that are no bundle of entries, or an entry that is too long for one."""


def tile_path(number: int, width: int = TILE_WIDTH) -> str:
    """What follows the level or `entries/`: `x001/x234/067`, and `.p/<width>` when the tile is not full."""
    if not 0 <= number < 1000**_ELEMENTS_MAX or not 1 <= width <= TILE_WIDTH:
        raise _no_such(f"a number below {1000**_ELEMENTS_MAX} and a width of 1 to {TILE_WIDTH}")
    elements = [f"{number % 1000:03}"]
    while number := number // 1000:
        elements.append(f"x{number % 1000:03}")
    return "/".join(reversed(elements)) + ("" if width == TILE_WIDTH else f".p/{width}")


def parse_tile_path(path: str) -> tuple[int, int]:
    """Number and width of what `tile_path` wrote. NoSuchTilePath for every other text, leading zero elements among them."""
    found = _PATH.fullmatch(path) if len(path) <= 5 * _ELEMENTS_MAX + 6 else None
    if found is None:
        raise _no_such("three digits, `x001/067` and so on, and `.p/` with 1 to 255 for a tile that is not full")
    number = int(found[1].replace("x", "").replace("/", "") + found[2])
    width = int(found[3] or TILE_WIDTH)
    if number >= 1000**_ELEMENTS_MAX or width > TILE_WIDTH or tile_path(number, width) != path:
        raise _no_such("the shortest form, and a width of 1 to 255 for a tile that is not full")
    return number, width


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """Level, number and width of every tile of a tree of `size` leaves, partial ones with as much as they have."""
    level = 0
    while hashes := size >> TILE_BITS * level:
        for number in range(hashes >> TILE_BITS):
            yield level, number, TILE_WIDTH
        if width := hashes % TILE_WIDTH:
            yield level, hashes >> TILE_BITS, width
        level += 1


def encode_entries(entries: Iterable[bytes]) -> bytes:
    """The bundle: each entry after its length in two bytes, big endian. MalformedBundle above 65,535 bytes."""
    parts: list[bytes] = []
    for number, entry in enumerate(entries):
        if len(entry) > ENTRY_BYTES_MAX:
            raise _malformed(f"at most {ENTRY_BYTES_MAX} bytes in entry {number}")
        parts += (len(entry).to_bytes(2), entry)
    return b"".join(parts)


def decode_entries(bundle: bytes) -> list[bytes]:
    """The entries of a bundle. MalformedBundle if it ends within one or has more than 256."""
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        end = at + 2 + int.from_bytes(bundle[at : at + 2])
        if end > len(bundle) or at + 2 > len(bundle):
            raise _malformed("whole entries")
        entries.append(bundle[at + 2 : end])
        at = end
    if len(entries) > TILE_WIDTH:
        raise _malformed(f"at most {TILE_WIDTH} entries")
    return entries


def _no_such(rule: str) -> NoSuchTilePath:
    return NoSuchTilePath(
        f"No tile has this path: it must be {rule}.",
        why="Each tile has one path (C2SP tlog-tiles).",
        next_step="Work the paths out from the size in the checkpoint.",
        fields=(FieldError(field="/path", rule=rule),),
    )


def _malformed(rule: str) -> MalformedBundle:
    return MalformedBundle(
        f"This is no bundle of entries: it must have {rule}.",
        why="An entry stands after its length in two bytes (C2SP tlog-tiles).",
        next_step="Put what is large into an evidence file; the event carries its digest and length.",
        fields=(FieldError(field="/entries", rule=rule),),
    )
