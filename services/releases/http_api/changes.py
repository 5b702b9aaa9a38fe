"""Routes of change plans and change requests."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    Body,
    CommandBody,
    Doors,
    Key,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    ShortText,
    SigningBody,
    Text,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.change_control import ChangeControl
from ..application.listings import Listings
from ..domain.change_plan import Modification, PlanContent, PlanCriterion
from .paths import System


class ModificationBody(Body):
    key: Key
    description: Text


class PlanCriterionBody(Body):
    """The changed model must meet this requirement in its revision in force."""

    key: Key
    requirement: Key


class DraftChangePlan(CommandBody):
    key: Key
    title: ShortText
    model: Key
    modifications: Annotated[list[ModificationBody], Field(max_length=100)]
    protocol: Text
    acceptance_criteria: Annotated[list[PlanCriterionBody], Field(max_length=200)]
    rollback_criteria: Annotated[list[Text], Field(max_length=100)]


class SubmitChangeRequest(CommandBody):
    key: Key
    cause: Literal["retraining", "drift signal", "requirement change", "incident", "other"]
    signal: Key | None = None
    model: Key | None = None
    baseline: Key | None = None
    candidate: Key | None = None
    impact_assessment: Text


class ClassifyChange(CommandBody):
    classification: Literal["predetermined", "not substantial", "substantial"]
    plan: Key | None = None
    modification: Key | None = None
    impact_assessment: Text


class ImplementChange(CommandBody):
    model: Key
    candidate: Key


class VerifyChange(CommandBody):
    verifications: Annotated[list[Key], Field(min_length=1, max_length=1000)]


class ChangePlanItem(BaseModel):
    key: str
    status: str
    title: str
    model: str


class ChangePlanAnswer(BaseModel):
    key: str
    status: str
    authors: list[str]
    content: dict[str, object]


class ChangeRequestItem(BaseModel):
    key: str
    status: str
    cause: str
    signal: str | None
    classification: str | None
    model: str | None
    baseline: str | None
    candidate: str | None


class ChangeRequestAnswer(BaseModel):
    submitted: dict[str, object]
    status: str
    authors: list[str]
    classified: dict[str, object] | None
    candidate: str | None
    model_digest: str | None
    findings: list[dict[str, object]]
    end: str | None


def add_change_plan_routes(routes: APIRouter, doors: Doors, application: ChangeControl, listings: Listings) -> None:
    """Drafting, approving and reading plans."""

    @routes.post("/change-plans", operation_id="draft_change_plan", status_code=201, response_model=ReceiptAnswer)
    async def draft_change_plan(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: DraftChangePlan
    ) -> Response:
        receipt = await application.draft_change_plan(
            context=because(context, body), system=system, key=body.key, content=_content(body)
        )
        return receipt_response(receipt, status=201)

    @routes.post("/change-plans/{key}:approve", operation_id="approve_change_plan", response_model=ReceiptAnswer)
    async def approve_change_plan(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await application.approve_change_plan(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )

    @routes.get("/change-plans", operation_id="list_change_plans")
    async def list_change_plans(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[ChangePlanItem]:
        start = page_start(page_token, str)
        rows = await listings.change_plans(actor=actor, system=system, after=start[0] if start else "", limit=page_size)
        return page_of([ChangePlanItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/change-plans/{key}", operation_id="get_change_plan", response_model=ChangePlanAnswer)
    async def get_change_plan(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await application.change_plan(actor=actor, system=system, key=key)
        return record_response(state, version=version)


def add_change_request_routes(routes: APIRouter, doors: Doors, application: ChangeControl, listings: Listings) -> None:
    """From submitted to closed."""
    _add_decisions(routes, doors, application)
    _add_steps(routes, doors, application)

    @routes.get("/change-requests", operation_id="list_change_requests")
    async def list_change_requests(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[ChangeRequestItem]:
        start = page_start(page_token, str)
        rows = await listings.change_requests(
            actor=actor, system=system, after=start[0] if start else "", limit=page_size
        )
        return page_of([ChangeRequestItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/change-requests/{key}", operation_id="get_change_request", response_model=ChangeRequestAnswer)
    async def get_change_request(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await application.change_request(actor=actor, system=system, key=key)
        return record_response(state, version=version)


def _add_decisions(routes: APIRouter, doors: Doors, application: ChangeControl) -> None:
    @routes.post(
        "/change-requests", operation_id="submit_change_request", status_code=201, response_model=ReceiptAnswer
    )
    async def submit_change_request(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: SubmitChangeRequest
    ) -> Response:
        receipt = await application.submit_change_request(
            context=because(context, body), system=system, **body.model_dump(exclude={"reason"})
        )
        return receipt_response(receipt, status=201)

    @routes.post("/change-requests/{key}:classify", operation_id="classify_change", response_model=ReceiptAnswer)
    async def classify_change(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: ClassifyChange
    ) -> Response:
        return receipt_response(
            await application.classify_change(
                context=because(context, body), system=system, key=key, **body.model_dump(exclude={"reason"})
            )
        )

    @routes.post("/change-requests/{key}:approve", operation_id="approve_change", response_model=ReceiptAnswer)
    async def approve_change(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await application.approve_change(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )

    @routes.post("/change-requests/{key}:reject", operation_id="reject_change", response_model=ReceiptAnswer)
    async def reject_change(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await application.reject_change(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )


def _add_steps(routes: APIRouter, doors: Doors, application: ChangeControl) -> None:
    @routes.post(
        "/change-requests/{key}:implement",
        operation_id="implement_change",
        summary="Name the model version that has the change; a criterion of its plan that is not met rejects it",
        response_model=ReceiptAnswer,
    )
    async def implement_change(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: ImplementChange
    ) -> Response:
        return receipt_response(
            await application.implement_change(
                context=because(context, body), system=system, key=key, model=body.model, candidate=body.candidate
            )
        )

    @routes.post("/change-requests/{key}:verify", operation_id="verify_change", response_model=ReceiptAnswer)
    async def verify_change(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: VerifyChange
    ) -> Response:
        return receipt_response(
            await application.verify_change(
                context=because(context, body), system=system, key=key, verifications=body.verifications
            )
        )

    @routes.post("/change-requests/{key}:close", operation_id="close_change", response_model=ReceiptAnswer)
    async def close_change(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: CommandBody
    ) -> Response:
        return receipt_response(await application.close_change(context=because(context, body), system=system, key=key))


def _content(body: DraftChangePlan) -> PlanContent:
    return PlanContent(
        title=body.title,
        model=body.model,
        modifications=tuple(Modification(**one.model_dump()) for one in body.modifications),
        protocol=body.protocol,
        acceptance_criteria=tuple(PlanCriterion(**one.model_dump()) for one in body.acceptance_criteria),
        rollback_criteria=tuple(body.rollback_criteria),
    )
