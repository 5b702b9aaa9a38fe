"""When a signer or an owner may be forgotten: not while something stands on the name, nor for a time after that ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.traceability.domain.retention import Held, held
from tests.traceability.flight_history import SYSTEM, History, flights, iso

NO_TIME = timedelta(0)


def needed(
    history: History, subject: str, *, at: datetime | None = None, keeping: timedelta = NO_TIME
) -> Sequence[Held]:
    """What still needs the name, an hour after the last event."""
    events = [json.loads(one.event) for one in history.events]
    return held(events, subject=subject, at=at or history.now + timedelta(hours=1), keeping=keeping)


def records(found: Sequence[Held]) -> set[str]:
    """Their streams, without the AI system."""
    return {one.record.replace(f"{SYSTEM}/", "") for one in found}


def end_releases(history: History) -> None:
    """The one release that is in use is withdrawn."""
    history.record("releases.release-withdrawn", "release", "R-2", "s-cleo", key="R-2")


def retire(history: History, *keys: str) -> None:
    """Requirements and their test cases are retired, by somebody else."""
    for key in keys:
        signature = history.signed("s-ada", "retirement", key)
        history.record("requirements.requirement-retired", "requirement", key, key=key, revision=1, signature=signature)
        case = f"TC-{key[-1]}"
        history.record("verification.test-case-retired", "test-case", case, key=case, revision=1, signature=signature)


def test_who_never_signed_is_not_needed() -> None:
    """Acting leaves a subject, and no record rests on its name."""
    assert needed(flights(windows=3), "pipeline") == []
    assert needed(flights(windows=3), "s-nobody") == []


def test_everything_that_is_in_force_keeps_its_signers() -> None:
    """Requirements and test cases in force, the release that runs, the waiver, the plan of a version that ran."""
    history = flights(windows=3)
    assert records(needed(history, "s-ben")) >= {"requirement:REQ-1", "test-case:TC-1", "release:R-2"}
    assert "requirement:REQ-2" in records(needed(history, "s-dan"))
    assert all("counts" in one.because for one in needed(history, "s-ben"))


def test_a_superseded_release_needs_nobody_any_more() -> None:
    """R-1 was superseded by R-2; its plan, and verifications of its version, ended with it."""
    found = records(needed(flights(windows=3), "s-cleo"))
    assert "release:R-1" not in found
    assert "release:R-2" in found
    dan = records(needed(flights(windows=3), "s-dan"))
    assert "verification:VER-1-1" not in dan
    assert "verification:VER-1-2" in dan
    assert "monitoring-plan:PLAN-1" not in records(needed(flights(windows=3), "s-ben"))


def test_a_requirement_that_is_no_longer_in_force_is_kept_by_the_release_that_was_verified_against_it() -> None:
    """What runs was allowed by that revision, whatever is in force by now."""
    history = flights(windows=3)
    retire(history, "REQ-1", "REQ-2")
    assert "requirement:REQ-1" in records(needed(history, "s-ben"))
    end_releases(history)
    assert "requirement:REQ-1" not in records(needed(history, "s-ben"))


def test_when_all_has_ended_nobody_is_needed() -> None:
    """And until then what stands is named."""
    history = flights(windows=3)
    history.record("releases.change-closed", "change-request", "CR-S-1", key="CR-S-1")
    end_releases(history)
    retire(history, "REQ-1", "REQ-2")
    left = {subject: records(needed(history, subject)) for subject in ("s-ben", "s-cleo", "s-dan")}
    assert set().union(*left.values()) <= {"waiver:W-1"}
    later = history.now + timedelta(days=366)
    assert [needed(history, subject, at=later) for subject in left] == [[], [], []]


def test_a_record_that_ended_is_kept_for_its_time() -> None:
    """From its end on, to the day; the day is told."""
    history = flights(windows=3)
    end_releases(history)
    ended = history.now
    keeping = timedelta(days=3653)
    (before,) = [
        one
        for one in needed(history, "s-cleo", at=ended + keeping - timedelta(seconds=1), keeping=keeping)
        if one.record.endswith("R-2")
    ]
    assert (ended + keeping).date().isoformat() in before.because
    assert "release:R-2" not in records(needed(history, "s-cleo", at=ended + keeping, keeping=keeping))


@pytest.mark.parametrize(("days", "stands"), [(9, True), (10, False)])
def test_a_waiver_ends_with_its_date(days: int, stands: bool) -> None:
    """No event says so."""
    history = History()
    history.record(
        "releases.waiver-granted", "waiver", "W-9", "s-ben", key="W-9", kind="requirement",
        expires_at=iso(history.now + timedelta(days=10)), signature=history.signed("s-ben", "waiver", "W-9"),
    )  # fmt: skip
    began = history.now - timedelta(minutes=30)
    assert bool(needed(history, "s-ben", at=began + timedelta(days=days))) is stands


def test_a_revoked_waiver_and_its_revocation_are_over() -> None:
    """Both signatures end with the revocation."""
    history = History()
    signature: dict[str, Any] = {"signature": history.signed("s-ben", "waiver", "W-9")}
    at = iso(history.now + timedelta(days=10))
    history.record("releases.waiver-granted", "waiver", "W-9", "s-ben", key="W-9", expires_at=at, **signature)
    assert records(needed(history, "s-ben")) == {"waiver:W-9"}
    history.record("releases.waiver-revoked", "waiver", "W-9", "s-ben", key="W-9", **signature)
    assert needed(history, "s-ben") == []


def test_a_later_revision_of_a_test_case_ends_the_one_before_once_it_is_approved() -> None:
    """A draft ends nothing."""
    history = flights(windows=3)
    case: dict[str, Any] = {"key": "TC-1", "revision": 2, "requirements": [{"key": "REQ-1", "revision": 1}]}
    history.record("verification.test-case-defined", "test-case", "TC-1", **case, author="s-ada", title="t")
    assert "test-case:TC-1" in records(needed(history, "s-ben"))
    signature = history.signed("s-dan", "approval", "TC-1")
    history.record("verification.test-case-approved", "test-case", "TC-1", "s-dan", **case, signature=signature)
    assert "test-case:TC-1" not in records(needed(history, "s-ben"))
    assert "test-case:TC-1" in records(needed(history, "s-dan"))


def test_an_attested_run_is_kept_while_a_verification_rests_on_it() -> None:
    """Or until it is voided; alone it stands, since somebody may yet rest on it."""
    history = flights(windows=3)
    attestation = history.signed("s-cleo", "attestation", "RUN-9")
    history.record("verification.evaluation-run-recorded", "run", "RUN-9", key="RUN-9", attestation=attestation)
    assert "run:RUN-9" in records(needed(history, "s-cleo"))
    signature = history.signed("s-dan", "void", "RUN-9")
    history.record("verification.evaluation-run-voided", "run", "RUN-9", "s-dan", key="RUN-9", signature=signature)
    assert "run:RUN-9" not in records(needed(history, "s-cleo"))


def test_a_kind_of_record_that_is_new_keeps_its_signers() -> None:
    """In doubt a name is kept."""
    history = History()
    history.record("verification.oath-sworn", "oath", "O-1", "s-ben", signature=history.signed("s-ben", "oath", "O-1"))
    assert records(needed(history, "s-ben", at=history.now + timedelta(days=36_500))) == {"oath:O-1"}


def test_a_review_of_the_trail_is_kept_for_its_time_only() -> None:
    """It tells of one moment."""
    history = History()
    signature = history.signed("s-ben", "audit trail review", "A-1")
    history.record("traceability.audit-trail-reviewed", "pack", "A-1", "s-ben", key="A-1", signature=signature)
    assert needed(history, "s-ben") == []
    assert records(needed(history, "s-ben", keeping=timedelta(days=1))) == {"pack:A-1"}


AI_SYSTEM = {f"ai-system:{SYSTEM}"}
TEN_YEARS = timedelta(days=3653)


def owner_role(history: History, subject: str, *, granted: bool) -> datetime:
    """The role is granted or revoked; when."""
    name = "requirements.role-granted" if granted else "requirements.role-revoked"
    history.record(name, "ai-system", "", subject=subject, role="owner")
    return history.now


def test_an_owner_is_kept_until_the_ownership_is_handed_over_and_its_time_has_passed() -> None:
    """Whatever becomes of the AI system; who took it over is kept on."""
    history = flights(windows=3)
    assert records(needed(history, "s-ada")) >= AI_SYSTEM
    owner_role(history, "s-eve", granted=True)
    assert records(needed(history, "s-ada")) >= AI_SYSTEM, "still one of two"
    handed_over = owner_role(history, "s-ada", granted=False)
    assert AI_SYSTEM.isdisjoint(records(needed(history, "s-ada")))
    (kept,) = needed(history, "s-ada", at=handed_over + TEN_YEARS - timedelta(seconds=1), keeping=TEN_YEARS)
    assert (handed_over + TEN_YEARS).date().isoformat() in kept.because
    assert needed(history, "s-ada", at=handed_over + TEN_YEARS, keeping=TEN_YEARS) == []
    assert records(needed(history, "s-eve", at=handed_over + 2 * TEN_YEARS)) == AI_SYSTEM


def test_who_takes_an_ai_system_back_is_its_owner_again() -> None:
    """What counts is the last time."""
    history = flights(windows=3)
    owner_role(history, "s-ada", granted=False)
    owner_role(history, "s-ada", granted=True)
    assert records(needed(history, "s-ada")) >= AI_SYSTEM


def test_other_roles_make_no_owner() -> None:
    """Who was granted a role and has signed nothing is free."""
    history = flights(windows=3)
    history.record("requirements.role-granted", "ai-system", "", subject="s-eve", role="auditor")
    assert needed(history, "s-eve") == []


def test_the_owner_of_an_ai_system_that_rests_is_kept_for_its_time_only() -> None:
    """From the end of its last release on, or from the last change of any record after that; roles and reviews are none."""
    history = flights(windows=3)
    end_releases(history)
    ended = history.now
    owner_role(history, "s-eve", granted=True)
    history.record("traceability.evidence-pack-issued", "pack", "P-9", key="P-9")
    last_second = ended + TEN_YEARS - timedelta(seconds=1)
    assert records(needed(history, "s-ada", at=last_second, keeping=TEN_YEARS)) >= AI_SYSTEM
    assert AI_SYSTEM.isdisjoint(records(needed(history, "s-ada", at=ended + TEN_YEARS, keeping=TEN_YEARS)))
    retire(history, "REQ-1", "REQ-2")
    assert records(needed(history, "s-ada", at=ended + TEN_YEARS, keeping=TEN_YEARS)) >= AI_SYSTEM
    assert AI_SYSTEM.isdisjoint(records(needed(history, "s-ada", at=history.now + TEN_YEARS, keeping=TEN_YEARS)))


def test_an_ai_system_without_a_release_does_not_rest() -> None:
    """It may yet begin; its owner hands it over."""
    history = History()
    history.record("requirements.ai-system-registered", "ai-system", "", key=SYSTEM, owner="s-ada")
    assert records(needed(history, "s-ada", at=history.now + 2 * TEN_YEARS, keeping=TEN_YEARS)) == AI_SYSTEM
