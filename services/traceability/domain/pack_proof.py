"""What an exported pack says of its logs: one proof for all events of a service together, and the manifest that is signed.

The proof is the leaf hashes of the events and, left to right, the roots of the maximal subtrees that hold none of them; who has
both computes the root once, by the recursion of RFC 6962, 2.1. With all events of a log there are no such subtrees.
"""

from __future__ import annotations

from base64 import b64encode
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256

import msgspec

Subtree = Callable[[int, int], bytes]
"""Level and number of a complete subtree, to its hash."""

WHOLE_DEPLOYMENT = "*"


class VouchedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a log; `rotation` is the signed note in which the key before it introduces it, None for the first."""

    vkey: str
    rotation: str | None


class ServiceProof(msgspec.Struct, frozen=True, kw_only=True):
    """The member `proof/<service>.json`. `checkpoint` is a signed note with cosignatures; `checkpoints` are others."""

    origin: str
    size: int
    checkpoint: str
    keys: Sequence[VouchedKey]
    witnesses: Sequence[str]
    positions: Sequence[int] | Mapping[str, int]
    leaves: str
    nodes: Sequence[str]
    checkpoints: Sequence[str]


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pack goes in one service: `count` events of its AI system up to `position`; `last` is the last one's leaf hash."""

    service: str
    position: int
    count: int
    last: str | None


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A member by name, length and hex SHA-256."""

    name: str
    length: int
    digest: str


def bare_nodes(*, size: int, positions: Sequence[int], subtree: Subtree) -> list[bytes]:
    """The roots of the maximal subtrees, of a tree of `size` leaves, without any of the positions (ascending, from 1)."""
    return list(_bare(0, size, 0, len(positions), positions, subtree)) if size else []


def _bare(low: int, high: int, first: int, last: int, positions: Sequence[int], subtree: Subtree) -> Iterator[bytes]:
    if first == last:
        yield _root(low, high, subtree)
    elif last - first < high - low:
        split = low + (1 << (high - low - 1).bit_length() - 1)
        middle = bisect_left(positions, split + 1, first, last)
        yield from _bare(low, split, first, middle, positions, subtree)
        yield from _bare(split, high, middle, last, positions, subtree)


def _root(low: int, high: int, subtree: Subtree) -> bytes:
    """The root over the leaves from `low` to `high`, of which only complete subtrees can be asked for."""
    level = (high - low - 1).bit_length()
    if high - low == 1 << level:
        return subtree(level, low >> level)
    split = low + (1 << level - 1)
    return sha256(b"\x01" + _root(low, split, subtree) + _root(split, high, subtree)).digest()


def tree_root(*, size: int, subtree: Subtree) -> bytes:
    """The root of the tree of `size` leaves."""
    return _root(0, size, subtree) if size else sha256().digest()


def stated_positions(positions: Sequence[int]) -> Sequence[int] | Mapping[str, int]:
    """The positions as the proof states them: first and last are enough when none is missing in between."""
    if positions and positions[-1] - positions[0] + 1 == len(positions):
        return {"first": positions[0], "last": positions[-1]}
    return positions


def encoded(hashes: Sequence[bytes]) -> list[str]:
    """Each as base64."""
    return [b64encode(one).decode() for one in hashes]


def manifest_text(
    *, deployment: str, system: str, ledger_position: int, services: Sequence[Covered], members: Sequence[Listed]
) -> str:
    """What traceability signs: how far the pack goes in each service, and every member."""
    lines = ["prooftrail pack", deployment, system, f"ledger {ledger_position}"]
    lines += [f"{one.service} {one.position} {one.count} {one.last or '-'}" for one in services]
    lines += [f"{one.digest} {one.length} {one.name}" for one in members]
    return "\n".join(lines) + "\n"
