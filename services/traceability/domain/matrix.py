"""The traceability matrix: requirement x test case x verification x model version x release."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import msgspec

from .trace import Record, Trace


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One verification of the requirement: by which test case, of which model version, in which releases.

    `counts` is true when it was approved, is not suspect, met its criteria, and is of the revision that is in force.
    """

    verification: str
    test_case: str
    requirement_revision: int
    model: str
    version: str
    model_digest: str
    outcome: str
    status: str
    counts: bool
    releases: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One requirement with its latest revision and the one in force (None: none is)."""

    requirement: str
    title: str
    revision: int
    revision_in_force: int | None
    status: str
    test_cases: tuple[str, ...]
    cells: tuple[Cell, ...]


def revision_in_force(requirement: Record) -> int | None:
    """The approved revision of the requirement, None if there is none."""
    return next((n for n, data in requirement.revisions.items() if data["status"] == "approved"), None)


def rows(trace: Trace, *, after: str, limit: int, model_digest: str | None = None) -> list[Row]:
    """Up to `limit` rows above the requirement key `after`, in order of key; only cells of one model digest if given."""
    first = bisect_right(trace.requirement_keys, after)
    keys = trace.requirement_keys[first : first + limit]
    return [row(trace, trace.of_kind("requirement")[key], model_digest=model_digest) for key in keys]


def row(trace: Trace, requirement: Record, *, model_digest: str | None = None) -> Row:
    """The row of one requirement."""
    in_force = revision_in_force(requirement)
    latest = max(requirement.revisions, default=0)
    verifications = trace.verifications_by_requirement.get(requirement.key, ())
    return Row(
        requirement=requirement.key,
        title=_title(requirement, in_force or latest),
        revision=latest,
        revision_in_force=in_force,
        status="retired" if requirement.status == "retired" else _status(requirement, in_force, latest),
        test_cases=tuple(
            record.key
            for record in trace.test_cases_by_requirement.get(requirement.key, ())
            if record.status == "approved"
        ),
        cells=tuple(
            _cell(trace, verification, in_force)
            for verification in verifications
            if model_digest is None or verification.fields["model_digest"] == model_digest
        ),
    )


def counting(trace: Trace, requirement: Record, *, model_digest: str) -> Sequence[Cell]:
    """The verifications of the requirement that count for exactly this model digest."""
    return [cell for cell in row(trace, requirement, model_digest=model_digest).cells if cell.counts]


def _status(requirement: Record, in_force: int | None, latest: int) -> str:
    if in_force is not None:
        return "approved"
    status: str = requirement.revisions.get(latest, {}).get("status", "unknown")
    return status


def _title(requirement: Record, revision: int) -> str:
    data: dict[str, Any] = requirement.revisions.get(revision, {})
    title: str = data.get("content", {}).get("title") or data.get("title") or requirement.key
    return title


def _cell(trace: Trace, verification: Record, in_force: int | None) -> Cell:
    fields = verification.fields
    releases = trace.releases_by_model.get(fields["model_digest"], ())
    return Cell(
        verification=verification.key,
        test_case=fields["test_case"],
        requirement_revision=fields["requirement_revision"],
        model=fields["model"],
        version=fields["version"],
        model_digest=fields["model_digest"],
        outcome=fields["outcome"],
        status=verification.status,
        counts=(verification.status, fields["outcome"], fields["requirement_revision"])
        == ("approved", "met", in_force),
        releases=tuple(release.key for release in releases),
    )
