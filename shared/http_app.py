"""The HTTP application around the routes of one or all services: problems, limits, health, OpenAPI."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.artefacts import ARTEFACT_BYTES_MAX
from shared.errors import FieldError, ProoftrailError, Unavailable
from shared.http_doors import correlation_of
from shared.telemetry import BEHIND_GRPC

BODY_BYTES_MAX = 1 << 20
LARGE_BODIES = re.compile(r"/v1/systems/[^/]+/(artefacts/.+|[^:]+:set-reference)")
"""Addresses that take whole files or whole columns of data."""

UNOBSERVED_PATHS = frozenset({"/healthz", "/readyz", "/pages/enter"})

FIELD_ERRORS_MAX = 50
FIELD_NAME_CHARACTERS_MAX = 100

RETRY_AFTER_SECONDS = 1

DATABASE_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InterfaceError,
    ConnectionError,
)
"""What a restart, a limit, or a race in the database makes a request raise; the same request may work a moment later."""

_log = logging.getLogger(__name__)


def problem(
    request: Request,
    *,
    status: int,
    reason: str,
    title: str,
    why: str = "",
    next_step: str = "",
    fields: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One error as application/problem+json (RFC 9457); a surrogate that a client sent comes back as a question mark."""
    document = {
        "type": f"urn:prooftrail:problem:{reason}",
        "title": title,
        "status": status,
        "detail": why,
        "reason": reason,
        "next_step": next_step,
        "errors": [{"field": field.field, "rule": field.rule} for field in fields[:FIELD_ERRORS_MAX]],
        "trace_id": correlation_of(request),
    }
    return Response(
        json.dumps(document, ensure_ascii=False).encode(errors="replace"),
        status_code=status,
        media_type="application/problem+json",
        headers=dict(headers or {}),
    )


async def _on_prooftrail_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProoftrailError)
    headers: dict[str, str] = {}
    if error.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if error.status == 401:
        headers["WWW-Authenticate"] = getattr(error, "www_authenticate", "Bearer")
    return problem(
        request,
        status=error.status,
        reason=error.reason,
        title=error.what,
        why=error.why,
        next_step=error.next_step,
        fields=error.fields,
        headers=headers,
    )


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    broken = error.errors()
    if broken[0]["type"] == "json_invalid":
        return _unreadable(request, f"JSON: {broken[0]['ctx']['error']} at character {broken[0]['loc'][-1]}")
    fields = [_field_error(item) for item in broken]
    names = ", ".join(dict.fromkeys(field.field for field in fields))[:300]
    return problem(
        request,
        status=422,
        reason="invalid-request",
        title=f"The request breaks a rule at {names}.",
        why=f"Every field is checked before anything is done; `errors` lists field and rule (the first {FIELD_ERRORS_MAX}).",
        next_step="Mend these fields and send the request again; nothing was changed.",
        fields=fields,
    )


def _field_error(item: Mapping[str, Any]) -> FieldError:
    """Fields of the body by JSON pointer (RFC 6901), parameters by name."""
    place, *path = item["loc"]
    if place != "body":
        return FieldError(field=_shown(path[-1]), rule=item["msg"])
    if not path:
        return FieldError(field="body", rule="a JSON object, sent with Content-Type: application/json")
    pointer = "".join("/" + _shown(part).replace("~", "~0").replace("/", "~1") for part in path)
    return FieldError(field=pointer, rule=item["msg"])


def _shown(name: object) -> str:
    """A name as an error repeats it: a client may have made it as long as it liked."""
    text = str(name)
    return text if len(text) <= FIELD_NAME_CHARACTERS_MAX else text[: FIELD_NAME_CHARACTERS_MAX - 1] + "…"


def _unreadable(request: Request, rule: str) -> Response:
    return problem(
        request,
        status=400,
        reason="unreadable-request",
        title="The request cannot be read.",
        why="The body ended early or is not what it says it is.",
        next_step="Send valid JSON in UTF-8; nothing was changed.",
        fields=(FieldError(field="body", rule=rule),),
    )


_HTTP_PROBLEMS = {
    404: ("no-such-route", "There is nothing at this address.", "GET /openapi.json lists the addresses."),
    405: ("method-not-allowed", "This address does not take this method.", "Use a method that Allow lists."),
}


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, _BodyTooLarge):
        return _too_large(request, error.limit)
    if error.status_code == 400:
        return _unreadable(request, "JSON in UTF-8")
    reason, title, next_step = _HTTP_PROBLEMS.get(error.status_code, ("http-error", str(error.detail), ""))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return problem(
        request,
        status=error.status_code,
        reason=reason,
        title=title,
        why=str(error.detail),
        next_step=next_step,
        headers=headers,
    )


