"""The HTTP door every service shares: who asks, what the request says about repeats and versions, and how answers look.

Errors are application/problem+json (RFC 9457). Commands take Idempotency-Key (after the expired IETF draft) and If-Match
(RFC 9110, 13); every request takes `after`, positions to wait for, so that nobody sleeps and hopes.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import uuid4

import msgspec
from fastapi import Depends, Header, Query, Request, Response
from fastapi.security import HTTPBearer
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

from shared.command import CommandContext
from shared.directory import Directory
from shared.errors import FieldError, Invalid
from shared.event import Actor, digest_of
from shared.event_store import IdempotencyKey, Receipt
from shared.http_pages import credentials
from shared.identity import Caller, TokenVerifier, require_recent_sign_in
from shared.positions import parse_positions
from shared.trace_ids import TRACE_ID, current_ids, tell_trace

PAGE_SIZE_MAX = 200

CORRELATION = "prooftrail.correlation"
"""Where the scope of a request keeps the trace that it belongs to."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

KEY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
SYSTEM_PATTERN = r"^[a-z][a-z0-9-]{1,62}$"


class SegmentConvertor(Convertor[str]):
    """A path parameter ends at a slash or a colon, so that `{key}:approve` is another address than `{key}`."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("str", SegmentConvertor())

bearer = HTTPBearer(auto_error=False, description="A token of the OIDC issuer; embedded: `prooftrail token`.")


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is the whole number 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_control_characters(value: Any) -> Any:
    if isinstance(value, str) and any(ord(character) < 32 and character not in "\n\t" for character in value):
        raise ValueError("control characters are not allowed")
    if isinstance(value, str) and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise ValueError("unpaired surrogates are not allowed")
    return value


def _moment(value: Any) -> Any:
    """Text as RFC 3339 writes it, with a zone; numbers are no moments."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("a moment as in RFC 3339, with a zone: 2026-01-31T12:00:00Z")
    return datetime.fromisoformat(value.upper())


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
Whole = Annotated[int, BeforeValidator(_whole)]
KEPT_FOR_EVER = "Kept for ever as it is, and cannot be erased: no personal data."
Text = Annotated[
    str, Field(min_length=1, max_length=4000, description=KEPT_FOR_EVER), BeforeValidator(_no_control_characters)
]
ShortText = Annotated[
    str, Field(min_length=1, max_length=200, description=KEPT_FOR_EVER), BeforeValidator(_no_control_characters)
]
Key = Annotated[str, Field(pattern=KEY_PATTERN)]
SystemKey = Annotated[str, Field(pattern=SYSTEM_PATTERN)]
StreamName = Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,39}:[!-~]{1,250}$", description="<kind>:<system>/<key>")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="hex SHA-256")]


