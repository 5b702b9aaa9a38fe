"""The door for webhooks of a service: subscribers say where its events are to be sent to, and see how that goes."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field

from shared.command_route import CommandRoute
from shared.event import Actor
from shared.feed import Feed
from shared.http_doors import (
    KEY_PATTERN,
    PROBLEMS,
    Body,
    Doors,
    Key,
    Page,
    PageSize,
    PageToken,
    SystemKey,
    Whole,
    page_of,
    page_start,
)
from shared.http_stream import POSITION_MAX
from shared.subscription import Subscriptions, Wish
from shared.webhooks.addresses import URL_CHARACTERS_MAX, URL_PATTERN, AllowedNetworks, require_allowed
from shared.webhooks.registry import Webhooks

DAY_SECONDS = 86_400
OVERLAP_SECONDS_MAX = 30 * DAY_SECONDS

WebhookKey = Annotated[str, Path(pattern=KEY_PATTERN, description="The key that you registered it under.")]
FromPosition = Annotated[
    Whole | None,
    Field(ge=0, le=POSITION_MAX, description="Events above it; 0 is the first event."),
]


class RegisterWebhookBody(Body):
    """Where to send events to. Without `from_position` only those to come; without systems or names, all that you may see."""

    key: Key
    url: Annotated[
        str, Field(pattern=URL_PATTERN, max_length=URL_CHARACTERS_MAX, description="https, to a public address")
    ]
    systems: Annotated[list[SystemKey], Field(max_length=50, default_factory=list)]
    names: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100, default_factory=list)]
    from_position: FromPosition = None


class RotateSecretBody(Body):
    """`overlap_s` is how long the secrets before go on signing beside the new one; 0 ends them now."""

    overlap_s: Annotated[Whole, Field(ge=0, le=OVERLAP_SECONDS_MAX)] = DAY_SECONDS


class ResumeWebhookBody(Body):
    """Without `from_position` it goes on where it was."""

    from_position: FromPosition = None


class WebhookTrouble(BaseModel):
    """Why the last try failed; `next_try_at` is null once the webhook is off."""

    what: str
    status: int | None
    since: datetime
    failures: int
    next_try_at: datetime | None


class WebhookAnswer(BaseModel):
    """`position` is up to where everything was taken, `head` where the service's events end. Not `active`: off, until resumed."""

    key: str
    url: str
    systems: list[str]
    names: list[str]
    position: int
    head: int
    active: bool
    trouble: WebhookTrouble | None
    delivered_at: datetime | None
    registered_at: datetime


class WebhookSecret(BaseModel):
    """`secret` is shown this once; receivers check signatures with it (Standard Webhooks)."""

    webhook: WebhookAnswer
    secret: str


def webhook_router(
    *, doors: Doors, subscriptions: Subscriptions, webhooks: Webhooks, feed: Feed, networks: AllowedNetworks
) -> APIRouter:
    """/v1/<service>/webhooks."""
    router = APIRouter(
        prefix=f"/v1/{doors.service}/webhooks", tags=["webhooks"], responses=PROBLEMS, route_class=CommandRoute
    )
    _add_registration(router, doors, subscriptions, webhooks, feed, networks)
    _add_reading(router, doors, webhooks)
    _add_changes(router, doors, subscriptions, webhooks)
    return router


def _add_registration(
    router: APIRouter,
    doors: Doors,
    subscriptions: Subscriptions,
    webhooks: Webhooks,
    feed: Feed,
    networks: AllowedNetworks,
) -> None:
    name = doors.service

    @router.post(
        "",
        operation_id=f"register_{name}_webhook",
        summary="Send events to an address of yours",
        status_code=201,
        response_model=WebhookSecret,
    )
    async def register_webhook(actor: Annotated[Actor, Depends(doors.reader)], body: RegisterWebhookBody) -> Response:
        require_allowed(body.url, networks=networks)
        after = await feed.head(service=name) if body.from_position is None else body.from_position
        await subscriptions.require_allowed(_wish(actor, after, body.systems, body.names))
        webhook, secret = await webhooks.register(
            actor=actor, key=body.key, url=body.url, systems=body.systems, names=body.names, after=after
        )
        return _json({"webhook": webhook, "secret": secret}, status=201)


def _add_reading(router: APIRouter, doors: Doors, webhooks: Webhooks) -> None:
    name = doors.service

    @router.get("", operation_id=f"list_{name}_webhooks", summary="Your webhooks", response_model=Page[WebhookAnswer])
    async def list_webhooks(
        actor: Annotated[Actor, Depends(doors.reader)], page_size: PageSize = 50, page_token: PageToken = ""
    ) -> Response:
        start = page_start(page_token, str)
        found = await webhooks.page(subject=actor.subject, after=start[0] if start else "", limit=page_size + 1)
        page = page_of(list(found), page_size, lambda one: (one.key,))
        return _json({"items": page.items, "next_page_token": page.next_page_token})

    @router.get(
        "/{key}", operation_id=f"get_{name}_webhook", summary="How a webhook is doing", response_model=WebhookAnswer
    )
    async def get_webhook(actor: Annotated[Actor, Depends(doors.reader)], key: WebhookKey) -> Response:
        return _json(await webhooks.get(subject=actor.subject, key=key))


def _add_changes(router: APIRouter, doors: Doors, subscriptions: Subscriptions, webhooks: Webhooks) -> None:
    name = doors.service

    @router.post(
        "/{key}:rotate-secret",
        operation_id=f"rotate_{name}_webhook_secret",
        summary="A new secret, beside the old ones for a while",
        response_model=WebhookSecret,
    )
    async def rotate_webhook_secret(
        actor: Annotated[Actor, Depends(doors.reader)], key: WebhookKey, body: RotateSecretBody
    ) -> Response:
        webhook, secret = await webhooks.rotate(subject=actor.subject, key=key, overlap_s=body.overlap_s)
        return _json({"webhook": webhook, "secret": secret})

    @router.post(
        "/{key}:resume",
        operation_id=f"resume_{name}_webhook",
        summary="Try again now, from where it was or from a position",
        response_model=WebhookAnswer,
    )
    async def resume_webhook(
        actor: Annotated[Actor, Depends(doors.reader)], key: WebhookKey, body: ResumeWebhookBody
    ) -> Response:
        await subscriptions.require_allowed(_wish(actor, body.from_position or 0, (), ()))
        return _json(await webhooks.resume(subject=actor.subject, key=key, after=body.from_position))

    @router.post(
        "/{key}:remove",
        operation_id=f"remove_{name}_webhook",
        summary="Forget a webhook and its secrets",
        response_model=WebhookAnswer,
    )
    async def remove_webhook(actor: Annotated[Actor, Depends(doors.reader)], key: WebhookKey) -> Response:
        return _json(await webhooks.remove(subject=actor.subject, key=key))


def _wish(actor: Actor, after: int, systems: list[str] | tuple[()], names: list[str] | tuple[()]) -> Wish:
    return Wish(actor=actor, after=after, systems=systems, names=names, lasts_s=float("inf"))


def _json(value: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")
