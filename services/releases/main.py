"""The wiring of releases."""

from __future__ import annotations

from pathlib import Path

from shared.http_feed import feed_router
from shared.http_log import log_router
from shared.http_signing import signing_router
from shared.reaction import Reactions
from shared.runtime import Runtime, Service

from .application import Releases
from .http_api import routers
from .projections import ReleasesProjection
from .published_events import FACTS, SERVICE

MIGRATIONS: Path | None = None


async def build(runtime: Runtime) -> Service:
    """The service, ready to run; every schema it reads is migrated before."""
    foundation = await runtime.prepare(service=SERVICE, fact_types=FACTS, projection=ReleasesProjection())
    application = Releases.on(foundation, feed=runtime.feed, clock=runtime.clock, settings=runtime.settings)
    reactions = Reactions(
        service=SERVICE,
        handlers={"drift.drift-signal-escalated": application.escalations.take_escalation},
        sources=("drift",),
        pool=foundation.pool,
        feed=runtime.feed,
        projection=foundation.projection,
        clock=runtime.clock,
    )
    doors = runtime.doors(foundation, reactions=reactions)
    return Service(
        name=SERVICE,
        foundation=foundation,
        application=application,
        routers=(
            *routers(doors=doors, application=application),
            signing_router(doors=doors, application=application.signatures),
            feed_router(doors=doors, access=foundation.access, store=foundation.store),
            log_router(doors=doors, access=foundation.access, log=foundation.log),
        ),
        background=(application.escalations.watch_deadlines,),
        reactions=(reactions,),
    )
