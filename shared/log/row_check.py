"""Whether a row of the store still is the event that was appended: its bytes have its hash, and tell its place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from shared.errors import Conflict

_sha256 = hashlib.sha256


class EventAltered(Conflict):
    """The bytes of an event are not those that were appended."""

    def __init__(self, service: str, position: int, rule: str) -> None:
        super().__init__(
            f"{service}:{position} was altered in the database.",
            why=rule,
            next_step="Keep this database as evidence, restore a backup beside it and compare; receipts and packs hold the hash.",
        )
        self.position = position


class EventsMissing(Conflict):
    """Positions have no holes, and here is one."""

    def __init__(self, service: str, position: int) -> None:
        super().__init__(
            f"{service} lacks events above position {position}.",
            why="The store gives positions without holes, so events were removed from the database.",
            next_step="Keep this database as evidence, restore a backup beside it and compare.",
        )
        self.position = position


def hashes_of(service: str, raws: Sequence[bytes], hashes: Sequence[bytes], *, first: int) -> list[bytes]:
    """The leaf hashes (RFC 6962, 2.1) of the bytes, computed; EventAltered at the first that differs from its row or its place."""
    computed = [_sha256(b"\x00" + raw).digest() for raw in raws]
    for position, (raw, own, stored) in enumerate(zip(raws, computed, hashes, strict=True), start=first):
        if own != stored:
            raise EventAltered(service, position, "Its bytes do not have the leaf hash beside them.")
        if not raw.startswith(f'{{"service":"{service}","position":{position},'.encode()):
            raise EventAltered(service, position, "Its bytes tell of another place in the log.")
    return computed
