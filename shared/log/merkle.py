"""Merkle trees as RFC 6962 hashes them: roots, proofs, and their verification. Pure functions over bytes.

A *subtree* is named by its level and its number: number n of level l holds the leaves n * 2^l to (n + 1) * 2^l - 1. It is
*complete* in a tree that has all of them. Proofs are made of complete subtrees; the caller decides where their hashes come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from shared.errors import FieldError, Invalid

HASH_BYTES = 32
PROOF_HASHES_MAX = 63
"""More than any proof over fewer than 2^62 leaves has; also what tlog-witness allows."""

EMPTY_ROOT = hashlib.sha256().digest()
"""The root of the tree without leaves (RFC 6962, 2.1)."""

Subtree = Callable[[int, int], bytes]
"""The hash of the complete subtree of this level and number."""

_sha256 = hashlib.sha256


class OutsideTree(Invalid):
    """A proof was asked for of a leaf or a size that the tree does not have."""


class InclusionNotProven(Invalid):
    """The hashes do not lead from the leaf to the root."""


class ConsistencyNotProven(Invalid):
    """The hashes do not show that the newer tree begins with the older one."""


def leaf_hash(data: bytes) -> bytes:
    """SHA-256 of a zero byte and the data (RFC 6962, 2.1)."""
    return _sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of a one byte and both hashes (RFC 6962, 2.1)."""
    return _sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes (RFC 6962, 2.1): a hash without a neighbour on its right moves up as it is."""
    level = list(leaves)
    while len(level) > 1:
        above = _paired(level)
        level = above if len(level) % 2 == 0 else [*above, level[-1]]
    return level[0] if level else EMPTY_ROOT


def maximal_subtrees(size: int) -> list[tuple[int, int]]:
    """Level and number of the complete subtrees that make up the tree, left to right: one for each one-bit of its size."""
    return [(level, (size >> level) - 1) for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]


def root_of_subtrees(hashes: Sequence[bytes]) -> bytes:
    """The root of the tree whose maximal complete subtrees have these hashes, left to right."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = _sha256(b"\x01" + left + root).digest()
    return root


class Frontier:
    """A growing tree by the hashes of its maximal complete subtrees, left to right: all that appending needs.

    These are at most 63 hashes, whatever the size; `size` and `hashes` are its whole state.
    """

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self._size = size
        self._hashes = list(hashes)
        if size < 0 or len(self._hashes) != size.bit_count() or any(len(one) != HASH_BYTES for one in self._hashes):
            raise _invalid(OutsideTree, "hashes", f"{size.bit_count()} hashes of {HASH_BYTES} bytes for {size} leaves")

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The hashes of the maximal complete subtrees, left to right."""
        return tuple(self._hashes)

    def root(self) -> bytes:
        """The root (RFC 6962, 2.1)."""
        return root_of_subtrees(self._hashes)

    def append(self, leaf: bytes) -> None:
        """Adds one leaf hash."""
        for _ in range((~self._size & (self._size + 1)).bit_length() - 1):
            leaf = node_hash(self._hashes.pop(), leaf)
        self._hashes.append(leaf)
        self._size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Adds leaf hashes, level by level: a leaf costs one hash and no call of ours."""
        level, left, right, rest = list(leaves), self._hashes, list[bytes](), self._size
        self._size += len(level)
        while level:
            if rest & 1:
                level.insert(0, left.pop())
            if len(level) & 1:
                right.append(level.pop())
            level, rest = _paired(level), rest >> 1
        self._hashes = left + right[::-1]

    def to_bytes(self) -> bytes:
        """The size in eight bytes (big endian), then the hashes."""
        return self._size.to_bytes(8) + b"".join(self._hashes)

    @classmethod
    def from_bytes(cls, content: bytes) -> Frontier:
        """As `to_bytes` wrote it. OutsideTree if size and hashes do not fit."""
        hashes = [content[at : at + HASH_BYTES] for at in range(8, len(content), HASH_BYTES)]
        return cls(int.from_bytes(content[:8]), hashes)


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The audit path of leaf `index` (from 0) in the tree of `size` leaves, from the leaf up (RFC 6962, 2.1.1).

    Asks for O(log size) complete subtrees. OutsideTree unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise _invalid(OutsideTree, "index", f"0 to {size - 1} in a tree of {size} leaves")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _left_width(high - low)
        if index < middle:
            path.append(_range_hash(middle, high, subtree))
            high = middle
        else:
            path.append(_range_hash(low, middle, subtree))
            low = middle
    return path[::-1]


