"""The HTTP door of releases: parse, call one use case, answer."""

from __future__ import annotations

from fastapi import APIRouter

from shared.command_route import CommandRoute
from shared.http_doors import PROBLEMS, Doors

from ..application import Releases
from .changes import add_change_plan_routes, add_change_request_routes
from .gate import add_gate_routes
from .model_versions import add_model_version_routes
from .nonconformities import add_nonconformity_routes
from .releases import add_release_reads, add_release_routes, add_sign_off_routes
from .waivers import add_waiver_routes


def routers(*, doors: Doors, application: Releases) -> tuple[APIRouter, ...]:
    """All routes of releases."""
    routes = APIRouter(prefix="/v1/systems/{system}", tags=["releases"], responses=PROBLEMS, route_class=CommandRoute)
    add_model_version_routes(routes, doors, application.model_versions, application.listings)
    add_change_plan_routes(routes, doors, application.changes, application.listings)
    add_change_request_routes(routes, doors, application.changes, application.listings)
    add_release_routes(routes, doors, application.releases)
    add_sign_off_routes(routes, doors, application.releases)
    add_release_reads(routes, doors, application.releases, application.listings)
    add_gate_routes(routes, doors, application.gate)
    add_waiver_routes(routes, doors, application.waivers, application.listings)
    add_nonconformity_routes(routes, doors, application.nonconformities, application.listings)
    return (routes,)
