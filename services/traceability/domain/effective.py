"""Since when a fact is true, apart from when it was recorded: the second time axis, folded from the ledger and kept nowhere.

What was true at t, as known at t', is the fold of the ledger up to t' without the events that were not true yet at t. Per kind:

- A fact that states `effective_at` is true from then, however late it was told (a deployment, a stop, a withdrawal).
- A window of production is true from its end, and a drift signal from the end of the window that raised it.
- A voided run was void from its recording on: it never was evidence, whatever was believed.
- A consequence that a service drew (CONSEQUENCES) is true from when its cause is.
- Everything else, and above all what a signature brings about, is true from its recording: nobody signs into the past.
- A record keeps its order: no event of it is true before the one ahead of it.

Times that facts set for later (a waiver's end, a deadline) are compared with t by the rules that read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

STATED: Mapping[str, str] = {"drift.drift-window-closed": "end", "drift.drift-signal-raised": "window_end"}
"""The field that says since when, for events that do not call it `effective_at`."""

FROM_THE_START = frozenset({"verification.evaluation-run-voided"})

CONSEQUENCES = frozenset({"verification.verification-marked-suspect", "drift.monitoring-plan-activated"})

BEGINNING = datetime.min.replace(tzinfo=UTC)
PASSES_MAX = 8
"""A cause that arrived after its consequence takes one more pass; chains of those are short."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the time axis needs of a ledger entry. `stated` is None if the event says nothing of its own about since when."""

    id: str
    stream: str
    recorded_at: datetime
    stated: datetime | None
    cause: str | None


def told(*, recorded_at: datetime, content: Mapping[str, Any]) -> Told:
    """The entry's part in the time axis; `content` is the whole event as JSON values."""
    name, data = content["name"], content["data"]
    return Told(
        id=content["id"],
        stream=content["stream"],
        recorded_at=recorded_at,
        stated=BEGINNING if name in FROM_THE_START else said(name=name, data=data),
        cause=content["causation"] if name in CONSEQUENCES else None,
    )


def said(*, name: str, data: Mapping[str, Any]) -> datetime | None:
    """Since when the event itself says that it is true, None if it does not say."""
    return _moment(data.get(STATED.get(name, "effective_at")))


def _moment(text: object) -> datetime | None:
    """None for what is no moment: an event that this version does not know may call anything by these names."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def true_from(entries: Sequence[Told]) -> list[datetime]:
    """Since when each entry is true, as far as these entries tell; they are in the order of the ledger."""
    found: list[datetime] = []
    known: dict[str, datetime] = {}
    for _ in range(PASSES_MAX):
        before = found
        found = list(_pass(entries, known))
        if found == before or not any(entry.cause for entry in entries):
            break
    return found


def _pass(entries: Iterable[Told], known: dict[str, datetime]) -> Iterable[datetime]:
    """One walk in order; `known` keeps what was found, by id of the event."""
    ahead: dict[str, datetime] = {}
    for entry in entries:
        own = entry.stated or known.get(entry.cause or "") or entry.recorded_at
        since = max(own, ahead.get(entry.stream, BEGINNING))
        ahead[entry.stream] = known[entry.id] = since
        yield since
