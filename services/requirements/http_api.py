"""The HTTP door of requirements: parse, call one use case, answer."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.command_route import CommandRoute
from shared.event import Actor
from shared.http_doors import (
    PROBLEMS,
    SYSTEM_PATTERN,
    Body,
    CommandBody,
    Doors,
    Key,
    LateBody,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    Sha256,
    ShortText,
    SigningBody,
    SystemKey,
    Text,
    Whole,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from .application import Requirements
from .domain.acceptance_criterion import CRITERIA_MAX, AcceptanceCriterion
from .domain.dataset import DatasetRegistered
from .domain.requirement import Content

RiskClass = Literal["minimal", "limited", "high", "prohibited"]
System = Annotated[str, Path(pattern=SYSTEM_PATTERN)]


class RegisterAiSystem(CommandBody):
    key: SystemKey
    name: ShortText
    intended_use: Text
    risk_class: RiskClass


class ReviseIntendedUse(CommandBody):
    intended_use: Text
    risk_class: RiskClass


class ChangeRole(CommandBody):
    subject: Annotated[str, Field(pattern=r"^[!-?A-~]{1,255}$", description="the opaque OIDC subject")]
    role: Literal["owner", "author", "reviewer", "approver", "releaser", "auditor", "service"]


class RegisterDataset(CommandBody):
    name: Key
    version: Key
    digest: Sha256
    rows: Annotated[Whole, Field(ge=1, le=10**12)]
    columns: Annotated[list[ShortText], Field(min_length=1, max_length=5000)]
    purpose: Literal["training", "tuning", "test"]
    provenance: Text
    licence: ShortText
    sequestered: bool
    personal_data: bool


class CriterionBody(Body):
    key: Key
    metric: ShortText
    comparator: Literal[">=", ">", "<=", "<"]
    threshold: Annotated[float, Field(ge=-1e12, le=1e12)]
    unit: ShortText
    dataset: Key
    dataset_version: Key
    slice: Annotated[ShortText, Field(description="overall, or column=value; no personal data")] = "overall"
    decision_rule: Literal["point", "confidence bound"]
    level: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    method: ShortText
    minimum_sample_size: Annotated[Whole, Field(ge=1, le=10**12)]
    sample_size_rationale: Text
    least_evidence: Literal["recomputed", "attested", "claimed"] = "recomputed"


class DraftRequirement(CommandBody):
    key: Key
    classification: Literal["initial", "material", "editorial"]
    title: ShortText
    statement: Text
    rationale: Text
    quality_characteristic: ShortText
    controls: Annotated[list[ShortText], Field(max_length=50)]
    evaluation_approach: Text
    criteria: Annotated[list[CriterionBody], Field(max_length=CRITERIA_MAX)]


class ReviseAcceptanceCriterion(CommandBody):
    criterion: CriterionBody


class AiSystemItem(BaseModel):
    key: str
    name: str


class DatasetItem(BaseModel):
    name: str
    version: str
    digest: str
    purpose: str
    withdrawn: bool


class RequirementItem(BaseModel):
    key: str
    revision: int
    status: str
    title: str


class AiSystemAnswer(BaseModel):
    key: str
    name: str
    intended_use: str
    risk_class: str
    owner: str
    owners: list[str]
    grants: list[list[str]]


class DatasetAnswer(BaseModel):
    registered: dict[str, object]
    withdrawn: bool
    withdrawn_from: datetime | None


class RequirementAnswer(BaseModel):
    key: str
    revisions: dict[str, dict[str, object]]


def router(*, doors: Doors, application: Requirements) -> APIRouter:
    """All routes of requirements."""
    routes = APIRouter(prefix="/v1", tags=["requirements"], responses=PROBLEMS, route_class=CommandRoute)
    _add_system_routes(routes, doors, application)
    _add_dataset_routes(routes, doors, application)
    _add_requirement_routes(routes, doors, application)
    _add_requirement_reads(routes, doors, application)
    return routes


def _add_system_routes(routes: APIRouter, doors: Doors, application: Requirements) -> None:
    @routes.post("/systems", operation_id="register_ai_system", status_code=201, response_model=ReceiptAnswer)
    async def register_ai_system(
        context: Annotated[CommandContext, Depends(doors.command)], body: RegisterAiSystem
    ) -> Response:
        receipt = await application.register_ai_system(
            context=because(context, body),
            key=body.key,
            name=body.name,
            intended_use=body.intended_use,
            risk_class=body.risk_class,
        )
        return receipt_response(receipt, status=201)

    @routes.get("/systems", operation_id="list_ai_systems")
    async def list_ai_systems(
        actor: Annotated[Actor, Depends(doors.reader)], page_size: PageSize = 50, page_token: PageToken = ""
    ) -> Page[AiSystemItem]:
        start = page_start(page_token, str)
        rows = await application.ai_systems(actor=actor, after=start[0] if start else "", limit=page_size)
        return page_of([AiSystemItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/systems/{system}", operation_id="get_ai_system", response_model=AiSystemAnswer)
    async def get_ai_system(actor: Annotated[Actor, Depends(doors.reader)], system: System) -> Response:
        state, version = await application.ai_system(actor=actor, system=system)
        return record_response(state, version=version)

    @routes.post(
        "/systems/{system}:revise-intended-use", operation_id="revise_intended_use", response_model=ReceiptAnswer
    )
    async def revise_intended_use(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: ReviseIntendedUse
    ) -> Response:
        return receipt_response(
            await application.revise_intended_use(
                context=because(context, body),
                system=system,
                intended_use=body.intended_use,
                risk_class=body.risk_class,
            )
        )

    @routes.post("/systems/{system}:grant-role", operation_id="grant_role", response_model=ReceiptAnswer)
    async def grant_role(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: ChangeRole
    ) -> Response:
        return receipt_response(
            await application.grant_role(
                context=because(context, body), system=system, subject=body.subject, role=body.role
            )
        )

    @routes.post("/systems/{system}:revoke-role", operation_id="revoke_role", response_model=ReceiptAnswer)
    async def revoke_role(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: ChangeRole
    ) -> Response:
        return receipt_response(
            await application.revoke_role(
                context=because(context, body), system=system, subject=body.subject, role=body.role
            )
        )


def _add_dataset_routes(routes: APIRouter, doors: Doors, application: Requirements) -> None:
    @routes.post(
        "/systems/{system}/datasets", operation_id="register_dataset", status_code=201, response_model=ReceiptAnswer
    )
    async def register_dataset(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: RegisterDataset
    ) -> Response:
        fields = body.model_dump(exclude={"reason", "columns"})
        receipt = await application.register_dataset(
            context=because(context, body),
            system=system,
            registered=DatasetRegistered(**fields, columns=tuple(body.columns)),
        )
        return receipt_response(receipt, status=201)

    @routes.get("/systems/{system}/datasets", operation_id="list_datasets")
    async def list_datasets(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[DatasetItem]:
        start = page_start(page_token, str, str)
        rows = await application.datasets(actor=actor, system=system, after=start or ("", ""), limit=page_size)
        return page_of([DatasetItem(**row) for row in rows], page_size, lambda item: (item.name, item.version))

    @routes.get("/systems/{system}/datasets/{name}/{version}", operation_id="get_dataset", response_model=DatasetAnswer)
    async def get_dataset(
        actor: Annotated[Actor, Depends(doors.reader)], system: System, name: Key, version: Key
    ) -> Response:
        state, stream_version = await application.dataset(actor=actor, system=system, name=name, version=version)
        return record_response(state, version=stream_version)

    @routes.post(
        "/systems/{system}/datasets/{name}/{version}:withdraw",
        operation_id="withdraw_dataset",
        response_model=ReceiptAnswer,
    )
    async def withdraw_dataset(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: System,
        name: Key,
        version: Key,
        body: LateBody,
    ) -> Response:
        return receipt_response(
            await application.withdraw_dataset(
                context=because(context, body),
                system=system,
                name=name,
                version=version,
                effective_at=body.effective_at,
            )
        )


def _add_requirement_routes(routes: APIRouter, doors: Doors, application: Requirements) -> None:
    @routes.post(
        "/systems/{system}/requirements",
        operation_id="draft_requirement",
        status_code=201,
        response_model=ReceiptAnswer,
    )
    async def draft_requirement(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: DraftRequirement
    ) -> Response:
        receipt = await application.draft_requirement(
            context=because(context, body),
            system=system,
            key=body.key,
            classification=body.classification,
            content=_content(body),
        )
        return receipt_response(receipt, status=201)

    @routes.post(
        "/systems/{system}/requirements/{key}:revise-criterion",
        operation_id="revise_acceptance_criterion",
        response_model=ReceiptAnswer,
    )
    async def revise_acceptance_criterion(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: System,
        key: Key,
        body: ReviseAcceptanceCriterion,
    ) -> Response:
        return receipt_response(
            await application.revise_acceptance_criterion(
                context=because(context, body),
                system=system,
                key=key,
                criterion=AcceptanceCriterion(**body.criterion.model_dump()),
            )
        )

    @routes.post(
        "/systems/{system}/requirements/{key}:submit", operation_id="submit_requirement", response_model=ReceiptAnswer
    )
    async def submit_requirement(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: CommandBody
    ) -> Response:
        return receipt_response(
            await application.submit_requirement(context=because(context, body), system=system, key=key)
        )

    @routes.post(
        "/systems/{system}/requirements/{key}:approve", operation_id="approve_requirement", response_model=ReceiptAnswer
    )
    async def approve_requirement(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await application.approve_requirement(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )

    @routes.post(
        "/systems/{system}/requirements/{key}:reject", operation_id="reject_requirement", response_model=ReceiptAnswer
    )
    async def reject_requirement(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await application.reject_requirement(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )

    @routes.post(
        "/systems/{system}/requirements/{key}:retire", operation_id="retire_requirement", response_model=ReceiptAnswer
    )
    async def retire_requirement(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await application.retire_requirement(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )


def _add_requirement_reads(routes: APIRouter, doors: Doors, application: Requirements) -> None:
    @routes.get("/systems/{system}/requirements", operation_id="list_requirements")
    async def list_requirements(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[RequirementItem]:
        start = page_start(page_token, str)
        rows = await application.requirements(
            actor=actor, system=system, after=start[0] if start else "", limit=page_size
        )
        return page_of([RequirementItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get(
        "/systems/{system}/requirements/{key}", operation_id="get_requirement", response_model=RequirementAnswer
    )
    async def get_requirement(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await application.requirement(actor=actor, system=system, key=key)
        return record_response(state, version=version)


def _content(body: DraftRequirement) -> Content:
    return Content(
        title=body.title,
        statement=body.statement,
        rationale=body.rationale,
        quality_characteristic=body.quality_characteristic,
        controls=tuple(body.controls),
        evaluation_approach=body.evaluation_approach,
        criteria=tuple(AcceptanceCriterion(**criterion.model_dump()) for criterion in body.criteria),
    )
