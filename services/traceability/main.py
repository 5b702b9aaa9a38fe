"""The wiring of traceability."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from shared.artefacts import open_artefacts
from shared.directory import Names
from shared.http_feed import feed_router
from shared.http_log import log_router
from shared.runtime import Foundation, Runtime, Service

from .application import Traceability
from .erasure import PersonErasure
from .http_api import erasure_router, router
from .http_timestamps import timestamp_router
from .http_witness import witness_router
from .ledger import Ledger
from .pack_export import PackExport
from .projections import TraceabilityProjection
from .published_events import FACTS, SERVICE
from .timestamping import Timestamping
from .trace_book import TraceBook
from .witnessing import KnownKeys, Witnessing

MIGRATIONS: Path | None = Path(__file__).parent / "migrations"


async def build(runtime: Runtime) -> Service:
    """The service, ready to run; every schema it reads is migrated before."""
    foundation = await runtime.prepare(service=SERVICE, fact_types=FACTS, projection=TraceabilityProjection())
    ledger = Ledger(
        pool=foundation.pool, feed=runtime.feed, sources=runtime.services, timeout_s=runtime.settings.after_timeout_s
    )
    book = TraceBook(ledger=ledger)
    names = runtime.names(foundation.pool)
    witnessing = _witnessing(runtime, foundation, ledger)
    runtime.logs.own.append(witnessing)
    timestamping = Timestamping(pool=foundation.pool, authority=runtime.settings.timestamp_url)
    application = Traceability(
        store=foundation.store,
        access=foundation.access,
        ledger=ledger,
        book=book,
        names=names,
        clock=runtime.clock,
        erasure=PersonErasure(
            pool=foundation.pool,
            store=foundation.store,
            access=foundation.access,
            projection=foundation.projection,
            ledger=ledger,
            names=names,
            services=runtime.services,
            clock=runtime.clock,
            keeping=timedelta(days=runtime.settings.retention_days),
            timeout_s=runtime.settings.after_timeout_s,
        ),
        packs=_packs(runtime, foundation, ledger, names, witnessing),
    )
    doors = runtime.doors(foundation, wait=application.wait)
    return Service(
        name=SERVICE,
        foundation=foundation,
        application=application,
        routers=(
            router(doors=doors, application=application),
            erasure_router(doors=doors, application=application),
            feed_router(doors=doors, access=foundation.access, store=foundation.store),
            log_router(doors=doors, access=foundation.access, log=foundation.log),
            witness_router(witnessing),
            timestamp_router(doors=doors, timestamping=timestamping),
        ),
        background=(ledger.run, timestamping.run),
        folds=(book,),
        measures=(ledger.measure,),
    )


def _witnessing(runtime: Runtime, foundation: Foundation, ledger: Ledger) -> Witnessing:
    keys = KnownKeys(given=runtime.logs.keys)
    return Witnessing(
        pool=foundation.pool,
        ledger=ledger,
        deployment=runtime.logs.deployment,
        keys=keys,
        witness=runtime.logs.open_witness(keys),
    )


def _packs(
    runtime: Runtime, foundation: Foundation, ledger: Ledger, names: Names, witnessing: Witnessing
) -> PackExport:
    return PackExport(
        pool=foundation.pool,
        ledger=ledger,
        names=names,
        artefacts=open_artefacts(runtime.settings),
        signer=witnessing.witness,
        log_keys=witnessing.keys,
        witnesses=tuple(witness.vkey for witness in runtime.logs.outside),
        services=runtime.services,
        deployment=runtime.logs.deployment,
        timeout_s=runtime.settings.after_timeout_s,
    )
