"""The feed as it was when every service stood at a given position: what came later is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.event import RecordedEvent
from shared.feed import Feed, Pulse


@dataclass(frozen=True, kw_only=True)
class PastFeed:
    """Hands out events up to `positions` only; a service that is not named there had none."""

    feed: Feed
    positions: Mapping[str, int]

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        left = self.positions.get(service, 0) - after
        return await self.feed.read(service=service, after=after, limit=min(limit, left)) if left > 0 else ()

    async def head(self, *, service: str) -> int:
        return min(self.positions.get(service, 0), await self.feed.head(service=service))

    async def changed(self, *, service: str, after: int) -> None:
        """Nothing comes any more."""
        if self.positions.get(service, 0) <= after:
            await asyncio.Event().wait()
        await self.feed.changed(service=service, after=after)

    async def pulse(self, *, service: str) -> Pulse:
        return await self.feed.pulse(service=service)

    async def listen(self) -> None:
        await self.feed.listen()
