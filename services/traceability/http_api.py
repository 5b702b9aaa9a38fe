"""The HTTP door of traceability: parse, call one use case, answer."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Annotated, BinaryIO

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.command_route import CommandRoute
from shared.erasure import Why
from shared.errors import FieldError, Invalid
from shared.event import Actor
from shared.http_doors import (
    PROBLEMS,
    SYSTEM_PATTERN,
    Body,
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
from .trace_book import Seen, When

PIECE_BYTES = 1 << 20

System = Annotated[str, Path(pattern=SYSTEM_PATTERN)]
Position = Annotated[int | None, Query(ge=0, le=2**62, description="known at this ledger position; now without it")]
KnownAt = Annotated[
    Moment | None, Query(description="what had been recorded by this moment; not together with ledger_position")
]
AsOf = Annotated[Moment | None, Query(description="what was true at this moment; all that is known without it")]
Release = Annotated[
    str | None, Query(max_length=63, description="the pack of this release; of the whole system without it")
]


class TwoMomentsKnown(Invalid):
    """`known_at` and `ledger_position` both say what is known."""


def asked_when(ledger_position: Position = None, known_at: KnownAt = None, as_of: AsOf = None) -> When:
    """The moment on each time axis that a reader asks for."""
    if ledger_position is not None and known_at is not None:
        raise TwoMomentsKnown(
            "The request says twice what is known.",
            why="A ledger position and a time of recording may differ.",
            next_step="Send known_at or ledger_position, not both.",
            fields=(FieldError(field="known_at", rule="not together with ledger_position"),),
        )
    return When(known=known_at if ledger_position is None else ledger_position, as_of=as_of)


AskedWhen = Annotated[When, Depends(asked_when)]


class IssueEvidencePack(CommandBody):
    key: Key
    release: Key | None = None
    ledger_position: Whole | None = None


class ReviewAuditTrail(CommandBody):
    key: Key
    findings: Text
    ledger_position: Whole
    digest: Sha256


class ErasePerson(Body):
    """The reason is a code, the ground of GDPR, 17(1): one in words might hold the name that goes."""

    subject: Annotated[str, Field(pattern=r"^[!-?A-~]{1,255}$", description="the opaque OIDC subject")]
    reason: Why


class ErasureAnswer(ReceiptAnswer):
    """`pending` are the services that have not yet emptied their directories; they do, also after a restart."""

    pending: list[str]


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


class SeenFrom(BaseModel):
    """`as_of`: what was true then; `known_at` and `ledger_position`: the last that was known. None before the first event."""

    as_of: datetime | None
    known_at: datetime | None
    ledger_position: int


class TimelineItem(BaseModel):
    """`effective_at` is since when it is true, given when as_of is asked for or the event says so."""

    ledger_position: int
    service: str
    position: int
    recorded_at: datetime
    effective_at: datetime | None
    name: str
    record: str
    actor: dict[str, object]
    reason: str
    causation: str | None


class TimelinePage(BaseModel):
    """A page may be short: `next_position` tells whether there is more. `ledger_position` is the last that was known."""

    items: list[TimelineItem]
    next_position: int
    as_of: datetime | None
    ledger_position: int


class MatrixPage(SeenFrom):
    items: list[dict[str, object]]
    next_page_token: str | None


class GapItem(BaseModel):
    code: str
    record: str
    explanation: str
    role: str
    next_verb: str
    since: int


class GapList(SeenFrom):
    items: list[GapItem]


class State(SeenFrom):
    system: str
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
    routes = APIRouter(
        prefix="/v1/systems/{system}", tags=["traceability"], responses=PROBLEMS, route_class=CommandRoute
    )
    _add_ledger_routes(routes, doors, application)
    _add_trace_routes(routes, doors, application)
    _add_pack_routes(routes, doors, application)
    _add_review_routes(routes, doors, application)
    return routes


def erasure_router(*, doors: Doors, application: Traceability) -> APIRouter:
    """The verb that has a person forgotten, over all AI systems."""
    routes = APIRouter(prefix="/v1", tags=["traceability"], responses=PROBLEMS, route_class=CommandRoute)

    @routes.post(
        "/people:erase",
        operation_id="erase_person",
        summary="Forget a person's name in every service; events and proofs stay",
        response_model=ErasureAnswer,
    )
    async def erase_person(context: Annotated[CommandContext, Depends(doors.signing)], body: ErasePerson) -> Response:
        receipt, pending = await application.erasure.erase_person(
            context=replace(context, reason=body.reason), subject=body.subject, why=body.reason
        )
        answer = receipt_response(receipt)
        content = msgspec.json.encode({**msgspec.to_builtins(receipt), "pending": pending})
        headers = {name: answer.headers[name] for name in ("ETag", "Prooftrail-Position")}
        return Response(content, media_type="application/json", headers=headers)

    return routes


def _seen_from(seen: Seen) -> dict[str, object]:
    return {"as_of": seen.as_of, "known_at": seen.known_at, "ledger_position": seen.trace.position}


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
        when: AskedWhen,
        from_position: Annotated[int, Query(ge=0, le=2**62)] = 0,
        page_size: PageSize = 100,
    ) -> Response:
        lines, next_position, known = await application.timeline(
            actor=actor, system=system, when=when, after=from_position, limit=page_size
        )
        return _json({"items": lines, "next_position": next_position, "as_of": when.as_of, "ledger_position": known})


def _add_trace_routes(routes: APIRouter, doors: Doors, application: Traceability) -> None:
    @routes.get("/matrix", operation_id="get_matrix", response_model=MatrixPage)
    async def get_matrix(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        when: AskedWhen,
        model_digest: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Response:
        start = page_start(page_token, str)
        found, seen = await application.matrix(
            actor=actor,
            system=system,
            after=start[0] if start else "",
            limit=page_size,
            model_digest=model_digest,
            when=when,
        )
        page = page_of(found, page_size, lambda row: (row.requirement,))
        return _json({**_seen_from(seen), "items": page.items, "next_page_token": page.next_page_token})

    @routes.get("/gaps", operation_id="list_gaps", response_model=GapList)
    async def list_gaps(actor: Annotated[Actor, Depends(doors.reader)], system: System, when: AskedWhen) -> Response:
        items, seen = await application.gaps(actor=actor, system=system, when=when)
        return _json({**_seen_from(seen), "as_of": seen.at, "items": items})

    @routes.get("/state", operation_id="get_state", response_model=State)
    async def get_state(actor: Annotated[Actor, Depends(doors.reader)], system: System, when: AskedWhen) -> Response:
        return _json(await application.state(actor=actor, system=system, when=when))

    @routes.get("/record", operation_id="get_record", response_model=RecordAnswer)
    async def get_record(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        when: AskedWhen,
        stream: Annotated[str, Query(min_length=3, max_length=300)],
    ) -> Response:
        return _json(await application.record(actor=actor, system=system, stream=stream, when=when))


def _add_pack_routes(routes: APIRouter, doors: Doors, application: Traceability) -> None:
    @routes.get("/evidence-pack", operation_id="get_evidence_pack", response_model=dict[str, object])
    async def get_evidence_pack(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        when: AskedWhen,
        release: Release = None,
    ) -> Response:
        content = await application.pack(actor=actor, system=system, release=release, when=when)
        return Response(content, media_type="application/json")

    @routes.get("/evidence-pack.html", operation_id="get_evidence_pack_page", response_class=HTMLResponse)
    async def get_evidence_pack_page(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        when: AskedWhen,
        release: Release = None,
    ) -> Response:
        content = await application.pack(actor=actor, system=system, release=release, when=when)
        return HTMLResponse(render(content))

    @routes.get(
        "/evidence-pack.zip",
        operation_id="get_evidence_pack_archive",
        summary="The evidence pack with all that proves it, for `prooftrail verify`",
        response_class=Response,
        responses={200: {"content": {"application/zip": {}}}},
    )
    async def get_evidence_pack_archive(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        when: AskedWhen,
        release: Release = None,
    ) -> Response:
        file = await application.archive(actor=actor, system=system, release=release, when=when, page=render)
        headers = {
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Content-Disposition": f'attachment; filename="{system}.zip"',
        }
        return StreamingResponse(_pieces(file), media_type="application/zip", headers=headers)

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


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        yield from iter(lambda: file.read(PIECE_BYTES), b"")


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
