"""A command that is read in one step is answered, and refused, word for word as the framework would have it."""

# No postponed annotations here: the route is a closure, and FastAPI reads its annotations where it is made.

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path as Folder
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import APIRouter, Depends, Path, Response
from fastapi.routing import APIRoute

from shared.command import CommandContext
from shared.command_route import CommandRoute
from shared.directory import Directory
from shared.http_app import BODY_BYTES_MAX, create_app
from shared.http_doors import PROBLEMS, SYSTEM_PATTERN, CommandBody, Doors, Key, Whole
from shared.identity import TokenVerifier
from shared.local_issuer import LocalIssuer
from shared.runtime import utc_now
from tests.shared.conftest import Stores

ISSUER = "urn:prooftrail:test"
GOOD = b'{"reason": "measured", "count": 3}'
JSON = {"content-type": "application/json"}


class Counting(CommandBody):
    """The body of the command."""

    count: Whole


async def nothing_to_wait_for(_positions: Mapping[str, int]) -> None:
    """Everything has arrived."""


async def nothing_amiss() -> None:
    """Always ready."""


def routed(doors: Doors, route_class: type[APIRoute]) -> httpx.AsyncClient:
    """A client of an application with one command that tells what it was given."""
    router = APIRouter(prefix="/v1/systems/{system}", responses=PROBLEMS, route_class=route_class)

    async def count_up(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: Annotated[str, Path(pattern=SYSTEM_PATTERN)],
        key: Key,
        body: Counting,
    ) -> Response:
        said = {name: value for name, value in asdict(context).items() if name not in ("at", "new_id")}
        return Response(msgspec.json.encode([said, system, key, body.model_dump()]), 201)

    router.post("/counts/{key}:count", operation_id="count_up")(count_up)
    (route,) = router.routes
    assert (getattr(route, "answering", None) is not None) is (route_class is CommandRoute)
    app = create_app(routers=[router], ready=nothing_amiss)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def clients(stores: Stores, tmp_path: Folder) -> AsyncIterator[list[httpx.AsyncClient]]:
    """One whose commands are read in one step, one whose commands the framework reads."""
    issuer = LocalIssuer.open(tmp_path / "issuer", issuer=ISSUER, clock=utc_now)
    doors = Doors(
        service="requirements",
        verifier=TokenVerifier(issuer=ISSUER, audience="prooftrail", keys=issuer, clock=utc_now),
        directory=Directory(pool=stores.pool, service="requirements", new_salt=lambda: "salt"),
        clock=utc_now,
        wait=nothing_to_wait_for,
        sign_in_max_age_s=300,
    )
    token = issuer.mint(name="Ada Author")
    both = [routed(doors, CommandRoute), routed(doors, APIRoute)]
    for client in both:
        client.headers["authorization"] = f"Bearer {token}"
        client.headers["traceparent"] = f"00-{'a' * 32}-{'b' * 16}-01"
    yield both
    for client in both:
        await client.aclose()


REQUESTS: dict[str, dict[str, Any]] = {
    "good": {"content": GOOD, "headers": JSON},
    "good, with everything that may be said": {
        "content": GOOD, "headers": {**JSON, "idempotency-key": "k", "if-match": '"3"'}, "params": {"after": "requirements:1"},
    },
    "another kind of JSON": {"content": GOOD, "headers": {"content-type": "application/problem+json; charset=utf-8"}},
    "a whole number as JSON has it": {"content": b'{"reason": "measured", "count": 3.0}', "headers": JSON},
    "no token": {"content": GOOD, "headers": {**JSON, "authorization": ""}},
    "no token and no JSON": {"content": b"{", "headers": {**JSON, "authorization": ""}},
    "no token and a broken field": {"content": b"{}", "headers": {**JSON, "authorization": ""}},
    "no body": {"headers": JSON},
    "null": {"content": b"null", "headers": JSON},
    "a list": {"content": b"[1]", "headers": JSON},
    "no type": {"content": GOOD},
    "text": {"content": GOOD, "headers": {"content-type": "text/plain"}},
    "no JSON": {"content": b'{"reason": ', "headers": JSON},
    "no UTF-8": {"content": b'{"reason": "\xff"}', "headers": JSON},
    "too deep": {"content": b"[" * 100_000, "headers": JSON},
    "a number that is none": {"content": b'{"reason": "measured", "count": NaN}', "headers": JSON},
    "fields that are broken, missing and unknown": {"content": b'{"reason": "x", "more": 1}', "headers": JSON},
    "a system that is none": {"content": GOOD, "headers": JSON, "path": "/v1/systems/NO/counts/k:count"},
    "everything broken": {
        "content": b"{}", "headers": {**JSON, "idempotency-key": "k" * 300, "if-match": "m" * 50},
        "params": {"after": "a" * 600}, "path": "/v1/systems/NO/counts/-:count",
    },
    "an ETag that is none": {"content": GOOD, "headers": {**JSON, "if-match": "three"}},
    "an empty key": {"content": GOOD, "headers": {**JSON, "idempotency-key": ""}},
    "positions that are none": {"content": GOOD, "headers": JSON, "params": {"after": "here"}},
    "after, twice": {"content": GOOD, "headers": JSON, "params": {"after": ["requirements:1", "requirements:2"]}},
    "too large": {"content": b" " * (BODY_BYTES_MAX + 1), "headers": JSON},
}  # fmt: skip


async def test_a_command_is_answered_as_by_the_framework(clients: list[httpx.AsyncClient]) -> None:
    """Status, headers and every word of the body, whatever is asked."""
    for name, request in REQUESTS.items():
        asked = {"path": "/v1/systems/flights/counts/k:count", **request}
        path = asked.pop("path")
        ours, theirs = [await client.post(path, **asked) for client in clients]
        assert (ours.status_code, ours.headers, ours.json()) == (theirs.status_code, theirs.headers, theirs.json()), (
            name
        )
        assert ours.is_success is name.startswith(("good", "another", "a whole", "after, twice")), name
