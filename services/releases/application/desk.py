"""What every use case of this service works with, and where its records lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import asyncpg

from shared.access import Access, Role
from shared.command import CommandContext, load_state
from shared.event import Fact, stream_of
from shared.event_store import EventStore, Receipt
from shared.feed import Feed
from shared.projection import ProjectionRunner

StateType = TypeVar("StateType")

AUTHORS = (Role.AUTHOR, Role.SERVICE)
APPROVERS = (Role.APPROVER,)
RELEASERS = (Role.RELEASER,)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The persistence of this service, the feed and the clock. `wait_s` bounds every wait for facts of others, in seconds."""

    store: EventStore
    access: Access
    pool: asyncpg.Pool
    projection: ProjectionRunner
    feed: Feed
    clock: Callable[[], datetime]
    wait_s: float

    async def load(self, stream: str, evolve: Callable[[StateType | None, Fact], StateType]) -> StateType | None:
        """The state of the stream, None when it does not exist."""
        state, _ = await load_state(self.store, stream, evolve)
        return state

    async def answered(self, context: CommandContext) -> Receipt | None:
        """The stored answer of a request that was carried out before: asked first, since what it rests on may have moved."""
        return await self.store.answer(context.idempotency) if context.idempotency is not None else None

    async def read_all_of(self, service: str) -> None:
        """Waits until the copy has what the service had recorded when this was called: for a fact that may be on its way."""
        # What can be read here may be less than what the service says it has.
        head = max(await self.feed.head(service=service), (await self.feed.pulse(service=service)).head)
        await self.projection.wait({service: head}, timeout_s=self.wait_s)


def model_version_stream(system: str, model: str, version: str) -> str:
    """The stream of one model version."""
    return stream_of(kind="model-version", system=system, key=f"{model}@{version}")


def change_plan_stream(system: str, key: str) -> str:
    """The stream of a change plan."""
    return stream_of(kind="change-plan", system=system, key=key)


def change_request_stream(system: str, key: str) -> str:
    """The stream of a change request."""
    return stream_of(kind="change-request", system=system, key=key)


def release_stream(system: str, key: str) -> str:
    """The stream of a release."""
    return stream_of(kind="release", system=system, key=key)


def waiver_stream(system: str, key: str) -> str:
    """The stream of a waiver."""
    return stream_of(kind="waiver", system=system, key=key)


def nonconformity_stream(system: str, key: str) -> str:
    """The stream of a nonconformity."""
    return stream_of(kind="nonconformity", system=system, key=key)
