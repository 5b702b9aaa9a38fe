"""What a log records about itself, in the stream `log::<service>`: its key was changed, or it was begun again after a loss."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from shared.event import Fact, stream_of


class KeyRotation(Fact, frozen=True, kw_only=True):
    """The log's key was changed: from here on checkpoints and promises carry `new_key`; both keys as C2SP verifier keys.

    `signature` is the old key's signature, as a signed note over the text
    `prooftrail key rotation\\n<origin>\\n<new key>\\n`.
    """

    old_key: str
    new_key: str
    signature: str


class Recovery(Fact, frozen=True, kw_only=True):
    """The database was behind what the log had promised, and was taken up again on purpose, under a new epoch.

    `last_checkpoint` is the last signed note of the old epoch, None if it is lost too. The events of the positions
    `lost_first` to `lost_last`, and any promise of the old epoch above, are not in the new one, unless a leaf hash says so.
    `signature` is the signed note over `prooftrail recovery\\n<new origin>\\n<lost_first> <lost_last>\\n`.
    """

    epoch: int
    last_checkpoint: str | None
    lost_first: int
    lost_last: int
    why: str
    signature: str


@cache
def log_facts(service: str) -> tuple[type[Fact], ...]:
    """The two facts under the stored names of one service."""
    return (
        _named("LogKeyRotated", f"{service}.log-key-rotated", KeyRotation),
        _named("LogRecovered", f"{service}.log-recovered", Recovery),
    )


def _named(name: str, topic: str, fields_of: type[Fact]) -> type[Fact]:
    fact: Any = msgspec.defstruct(
        name, [], bases=(fields_of,), namespace={"TOPIC": topic}, frozen=True, kw_only=True, module=__name__
    )
    named: type[Fact] = fact
    return named


def log_stream(service: str) -> str:
    """The stream of the log's own facts: `log::requirements`."""
    return stream_of(kind="log", system=None, key=service)
