"""The HTTP door of traceability: parse, call one use case, answer."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    PROBLEMS,
    SYSTEM_PATTERN,
    CommandBody,
    Doors,
    Key,
    Moment,
    PageSize,
    PageToken,
    ReceiptAnswer,
    Sha256,
    Text,
    Whole,
    because,
    page_of,
    page_start,
    receipt_response,
)

from .application import Traceability
from .evidence_html import render

System = Annotated[str, Path(pattern=SYSTEM_PATTERN)]
Position = Annotated[int | None, Query(ge=0, le=2**62, description="as of this ledger position; now without it")]
Release = Annotated[
    str | None, Query(max_length=63, description="the pack of this release; of the whole system without it")
]


class IssueEvidencePack(CommandBody):
    key: Key
    release: Key | None = None
    ledger_position: Whole | None = None


class ReviewAuditTrail(CommandBody):
    key: Key
    findings: Text
    ledger_position: Whole
    digest: Sha256


class LedgerEvent(BaseModel):
    """`event` is the exact text that its service stored; its UTF-8 bytes have the leaf hash."""

    ledger_position: int
    service: str
    position: int
    leaf_hash: str
    event: str


class LedgerPage(BaseModel):
    events: list[LedgerEvent]
    next_position: int


class TimelineItem(BaseModel):
    ledger_position: int
    service: str
    position: int
    recorded_at: datetime
    name: str
    record: str
    actor: dict[str, object]
    reason: str
    causation: str | None


class TimelinePage(BaseModel):
    items: list[TimelineItem]
    next_position: int


class MatrixPage(BaseModel):
    items: list[dict[str, object]]
    next_page_token: str | None


class GapItem(BaseModel):
    code: str
    record: str
    explanation: str
    role: str
    next_verb: str
    since: int


class GapList(BaseModel):
    items: list[GapItem]


class State(BaseModel):
    system: str
    ledger_position: int
    recorded_at: datetime | None
    service_positions: dict[str, int]
    state_digest: str
    records: dict[str, dict[str, str]]


class RecordAnswer(BaseModel):
    stream: str
    kind: str
    key: str
    status: str
    fields: dict[str, object]
    revisions: dict[str, dict[str, object]]
    events: list[list[int | str]]


class ReviewAnswer(BaseModel):
    ledger_position: int
    state_digest: str
    text: str
    digest: str


def router(*, doors: Doors, application: Traceability) -> APIRouter:
    """All routes of traceability."""
    routes = APIRouter(prefix="/v1/systems/{system}", tags=["traceability"], responses=PROBLEMS)
    _add_ledger_routes(routes, doors, application)
    _add_trace_routes(routes, doors, application)
    _add_pack_routes(routes, doors, application)
    _add_review_routes(routes, doors, application)
    return routes


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _add_ledger_routes(routes: APIRouter, doors: Doors, application: Traceability) -> None:
    @routes.get("/ledger", operation_id="list_ledger_events", response_model=LedgerPage)
    async def list_ledger_events(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        from_position: Annotated[int, Query(ge=0, le=2**62)] = 0,
        page_size: PageSize = 100,
    ) -> Response:
        entries = await application.entries(actor=actor, system=system, after=from_position, limit=page_size)
        events = [
            {
                "ledger_position": entry.position,
                "service": entry.event.service,
                "position": entry.event.position,
                "leaf_hash": entry.event.leaf_hash,
                "event": entry.event.raw.decode(),
            }
            for entry in entries
        ]
        return _json({"events": events, "next_position": entries[-1].position if entries else from_position})

    @routes.get("/timeline", operation_id="get_timeline", response_model=TimelinePage)
    async def get_timeline(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        from_position: Annotated[int, Query(ge=0, le=2**62)] = 0,
        page_size: PageSize = 100,
    ) -> Response:
        entries = await application.entries(actor=actor, system=system, after=from_position, limit=page_size)
        items = []
        for entry in entries:
            content = entry.event.content()
            items.append(
                {
                    "ledger_position": entry.position,
                    "service": entry.event.service,
                    "position": entry.event.position,
                    "recorded_at": entry.event.recorded_at,
                    "name": entry.event.name,
                    "record": entry.event.stream,
                    "actor": content["actor"],
                    "reason": content["reason"],
                    "causation": content["causation"],
                }
            )
        return _json({"items": items, "next_position": entries[-1].position if entries else from_position})


def _add_trace_routes(routes: APIRouter, doors: Doors, application: Traceability) -> None:
    @routes.get("/matrix", operation_id="get_matrix", response_model=MatrixPage)
    async def get_matrix(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        model_digest: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
        ledger_position: Position = None,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Response:
        start = page_start(page_token, str)
        found = await application.matrix(
            actor=actor,
            system=system,
            after=start[0] if start else "",
            limit=page_size,
            model_digest=model_digest,
            position=ledger_position,
        )
        page = page_of(found, page_size, lambda row: (row.requirement,))
        return _json({"items": page.items, "next_page_token": page.next_page_token})

    @routes.get("/gaps", operation_id="list_gaps", response_model=GapList)
    async def list_gaps(
        actor: Annotated[Actor, Depends(doors.reader)], system: System, ledger_position: Position = None
    ) -> Response:
        items = await application.gaps(actor=actor, system=system, position=ledger_position, at=doors.clock())
        return _json({"items": items})

    @routes.get("/state", operation_id="get_state", response_model=State)
    async def get_state(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        ledger_position: Position = None,
        known_at: Annotated[Moment | None, Query(description="what had been recorded by this moment")] = None,
    ) -> Response:
        return _json(await application.state(actor=actor, system=system, position=ledger_position, moment=known_at))

    @routes.get("/record", operation_id="get_record", response_model=RecordAnswer)
    async def get_record(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        stream: Annotated[str, Query(min_length=3, max_length=300)],
        ledger_position: Position = None,
    ) -> Response:
        return _json(await application.record(actor=actor, system=system, stream=stream, position=ledger_position))


def _add_pack_routes(routes: APIRouter, doors: Doors, application: Traceability) -> None:
    @routes.get("/evidence-pack", operation_id="get_evidence_pack", response_model=dict[str, object])
    async def get_evidence_pack(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        release: Release = None,
        ledger_position: Position = None,
    ) -> Response:
        content = await application.pack(actor=actor, system=system, release=release, position=ledger_position)
        return Response(content, media_type="application/json")

    @routes.get("/evidence-pack.html", operation_id="get_evidence_pack_page", response_class=HTMLResponse)
    async def get_evidence_pack_page(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        release: Release = None,
        ledger_position: Position = None,
    ) -> Response:
        content = await application.pack(actor=actor, system=system, release=release, position=ledger_position)
        return HTMLResponse(render(content))

    @routes.post("/evidence-packs", operation_id="issue_evidence_pack", status_code=201, response_model=ReceiptAnswer)
    async def issue_evidence_pack(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: IssueEvidencePack
    ) -> Response:
        receipt = await application.issue_evidence_pack(
            context=because(context, body),
            system=system,
            key=body.key,
            release=body.release,
            position=body.ledger_position,
        )
        return receipt_response(receipt, status=201)

    @routes.get("/evidence-packs/{key}", operation_id="get_issued_pack", response_model=dict[str, object])
    async def get_issued_pack(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        content = await application.issued_pack(actor=actor, system=system, key=key)
        return Response(content, media_type="application/json")


def _add_review_routes(routes: APIRouter, doors: Doors, application: Traceability) -> None:
    @routes.get("/audit-trail-review", operation_id="get_audit_trail_review", response_model=ReviewAnswer)
    async def get_audit_trail_review(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        findings: Annotated[str, Query(min_length=1, max_length=4000)],
        ledger_position: Position = None,
    ) -> Response:
        return _json(
            await application.review_text(actor=actor, system=system, findings=findings, position=ledger_position)
        )

    @routes.post(
        "/audit-trail-reviews", operation_id="review_audit_trail", status_code=201, response_model=ReceiptAnswer
    )
    async def review_audit_trail(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, body: ReviewAuditTrail
    ) -> Response:
        receipt = await application.review_audit_trail(
            context=because(context, body),
            system=system,
            key=body.key,
            findings=body.findings,
            position=body.ledger_position,
            digest=body.digest,
        )
        return receipt_response(receipt, status=201)
