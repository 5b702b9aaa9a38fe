"""The wiring of drift."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.command import Folds
from shared.http_feed import feed_router
from shared.http_log import log_router
from shared.http_signing import signing_router
from shared.reaction import Reactions
from shared.runtime import Foundation, Runtime, Service

from . import consumed_events as consumed
from .application.ingestion import Ingestion
from .application.pane_tables import PaneTables
from .application.plans import Plans
from .application.profiles import Profiles
from .application.rounds import Rounds
from .application.triage import Triage
from .application.window_closer import WindowCloser
from .domain import monitoring_plan
from .domain.monitoring_plan import MonitoringPlan, MonitoringPlanApproved
from .http_api import router
from .projections import DriftProjection
from .published_events import FACTS, SERVICE

MIGRATIONS: Path | None = Path(__file__).parent / "migrations"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The use cases of this service, by what they are about."""

    plans: Plans
    ingestion: Ingestion
    triage: Triage
    rounds: Rounds


async def build(runtime: Runtime) -> Service:
    """The service, ready to run; every schema it reads is migrated before."""
    foundation = await runtime.prepare(service=SERVICE, fact_types=FACTS, projection=DriftProjection())
    drift = _drift(runtime, foundation)
    reactions = _reactions(runtime, foundation, drift)
    doors = runtime.doors(foundation, reactions=reactions)
    features = _feature_topics(runtime, foundation, drift)
    return Service(
        name=SERVICE,
        foundation=foundation,
        application=drift,
        routers=(
            router(doors=doors, plans=drift.plans, ingestion=drift.ingestion, triage=drift.triage),
            signing_router(doors=doors, application=drift.plans),
            feed_router(doors=doors, access=foundation.access, store=foundation.store),
            log_router(doors=doors, access=foundation.access, log=foundation.log),
        ),
        background=(drift.rounds.run, *(topic.run for topic in features)),
        replays=tuple(topic.replay for topic in features),
        reactions=(reactions,),
        measures=(lambda: drift.triage.measure(at=runtime.clock()),),
    )


def _feature_topics(runtime: Runtime, foundation: Foundation, drift: Drift) -> tuple[Any, ...]:
    """The member of the group that reads rows from Kafka, where there is Kafka and a service whose rows they are."""
    kafka, subject = runtime.settings.kafka, runtime.settings.features_subject
    if kafka is None or subject is None:
        return ()
    from .feature_topic import FeatureTopic  # without Kafka its library is not loaded

    topic = FeatureTopic(
        kafka=kafka, subject=subject, ingestion=drift.ingestion, pool=foundation.pool, clock=runtime.clock,
        patience=kafka.patience,
    )  # fmt: skip
    return (topic,)


def _drift(runtime: Runtime, foundation: Foundation) -> Drift:
    store, access, pool = foundation.store, foundation.access, foundation.pool
    folds: Folds[MonitoringPlan] = Folds(evolve=monitoring_plan.evolve)
    profiles = Profiles(pool=pool, executor=runtime.executor)
    panes = PaneTables(pool=pool)
    closer = WindowCloser(store=store, panes=panes, profiles=profiles, folds=folds)
    triage = Triage(store=store, access=access, pool=pool)
    return Drift(
        plans=Plans(store=store, access=access, pool=pool, profiles=profiles, folds=folds),
        ingestion=Ingestion(store=store, access=access, profiles=profiles, closer=closer, folds=folds),
        triage=triage,
        rounds=Rounds(
            triage=triage,
            panes=panes,
            closer=closer,
            clock=runtime.clock,
            every_s=runtime.settings.deadline_check_s,
        ),
    )


def _reactions(runtime: Runtime, foundation: Foundation, drift: Drift) -> Reactions:
    return Reactions(
        service=SERVICE,
        handlers={
            consumed.RELEASE_DEPLOYED: drift.plans.activate_monitoring_plans,
            MonitoringPlanApproved.TOPIC: drift.plans.activate_approved_plan,
            consumed.CHANGE_CLOSED: drift.triage.resolve_by_change,
            consumed.CORRECTIVE_ACTION_VERIFIED: drift.triage.resolve_by_corrective_action,
        },
        sources=(consumed.SOURCE, SERVICE),
        pool=foundation.pool,
        feed=runtime.feed,
        projection=foundation.projection,
        clock=runtime.clock,
    )
