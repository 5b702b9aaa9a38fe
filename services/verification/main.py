"""The wiring of verification."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shared.artefacts import open_artefacts
from shared.http_feed import feed_router
from shared.http_log import log_router
from shared.http_signing import signing_router
from shared.reaction import Reactions
from shared.runtime import Runtime, Service

from .application.evaluation_runs import EvaluationRuns
from .application.grounds import Grounds
from .application.signing import VerificationSigning
from .application.suspecting import Suspecting
from .application.test_cases import TestCases
from .application.verifications import Verifications
from .http_api import router
from .projections import VerificationProjection
from .published_events import FACTS, SERVICE

MIGRATIONS: Path | None = None


async def build(runtime: Runtime) -> Service:
    """The service, ready to run; every schema it reads is migrated before."""
    foundation = await runtime.prepare(service=SERVICE, fact_types=FACTS, projection=VerificationProjection())
    store, access, pool = foundation.store, foundation.access, foundation.pool
    grounds = Grounds(pool=pool, timeout_s=runtime.settings.after_timeout_s)
    artefacts = open_artefacts(runtime.settings)
    await asyncio.to_thread(artefacts.require_usable)
    test_cases = TestCases(store=store, access=access, pool=pool, grounds=grounds)
    runs = EvaluationRuns(
        store=store, access=access, pool=pool, grounds=grounds, artefacts=artefacts, executor=runtime.executor
    )
    verifications = Verifications(
        store=store, access=access, pool=pool, grounds=grounds, artefacts=artefacts, executor=runtime.executor
    )
    signing = VerificationSigning(
        store=store, access=access, pool=pool, test_cases=test_cases, runs=runs, verifications=verifications
    )
    reactions = Reactions(
        service=SERVICE,
        handlers=Suspecting(verifications=verifications).handlers,
        sources=("requirements", "releases", SERVICE),
        pool=pool,
        feed=runtime.feed,
        projection=foundation.projection,
        clock=runtime.clock,
    )
    doors = runtime.doors(foundation, reactions=reactions)
    return Service(
        name=SERVICE,
        foundation=foundation,
        application=signing,
        routers=(
            router(doors=doors, test_cases=test_cases, runs=runs, verifications=verifications),
            signing_router(doors=doors, application=signing),
            feed_router(doors=doors, access=access, store=store),
            log_router(doors=doors, access=access, log=foundation.log),
        ),
        reactions=(reactions,),
    )