def _methods_at(request: Request) -> set[str]:
    """All methods of the address: Starlette alone names those of the first route that matches."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path is not None and compile_path(route.path)[0].fullmatch(request.url.path):
            methods |= route.methods or set()
    return methods


async def _on_database_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ValueError):  # the driver's word for an argument that the database cannot hold
        return await _on_unexpected_error(request, error)
    _log.error("the database did not answer: %s", error)
    return await _on_prooftrail_error(
        request,
        Unavailable(
            "The database does not answer.",
            why="PostgreSQL broke or refused the connection, or ended the statement.",
            next_step="Send the same request with the same Idempotency-Key again after the time in Retry-After.",
        ),
    )


async def _on_lost_worker(request: Request, error: Exception) -> Response:
    _log.error("a worker process died: %s", error)
    return await _on_prooftrail_error(
        request,
        Unavailable(
            "The computation was cut short.",
            why="The process that did it was ended, perhaps for want of memory; another has taken its place.",
            next_step="Send the same request again; if it is cut short again, send fewer rows.",
        ),
    )


async def _on_unexpected_error(request: Request, error: Exception) -> Response:
    _log.exception("unexpected error, trace %s", correlation_of(request), exc_info=error)
    return problem(
        request,
        status=500,
        reason="unexpected-error",
        title="Something went wrong on our side.",
        why="An error that we did not foresee; it is in the log under trace_id.",
        next_step="Report the trace_id. Sending the same request with the same Idempotency-Key is safe.",
    )


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ProoftrailError: _on_prooftrail_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
    **dict.fromkeys(DATABASE_AWAY, _on_database_error),
    BrokenExecutor: _on_lost_worker,
    Exception: _on_unexpected_error,
}


async def answer_to(request: Request, error: Exception) -> Response:
    """What the application answers when a route raises the error: the answer to the nearest of its classes."""
    return await next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)(request, error)


class BodyLimit:
    """Refuses bodies that are too large before anything reads them, and while they are being read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = _limit_at(scope["path"])
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _BodyTooLarge(limit)
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        refusal = refused_by_size(scope, int(declared)) if declared.isdigit() else None
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, limited, send)


def _limit_at(path: str) -> int:
    return ARTEFACT_BYTES_MAX if LARGE_BODIES.fullmatch(path) else BODY_BYTES_MAX


def refused_by_size(scope: Scope, size: int) -> Response | None:
    """The refusal of a body of so many bytes at this address, None if it may be that large."""
    limit = _limit_at(scope["path"])
    return _too_large(Request(scope), limit) if size > limit else None


class _BodyTooLarge(HTTPException):
    """An HTTPException, since FastAPI takes any other error while it reads a body for bad JSON."""

    def __init__(self, limit: int) -> None:
        super().__init__(status_code=413)
        self.limit = limit


def _too_large(request: Request, limit: int) -> Response:
    return problem(
        request,
        status=413,
        reason="body-too-large",
        title=f"The body is larger than {limit} bytes.",
        why="Every body has a limit.",
        next_step="Send less at once; evidence files go to the artefacts address.",
        fields=(FieldError(field="body", rule=f"at most {limit} bytes"),),
    )


def _is_unobserved(scope: MutableMapping[str, Any]) -> bool:
    """Probes say nothing, the link of the pages holds a token, and behind a call of gRPC the call is observed."""
    return scope["path"] in UNOBSERVED_PATHS or BEHIND_GRPC in scope.get("extensions", ())


def create_app(
    *,
    routers: Sequence[APIRouter],
    ready: Callable[[], Awaitable[None]],
    lifespan: Any = None,
    version: str = "1.0.0",
) -> FastAPI:
    """The application: the routers, /healthz (alive), /readyz (the database answers), OpenAPI 3.1."""
    app = FastAPI(
        title="Prooftrail",
        version=version,
        summary="The system of record for the proof behind machine-learning products",
        description=(
            "Every verb of the services over HTTP. Errors are problem+json; commands take Idempotency-Key and `after`."
        ),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        contact={"name": "Prooftrail"},
        servers=[{"url": "/"}],
        lifespan=lifespan,
        telemetry={"exclude": _is_unobserved, "operation_spans": False, "logs": False, "auto_configure": False},
        docs_url=None,
        redoc_url=None,
    )
    for exception, handler in _ANSWERS.items():
        app.add_exception_handler(exception, handler)
    app.add_middleware(BodyLimit)

    @app.get("/healthz", tags=["operation"], operation_id="get_health", summary="The process is alive")
    async def get_health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["operation"], operation_id="get_readiness", summary="The database answers")
    async def get_readiness() -> dict[str, str]:
        await ready()
        return {"status": "ready"}

    for router in routers:  # include_router would match each route twice
        app.router.routes.extend(router.routes)
    return app
