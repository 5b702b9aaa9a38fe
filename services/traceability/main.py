"""The wiring of traceability."""

from __future__ import annotations

from pathlib import Path

from shared.directory import Names
from shared.http_feed import feed_router
from shared.runtime import Runtime, Service

from .application import Traceability
from .http_api import router
from .ledger import Ledger
from .projections import TraceabilityProjection
from .published_events import FACTS, SERVICE
from .trace_book import TraceBook

MIGRATIONS: Path | None = Path(__file__).parent / "migrations"


async def build(runtime: Runtime) -> Service:
    """The service, ready to run; every schema it reads is migrated before."""
    foundation = await runtime.prepare(service=SERVICE, fact_types=FACTS, projection=TraceabilityProjection())
    ledger = Ledger(
        pool=foundation.pool, feed=runtime.feed, sources=runtime.services, timeout_s=runtime.settings.after_timeout_s
    )
    book = TraceBook(ledger=ledger)
    application = Traceability(
        store=foundation.store,
        access=foundation.access,
        ledger=ledger,
        book=book,
        names=Names(pool=foundation.pool, services=runtime.services),
    )
    doors = runtime.doors(foundation, wait=application.wait)
    return Service(
        name=SERVICE,
        foundation=foundation,
        application=application,
        routers=(
            router(doors=doors, application=application),
            feed_router(doors=doors, access=foundation.access, store=foundation.store),
        ),
        background=(ledger.run,),
        folds=(book,),
    )
