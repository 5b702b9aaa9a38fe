"""Routes of model versions."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from shared.command import CommandContext
from shared.event import Actor
from shared.http_doors import (
    Body,
    CommandBody,
    Doors,
    Key,
    LateBody,
    Page,
    PageSize,
    PageToken,
    ReceiptAnswer,
    Sha256,
    ShortText,
    Text,
    because,
    page_of,
    page_start,
    receipt_response,
    record_response,
)

from ..application.listings import Listings
from ..application.model_versions import ModelVersions
from ..domain.model_version import Component, HostedModel
from .paths import System


class ComponentBody(Body):
    kind: Literal["weights", "preprocessing", "thresholds", "code", "image", "prompt", "configuration"]
    name: ShortText
    digest: Sha256


class HostedModelBody(Body):
    provider: ShortText
    identifier: ShortText


class RegisterModelVersion(CommandBody):
    """`digest`, if sent, must be SHA-256 of the manifest as JSON with sorted keys and no spaces, parts by kind and name."""

    model: Key
    version: Annotated[Key, Field(max_length=60)]
    components: Annotated[list[ComponentBody], Field(max_length=500)]
    hosted: HostedModelBody | None = None
    digest: Sha256 | None = None
    training_dataset: Key | None = None
    training_dataset_version: Key | None = None
    code_revision: ShortText
    parent: Key | None = None
    why: Text


class ModelVersionItem(BaseModel):
    model: str
    version: str
    digest: str
    parent: str | None
    withdrawn: bool


class ModelVersionAnswer(BaseModel):
    registered: dict[str, object]
    withdrawn: bool
    withdrawn_from: datetime | None


def add_model_version_routes(routes: APIRouter, doors: Doors, application: ModelVersions, listings: Listings) -> None:
    """Registering, withdrawing and reading."""

    @routes.post(
        "/model-versions", operation_id="register_model_version", status_code=201, response_model=ReceiptAnswer
    )
    async def register_model_version(
        context: Annotated[CommandContext, Depends(doors.command)], system: System, body: RegisterModelVersion
    ) -> Response:
        fields = body.model_dump(exclude={"reason", "components", "hosted"})
        receipt = await application.register_model_version(
            context=because(context, body),
            system=system,
            components=[Component(**component.model_dump()) for component in body.components],
            hosted=HostedModel(**body.hosted.model_dump()) if body.hosted is not None else None,
            **fields,
        )
        return receipt_response(receipt, status=201)

    @routes.post(
        "/model-versions/{model}/{version}:withdraw",
        operation_id="withdraw_model_version",
        response_model=ReceiptAnswer,
    )
    async def withdraw_model_version(
        context: Annotated[CommandContext, Depends(doors.command)],
        system: System,
        model: Key,
        version: Key,
        body: LateBody,
    ) -> Response:
        return receipt_response(
            await application.withdraw_model_version(
                context=because(context, body),
                system=system,
                model=model,
                version=version,
                effective_at=body.effective_at,
            )
        )

    @routes.get("/model-versions", operation_id="list_model_versions")
    async def list_model_versions(
        actor: Annotated[Actor, Depends(doors.reader)],
        system: System,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Page[ModelVersionItem]:
        start = page_start(page_token, str, str)
        rows = await listings.model_versions(actor=actor, system=system, after=start or ("", ""), limit=page_size)
        items = [ModelVersionItem(**row) for row in rows]
        return page_of(items, page_size, lambda item: (item.model, item.version))

    @routes.get(
        "/model-versions/{model}/{version}", operation_id="get_model_version", response_model=ModelVersionAnswer
    )
    async def get_model_version(
        actor: Annotated[Actor, Depends(doors.reader)], system: System, model: Key, version: Key
    ) -> Response:
        state, stream_version = await application.model_version(
            actor=actor, system=system, model=model, version=version
        )
        return record_response(state, version=stream_version)
