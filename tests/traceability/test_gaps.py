"""Each gap: it is there when the link is missing or broken, gone when it is closed, and alone when it is the only one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from services.traceability.domain.gaps import gaps
from tests.traceability.histories import (
    BEGAN,
    Happened,
    case_for,
    codes,
    complete,
    folded,
    model,
    plan,
    release,
    requirement,
    suspect,
    verification,
)

NOW = BEGAN + timedelta(days=30)


def found(*events: Happened, at: Any = NOW) -> list[str]:
    """The codes of all gaps after the events."""
    return codes(gaps(folded(*events), at=at))


def test_a_complete_history_has_no_gap() -> None:
    """Everything that is demanded is there."""
    assert found(*complete()) == []


def test_a_requirement_in_force_needs_an_approved_test_case_for_its_revision() -> None:
    """A test case of an older revision does not cover the newer one."""
    history = [*complete(), requirement(revision=2)]
    superseded: Happened = (
        "requirements.requirement-superseded",
        "requirement:loans/REQ-1",
        {"key": "REQ-1", "revision": 1, "by_revision": 2},
    )
    assert "requirement-uncovered" in found(*history, superseded)
    assert "requirement-uncovered" not in found(*history, superseded, *case_for(("REQ-1", 2), key="TC-2"))


def test_a_retired_requirement_needs_nothing() -> None:
    """It no longer has to be met by anything."""
    retired: Happened = ("requirements.requirement-retired", "requirement:loans/REQ-1", {"key": "REQ-1", "revision": 1})
    assert found(requirement(), model(), retired) == []


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param([], id="none"),
        pytest.param(verification()[:1], id="not approved"),
        pytest.param(verification(outcome="inconclusive"), id="inconclusive"),
        pytest.param(verification(outcome="not met"), id="not met"),
        pytest.param(verification(revision=2), id="of another revision"),
        pytest.param(verification(digest="e" * 64), id="of another model version"),
    ],
)
def test_a_criterion_needs_a_verification_that_counts(evidence: list[Happened]) -> None:
    """Approved, met, of exactly this revision and exactly this model digest."""
    assert found(requirement(), *case_for(("REQ-1", 1)), model(), *evidence) == ["criterion-unverified"]


def test_a_new_model_version_alone_opens_a_gap_and_makes_nothing_suspect() -> None:
    """The newest version is not verified yet; the evidence of the one before stands."""
    trace = folded(*complete(), model("2", "e" * 64))
    assert codes(gaps(trace, at=NOW)) == ["criterion-unverified"]
    assert trace.of_kind("verification")["VER-1"].status == "approved"


def test_suspect_evidence_is_a_gap_and_so_is_a_release_on_it() -> None:
    """The release stays released, with an owner of the gap and a verb to close it."""
    history = [*complete(), suspect()]
    assert found(*history) == ["criterion-unverified", "released-on-suspect-evidence", "verification-suspect"]
    cleared: Happened = ("verification.suspicion-cleared", "verification:loans/VER-1", {"key": "VER-1"})
    assert found(*history, cleared) == []


def test_a_release_in_production_needs_an_active_monitoring_plan_for_its_model_version() -> None:
    """A plan for another version watches something else."""
    without = [requirement(), *case_for(("REQ-1", 1)), model(), *verification(), *release()]
    assert found(*without) == ["release-without-monitoring"]
    assert found(*without, *plan("e" * 64)) == ["release-without-monitoring"]


def test_a_suspended_release_needs_no_monitoring() -> None:
    """It is not in production."""
    stopped: Happened = ("releases.release-suspended", "release:loans/R-1", {"key": "R-1"})
    assert found(requirement(), *case_for(("REQ-1", 1)), model(), *verification(), *release(), stopped) == []


def test_an_adopted_release_is_shown_as_not_governed() -> None:
    """It came from a past without governance, and the gap says so until it is replaced."""
    data = {"key": "adopted", "model": "m", "version": "1", "model_digest": "d" * 64, "environment": "production"}
    adopted: Happened = ("releases.release-adopted", "release:loans/adopted", data)
    assert "release-not-governed" in found(model(), *plan(), adopted)


def test_a_waiver_past_its_date_is_a_gap_without_any_event() -> None:
    """Rules compare time: nothing was recorded in between."""
    data = {"key": "W-1", "release": "R-1", "requirement": "REQ-1", "expires_at": "2026-01-10T00:00:00Z"}
    granted: Happened = ("releases.waiver-granted", "waiver:loans/W-1", data)
    history = [*complete(), granted]
    assert found(*history, at=BEGAN + timedelta(days=9) - timedelta(seconds=1)) == []
    assert found(*history, at=BEGAN + timedelta(days=9)) == ["waiver-expired"]
    revoked: Happened = ("releases.waiver-revoked", "waiver:loans/W-1", {"key": "W-1"})
    assert found(*history, revoked) == []


def test_a_signal_that_nobody_triaged_in_time_is_overdue() -> None:
    """Open and acknowledged ones alike; a decided one is not."""
    data = {"key": "S-1", "plan": "P-1", "triage_until": "2026-01-10T00:00:00Z"}
    raised: Happened = ("drift.drift-signal-raised", "drift-signal:loans/S-1", data)
    acknowledged: Happened = ("drift.drift-signal-acknowledged", "drift-signal:loans/S-1", {"key": "S-1"})
    dismissed: Happened = ("drift.drift-signal-dismissed", "drift-signal:loans/S-1", {"key": "S-1"})
    assert found(raised, at=BEGAN) == []
    assert found(raised) == ["signal-overdue"]
    assert found(raised, acknowledged) == ["signal-overdue"]
    assert found(raised, dismissed) == []


def test_an_emergency_release_is_a_gap_until_it_is_signed_off() -> None:
    """Going out in an emergency is allowed; staying unsigned is not."""
    history = [requirement(), *case_for(("REQ-1", 1)), model(), *verification(), *plan(), *release(emergency=True)]
    assert found(*history) == ["emergency-not-signed-off"]
    signed: Happened = ("releases.release-signed-off", "release:loans/R-1", {"key": "R-1", "role": "approver"})
    assert found(*history, signed) == []


def test_a_nonconformity_is_a_gap_until_its_corrective_action_is_verified() -> None:
    """Raised, planned, verified: the next verb follows the status."""
    stream = "nonconformity:loans/NC-1"
    raised: Happened = ("releases.nonconformity-raised", stream, {"key": "NC-1", "description": "a strange digest"})
    planned: Happened = ("releases.corrective-action-planned", stream, {"key": "NC-1"})
    verified: Happened = ("releases.corrective-action-verified", stream, {"key": "NC-1"})
    assert [gap.next_verb for gap in gaps(folded(raised), at=NOW)] == ["plan_corrective_action"]
    assert [gap.next_verb for gap in gaps(folded(raised, planned), at=NOW)] == ["verify_corrective_action"]
    assert found(raised, planned, verified) == []
