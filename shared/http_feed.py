"""The feed door of a service: its events by position, for the AI systems in which the caller holds a role."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from shared.access import Access
from shared.event import Actor
from shared.event_store import EventStore
from shared.http_doors import PROBLEMS, Doors, PageSize


class FeedEvent(BaseModel):
    """`event` is the exact text that was stored; its UTF-8 bytes have the leaf hash."""

    position: int
    leaf_hash: str
    event: str


class FeedPage(BaseModel):
    """Read on from `next_position`; it also moves past events that the caller may not see."""

    events: list[FeedEvent]
    next_position: int


def feed_router(*, doors: Doors, access: Access, store: EventStore) -> APIRouter:
    """GET /v1/<service>/events."""
    router = APIRouter(prefix=f"/v1/{doors.service}", tags=["feed"], responses=PROBLEMS)

    @router.get(
        "/events",
        operation_id=f"list_{doors.service}_events",
        summary="Events in order of position",
        response_model=FeedPage,
    )
    async def list_events(
        actor: Annotated[Actor, Depends(doors.reader)],
        from_position: Annotated[int, Query(ge=0, le=2**62)] = 0,
        page_size: PageSize = 100,
    ) -> Response:
        everything = actor.subject in doors.feed_readers
        systems = frozenset() if everything else frozenset(await access.systems(subject=actor.subject))
        events = await store.read(after=from_position, limit=page_size)
        page = {
            "events": [
                {"position": event.position, "leaf_hash": event.leaf_hash, "event": event.raw.decode()}
                for event in events
                if everything or event.system is None or event.system in systems
            ],
            "next_position": events[-1].position if events else from_position,
        }
        return Response(msgspec.json.encode(page), media_type="application/json")

    return router
