"""The routes of test cases."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    SYSTEM_PATTERN,
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
    Whole,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.test_cases import TestCases
from ..domain.test_case import Procedure, RequirementRevision

System = Annotated[str, Path(pattern=SYSTEM_PATTERN)]


class RequirementRevisionBody(Body):
    key: Key
    revision: Annotated[Whole, Field(ge=1, le=1_000_000)]


class DefineTestCase(CommandBody):
    key: Key
    title: ShortText
    procedure: Text
    sample_size_rationale: Text
    requirements: Annotated[list[RequirementRevisionBody], Field(min_length=1, max_length=200)]


class TestCaseItem(BaseModel):
    key: str
    revision: int
    title: str
    status: str


class TestCaseAnswer(BaseModel):
    key: str
    revisions: dict[str, dict[str, object]]


def named(bodies: list[RequirementRevisionBody]) -> tuple[RequirementRevision, ...]:
    """The requirement revisions of a request."""
    return tuple(RequirementRevision(key=body.key, revision=body.revision) for body in bodies)


def add_test_case_routes(routes: APIRouter, doors: Doors, test_cases: TestCases) -> None:
    """Define, approve, retire, read."""

    @routes.post("/test-cases", operation_id="define_test_case", status_code=201, response_model=ReceiptAnswer)
    async def define_test_case(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: DefineTestCase
    ) -> Response:
        content = Procedure(
            title=body.title,
            procedure=body.procedure,
            sample_size_rationale=body.sample_size_rationale,
            requirements=named(body.requirements),
        )
        receipt = await test_cases.define_test_case(
            context=because(context, body), system=system, key=body.key, content=content
        )
        return receipt_response(receipt, status=201)

    @routes.post("/test-cases/{key}:approve", operation_id="approve_test_case", response_model=ReceiptAnswer)
    async def approve_test_case(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        receipt = await test_cases.approve_test_case(
            context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
        )
        return receipt_response(receipt)

    @routes.post("/test-cases/{key}:retire", operation_id="retire_test_case", response_model=ReceiptAnswer)
    async def retire_test_case(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        receipt = await test_cases.retire_test_case(
            context=because(context, body), system=system, key=key, digest=body.digest
        )
        return receipt_response(receipt)

    @routes.get("/test-cases", operation_id="list_test_cases")
    async def list_test_cases(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[TestCaseItem]:
        start = page_start(page_token, str)
        rows = await test_cases.test_cases(actor=actor, system=system, after=start[0] if start else "", limit=page_size)
        return page_of([TestCaseItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/test-cases/{key}", operation_id="get_test_case", response_model=TestCaseAnswer)
    async def get_test_case(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await test_cases.test_case(actor=actor, system=system, key=key)
        return record_response(state, version=version)
