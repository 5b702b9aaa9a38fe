"""The read copy of the roles; everything else here is folded from the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from shared import access
from shared.effects import Effects
from shared.event import RecordedEvent

from .published_events import SERVICE


class TraceabilityProjection:
    """Who may read what."""

    service = SERVICE
    sources: Sequence[str] = (access.SOURCE,)
    tables_sql = access.TABLES_SQL

    async def apply(self, effects: Effects, event: RecordedEvent) -> None:
        """The effect of one event on the roles."""
        await access.apply(effects, event)
