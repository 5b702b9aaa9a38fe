"""The door to the time stamps of checkpoints: what somebody outside the deployment says of when they existed."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

import base64
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel

from shared.event import Actor
from shared.http_doors import PROBLEMS, Doors, PageSize

from .timestamping import Timestamping

Service = Annotated[str, Path(pattern="^[a-z]{1,40}$")]


class CheckpointTimestamp(BaseModel):
    """`response` is an RFC 3161 TimeStampResp (DER in base64) over the SHA-256 of the text of `checkpoint`, a signed note: all that
    stands before its empty line.
    """

    size: int
    checkpoint: str
    response: str


class TimestampPage(BaseModel):
    """Read on with `after` = the size of the last one."""

    timestamps: list[CheckpointTimestamp]


def timestamp_router(*, doors: Doors, timestamping: Timestamping) -> APIRouter:
    """GET /v1/logs/<service>/timestamps."""
    router = APIRouter(prefix="/v1/logs", tags=["log"], responses=PROBLEMS)

    @router.get(
        "/{service}/timestamps",
        operation_id="list_checkpoint_timestamps",
        summary="Checkpoints of a log with time stamps of an authority (RFC 3161)",
        response_model=TimestampPage,
    )
    async def list_checkpoint_timestamps(
        _actor: Annotated[Actor, Depends(doors.reader)],
        service: Service,
        after: Annotated[int, Query(ge=0, le=2**62, alias="after_size")] = 0,
        page_size: PageSize = 100,
    ) -> Response:
        stamped = await timestamping.stamped(service=service, after=after, limit=page_size)
        page = [
            {"size": one.size, "checkpoint": one.note, "response": base64.b64encode(one.response).decode()}
            for one in stamped
        ]
        return Response(msgspec.json.encode({"timestamps": page}), media_type="application/json")

    return router
