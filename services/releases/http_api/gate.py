"""Route of the gate."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from shared.event import Actor
from shared.http_doors import KEY_PATTERN, Doors

from ..application.gate_keeper import GateKeeper
from .paths import System


class MissingAnswer(BaseModel):
    """What stands between the release and allow, who can change that, and by which verb (an operation id)."""

    code: str
    record: str
    role: str
    next_verb: str
    explanation: str


class GateAnswer(BaseModel):
    """`decision_id` is the digest of the rules' version and all inputs, positions and time among them."""

    allowed: bool
    decision_id: str
    rules_version: str
    system: str
    environment: str
    model_digest: str
    release: str | None
    decided_at: datetime
    positions: dict[str, int]
    missing: list[MissingAnswer]
    waivers: list[str]
    valid_until: datetime | None


ReleaseKey = Annotated[str | None, Query(pattern=KEY_PATTERN, description="a release, by its key")]
ModelDigest = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="together with environment")]
Environment = Annotated[str | None, Query(pattern=KEY_PATTERN, description="together with model_digest")]


def add_gate_routes(routes: APIRouter, doors: Doors, application: GateKeeper) -> None:
    """Allow or deny, without recording it."""

    @routes.get(
        "/gate",
        operation_id="get_gate",
        summary="May this release, or this model version in this environment, be released?",
        response_model=GateAnswer,
    )
    async def get_gate(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        release: ReleaseKey = None,
        model_digest: ModelDigest = None,
        environment: Environment = None,
    ) -> Response:
        answer = await application.answer(
            actor=actor, system=system, release=release, model_digest=model_digest, environment=environment
        )
        return Response(msgspec.json.encode(answer), media_type="application/json")
