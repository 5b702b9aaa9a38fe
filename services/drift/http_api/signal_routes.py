"""The routes of drift signals."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated, Any, Literal

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
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.triage import Triage
from .plan_routes import System

Status = Literal["open", "acknowledged", "dismissed", "escalated", "resolved"]


class EscalateDriftSignal(CommandBody):
    to: Literal["change request", "nonconformity"]


class DriftSignalItem(BaseModel):
    key: str
    plan: str
    environment: str
    status: Status
    triage_until: datetime
    window_end: datetime


class DriftSignalAnswer(BaseModel):
    raised: dict[str, Any]
    status: Status
    acknowledged_by: str | None
    escalated_to: str | None
    by_deadline: bool
    resolved_by: str | None


def add_signal_verbs(routes: APIRouter, doors: Doors, triage: Triage) -> None:
    """Acknowledge, dismiss, escalate."""

    @routes.post(
        "/drift-signals/{key}:acknowledge", operation_id="acknowledge_drift_signal", response_model=ReceiptAnswer
    )
    async def acknowledge_drift_signal(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: CommandBody
    ) -> Response:
        return receipt_response(
            await triage.acknowledge_drift_signal(context=because(context, body), system=system, key=key)
        )

    @routes.post("/drift-signals/{key}:dismiss", operation_id="dismiss_drift_signal", response_model=ReceiptAnswer)
    async def dismiss_drift_signal(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: CommandBody
    ) -> Response:
        return receipt_response(
            await triage.dismiss_drift_signal(context=because(context, body), system=system, key=key)
        )

    @routes.post("/drift-signals/{key}:escalate", operation_id="escalate_drift_signal", response_model=ReceiptAnswer)
    async def escalate_drift_signal(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: System,
        key: Key,
        body: EscalateDriftSignal,
    ) -> Response:
        return receipt_response(
            await triage.escalate_drift_signal(context=because(context, body), system=system, key=key, to=body.to)
        )


def add_signal_reads(routes: APIRouter, doors: Doors, triage: Triage) -> None:
    """One signal, and lists by status or those that are overdue."""

    @routes.get("/drift-signals", operation_id="list_drift_signals")
    async def list_drift_signals(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        status: Status | None = None,
        overdue: bool = False,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[DriftSignalItem]:
        start = page_start(page_token, str)
        rows = await triage.drift_signals(
            actor=actor,
            system=system,
            status=status,
            overdue_at=doors.clock() if overdue else None,
            after=start[0] if start else "",
            limit=page_size,
        )
        return page_of([DriftSignalItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/drift-signals/{key}", operation_id="get_drift_signal", response_model=DriftSignalAnswer)
    async def get_drift_signal(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await triage.drift_signal(actor=actor, system=system, key=key)
        return record_response(state, version=version)
