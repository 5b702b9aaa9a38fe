"""The routes of monitoring plans and their windows."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    KEY_PATTERN,
    SYSTEM_PATTERN,
    Body,
    CommandBody,
    Doors,
    Key,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    Sha256,
    ShortText,
    SigningBody,
    Whole,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.plans import Plans
from ..domain.monitoring_plan import Definition, WatchedFeature

SUBJECT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:|/-]{0,199}$"
DAY_S = 86_400

System = Annotated[str, Path(pattern=SYSTEM_PATTERN)]
PlanKey = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$", description="at most 40: keys of signals are made from it"),
]


class WatchedFeatureBody(Body):
    name: ShortText
    kind: Literal["numeric", "categorical"]


class DefineMonitoringPlan(CommandBody):
    key: PlanKey
    model: Key
    version: Key
    model_digest: Sha256
    features: Annotated[list[WatchedFeatureBody], Field(min_length=1, max_length=200)]
    window_s: Annotated[Whole, Field(ge=60, le=92 * DAY_S)]
    slide_s: Annotated[
        Whole, Field(ge=1, le=92 * DAY_S, description="divides window_s; the same for windows side by side")
    ]
    lateness_s: Annotated[Whole, Field(ge=0, le=92 * DAY_S)]
    tolerance: Annotated[float, Field(gt=0, le=1, description="the PSI up to which nothing is wrong")] = 0.01
    false_alarms_per_week: Annotated[float, Field(ge=0.001, le=10_080)]
    owner: Annotated[str, Field(pattern=SUBJECT_PATTERN, description="the opaque subject of who answers for triage")]
    days_to_triage: Annotated[float, Field(ge=0, le=365)]


class MonitoringPlanItem(BaseModel):
    key: str
    model: str
    version: str
    model_digest: str
    owner: str
    status: str
    reference_profile: str | None
    environments: list[str]


class MonitoringPlanAnswer(BaseModel):
    key: str
    definition: dict[str, Any]
    authors: list[str]
    status: str
    reference: dict[str, Any] | None
    watches: dict[str, dict[str, Any]]
    signals: int


class ReferenceProfileAnswer(BaseModel):
    model_digest: str
    rows: int
    chunks: int
    features: list[dict[str, Any]]
    level_names: dict[str, list[str]]


def add_plan_verbs(routes: APIRouter, doors: Doors, plans: Plans) -> None:
    """Define and approve."""

    @routes.post(
        "/monitoring-plans", operation_id="define_monitoring_plan", status_code=201, response_model=ReceiptAnswer
    )
    async def define_monitoring_plan(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: DefineMonitoringPlan
    ) -> Response:
        features = tuple(WatchedFeature(name=feature.name, kind=feature.kind) for feature in body.features)
        fields = body.model_dump(exclude={"reason", "key", "features"})
        receipt = await plans.define_monitoring_plan(
            context=because(context, body),
            system=system,
            key=body.key,
            definition=Definition(**fields, features=features),
        )
        return receipt_response(receipt, status=201)

    @routes.post(
        "/monitoring-plans/{key}:approve", operation_id="approve_monitoring_plan", response_model=ReceiptAnswer
    )
    async def approve_monitoring_plan(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        return receipt_response(
            await plans.approve_monitoring_plan(
                context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
            )
        )


def add_plan_reads(routes: APIRouter, doors: Doors, plans: Plans) -> None:
    """Plans, reference profiles and windows."""

    @routes.get("/monitoring-plans", operation_id="list_monitoring_plans")
    async def list_monitoring_plans(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[MonitoringPlanItem]:
        start = page_start(page_token, str)
        rows = await plans.monitoring_plans(
            actor=actor, system=system, after=start[0] if start else "", limit=page_size
        )
        return page_of([MonitoringPlanItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/monitoring-plans/{key}", operation_id="get_monitoring_plan", response_model=MonitoringPlanAnswer)
    async def get_monitoring_plan(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await plans.monitoring_plan(actor=actor, system=system, key=key)
        return record_response(state, version=version)

    @routes.get(
        "/monitoring-plans/{key}/reference-profile",
        operation_id="get_reference_profile",
        response_model=ReferenceProfileAnswer,
    )
    async def get_reference_profile(
        actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key
    ) -> Response:
        profile, version = await plans.reference_profile(actor=actor, system=system, key=key)
        return record_response(profile, version=version)

    @routes.get("/monitoring-plans/{key}/windows", operation_id="list_drift_windows")
    async def list_drift_windows(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        key: Key,
        environment: Annotated[str | None, Query(pattern=KEY_PATTERN)] = None,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[dict[str, Any]]:
        start = page_start(page_token, int, str)
        windows = await plans.drift_windows(
            actor=actor,
            system=system,
            key=key,
            environment=environment,
            after=(start[0], start[1]) if start else (-1, ""),
            limit=page_size,
        )
        return page_of(windows, page_size, _window_keys)


def _window_keys(window: dict[str, Any]) -> tuple[int, str]:
    return int(datetime.fromisoformat(window["start"]).timestamp()), window["environment"]
