"""The log door of a service: checkpoints and tiles as C2SP tlog-tiles names them, and proofs of single events.

Hashes are open to every authenticated reader, since they tell nothing; bundles of events only to those with a role in every AI
system in them.
"""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

import base64
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel

from shared.access import Access
from shared.errors import Refused
from shared.event import Actor
from shared.http_doors import PROBLEMS, Doors
from shared.log.proofs import Checkpoint, LogTables, NotInTheLog
from shared.log.service_log import ServiceLog
from shared.log.tile_paths import TILE_WIDTH, encode_entries, parse_tile_path

FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}
FOR_A_MOMENT = {"Cache-Control": "no-cache"}

Position = Annotated[int, Path(ge=1, le=2**62)]
TilePath = Annotated[
    str,
    Path(
        pattern=r"^(x[0-9]{3}/){0,4}[0-9]{3}(\.p/([1-9][0-9]{0,2}))?$",
        description="three digits, or `x001/067` and so on; a partial tile ends with `.p/<width>`",
    ),
]


class InclusionProof(BaseModel):
    """Hash `leaf_hash` with `inclusion` (base64, RFC 6962, 2.1.1; leaf index = position - 1) up to the root in `checkpoint`."""

    origin: str
    position: int
    leaf_hash: str
    checkpoint: str
    inclusion: list[str]


class ConsistencyProof(BaseModel):
    """`consistency` (base64, RFC 6962, 2.1.2) leads from the root at size `first` to that at size `last`."""

    origin: str
    first: int
    last: int
    consistency: list[str]


class LogKeys(BaseModel):
    """Verifier keys (C2SP signed-note), the oldest first; the last one signs now. Pin them: a key found here proves little."""

    origin: str
    keys: list[str]


class NotEverySystem(Refused):
    """The bundle holds events of an AI system in which the caller holds no role."""


def log_router(*, doors: Doors, access: Access, log: ServiceLog) -> APIRouter:
    """GET /v1/logs/<service>/..."""
    router = APIRouter(prefix=f"/v1/logs/{doors.service}", tags=["log"], responses=PROBLEMS)
    _add_checkpoint_routes(router, doors, log)
    _add_proof_routes(router, doors, log)
    _add_tile_routes(router, doors, access, log.tables)
    return router


def _add_checkpoint_routes(router: APIRouter, doors: Doors, log: ServiceLog) -> None:
    name = doors.service

    @router.get(
        "/checkpoint",
        operation_id=f"get_{name}_checkpoint",
        summary="The last signed checkpoint; 409 says why nothing is being sealed",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "a signed note"}},
    )
    async def get_checkpoint(_actor: Annotated[Actor, Depends(doors.reader)]) -> Response:
        await log.require_sealing()
        latest = await log.tables.sealed()
        return Response(latest.note, media_type="text/plain; charset=utf-8", headers=FOR_A_MOMENT)

    @router.get("/key", operation_id=f"get_{name}_log_keys", summary="The log's verifier keys", response_model=LogKeys)
    async def get_log_keys(_actor: Annotated[Actor, Depends(doors.reader)]) -> Response:
        return _json({"origin": log.origin, "keys": log.signer.vkeys})


def _add_proof_routes(router: APIRouter, doors: Doors, log: ServiceLog) -> None:
    name = doors.service

    @router.get(
        "/events/{position}/proof",
        operation_id=f"get_{name}_event_proof",
        summary="That an event is in the log",
        response_model=InclusionProof,
    )
    async def get_event_proof(_actor: Annotated[Actor, Depends(doors.reader)], position: Position) -> Response:
        leaf_hash, latest, proof = await log.tables.proven(position)
        return _json(
            {
                "origin": log.origin_of(latest.epoch),
                "position": position,
                "leaf_hash": leaf_hash.hex(),
                "checkpoint": latest.note,
                "inclusion": _base64(proof),
            }
        )

    @router.get(
        "/consistency",
        operation_id=f"get_{name}_consistency",
        summary="That the log only grew between two sizes",
        response_model=ConsistencyProof,
    )
    async def get_consistency(
        _actor: Annotated[Actor, Depends(doors.reader)],
        first: Annotated[int, Query(ge=1, le=2**62, alias="from")],
        last: Annotated[
            int | None, Query(ge=1, le=2**62, alias="to", description="the last checkpoint without it")
        ] = None,
    ) -> Response:
        latest = await log.tables.sealed()
        until = latest.size if last is None else last
        if not first <= until <= latest.size:
            raise NotInTheLog(
                f"The log of {name} has no sizes {first} to {until}.",
                why=f"Sizes go up to that of the last checkpoint, {latest.size}, and `from` is not above `to`.",
                next_step="Take the sizes from two checkpoints, the older one first.",
            )
        proof = await log.tables.consistency(first, until)
        return _json(
            {"origin": log.origin_of(latest.epoch), "first": first, "last": until, "consistency": _base64(proof)}
        )


def _add_tile_routes(router: APIRouter, doors: Doors, access: Access, tables: LogTables) -> None:
    name = doors.service
    binary: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/octet-stream": {}}, "description": "C2SP tlog-tiles"}
    }

    @router.get(
        "/tile/entries/{path:path}",
        operation_id=f"get_{name}_entry_bundle",
        summary="256 events as they are stored, each after its length in two bytes",
        response_class=Response,
        responses=binary,
    )
    async def get_entry_bundle(actor: Annotated[Actor, Depends(doors.reader)], path: TilePath) -> Response:
        number, width = parse_tile_path(path)
        _require_sealed(await tables.sealed(), level=0, number=number, width=width)
        entries = await tables.entries(number=number, width=width)
        _require_role_in_all({system for system, _ in entries}, set(await access.systems(subject=actor.subject)))
        bundle = encode_entries(raw for _, raw in entries)
        return Response(bundle, media_type="application/octet-stream", headers=FOR_EVER)

    @router.get(
        "/tile/{level}/{path:path}",
        operation_id=f"get_{name}_tile",
        summary="256 hashes of one level",
        response_class=Response,
        responses=binary,
    )
    async def get_tile(
        _actor: Annotated[Actor, Depends(doors.reader)], level: Annotated[int, Path(ge=0, le=7)], path: TilePath
    ) -> Response:
        number, width = parse_tile_path(path)
        _require_sealed(await tables.sealed(), level=level, number=number, width=width)
        tile = await tables.tile(level=level, number=number, width=width)
        return Response(tile, media_type="application/octet-stream", headers=FOR_EVER)


def _require_sealed(latest: Checkpoint, *, level: int, number: int, width: int) -> None:
    if number * TILE_WIDTH + width > latest.size >> 8 * level:
        raise NotInTheLog(
            "The log has no such tile.",
            why=f"Tiles are served as far as the last checkpoint reaches, {latest.size} events.",
            next_step="Ask for tiles below it; the last one of a level is partial (C2SP tlog-tiles).",
        )


def _require_role_in_all(systems: set[str | None], held: set[str]) -> None:
    if systems - held - {None}:
        raise NotEverySystem(
            "This bundle holds events of AI systems in which you hold no role.",
            why="A bundle is 256 events as they came, of whatever system.",
            next_step="Read the feed, which leaves those events out, or ask for a role in every AI system.",
        )


def _base64(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(hash_).decode() for hash_ in hashes]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
