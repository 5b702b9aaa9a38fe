"""Checkpoints: what a log signs about its tree (C2SP tlog-checkpoint), and how logs are named.

    acme/requirements/1                               <- origin: deployment, service, epoch
    3                                                 <- leaves
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=      <- root

The key of a log bears the origin's name without the epoch, `acme/requirements`: it outlives a recovery.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import FieldError, Invalid
from shared.log.merkle import EMPTY_ROOT, HASH_BYTES
from shared.log.note import OpenedNote, VerifierKey, decode_base64, open_note

SIZE_MAX = 2**63 - 1

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


class MalformedCheckpoint(Invalid):
    """The text of a note that is no checkpoint."""


class ForeignOrigin(Invalid):
    """A log was named in a way that logs are not, or the checkpoint is of another one."""


@dataclass(frozen=True)
class TreeHead:
    """A log's tree at one moment: its origin, how many leaves, the root, and lines beyond these that mean nothing here."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The text to sign. MalformedCheckpoint if it would not be one."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        text = "".join(f"{line}\n" for line in lines)
        if parse_checkpoint(text) != self:
            raise _malformed("origin, size and root on a line each")
        return text


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint with the proof of who signed it."""

    head: TreeHead
    note: OpenedNote


def parse_checkpoint(text: str) -> TreeHead:
    """The text of a note as a checkpoint, strictly. MalformedCheckpoint."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise _malformed("at least three lines, none of them empty")
    origin, size, root, *extensions = lines[:-1]
    if not _SIZE.fullmatch(size) or int(size) > SIZE_MAX:
        raise _malformed("a size without leading zeroes on the second line")
    content = decode_base64(root)
    if content is None or len(content) != HASH_BYTES:
        raise _malformed(f"the canonical base64 of {HASH_BYTES} bytes on the third line")
    if size == "0" and content != EMPTY_ROOT:
        raise _malformed("the root of the empty tree when the size is 0")
    return TreeHead(origin, int(size), content, tuple(extensions))


def open_checkpoint(note: str, keys: Iterable[VerifierKey], *, origin: str | None = None) -> OpenedCheckpoint:
    """The checkpoint in the note, signed by one of the keys or more, and of this origin if one is given.

    Raises what `open_note` raises, MalformedCheckpoint, ForeignOrigin.
    """
    opened = open_note(note, keys)
    head = parse_checkpoint(opened.text)
    if origin not in (None, head.origin):
        raise ForeignOrigin(
            f"The checkpoint is of {head.origin}, not of {origin}.",
            why="A root says something about one log only.",
            next_step="Ask for the checkpoint of the log that you mean.",
            fields=(FieldError(field="/origin", rule=str(origin)),),
        )
    return OpenedCheckpoint(head, opened)


def log_name(*, deployment: str, service: str) -> str:
    """The name of a log's key: `acme/requirements`. ForeignOrigin if a part is no name."""
    for field, part in (("deployment", deployment), ("service", service)):
        if not _NAME.fullmatch(part):
            raise ForeignOrigin(
                f"{part[:80]!r} cannot be the {field} in a log's name.",
                why="Names of logs are pinned by others: lower case, digits, dots and hyphens.",
                next_step="Choose a short name such as prooftrail.example.com.",
                fields=(FieldError(field=f"/{field}", rule=_NAME.pattern),),
            )
    return f"{deployment}/{service}"


def log_origin(*, deployment: str, service: str, epoch: int) -> str:
    """The origin of a log: `acme/requirements/1`."""
    return f"{log_name(deployment=deployment, service=service)}/{epoch}"


def _malformed(rule: str) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        f"This is no checkpoint: it must have {rule}.",
        why="A checkpoint has one form (C2SP tlog-checkpoint).",
        next_step="Fetch the checkpoint again, and pass it on without reformatting it.",
        fields=(FieldError(field="/checkpoint", rule=rule),),
    )
