"""The door of the witness (C2SP tlog-witness): open to everybody, since only a log's own signature counts, and in plain text."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from fastapi import APIRouter, Request, Response

from shared.errors import ProoftrailError
from shared.http_doors import PROBLEMS
from shared.log.witness import SIZE_MEDIA_TYPE, ForkRefused, parse_submission, witness_answer

from .witnessing import Witnessing

BAD_REQUEST, UNPROCESSABLE = 400, 422
TEXT = "text/plain; charset=utf-8"

_TOLD = {"schema": {"type": "string"}}


def witness_router(witnessing: Witnessing) -> APIRouter:
    """POST /add-checkpoint."""
    router = APIRouter(tags=["log"])

    @router.post(
        "/add-checkpoint",
        operation_id="add_checkpoint",
        summary="Have a checkpoint of a log of this deployment cosigned",
        response_class=Response,
        responses={
            **{
                status: {"description": told["description"], "content": {"text/plain": _TOLD}}
                for status, told in PROBLEMS.items()
            },
            200: {"description": "the cosignature lines", "content": {"text/plain": _TOLD}},
            409: {
                "description": "the size that was cosigned last, when `old` is another",
                "content": {SIZE_MEDIA_TYPE: _TOLD, "text/plain": _TOLD},
            },
        },
        openapi_extra={"requestBody": {"required": True, "content": {"text/plain": _TOLD}}},
    )
    async def add_checkpoint(request: Request) -> Response:
        try:
            asked = parse_submission(await request.body())
            line = await witnessing.add_checkpoint(old_size=asked.old_size, proof=asked.proof, note=asked.note)
        except ProoftrailError as error:
            status, media_type, body = witness_answer(error)
            if status == UNPROCESSABLE and not isinstance(error, ForkRefused):  # a note that is none
                status = BAD_REQUEST
            return Response(body, status_code=status, headers={"Content-Type": media_type})
        return Response(line, media_type=TEXT)

    return router
