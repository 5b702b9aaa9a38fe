"""`python -m benchmarks.bare_doors URL DATA HTTP_PORT GRPC_PORT SYSTEM`: one command behind doors as one writes them first.

The same use case and the same append, with the service's projection and sealer beside as always. The doors read the body and write
the answer, and nothing else: nobody is asked for a token, nothing is waited for, no error is told.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import msgspec
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response

from services.composition import open_house
from services.requirements.domain.dataset import DatasetRegistered
from services.requirements.http_api import RegisterDataset
from shared.command import CommandContext
from shared.event import Actor
from shared.event_store import Receipt
from shared.grpc_server import message_type
from shared.runtime import utc_now
from shared.settings import Settings

PACKAGE = "prooftrail.requirements.v1"
CALL = f"/{PACKAGE}.RequirementsService/RegisterDataset"
FIELDS = ("name", "version", "digest", "rows", "purpose", "provenance", "licence", "sequestered", "personal_data")
ACTOR = Actor(subject="person-bench", kind="person", issuer="urn:bench", name_commitment=None)


def _context() -> CommandContext:
    return CommandContext(actor=ACTOR, reason="measured", at=utc_now(), correlation=uuid4().hex)


def http_door(application: Any) -> FastAPI:
    """One route."""
    app = FastAPI(telemetry={"auto_configure": False, "metrics": False, "tracing": False, "logs": False})

    @app.post("/v1/systems/{system}/datasets", status_code=201)
    async def register_dataset(request: Request, system: str, body: RegisterDataset) -> Response:
        fields = body.model_dump(exclude={"reason", "columns"})
        receipt = await application.register_dataset(
            context=_context(), system=system, registered=DatasetRegistered(**fields, columns=tuple(body.columns))
        )
        return Response(msgspec.json.encode(receipt), status_code=201, media_type="application/json")

    return app


def grpc_door(application: Any) -> grpc.GenericRpcHandler:
    """One call."""
    request_type, response_type = (message_type(f"{PACKAGE}.RegisterDataset{end}") for end in ("Request", "Response"))

    async def register_dataset(request: Any, _context_of_call: Any) -> Any:
        registered = DatasetRegistered(
            columns=tuple(request.columns), **{name: getattr(request, name) for name in FIELDS}
        )
        receipt: Receipt = await application.register_dataset(
            context=_context(), system=request.system, registered=registered
        )
        response = response_type()
        response.receipt.record, response.receipt.version = receipt.record, receipt.version
        response.receipt.position, response.receipt.promise = receipt.position, receipt.promise or ""
        for event in receipt.events:
            told = response.receipt.events.add(name=event.name, position=event.position, leaf_hash=event.leaf_hash)
            told.recorded_at.FromDatetime(event.recorded_at)
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        register_dataset,
        request_deserializer=request_type.FromString,
        response_serializer=response_type.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.RequirementsService", {"RegisterDataset": handler})


async def serve(url: str, data: Path, http_port: int, grpc_port: int, system: str) -> None:
    """Until it is told to end."""
    settings = Settings(data=data, database_url=url)
    async with open_house(settings=settings, database_url=url, names=("requirements",)) as house:
        application = house.services["requirements"].application
        await application.register_ai_system(
            context=_context(), key=system, name="Bench", intended_use="to be fast", risk_class="limited"
        )
        granted = await application.grant_role(context=_context(), system=system, subject=ACTOR.subject, role="author")
        position = int(granted.position.partition(":")[2])
        await house.services["requirements"].foundation.projection.wait({"requirements": position}, timeout_s=60)
        calls = grpc.aio.server()
        calls.add_generic_rpc_handlers((grpc_door(application),))
        calls.add_insecure_port(f"127.0.0.1:{grpc_port}")
        await calls.start()
        config = uvicorn.Config(http_door(application), port=http_port, log_level="warning", access_log=False)
        await uvicorn.Server(config).serve()
        await calls.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
