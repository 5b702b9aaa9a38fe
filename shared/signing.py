"""What a signer is shown and sends back: readable text, the difference to what was signed before, canonical bytes, digest."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from shared.command import CommandContext
from shared.errors import Conflict, FieldError, Invalid
from shared.event import Actor, digest_of
from shared.event_store import Receipt

Decision = Literal["sign", "decline"]


class NothingToSign(Invalid):
    """The record does not exist, or nothing of it waits for a signature."""


class SignedElsewhere(Conflict):
    """The digest is not that of the record as it is now."""


class RecordTwice(Invalid):
    """One act of signing names a record once."""


class OtherMeaning(Invalid):
    """The signer was shown another meaning than the signature would have (21 CFR 11.50)."""


class Signable(msgspec.Struct, frozen=True, kw_only=True):
    """One record that waits for a signature, as its signer must see it.

    `canonical` is the text whose UTF-8 bytes have the hex SHA-256 `digest`; `difference` is a unified diff against what was
    signed before, empty if nothing was; `meaning` is what the signature will mean; `roles` are those that may sign.
    """

    record: str
    system: str
    title: str
    meaning: str
    roles: tuple[str, ...]
    text: str
    difference: tuple[str, ...]
    canonical: str
    digest: str
    version: int


class SignItem(msgspec.Struct, frozen=True, kw_only=True):
    """A signer's word on one record: its stream name, the digest they saw, and the meaning they were shown."""

    record: str
    digest: str
    meaning: str


class Signing(Protocol):
    """What the application of a service with signable records offers to the signing pages."""

    async def awaiting_signature(self, *, actor: Actor) -> Sequence[Signable]:
        """Everything that waits for this person, in order of record."""

    async def signable(self, *, actor: Actor, record: str) -> Signable:
        """One record as its signer must see it."""

    async def sign(self, *, context: CommandContext, decision: Decision, items: Sequence[SignItem]) -> Receipt:
        """Signs or declines all items in one transaction: all or none."""


def require_each_once(items: Sequence[SignItem]) -> None:
    """Raises RecordTwice."""
    records = [item.record for item in items]
    twice = [index for index, record in enumerate(records) if records.index(record) < index]
    if twice:
        raise RecordTwice(
            f"{records[twice[0]]} is named twice.",
            why="One act of signing names a record once, so that it has one answer.",
            next_step="Send each record once.",
            fields=tuple(FieldError(field=f"/items/{index}/record", rule="named once") for index in twice),
        )


def require_meaning(items: Sequence[SignItem], meaning: str) -> None:
    """Raises OtherMeaning unless the signers of all items were shown this meaning."""
    wrong = [index for index, item in enumerate(items) if item.meaning != meaning]
    if wrong:
        raise OtherMeaning(
            f"A signature here means {meaning}, not {items[wrong[0]].meaning!r}.",
            why="A signature has the meaning that its signer was shown.",
            next_step="Fetch what would be signed again and send its meaning back.",
            fields=tuple(FieldError(field=f"/items/{index}/meaning", rule=meaning) for index in wrong),
        )


def signable_of(
    *,
    record: str,
    system: str,
    title: str,
    meaning: str,
    roles: Sequence[str],
    canonical: bytes,
    before: bytes | None,
    version: int,
) -> Signable:
    """The signable of canonical bytes; `before` are those that were signed last, None for the first time."""
    text = readable_text(msgspec.json.decode(canonical))
    old = readable_text(msgspec.json.decode(before)) if before is not None else None
    return Signable(
        record=record,
        system=system,
        title=title,
        meaning=meaning,
        roles=tuple(roles),
        text=text,
        difference=() if old is None else tuple(difflib.unified_diff(old.splitlines(), text.splitlines(), lineterm="")),
        canonical=canonical.decode(),
        digest=digest_of(canonical),
        version=version,
    )


def readable_text(value: Any, indent: int = 0) -> str:
    """JSON values as indented lines that a person can read; the order of the canonical bytes is kept.

    Every line of a text of several lines is marked, so that no text can pass for a field that is not there.
    """
    pad = "  " * indent
    if isinstance(value, dict):
        return "\n".join(_entry(pad + _label(name), child, indent) for name, child in value.items())
    if isinstance(value, list):
        return "\n".join(_entry(f"{pad}{number}", child, indent) for number, child in enumerate(value, start=1))
    if isinstance(value, str) and len(_lines(value)) > 1:
        return "\n".join(f"{pad}| {line}" for line in _lines(value))
    return f"{pad}{_scalar(value)}"


def _entry(label: str, child: Any, indent: int) -> str:
    if (isinstance(child, dict | list) and child) or (isinstance(child, str) and len(_lines(child)) > 1):
        return f"{label}:\n{readable_text(child, indent + 1)}"
    return f"{label}: {_scalar(child)}"


def _label(name: str) -> str:
    return " ".join(_lines(name.replace("_", " ")))


def _lines(text: str) -> list[str]:
    """As splitlines, but a line break at the end begins a last, empty line."""
    *lines, last = f"{text}.".splitlines()
    return [*lines, last[:-1]]


def _scalar(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
