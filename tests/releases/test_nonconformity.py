"""Nonconformity: every transition allowed and refused."""

from __future__ import annotations

import msgspec
import pytest

from services.releases.domain import nonconformity
from services.releases.domain.nonconformity import (
    CorrectiveActionPlanned,
    CorrectiveActionVerified,
    NonconformityNotInState,
    NonconformityRaised,
)
from services.releases.domain.signature_rules import AuthorCannotApprove
from tests.releases.samples import NOW, given, later

RAISED = NonconformityRaised(key="NC-1", record="release:flight-delay/R-1", description="wrong digest", author="ada")
PLANNED = CorrectiveActionPlanned(
    key="NC-1", action="pin the image", responsible="rob", due_at=later(days=7), author="ada"
)
VERIFIED = CorrectiveActionVerified(key="NC-1", effectiveness="no other digest for a week", verified_by="ben")


def test_it_is_raised_once_whoever_sees_it() -> None:
    """The same record again is a repeat, another one needs another key."""
    assert nonconformity.raise_nonconformity(None, raised=RAISED) == (RAISED,)
    state = given(nonconformity.evolve, RAISED)
    assert nonconformity.raise_nonconformity(state, raised=msgspec.structs.replace(RAISED, author="bob")) == ()
    with pytest.raises(nonconformity.NonconformityExists):
        nonconformity.raise_nonconformity(state, raised=msgspec.structs.replace(RAISED, record="release:x/R-2"))


def test_an_action_is_planned_and_may_be_planned_anew() -> None:
    """The one planned last counts."""
    state = given(nonconformity.evolve, RAISED)
    assert nonconformity.plan_corrective_action(state, planned=PLANNED, at=NOW) == (PLANNED,)
    planned = given(nonconformity.evolve, RAISED, PLANNED)
    assert nonconformity.plan_corrective_action(planned, planned=PLANNED, at=NOW) == ()
    other = msgspec.structs.replace(PLANNED, action="sign images")
    assert nonconformity.plan_corrective_action(planned, planned=other, at=NOW) == (other,)


def test_an_action_is_due_in_the_future() -> None:
    """A plan for yesterday is none."""
    with pytest.raises(nonconformity.DeadlineInThePast):
        nonconformity.plan_corrective_action(given(nonconformity.evolve, RAISED), planned=PLANNED, at=later(days=7))


def test_somebody_else_finds_that_the_action_works() -> None:
    """Neither who planned it nor who carried it out."""
    state = given(nonconformity.evolve, RAISED, PLANNED)
    assert nonconformity.verify_corrective_action(state, verified=VERIFIED) == (VERIFIED,)
    for name in ("ada", "rob"):
        own = msgspec.structs.replace(VERIFIED, verified_by=name)
        with pytest.raises(AuthorCannotApprove):
            nonconformity.verify_corrective_action(state, verified=own)


def test_without_an_action_there_is_nothing_to_verify_and_after_the_end_nothing_to_plan() -> None:
    """Open, planned, closed: in that order."""
    with pytest.raises(NonconformityNotInState):
        nonconformity.verify_corrective_action(given(nonconformity.evolve, RAISED), verified=VERIFIED)
    closed = given(nonconformity.evolve, RAISED, PLANNED, VERIFIED)
    assert closed.status == "closed"
    assert nonconformity.verify_corrective_action(closed, verified=VERIFIED) == ()
    with pytest.raises(NonconformityNotInState):
        nonconformity.plan_corrective_action(closed, planned=msgspec.structs.replace(PLANNED, action="more"), at=NOW)
    with pytest.raises(nonconformity.NonconformityMissing):
        nonconformity.plan_corrective_action(None, planned=PLANNED, at=NOW)
