"""Routes of nonconformities, and of what was seen running."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import UTC
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    CommandBody,
    Doors,
    Key,
    Moment,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    Sha256,
    Text,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.listings import Listings
from ..application.nonconformities import Nonconformities
from .paths import System
from .waivers import Subject

Record = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z-]{1,40}:[A-Za-z0-9@._/-]{1,250}$", description="the stream of what does not conform"),
]


class RaiseNonconformity(CommandBody):
    key: Key
    record: Record
    description: Text


class ReportObservedDigest(CommandBody):
    environment: Key
    observed_digest: Sha256


class PlanCorrectiveAction(CommandBody):
    action: Text
    responsible: Subject
    due_at: Moment


class VerifyCorrectiveAction(CommandBody):
    effectiveness: Text


class NonconformityItem(BaseModel):
    key: str
    status: str
    record: str


class NonconformityAnswer(BaseModel):
    raised: dict[str, object]
    status: str
    planned: dict[str, object] | None
    verified: dict[str, object] | None


def add_nonconformity_routes(routes: APIRouter, doors: Doors, application: Nonconformities, listings: Listings) -> None:
    """Raising, planning, verifying and reading."""
    _add_observation(routes, doors, application)
    _add_actions(routes, doors, application)

    @routes.get("/nonconformities", operation_id="list_nonconformities")
    async def list_nonconformities(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[NonconformityItem]:
        start = page_start(page_token, str)
        rows = await listings.nonconformities(
            actor=actor, system=system, after=start[0] if start else "", limit=page_size
        )
        return page_of([NonconformityItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/nonconformities/{key}", operation_id="get_nonconformity", response_model=NonconformityAnswer)
    async def get_nonconformity(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await application.nonconformity(actor=actor, system=system, key=key)
        return record_response(state, version=version)


def _add_observation(routes: APIRouter, doors: Doors, application: Nonconformities) -> None:
    @routes.post(
        "/observed-digests",
        operation_id="report_observed_digest",
        summary="Tell which model was seen in traffic; one that is not released there becomes a nonconformity",
        status_code=201,
        response_model=ReceiptAnswer,
    )
    async def report_observed_digest(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: ReportObservedDigest
    ) -> Response:
        receipt = await application.report_observed_digest(
            context=because(context, body),
            system=system,
            environment=body.environment,
            observed_digest=body.observed_digest,
        )
        return receipt_response(receipt, status=201)

    @routes.post("/nonconformities", operation_id="raise_nonconformity", status_code=201, response_model=ReceiptAnswer)
    async def raise_nonconformity(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: RaiseNonconformity
    ) -> Response:
        receipt = await application.raise_nonconformity(
            context=because(context, body),
            system=system,
            key=body.key,
            record=body.record,
            description=body.description,
        )
        return receipt_response(receipt, status=201)


def _add_actions(routes: APIRouter, doors: Doors, application: Nonconformities) -> None:
    @routes.post(
        "/nonconformities/{key}:plan-corrective-action",
        operation_id="plan_corrective_action",
        response_model=ReceiptAnswer,
    )
    async def plan_corrective_action(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: System,
        key: Key,
        body: PlanCorrectiveAction,
    ) -> Response:
        return receipt_response(
            await application.plan_corrective_action(
                context=because(context, body),
                system=system,
                key=key,
                action=body.action,
                responsible=body.responsible,
                due_at=body.due_at.astimezone(UTC),
            )
        )

    @routes.post(
        "/nonconformities/{key}:verify-corrective-action",
        operation_id="verify_corrective_action",
        response_model=ReceiptAnswer,
    )
    async def verify_corrective_action(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: System,
        key: Key,
        body: VerifyCorrectiveAction,
    ) -> Response:
        return receipt_response(
            await application.verify_corrective_action(
                context=because(context, body), system=system, key=key, effectiveness=body.effectiveness
            )
        )
