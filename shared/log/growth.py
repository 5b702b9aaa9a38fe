"""How the tree grows by a batch of leaves: level by level, so that a leaf costs one hash and no call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from shared.log.merkle import Frontier, maximal_subtrees
from shared.log.tile_paths import TILE_BITS

_sha256 = hashlib.sha256


class Growth:
    """The tree `before` with more `leaves` (their hashes) on the right: the tree `after`, and the hashes between the two."""

    def __init__(self, before: Frontier, leaves: Sequence[bytes]) -> None:
        self.before = before
        places = maximal_subtrees(before.size)
        self._edge = {level: hash_ for (level, _), hash_ in zip(places, before.hashes, strict=True)}
        self._levels = _levels(before.size, self._edge, leaves)
        size = before.size + len(leaves)
        self.after = Frontier(size, [self.subtree(*place) for place in maximal_subtrees(size)])

    def subtree(self, level: int, number: int) -> bytes:
        """The hash of a complete subtree that the batch made, or that the tree had on its right edge; KeyError for another."""
        if level < len(self._levels):
            first, hashes = self._levels[level]
            if number >= first:
                return hashes[number - first]
        if (self.before.size >> level) - 1 != number:
            raise KeyError((level, number))
        return self._edge[level]

    def tiles(self) -> Iterator[tuple[int, int, bytes]]:
        """Tile level, number and hash of every complete tile (256^level leaves) that the batch completed."""
        for tile_level in range(1, (self.after.size.bit_length() - 1) // TILE_BITS + 1):
            bits = tile_level * TILE_BITS
            for number in range(self.before.size >> bits, self.after.size >> bits):
                yield tile_level, number, self.subtree(bits, number)


def _levels(size: int, edge: dict[int, bytes], leaves: Sequence[bytes]) -> list[tuple[int, Sequence[bytes]]]:
    """For each level the number of its first hash and the hashes that the leaves make, with the left neighbour that they need."""
    levels: list[tuple[int, Sequence[bytes]]] = []
    hashes: Sequence[bytes] = leaves
    while hashes:
        level = len(levels)
        first = size >> level
        if first & 1:
            hashes = [edge[level], *hashes]
            first -= 1
        levels.append((first, hashes))
        neighbours = iter(hashes)
        hashes = [_sha256(b"\x01" + left + right).digest() for left, right in zip(neighbours, neighbours, strict=False)]
    return levels
