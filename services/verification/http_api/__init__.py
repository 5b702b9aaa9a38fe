"""The HTTP door of verification: parse, call one use case, answer."""

from __future__ import annotations

from fastapi import APIRouter

from shared.command_route import CommandRoute
from shared.http_doors import PROBLEMS, Doors

from ..application.evaluation_runs import EvaluationRuns
from ..application.test_cases import TestCases
from ..application.verifications import Verifications
from .run_routes import add_artefact_routes, add_attestation_routes, add_run_reads, add_run_verbs
from .test_case_routes import add_test_case_routes
from .verification_routes import add_verification_reads, add_verification_verbs


def router(*, doors: Doors, test_cases: TestCases, runs: EvaluationRuns, verifications: Verifications) -> APIRouter:
    """All routes of verification."""
    routes = APIRouter(
        prefix="/v1/systems/{system}", tags=["verification"], responses=PROBLEMS, route_class=CommandRoute
    )
    add_test_case_routes(routes, doors, test_cases)
    add_artefact_routes(routes, doors, runs)
    add_run_verbs(routes, doors, runs)
    add_attestation_routes(routes, doors, runs)
    add_run_reads(routes, doors, runs)
    add_verification_verbs(routes, doors, verifications)
    add_verification_reads(routes, doors, verifications)
    return routes