def consistency_proof(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """The proof that the tree of `new` leaves begins with that of `old` leaves (RFC 6962, 2.1.2); empty if old is 0 or new.

    Asks for O(log new) complete subtrees. OutsideTree unless 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise _invalid(OutsideTree, "old", f"0 to {new} before a tree of {new} leaves")
    if old in (0, new):
        return []
    path: list[bytes] = []
    low, high = 0, new
    while old != high:
        middle = low + _left_width(high - low)
        if old <= middle:
            path.append(_range_hash(middle, high, subtree))
            high = middle
        else:
            path.append(_range_hash(low, middle, subtree))
            low = middle
    return ([_range_hash(low, high, subtree)] if low else []) + path[::-1]


def verify_inclusion(*, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Returns if the audit path leads from the leaf hash to the root (RFC 9162, 2.1.3.2). InclusionNotProven, OutsideTree."""
    if not 0 <= index < size:
        raise _invalid(OutsideTree, "index", f"0 to {size - 1} in a tree of {size} leaves")
    inner = (index ^ (size - 1)).bit_length()
    _require_hashes(InclusionNotProven, proof, inner + (index >> inner).bit_count())
    computed = leaf
    for level, sibling in enumerate(proof):
        on_the_right = level < inner and not index >> level & 1
        computed = node_hash(computed, sibling) if on_the_right else node_hash(sibling, computed)
    if computed != root or len(leaf) != HASH_BYTES:
        raise _invalid(
            InclusionNotProven, "proof", f"hashes that lead from leaf {index} to the root over {size} leaves"
        )


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Returns if the newer tree begins with the older one (RFC 9162, 2.1.4.2). ConsistencyNotProven, OutsideTree.

    From nothing everything follows: for `old_size` 0 the proof is empty and `old_root` that of the empty tree.
    """
    if not 0 <= old_size <= new_size:
        raise _invalid(OutsideTree, "old_size", f"0 to {new_size} before a tree of {new_size} leaves")
    if old_size in (0, new_size):
        _require_hashes(ConsistencyNotProven, proof, 0)
        if old_root != (new_root if old_size else EMPTY_ROOT) or (new_size == 0 and new_root != EMPTY_ROOT):
            raise _invalid(ConsistencyNotProven, "root", f"one root for one tree of {old_size} leaves")
        return
    if _roots_proven(old_size, old_root, new_size, proof) != (old_root, new_root):
        raise _invalid(
            ConsistencyNotProven, "proof", f"hashes that lead from {old_size} leaves to the root over {new_size}"
        )


def _roots_proven(old_size: int, old_root: bytes, new_size: int, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Both roots as the proof gives them. The walk begins at the last complete subtree that ends where the older tree ends."""
    shift = (old_size & -old_size).bit_length() - 1
    number, last = (old_size - 1) >> shift, (new_size - 1) >> shift
    inner = (number ^ last).bit_length()
    whole = old_size == 1 << shift
    _require_hashes(ConsistencyNotProven, proof, (not whole) + inner + (number >> inner).bit_count())
    seed, path = (old_root, proof) if whole else (proof[0], proof[1:])
    older = newer = seed
    for level, sibling in enumerate(path):
        if level < inner and not number >> level & 1:
            newer = node_hash(newer, sibling)
        else:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
    return older, newer


def _paired(level: Sequence[bytes]) -> list[bytes]:
    """The hashes of neighbours; one without a neighbour is left out."""
    neighbours = iter(level)
    return [_sha256(b"\x01" + left + right).digest() for left, right in zip(neighbours, neighbours, strict=False)]


def _left_width(width: int) -> int:
    """The largest power of two below the width: how many leaves the left half has (RFC 6962, 2.1)."""
    return 1 << (width - 1).bit_length() - 1


def _range_hash(low: int, high: int, subtree: Subtree) -> bytes:
    """The hash over the leaves from `low`, where a node of the tree begins, to `high`."""
    return root_of_subtrees(list(_range_subtrees(low, high, subtree)))


def _range_subtrees(low: int, high: int, subtree: Subtree) -> Iterator[bytes]:
    for level, number in maximal_subtrees(high - low):
        yield subtree(level, (low >> level) + number)


_Broken = type[OutsideTree] | type[InclusionNotProven] | type[ConsistencyNotProven]


def _require_hashes(broken: _Broken, proof: Sequence[bytes], count: int) -> None:
    if len(proof) != count or any(len(one) != HASH_BYTES for one in proof):
        raise _invalid(broken, "proof", f"{count} hashes of {HASH_BYTES} bytes each")


def _invalid(broken: _Broken, field: str, rule: str) -> Invalid:
    return broken(
        f"The {field} must be {rule}.",
        why="A proof fits one leaf or one older tree in one newer tree (RFC 6962, 2.1.1 and 2.1.2), and nothing else.",
        next_step="Take sizes and roots from checkpoints, and the proof between just these from the log.",
        fields=(FieldError(field=f"/{field}", rule=rule),),
    )
