"""Trees as RFC 6962 writes them down, with no thought of speed: what the quick code is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from shared.log.merkle import Subtree


def entries(count: int) -> list[bytes]:
    """Different short texts."""
    return [f"event {number}".encode() for number in range(count)]


def leaves(count: int) -> list[bytes]:
    """Their leaf hashes."""
    return [hashlib.sha256(b"\x00" + entry).digest() for entry in entries(count)]


def _left(count: int) -> int:
    """The largest power of two below the count."""
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def mth(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, over leaf hashes."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    k = _left(len(hashes))
    return hashlib.sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def path(m: int, hashes: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(hashes) == 1:
        return []
    k = _left(len(hashes))
    if m < k:
        return [*path(m, hashes[:k]), mth(hashes[k:])]
    return [*path(m - k, hashes[k:]), mth(hashes[:k])]


def proof(m: int, hashes: Sequence[bytes]) -> list[bytes]:
    """PROOF of RFC 6962, 2.1.2."""
    return _subproof(m, hashes, whole=True)


def _subproof(m: int, hashes: Sequence[bytes], *, whole: bool) -> list[bytes]:
    if m == len(hashes):
        return [] if whole else [mth(hashes)]
    k = _left(len(hashes))
    if m <= k:
        return [*_subproof(m, hashes[:k], whole=whole), mth(hashes[k:])]
    return [*_subproof(m - k, hashes[k:], whole=False), mth(hashes[:k])]


def subtree_of(hashes: Sequence[bytes]) -> Subtree:
    """Hashes complete subtrees; asked for one that the leaves do not fill, it fails."""

    def subtree(level: int, number: int) -> bytes:
        assert (number + 1) << level <= len(hashes)
        return mth(hashes[number << level : (number + 1) << level])

    return subtree
