"""The routes of verifications."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    CommandBody,
    Doors,
    Key,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    SigningBody,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.verifications import Verifications
from .test_case_routes import System


class RecordVerification(CommandBody):
    """Verdicts are computed here, from the run and the approved criteria."""

    key: Key
    test_case: Key
    requirement: Key
    run: Key
    compare_with_run: Key | None = None


class VerificationItem(BaseModel):
    key: str
    requirement: str
    requirement_revision: int
    model: str
    version: str
    run: str
    outcome: str
    status: str


class VerificationAnswer(BaseModel):
    recorded: dict[str, Any]
    status: str
    causes: list[dict[str, Any]]


def add_verification_verbs(routes: APIRouter, doors: Doors, verifications: Verifications) -> None:
    """Record, submit, approve, reject, clear."""

    @routes.post("/verifications", operation_id="record_verification", status_code=201, response_model=ReceiptAnswer)
    async def record_verification(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: RecordVerification
    ) -> Response:
        receipt = await verifications.record_verification(
            context=because(context, body),
            system=system,
            key=body.key,
            test_case_key=body.test_case,
            requirement=body.requirement,
            run_key=body.run,
            compare_with_run=body.compare_with_run,
        )
        return receipt_response(receipt, status=201)

    @routes.post("/verifications/{key}:submit", operation_id="submit_verification", response_model=ReceiptAnswer)
    async def submit_verification(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: CommandBody
    ) -> Response:
        receipt = await verifications.submit_verification(context=because(context, body), system=system, key=key)
        return receipt_response(receipt)

    @routes.post("/verifications/{key}:approve", operation_id="approve_verification", response_model=ReceiptAnswer)
    async def approve_verification(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        receipt = await verifications.approve_verification(
            context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
        )
        return receipt_response(receipt)

    @routes.post("/verifications/{key}:reject", operation_id="reject_verification", response_model=ReceiptAnswer)
    async def reject_verification(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        receipt = await verifications.reject_verification(
            context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
        )
        return receipt_response(receipt)

    @routes.post("/verifications/{key}:clear-suspicion", operation_id="clear_suspicion", response_model=ReceiptAnswer)
    async def clear_suspicion(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        receipt = await verifications.clear_suspicion(
            context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
        )
        return receipt_response(receipt)


def add_verification_reads(routes: APIRouter, doors: Doors, verifications: Verifications) -> None:
    """One verification, and the list."""

    @routes.get("/verifications", operation_id="list_verifications")
    async def list_verifications(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[VerificationItem]:
        start = page_start(page_token, str)
        rows = await verifications.verifications(
            actor=actor, system=system, after=start[0] if start else "", limit=page_size
        )
        return page_of([VerificationItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/verifications/{key}", operation_id="get_verification", response_model=VerificationAnswer)
    async def get_verification(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await verifications.verification(actor=actor, system=system, key=key)
        return record_response(state, version=version)
