"""Plain pages for people: what waits for me, what I sign, sign or decline; and the way to each evidence pack.

A browser cannot send a bearer token by itself, so the link of `prooftrail pages` carries a token once; it becomes a cookie that
scripts cannot read and other sites cannot use. Everything else on the pages comes from the same HTTP API that everybody uses.
"""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from shared.identity import Caller, TokenVerifier

COOKIE = "prooftrail_token"
FOLDER = Path(__file__).parent / "pages"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
        " form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
FILES = {"": "index.html", "pages.js": "pages.js", "pages.css": "pages.css"}


def credentials(request: Request) -> str | None:
    """The Authorization header, or the one that the cookie of the pages stands for."""
    header = request.headers.get("authorization")
    token = request.cookies.get(COOKIE)
    return header if header is not None or token is None else f"Bearer {token}"


def pages_router(*, verifier: TokenVerifier) -> APIRouter:
    """GET /pages and its files, and /pages/enter, which turns the token of the link into the cookie."""
    router = APIRouter(prefix="/pages", include_in_schema=False)

    async def signed_in(request: Request) -> Caller:
        return await verifier.verify(credentials(request))

    @router.get("/enter")
    async def enter(token: Annotated[str, Query(max_length=8000)]) -> Response:
        await verifier.verify(f"Bearer {token}")
        answer = RedirectResponse("/pages", status_code=303, headers=HEADERS)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
        return answer

    for path, file in FILES.items():
        router.add_api_route(f"/{path}" if path else "", _serving(FOLDER / file), dependencies=[Depends(signed_in)])
    return router


def _serving(file: Path) -> Callable[[], Awaitable[FileResponse]]:
    async def serve() -> FileResponse:
        return FileResponse(file, headers=HEADERS)

    return serve
