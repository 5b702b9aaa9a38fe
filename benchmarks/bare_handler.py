"""`python -m benchmarks.bare_handler URL DATA PORT ISSUER`: what one writes first: check the token, read a row, insert a row.

It has the token check, the body model, the framework and the driver of ours; it has no rules, no versions, no repeats, no proof.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import uvicorn
from fastapi import FastAPI, Request, Response

from services.requirements.http_api import RegisterDataset
from shared.http_pages import credentials
from shared.identity import TokenVerifier
from shared.local_issuer import LocalIssuer
from shared.runtime import utc_now
from shared.settings import Settings

TABLES = """
CREATE TABLE IF NOT EXISTS bare_role (system text, subject text, role text, PRIMARY KEY (system, subject, role));
CREATE TABLE IF NOT EXISTS bare_dataset (position bigserial PRIMARY KEY, system text, key text, actor text, content bytea);
"""


def bare(url: str, data: Path, issuer_name: str) -> FastAPI:
    """The application; `data` holds the issuer whose tokens it takes."""
    settings = Settings(data=data)
    issuer = LocalIssuer.open(data / "issuer", issuer=issuer_name, clock=utc_now)
    verifier = TokenVerifier(issuer=issuer.issuer, audience=settings.audience, keys=issuer, clock=utc_now)

    @contextlib.asynccontextmanager
    async def connected(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(url, min_size=4, max_size=4) as app.state.pool:
            await app.state.pool.execute(TABLES)
            yield

    app = FastAPI(lifespan=connected)

    @app.get("/readyz")
    async def get_readiness() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/systems/{system}/datasets", status_code=201)
    async def register_dataset(request: Request, system: str, body: RegisterDataset) -> Response:
        caller = await verifier.verify(credentials(request))
        pool = app.state.pool
        await pool.fetchrow("SELECT role FROM bare_role WHERE system = $1 AND subject = $2", system, caller.subject)
        content: dict[str, Any] = body.model_dump()
        position = await pool.fetchval(
            "INSERT INTO bare_dataset (system, key, actor, content) VALUES ($1, $2, $3, $4) RETURNING position",
            system, f"{body.name}@{body.version}", caller.subject, msgspec.json.encode(content),
        )  # fmt: skip
        return Response(msgspec.json.encode({"position": position}), status_code=201, media_type="application/json")

    return app


if __name__ == "__main__":
    uvicorn.run(
        bare(sys.argv[1], Path(sys.argv[2]), sys.argv[4]),
        port=int(sys.argv[3]), log_level="warning", access_log=False,
    )  # fmt: skip
