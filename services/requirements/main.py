"""The wiring of requirements."""

from __future__ import annotations

from pathlib import Path

from shared.http_feed import feed_router
from shared.http_log import log_router
from shared.http_signing import signing_router
from shared.runtime import Runtime, Service

from .application import Requirements
from .http_api import router
from .projections import RequirementsProjection
from .published_events import FACTS, SERVICE

MIGRATIONS: Path | None = None


async def build(runtime: Runtime) -> Service:
    """The service, ready to run; every schema it reads is migrated before."""
    foundation = await runtime.prepare(service=SERVICE, fact_types=FACTS, projection=RequirementsProjection())
    application = Requirements(store=foundation.store, access=foundation.access, pool=foundation.pool)
    doors = runtime.doors(foundation)
    return Service(
        name=SERVICE,
        foundation=foundation,
        application=application,
        routers=(
            router(doors=doors, application=application),
            signing_router(doors=doors, application=application),
            feed_router(doors=doors, access=foundation.access, store=foundation.store),
            log_router(doors=doors, access=foundation.access, log=foundation.log),
        ),
    )
