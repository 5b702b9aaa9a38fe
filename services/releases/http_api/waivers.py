"""Routes of waivers. A waiver is shown as it would be signed, then granted with the digest of exactly that."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    Body,
    Doors,
    Key,
    Moment,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    SigningBody,
    Text,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)
from shared.http_signing import SignableAnswer

from ..application.listings import Listings
from ..application.waivers import Waivers
from ..domain.waiver import WaiverContent
from .paths import System

Subject = Annotated[str, Field(pattern=r"^[!-?A-~]{1,255}$", description="the opaque OIDC subject")]


class PreviewWaiver(Body):
    """`granted_to` is who asked for the waiver and answers for the deviation; never the approver who grants it."""

    key: Key
    kind: Literal["requirement", "segregation of duties"]
    release: Key
    requirement: Key | None = None
    granted_to: Subject
    compensating_control: Text
    expires_at: Moment


class GrantWaiver(PreviewWaiver, SigningBody):
    """What was previewed, and the digest of it."""


class WaiverItem(BaseModel):
    """`state` is in force, expired or revoked, as of now."""

    key: str
    kind: str
    release: str
    requirement: str | None
    granted_to: str
    compensating_control: str
    expires_at: datetime
    state: str


class WaiverAnswer(BaseModel):
    content: dict[str, object]
    revoked: bool


def add_waiver_routes(routes: APIRouter, doors: Doors, application: Waivers, listings: Listings) -> None:
    """Showing, granting, revoking and reading."""
    _add_waiver_reads(routes, doors, application, listings)

    @routes.post(
        "/waivers:preview",
        operation_id="preview_waiver",
        summary="What an approver would sign; nothing is stored",
        response_model=SignableAnswer,
    )
    async def preview_waiver(
        actor: Annotated[Actor, Depends(doors.reader)], system: System, body: PreviewWaiver
    ) -> Response:
        shown = await application.preview_waiver(actor=actor, system=system, content=_content(body))
        return Response(msgspec.json.encode(shown), media_type="application/json")

    @routes.post("/waivers", operation_id="grant_waiver", status_code=201, response_model=ReceiptAnswer)
    async def grant_waiver(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, body: GrantWaiver
    ) -> Response:
        receipt = await application.grant_waiver(
            context=because(context, body),
            system=system,
            content=_content(body),
            digest=body.digest,
            covers=body.covers,
        )
        return receipt_response(receipt, status=201)

    @routes.post("/waivers/{key}:revoke", operation_id="revoke_waiver", response_model=ReceiptAnswer)
    async def revoke_waiver(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await application.revoke_waiver(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )


def _add_waiver_reads(routes: APIRouter, doors: Doors, application: Waivers, listings: Listings) -> None:
    @routes.get("/waivers", operation_id="list_waivers")
    async def list_waivers(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[WaiverItem]:
        start = page_start(page_token, str)
        rows = await listings.waivers(actor=actor, system=system, after=start[0] if start else "", limit=page_size)
        return page_of([WaiverItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/waivers/{key}", operation_id="get_waiver", response_model=WaiverAnswer)
    async def get_waiver(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await application.waiver(actor=actor, system=system, key=key)
        return record_response(state, version=version)


def _content(body: PreviewWaiver) -> WaiverContent:
    return WaiverContent(
        key=body.key,
        kind=body.kind,
        release=body.release,
        requirement=body.requirement,
        granted_to=body.granted_to,
        compensating_control=body.compensating_control,
        expires_at=body.expires_at.astimezone(UTC),
    )
