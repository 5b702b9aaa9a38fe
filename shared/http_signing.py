"""The signing door of a service: what waits for me, what I sign, sign or decline."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.command_route import CommandRoute
from shared.event import Actor
from shared.http_doors import (
    PROBLEMS,
    Body,
    CommandBody,
    Doors,
    ReceiptAnswer,
    Sha256,
    StreamName,
    because,
    receipt_response,
)
from shared.signing import Signing, SignItem, require_each_once


class SignableAnswer(BaseModel):
    """One record as its signer must see it; `canonical` in UTF-8 has the hex SHA-256 `digest`."""

    record: str
    system: str
    title: str
    meaning: str
    roles: list[str]
    text: str
    difference: list[str]
    canonical: str
    digest: str
    version: int


class AwaitingSignature(BaseModel):
    items: list[SignableAnswer]


class SignItemBody(Body):
    record: StreamName
    digest: Sha256
    meaning: Annotated[str, Field(min_length=1, max_length=100)]


class SignaturesBody(CommandBody):
    """One act of signing; it covers all items, or none is signed."""

    decision: Literal["sign", "decline"]
    items: Annotated[list[SignItemBody], Field(min_length=1, max_length=200)]


def signing_router(*, doors: Doors, application: Signing) -> APIRouter:
    """Routes under /v1/<service>: awaiting-signature, signable, signatures."""
    router = APIRouter(prefix=f"/v1/{doors.service}", tags=["signing"], responses=PROBLEMS, route_class=CommandRoute)

    @router.get(
        "/awaiting-signature",
        operation_id=f"list_{doors.service}_awaiting_signature",
        summary="What waits for my signature",
        response_model=AwaitingSignature,
    )
    async def list_awaiting_signature(actor: Annotated[Actor, Depends(doors.reader)]) -> Response:
        items = await application.awaiting_signature(actor=actor)
        return Response(msgspec.json.encode({"items": list(items)}), media_type="application/json")

    @router.get(
        "/signable",
        operation_id=f"get_{doors.service}_signable",
        summary="What I would sign",
        response_model=SignableAnswer,
    )
    async def get_signable(
        actor: Annotated[Actor, Depends(doors.reader)],
        record: Annotated[StreamName, Query()],
    ) -> Response:
        signable = await application.signable(actor=actor, record=record)
        return Response(msgspec.json.encode(signable), media_type="application/json")

    @router.post(
        "/signatures",
        operation_id=f"sign_{doors.service}_records",
        summary="Sign or decline the records whose digests I send back",
        response_model=ReceiptAnswer,
    )
    async def sign_records(
        context: Annotated[CommandContext, Depends(doors.signing)], body: SignaturesBody
    ) -> Response:
        items = [SignItem(record=item.record, digest=item.digest, meaning=item.meaning) for item in body.items]
        require_each_once(items)
        receipt = await application.sign(context=because(context, body), decision=body.decision, items=items)
        return receipt_response(receipt)

    return router
