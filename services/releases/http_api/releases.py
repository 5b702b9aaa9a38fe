"""Routes of releases."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    CommandBody,
    Doors,
    Key,
    LateBody,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    Sha256,
    SigningBody,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.listings import Listings
from ..application.release_control import ReleaseControl
from .paths import System


class OpenReleaseCandidate(CommandBody):
    """Approver and releaser always sign; `also_required` asks a reviewer to sign too."""

    key: Key
    model: Key
    version: Key
    environment: Key
    change_request: Key | None = None
    also_required: Annotated[list[Literal["reviewer"]], Field(max_length=1, default_factory=list)]


class AdoptRelease(LateBody):
    model: Key
    version: Key
    environment: Key


class SignOff(SigningBody):
    role: Literal["reviewer", "approver", "releaser"]


class DeployRelease(LateBody):
    """What the reporter found running. `emergency` goes past gate and sign-offs; the sign-offs are then due by a deadline."""

    environment: Key
    observed_digest: Sha256
    emergency: bool = False


class RollBackRelease(LateBody):
    """Without `to`, back to the release that this one replaced."""

    to: Key | None = None
    observed_digest: Sha256 | None = None


class ReleaseItem(BaseModel):
    key: str
    status: str
    environment: str
    model: str
    version: str
    model_digest: str
    gate_allowed: bool | None
    emergency: bool
    sign_off_due: datetime | None


class ReleaseAnswer(BaseModel):
    key: str
    model: str
    version: str
    model_digest: str
    environment: str
    status: str
    opened: dict[str, object] | None
    sign_offs: dict[str, dict[str, object]]
    gate: dict[str, object] | None
    evidence: list[dict[str, object]]
    supersedes: str | None
    superseded_by: str | None
    stopped: bool
    emergency: bool
    sign_off_due: datetime | None


def add_release_routes(routes: APIRouter, doors: Doors, application: ReleaseControl) -> None:
    """From candidate to released, and every end."""
    _add_way_in(routes, doors, application)
    _add_way_out(routes, doors, application)

    @routes.post("/releases/{key}:deploy", operation_id="deploy_release", response_model=ReceiptAnswer)
    async def deploy_release(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: DeployRelease
    ) -> Response:
        return receipt_response(
            await application.deploy_release(
                context=because(context, body),
                system=system,
                key=key,
                environment=body.environment,
                observed_digest=body.observed_digest,
                emergency=body.emergency,
                effective_at=body.effective_at,
            )
        )


def _add_way_in(routes: APIRouter, doors: Doors, application: ReleaseControl) -> None:
    @routes.post("/releases", operation_id="open_release_candidate", status_code=201, response_model=ReceiptAnswer)
    async def open_release_candidate(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: OpenReleaseCandidate
    ) -> Response:
        receipt = await application.open_release_candidate(
            context=because(context, body), system=system, **body.model_dump(exclude={"reason"})
        )
        return receipt_response(receipt, status=201)

    @routes.post(
        "/releases:adopt",
        operation_id="adopt_release",
        summary="Record what already runs, once per environment, as adopted and not governed",
        status_code=201,
        response_model=ReceiptAnswer,
    )
    async def adopt_release(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: AdoptRelease
    ) -> Response:
        receipt = await application.adopt_release(
            context=because(context, body),
            system=system,
            model=body.model,
            version=body.version,
            environment=body.environment,
            effective_at=body.effective_at,
        )
        return receipt_response(receipt, status=201)

    @routes.post("/releases/{key}:evaluate-gate", operation_id="evaluate_gate", response_model=ReceiptAnswer)
    async def evaluate_gate(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: CommandBody
    ) -> Response:
        return receipt_response(await application.evaluate_gate(context=because(context, body), system=system, key=key))

    @routes.post("/releases/{key}:approve", operation_id="approve_release", response_model=ReceiptAnswer)
    async def approve_release(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: CommandBody
    ) -> Response:
        return receipt_response(
            await application.approve_release(context=because(context, body), system=system, key=key)
        )


def _add_way_out(routes: APIRouter, doors: Doors, application: ReleaseControl) -> None:
    @routes.post("/releases/{key}:suspend", operation_id="suspend_release", response_model=ReceiptAnswer)
    async def suspend_release(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: LateBody
    ) -> Response:
        return receipt_response(
            await application.suspend_release(
                context=because(context, body), system=system, key=key, effective_at=body.effective_at
            )
        )

    @routes.post("/releases/{key}:roll-back", operation_id="roll_back_release", response_model=ReceiptAnswer)
    async def roll_back_release(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: RollBackRelease
    ) -> Response:
        return receipt_response(
            await application.roll_back_release(
                context=because(context, body),
                system=system,
                key=key,
                to=body.to,
                observed_digest=body.observed_digest,
                effective_at=body.effective_at,
            )
        )

    @routes.post("/releases/{key}:withdraw", operation_id="withdraw_release", response_model=ReceiptAnswer)
    async def withdraw_release(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: LateBody
    ) -> Response:
        return receipt_response(
            await application.withdraw_release(
                context=because(context, body), system=system, key=key, effective_at=body.effective_at
            )
        )


def add_sign_off_routes(routes: APIRouter, doors: Doors, application: ReleaseControl) -> None:
    """A required role's word; the pages use the signing door instead."""

    @routes.post("/releases/{key}:sign-off", operation_id="sign_off_release", response_model=ReceiptAnswer)
    async def sign_off_release(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SignOff
    ) -> Response:
        return receipt_response(
            await application.sign_off_release(
                context=because(context, body),
                system=system,
                key=key,
                role=body.role,
                digest=body.digest,
                covers=body.covers,
            )
        )

    @routes.post("/releases/{key}:decline-sign-off", operation_id="decline_sign_off", response_model=ReceiptAnswer)
    async def decline_sign_off(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SignOff
    ) -> Response:
        return receipt_response(
            await application.decline_sign_off(
                context=because(context, body),
                system=system,
                key=key,
                role=body.role,
                digest=body.digest,
                covers=body.covers,
            )
        )


def add_release_reads(routes: APIRouter, doors: Doors, application: ReleaseControl, listings: Listings) -> None:
    """One release and the list of them."""

    @routes.get("/releases", operation_id="list_releases")
    async def list_releases(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[ReleaseItem]:
        start = page_start(page_token, str)
        rows = await listings.releases(actor=actor, system=system, after=start[0] if start else "", limit=page_size)
        return page_of([ReleaseItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/releases/{key}", operation_id="get_release", response_model=ReleaseAnswer)
    async def get_release(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await application.release(actor=actor, system=system, key=key)
        return record_response(state, version=version)
