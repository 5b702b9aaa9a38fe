"""The HTTP door of drift: parse, call one use case, answer."""

from __future__ import annotations

from fastapi import APIRouter

from shared.command_route import CommandRoute
from shared.http_doors import PROBLEMS, Doors

from ..application.ingestion import Ingestion
from ..application.plans import Plans
from ..application.triage import Triage
from .plan_routes import add_plan_reads, add_plan_verbs
from .row_routes import add_row_verbs
from .signal_routes import add_signal_reads, add_signal_verbs


def router(*, doors: Doors, plans: Plans, ingestion: Ingestion, triage: Triage) -> APIRouter:
    """All routes of drift."""
    routes = APIRouter(prefix="/v1/systems/{system}", tags=["drift"], responses=PROBLEMS, route_class=CommandRoute)
    add_plan_verbs(routes, doors, plans)
    add_row_verbs(routes, doors, plans, ingestion)
    add_plan_reads(routes, doors, plans)
    add_signal_verbs(routes, doors, triage)
    add_signal_reads(routes, doors, triage)
    return routes
