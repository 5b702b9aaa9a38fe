"""The HTTP application around the routes of one or all services: problems, limits, health, OpenAPI."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import FieldError, ProoftrailError, Unavailable
from shared.http_doors import correlation_of
from shared.telemetry import RequestMetrics

BODY_BYTES_MAX = 1 << 20
ARTEFACT_BYTES_MAX = 64 << 20
LARGE_BODIES = ("/artefacts/", ":set-reference")
"""Addresses that take whole files or whole columns of data."""

RETRY_AFTER_SECONDS = 1

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
) -> JSONResponse:
    """One error as application/problem+json (RFC 9457)."""
    return JSONResponse(
        {
            "type": f"urn:prooftrail:problem:{reason}",
            "title": title,
            "status": status,
            "detail": why,
            "reason": reason,
            "next_step": next_step,
            "errors": [{"field": field.field, "rule": field.rule} for field in fields],
            "trace_id": correlation_of(request),
        },
        status_code=status,
        media_type="application/problem+json",
        headers=dict(headers or {}),
    )


async def _on_prooftrail_error(request: Request, error: Exception) -> JSONResponse:
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


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = [
        FieldError(
            field="/" + "/".join(str(part) for part in item["loc"][1:])
            if item["loc"][0] == "body"
            else str(item["loc"][-1]),
            rule=item["msg"],
        )
        for item in error.errors()
    ]
    names = ", ".join(dict.fromkeys(field.field for field in fields))[:300]
    return problem(
        request,
        status=422,
        reason="invalid-request",
        title=f"The request breaks a rule at {names}.",
        why="Every field is checked before anything is done; `errors` lists field and rule.",
        next_step="Mend these fields and send the request again; nothing was changed.",
        fields=fields,
    )


_HTTP_PROBLEMS = {
    404: ("no-such-route", "There is nothing at this address.", "GET /openapi.json lists the addresses."),
    405: ("method-not-allowed", "This address does not take this method.", "Use a method that Allow lists."),
    400: ("unreadable-request", "The request cannot be read.", "Send valid JSON in UTF-8."),
}


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
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
    for route in request.app.router.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE:
            methods |= route.methods or set()
    return methods


async def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    _log.error("the database did not answer: %s", error)
    return await _on_prooftrail_error(
        request,
        Unavailable(
            "The database does not answer.",
            why="The connection to PostgreSQL is broken or refused.",
            next_step="Send the same request with the same Idempotency-Key again after the time in Retry-After.",
        ),
    )


async def _on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
    _log.exception("unexpected error, trace %s", correlation_of(request), exc_info=error)
    return problem(
        request,
        status=500,
        reason="unexpected-error",
        title="Something went wrong on our side.",
        why="An error that we did not foresee; it is in the log under trace_id.",
        next_step="Report the trace_id. Sending the same request with the same Idempotency-Key is safe.",
    )


class BodyLimit:
    """Refuses bodies that are too large before anything reads them, and while they are being read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        large = any(part in scope["path"] for part in LARGE_BODIES)
        limit = ARTEFACT_BYTES_MAX if large else BODY_BYTES_MAX
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _BodyTooLarge
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        request = Request(scope)
        try:
            if declared.isdigit() and int(declared) > limit:
                raise _BodyTooLarge
            await self._app(scope, limited, send)
        except _BodyTooLarge:
            answer = problem(
                request,
                status=413,
                reason="body-too-large",
                title=f"The body is larger than {limit} bytes.",
                why="Every body has a limit.",
                next_step="Send less at once; evidence files go to the artefacts address.",
            )
            await answer(scope, receive, send)


class _BodyTooLarge(Exception):
    pass


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
        docs_url=None,
        redoc_url=None,
    )
    for exception, handler in (
        (ProoftrailError, _on_prooftrail_error),
        (RequestValidationError, _on_invalid_request),
        (HTTPException, _on_http_exception),
        (asyncpg.PostgresConnectionError, _on_database_error),
        (asyncpg.InterfaceError, _on_database_error),
        (ConnectionError, _on_database_error),
        (Exception, _on_unexpected_error),
    ):
        app.add_exception_handler(exception, handler)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestMetrics)

    @app.get("/healthz", tags=["operation"], operation_id="get_health", summary="The process is alive")
    async def get_health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["operation"], operation_id="get_readiness", summary="The database answers")
    async def get_readiness() -> dict[str, str]:
        await ready()
        return {"status": "ready"}

    for router in routers:
        app.include_router(router)
    return app
