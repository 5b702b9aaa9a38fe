"""One feed out of two: what this process serves is read from its stores, everything else from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from shared.event import RecordedEvent
from shared.feed import Feed, Pulse


class SplitFeed:
    """`near` for the services in `own`, `far` for all others."""

    def __init__(self, *, own: Collection[str], near: Feed, far: Feed) -> None:
        self._own = frozenset(own)
        self._near = near
        self._far = far

    async def read(self, *, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        return await self._of(service).read(service=service, after=after, limit=limit)

    async def changed(self, *, service: str, after: int) -> None:
        await self._of(service).changed(service=service, after=after)

    async def head(self, *, service: str) -> int:
        return await self._of(service).head(service=service)

    async def pulse(self, *, service: str) -> Pulse:
        return await self._of(service).pulse(service=service)

    async def listen(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._near.listen())
            group.create_task(self._far.listen())

    def _of(self, service: str) -> Feed:
        return self._near if service in self._own else self._far
