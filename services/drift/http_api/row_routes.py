"""The routes that take rows: the reference of a plan, and what production does."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import digest_of
from shared.http_doors import Body, CommandBody, Doors, Key, ReceiptAnswer, ShortText, Whole, because, receipt_response

from ..application.ingestion import Batch, Ingestion
from ..application.plans import Plans
from .plan_routes import System

REFERENCE_ROWS_MAX = 1_000_000
BATCH_ROWS_MAX = 100_000

# A million wrong values need one error, not a million.
Value = Annotated[float | bool | str | None, Field(union_mode="left_to_right")]
ReferenceColumn = Annotated[list[Value], Field(max_length=REFERENCE_ROWS_MAX, fail_fast=True)]
Column = Annotated[list[Value], Field(max_length=BATCH_ROWS_MAX, fail_fast=True)]
Time = Annotated[
    float | str,
    Field(union_mode="left_to_right", description="seconds since 1970, or an ISO time with its zone"),
]


class SetReference(CommandBody):
    """Columns of the training or tuning data, null for missing; with times, how much windows vary is estimated too."""

    rows: Annotated[Whole, Field(ge=1, le=REFERENCE_ROWS_MAX)]
    event_time: Annotated[list[Time], Field(max_length=REFERENCE_ROWS_MAX, fail_fast=True)] | None = None
    features: Annotated[dict[ShortText, ReferenceColumn], Field(max_length=200)]


class IngestRows(Body):
    """Columns of production rows. `batch` is the client's name for exactly these rows: sent again, they count once.

    A number may be "NaN", "Infinity" or "-Infinity". `reason` is allowed and not kept: rows are measurements, not a change.
    """

    batch: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
    environment: Key | None = None
    rows: Annotated[Whole, Field(ge=1, le=BATCH_ROWS_MAX)]
    event_time: Annotated[list[Time], Field(max_length=BATCH_ROWS_MAX, fail_fast=True)]
    features: Annotated[dict[ShortText, Column], Field(max_length=200)]
    reason: ShortText | None = None


class IngestedAnswer(BaseModel):
    """`late` rows came after their window had closed; `signals` are those that the closed windows raised."""

    accepted: int
    late: int
    windows_closed: int
    signals: list[str]
    position: str


def add_row_verbs(routes: APIRouter, doors: Doors, plans: Plans, ingestion: Ingestion) -> None:
    """Set the reference, ingest rows."""

    @routes.post("/monitoring-plans/{key}:set-reference", operation_id="set_reference", response_model=ReceiptAnswer)
    async def set_reference(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, key: Key, body: SetReference
    ) -> Response:
        return receipt_response(
            await plans.set_reference(
                context=because(context, body),
                system=system,
                key=key,
                rows=body.rows,
                event_time=body.event_time,
                features=body.features,
            )
        )

    @routes.post("/monitoring-plans/{key}:ingest", operation_id="ingest_rows", response_model=IngestedAnswer)
    async def ingest_rows(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: System,
        key: Key,
        request: Request,
        body: IngestRows,
    ) -> Response:
        batch = Batch(
            batch=body.batch,
            fingerprint=digest_of(await request.body()),
            environment=body.environment,
            rows=body.rows,
            event_time=body.event_time,
            features=body.features,
        )
        ingested = await ingestion.ingest_rows(context=context, system=system, key=key, batch=batch)
        return Response(
            msgspec.json.encode(ingested),
            media_type="application/json",
            headers={"Prooftrail-Position": ingested.position},
        )
