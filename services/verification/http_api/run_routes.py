"""The routes of evidence files and evaluation runs."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Body as RawBody, Depends, Path, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    Body,
    CommandBody,
    Doors,
    Key,
    Moment,
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
from shared.http_signing import SignableAnswer

from ..application.evaluation_runs import EvaluationRuns, RunToRecord
from ..domain.evaluation_run import Artefact, Conditions, Measurement, Subject
from ..domain.metrics import find_metric
from .test_case_routes import RequirementRevisionBody, System, named

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="hex SHA-256 of the bytes")]
Seed = Annotated[Whole, Field(ge=0, le=2**53 - 1)]
Requirements = Annotated[list[RequirementRevisionBody], Field(min_length=1, max_length=200)]


class SubjectBody(CommandBody):
    """Exactly which model version on exactly which dataset version."""

    key: Key
    model: Key
    version: Key
    model_digest: Sha256
    dataset: Key
    dataset_version: Key
    dataset_digest: Sha256
    requirements: Requirements


class OpenEvaluationRun(SubjectBody):
    pass


class ClaimedMeasurement(Body):
    """A figure that a client computed: never better than claimed."""

    metric: ShortText
    slice: ShortText = "overall"
    value: Annotated[float, Field(ge=-1e12, le=1e12)]
    n: Annotated[Whole, Field(ge=1, le=10**12)]


class ArtefactBody(Body):
    name: ShortText
    digest: Sha256
    length: Annotated[Whole, Field(ge=0, le=2**40)]
    media_type: ShortText
    personal_data: bool


class RecordEvaluationRun(SubjectBody):
    nonce: ShortText | None = None
    grade: Literal["recomputed", "claimed"]
    predictions: Sha256 | None = None
    predictions_by: ShortText
    source: ShortText
    code_revision: ShortText
    environment: ShortText
    seed: Seed
    decision_threshold: Annotated[float, Field(ge=-1e12, le=1e12)] | None = None
    claimed_started_at: Moment | None = None
    claimed_ended_at: Moment | None = None
    measurements: Annotated[list[ClaimedMeasurement], Field(max_length=1000, default_factory=list)]
    artefacts: Annotated[list[ArtefactBody], Field(max_length=100, default_factory=list)]


class PreviewAttestation(SubjectBody):
    """A run whose figures were computed elsewhere, by somebody whom a reviewer or approver answers for."""

    nonce: ShortText | None = None
    predictions_by: ShortText
    source: ShortText
    code_revision: ShortText
    environment: ShortText
    seed: Seed
    claimed_started_at: Moment | None = None
    claimed_ended_at: Moment | None = None
    measurements: Annotated[list[ClaimedMeasurement], Field(min_length=1, max_length=1000)]
    artefacts: Annotated[list[ArtefactBody], Field(max_length=100, default_factory=list)]


class AttestEvaluationRun(PreviewAttestation):
    """What was previewed, and the digest of it."""

    digest: Sha256


class RunItem(BaseModel):
    key: str
    model: str
    version: str
    model_digest: str
    dataset: str
    dataset_version: str
    status: str


class RunAnswer(BaseModel):
    key: str
    status: str
    opened: dict[str, Any] | None
    recorded: dict[str, Any] | None


class StoredArtefact(BaseModel):
    digest: str
    length: int


def add_artefact_routes(routes: APIRouter, doors: Doors, runs: EvaluationRuns) -> None:
    """Store and read evidence files."""

    @routes.put("/artefacts/{sha256}", operation_id="store_artefact", response_model=StoredArtefact, status_code=201)
    async def store_artefact(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        sha256: Digest,
        content: Annotated[bytes, RawBody(media_type="application/octet-stream")],
    ) -> StoredArtefact:
        await runs.store_artefact(actor=actor, system=system, digest=sha256, content=content)
        return StoredArtefact(digest=sha256, length=len(content))

    @routes.get(
        "/artefacts/{sha256}",
        operation_id="get_artefact",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}},
    )
    async def get_artefact(actor: Annotated[Actor, Depends(doors.reader)], system: System, sha256: Digest) -> Response:
        content = await runs.artefact(actor=actor, system=system, digest=sha256)
        return Response(content, media_type="application/octet-stream")


def add_run_verbs(routes: APIRouter, doors: Doors, runs: EvaluationRuns) -> None:
    """Open, record, void."""

    @routes.post(
        "/evaluation-runs:open", operation_id="open_evaluation_run", status_code=201, response_model=ReceiptAnswer
    )
    async def open_evaluation_run(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: OpenEvaluationRun
    ) -> Response:
        receipt = await runs.open_evaluation_run(
            context=because(context, body),
            system=system,
            key=body.key,
            subject=_subject(body),
            requirements=named(body.requirements),
        )
        return receipt_response(receipt, status=201)

    @routes.post(
        "/evaluation-runs", operation_id="record_evaluation_run", status_code=201, response_model=ReceiptAnswer
    )
    async def record_evaluation_run(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: RecordEvaluationRun
    ) -> Response:
        receipt = await runs.record_evaluation_run(context=because(context, body), system=system, run=_run(body))
        return receipt_response(receipt, status=201)

    @routes.post("/evaluation-runs/{key}:void", operation_id="void_evaluation_run", response_model=ReceiptAnswer)
    async def void_evaluation_run(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, key: Key, body: SigningBody
    ) -> Response:
        receipt = await runs.void_evaluation_run(
            context=because(context, body), system=system, key=key, digest=body.digest, covers=body.covers
        )
        return receipt_response(receipt)


def add_attestation_routes(routes: APIRouter, doors: Doors, runs: EvaluationRuns) -> None:
    """Show what an attestation would cover, and attest."""

    @routes.post(
        "/evaluation-runs:preview-attestation", operation_id="preview_attestation", response_model=SignableAnswer
    )
    async def preview_attestation(
        actor: Annotated[Actor, Depends(doors.reader)], system: System, body: PreviewAttestation
    ) -> Response:
        shown = await runs.preview_attestation(actor=actor, system=system, run=_attested(body))
        return Response(msgspec.json.encode(shown), media_type="application/json")

    @routes.post(
        "/evaluation-runs:attest", operation_id="attest_evaluation_run", status_code=201, response_model=ReceiptAnswer
    )
    async def attest_evaluation_run(
        context: Annotated[CommandContext, Depends(doors.signing)], system: System, body: AttestEvaluationRun
    ) -> Response:
        receipt = await runs.attest_evaluation_run(
            context=because(context, body), system=system, run=_attested(body), digest=body.digest
        )
        return receipt_response(receipt, status=201)


def add_run_reads(routes: APIRouter, doors: Doors, runs: EvaluationRuns) -> None:
    """One run, and all attempts."""

    @routes.get("/evaluation-runs", operation_id="list_evaluation_runs")
    async def list_evaluation_runs(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[RunItem]:
        start = page_start(page_token, str)
        rows = await runs.evaluation_runs(actor=actor, system=system, after=start[0] if start else "", limit=page_size)
        return page_of([RunItem(**row) for row in rows], page_size, lambda item: (item.key,))

    @routes.get("/evaluation-runs/{key}", operation_id="get_evaluation_run", response_model=RunAnswer)
    async def get_evaluation_run(actor: Annotated[Actor, Depends(doors.reader)], system: System, key: Key) -> Response:
        state, version = await runs.evaluation_run(actor=actor, system=system, key=key)
        return record_response(state, version=version)


def _subject(body: SubjectBody) -> Subject:
    return Subject(
        model=body.model,
        version=body.version,
        model_digest=body.model_digest,
        dataset=body.dataset,
        dataset_version=body.dataset_version,
        dataset_digest=body.dataset_digest,
    )


def _run(body: RecordEvaluationRun) -> RunToRecord:
    return RunToRecord(
        key=body.key,
        subject=_subject(body),
        requirements=named(body.requirements),
        nonce=body.nonce,
        grade=body.grade,
        conditions=Conditions(
            predictions_by=body.predictions_by,
            source=body.source,
            code_revision=body.code_revision,
            environment=body.environment,
            seed=body.seed,
            decision_threshold=body.decision_threshold,
            claimed_started_at=body.claimed_started_at,
            claimed_ended_at=body.claimed_ended_at,
        ),
        predictions=body.predictions,
        measurements=tuple(_claimed(index, one) for index, one in enumerate(body.measurements)),
        artefacts=tuple(Artefact(**artefact.model_dump()) for artefact in body.artefacts),
    )


def _attested(body: PreviewAttestation) -> RunToRecord:
    return RunToRecord(
        key=body.key,
        subject=_subject(body),
        requirements=named(body.requirements),
        nonce=body.nonce,
        grade="attested",
        conditions=Conditions(
            predictions_by=body.predictions_by,
            source=body.source,
            code_revision=body.code_revision,
            environment=body.environment,
            seed=body.seed,
            decision_threshold=None,
            claimed_started_at=body.claimed_started_at,
            claimed_ended_at=body.claimed_ended_at,
        ),
        predictions=None,
        measurements=tuple(_claimed(index, one) for index, one in enumerate(body.measurements)),
        artefacts=tuple(Artefact(**artefact.model_dump()) for artefact in body.artefacts),
    )


def _claimed(index: int, body: ClaimedMeasurement) -> Measurement:
    metric = find_metric(key=body.metric, field=f"/measurements/{index}/metric")
    return Measurement(
        metric=metric.key,
        definition_version=metric.definition_version,
        slice=body.slice,
        value=body.value,
        n=body.n,
        rows=body.n,
    )