class Body(BaseModel):
    """A request body: unknown fields, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class CommandBody(Body):
    """A command: every change carries a reason."""

    reason: Annotated[
        str,
        Field(min_length=3, max_length=2000, description=f"Why. {KEPT_FOR_EVER}"),
        BeforeValidator(_no_control_characters),
    ]


class LateBody(CommandBody):
    """A command that may be told late. `effective_at` is since when it is true; without it, since now."""

    effective_at: Moment | None = None


class SigningBody(CommandBody):
    """A signature: the digest that the signer fetched, and optionally all digests signed in the same act."""

    digest: Sha256
    covers: Annotated[list[Sha256], Field(max_length=200, default_factory=list)]


class EventReceiptAnswer(BaseModel):
    name: str
    position: int
    leaf_hash: str
    recorded_at: datetime


class ReceiptAnswer(BaseModel):
    """The answer to a command: pass `position` on as `after`; the ETag is `version`.

    Keep `promise`: a note signed by the service's log key that says place, leaf hash and time of the events. A log that does not
    contain them later has broken it. It is null without events, and while the log cannot be sealed.
    """

    record: str
    version: int
    position: str
    events: list[EventReceiptAnswer]
    promise: str | None = None


class ProblemError(BaseModel):
    field: str
    rule: str


class Problem(BaseModel):
    """RFC 9457: what happened (`title`), why (`detail`), what to do (`next_step`); branch on `reason`."""

    type: str
    title: str
    status: int
    detail: str
    reason: str
    next_step: str
    errors: list[ProblemError] = Field(default_factory=list)
    trace_id: str


ItemType = TypeVar("ItemType")


class Page(BaseModel, Generic[ItemType]):
    """One page; `next_page_token` is null on the last."""

    items: list[ItemType]
    next_page_token: str | None


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}, "description": text}
    for status, text in {
        400: "the request cannot be read",
        401: "no valid token, or a sign-in too old to sign with",
        403: "a missing role, or a rule of the domain",
        404: "no such record that the caller can see",
        409: "the record is in another state",
        412: "If-Match named another version",
        413: "the body is too large",
        422: "a field breaks a rule",
        428: "If-Match is needed here",
        503: "not yet there, or not now: see Retry-After",
    }.items()
}


class MalformedIfMatch(Invalid):
    """If-Match is not an ETag of this house."""


class MalformedPageToken(Invalid):
    """The page token was not given out by us."""


IdempotencyKeyHeader = Annotated[str | None, Header(min_length=1, max_length=200)]
IfMatchHeader = Annotated[str | None, Header(max_length=40)]
After = Annotated[
    str,
    Query(max_length=500, description="Positions to wait for, as answers gave them: `requirements:120,releases:8`."),
]
PageSize = Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)]
PageToken = Annotated[str, Query(max_length=500, description="`next_page_token` of the page before")]


@dataclass(frozen=True, kw_only=True)
class Doors:
    """What the routes of one service need from the outside; `wait` holds a request until its `after` has arrived.

    `feed_readers` are the subjects of our own processes, which may read the whole feed.
    """

    service: str
    verifier: TokenVerifier
    directory: Directory
    clock: Callable[[], datetime]
    wait: Callable[[Mapping[str, int]], Awaitable[None]]
    sign_in_max_age_s: int
    feed_readers: frozenset[str] = frozenset()

    async def reader(self, request: Request, after: After = "", _scheme: object = Depends(bearer)) -> Actor:
        """Dependency of reads: the verified caller, once everything in `after` has arrived. Reading leaves no name behind."""
        caller = await self.verifier.verify(credentials(request))
        await self.wait(parse_positions(after))
        return _actor(caller, name_commitment=None)

    async def command(
        self,
        request: Request,
        after: After = "",
        idempotency_key: IdempotencyKeyHeader = None,
        if_match: IfMatchHeader = None,
        _scheme: object = Depends(bearer),
    ) -> CommandContext:
        """Dependency of commands; add the reason of the body with `because`."""
        caller = await self.verifier.verify(credentials(request))
        return await self._context(request, caller, after, idempotency_key, if_match)

    async def signing(
        self,
        request: Request,
        after: After = "",
        idempotency_key: IdempotencyKeyHeader = None,
        if_match: IfMatchHeader = None,
        _scheme: object = Depends(bearer),
    ) -> CommandContext:
        """Dependency of commands that sign: a person, signed in a short time ago (RFC 9470)."""
        caller = await self.verifier.verify(credentials(request))
        require_recent_sign_in(caller, self.clock(), self.sign_in_max_age_s)
        return await self._context(request, caller, after, idempotency_key, if_match)

    async def _context(
        self, request: Request, caller: Caller, after: str, key: str | None, if_match: str | None
    ) -> CommandContext:
        await self.wait(parse_positions(after))
        return CommandContext(
            actor=await self._named(caller),
            reason="",
            at=self.clock(),
            correlation=correlation_of(request),
            idempotency=await _idempotency(request, caller, key),
            expected_version=_expected_version(if_match),
        )

    async def _named(self, caller: Caller) -> Actor:
        """Who sends a command is in the directory from then on."""
        if caller.name is None:
            return _actor(caller, name_commitment=None)
        commitment = await self.directory.commitment(subject=caller.subject, name=caller.name)
        return _actor(caller, name_commitment=commitment)


def _actor(caller: Caller, *, name_commitment: str | None) -> Actor:
    return Actor(
        subject=caller.subject,
        kind=caller.kind,
        issuer=caller.issuer,
        auth_time=caller.auth_time,
        on_behalf_of=caller.on_behalf_of,
        name_commitment=name_commitment,
    )


def because(context: CommandContext, body: CommandBody) -> CommandContext:
    """The context with the reason that the body gives."""
    return replace(context, reason=body.reason)


def correlation_of(request: Request) -> str:
    """The trace that the request belongs to, that of `traceparent` (W3C Trace Context), else a new one: 32 hex digits."""
    known: str | None = request.scope.get(CORRELATION)
    if known is not None:
        return known
    correlation = current_ids().trace_id or _trace_in(request.headers) or uuid4().hex
    request.scope[CORRELATION] = correlation
    tell_trace(correlation)
    return correlation


def _trace_in(headers: Mapping[str, str]) -> str | None:
    parts = headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) == 4 and TRACE_ID.fullmatch(parts[1]) else None


async def _idempotency(request: Request, caller: Caller, key: str | None) -> IdempotencyKey | None:
    if key is None:
        return None
    route = f"{request.method} {request.url.path}\n".encode()
    return IdempotencyKey(subject=caller.subject, key=key, fingerprint=digest_of(route + await request.body()))


def _expected_version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isascii() or not text.isdecimal():
        raise MalformedIfMatch(
            "If-Match holds no ETag of ours.",
            why='Our ETags are versions in quotes, like "3".',
            next_step="Send the ETag that reading the record gave you.",
            fields=(FieldError(field="If-Match", rule='a version in quotes, like "3"'),),
        )
    return int(text)


def receipt_response(receipt: Receipt, *, status: int = 200) -> Response:
    """The receipt as JSON with the version as ETag and the position in a header."""
    return Response(
        msgspec.json.encode(receipt),
        status_code=status,
        media_type="application/json",
        headers={"ETag": f'"{receipt.version}"', "Prooftrail-Position": receipt.position},
    )


def record_response(record: object, *, version: int) -> Response:
    """A record (any msgspec-encodable value) as JSON with its version as ETag."""
    return Response(msgspec.json.encode(record), media_type="application/json", headers={"ETag": f'"{version}"'})


def page_of(items: list[ItemType], page_size: int, keys: Callable[[ItemType], tuple[str | int, ...]]) -> Page[ItemType]:
    """A page of up to `page_size` items out of one more than that; `keys` are what the next page starts after."""
    shown = items[:page_size]
    token = page_token(*keys(shown[-1])) if len(items) > page_size else None
    return Page[Any](items=shown, next_page_token=token)


def page_token(*keys: str | int) -> str:
    """An opaque token for the last row of a page."""
    return base64.urlsafe_b64encode(json.dumps(keys).encode()).decode().rstrip("=")


def page_start(token: str, *types: type) -> Sequence[Any] | None:
    """The keys in the token, None for the first page; MalformedPageToken if it is not ours."""
    if not token:
        return None
    try:
        keys = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, binascii.Error):
        keys = None
    if not isinstance(keys, list) or [type(key) for key in keys] != list(types) or not all(map(_is_sortable, keys)):
        raise MalformedPageToken(
            "This page token was not given out here.",
            why="A page token is opaque and belongs to one list.",
            next_step="Start again without page_token.",
            fields=(FieldError(field="page_token", rule="next_page_token of the page before"),),
        )
    return keys


def _is_sortable(key: str | int) -> bool:
    """Whether PostgreSQL can compare with it."""
    return abs(key) < 2**63 if isinstance(key, int) else key.isprintable()
