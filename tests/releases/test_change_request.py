"""ChangeRequest: every transition allowed and refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from services.releases.domain import change_plan, change_request
from services.releases.domain.change_request import (
    ChangeApproved,
    ChangeClassified,
    ChangeClosed,
    ChangeImplemented,
    ChangeNotInState,
    ChangeRejected,
    ChangeRequest,
    ChangeRequestSubmitted,
    ChangeVerified,
    Finding,
)
from services.releases.domain.signature_rules import AuthorCannotApprove, DigestMismatch
from shared.event import Fact
from tests.releases import test_change_plan as plans
from tests.releases.samples import given, signed

RECORD = "change-request:flight-delay/CR-1"
SUBMITTED = ChangeRequestSubmitted(
    key="CR-1",
    author="ada",
    cause="retraining",
    signal=None,
    model="delay",
    baseline="1",
    candidate=None,
    impact_assessment="newer months",
)
CLASSIFIED = ChangeClassified(
    key="CR-1",
    author="rita",
    classification="substantial",
    plan=None,
    modification=None,
    impact_assessment="touches every prediction",
)
PREDETERMINED = msgspec.structs.replace(CLASSIFIED, classification="predetermined", plan="P-1", modification="retrain")
MET = Finding(criterion="A1", requirement="REQ-1", outcome="met", verification="V-1")
PLAN = given(change_plan.evolve, plans.DRAFTED, plans.approved())


def signed_by(name: str, *facts: Fact) -> Any:
    """The signature over the request as it is after the facts."""
    request = given(change_request.evolve, *facts)
    return signed(name, change_request.signable_bytes(request, record=RECORD))


APPROVED = ChangeApproved(key="CR-1", signature=signed_by("ben", SUBMITTED, CLASSIFIED))
REJECTED = ChangeRejected(key="CR-1", findings=(), signature=signed_by("ben", SUBMITTED, CLASSIFIED))
IMPLEMENTED = ChangeImplemented(key="CR-1", candidate="2", model_digest="d" * 64, findings=())
VERIFIED = ChangeVerified(key="CR-1", candidate="2", verifications=("V-1",))
CLOSED = ChangeClosed(key="CR-1", signal=None, outcome="verified")

PATH: tuple[Fact, ...] = (SUBMITTED, CLASSIFIED, APPROVED, IMPLEMENTED, VERIFIED, CLOSED)
STATUSES = {
    "submitted": PATH[:1],
    "assessed": PATH[:2],
    "approved": PATH[:3],
    "implemented": PATH[:4],
    "verified": PATH[:5],
    "closed": PATH,
    "rejected": (*PATH[:2], REJECTED),
}

Verb = Callable[[ChangeRequest | None], Sequence[Fact]]
VERBS: dict[str, tuple[Verb, Fact, set[str]]] = {
    "classify": (
        lambda request: change_request.classify(
            request,
            author="rita",
            classification="substantial",
            plan=None,
            modification=None,
            impact_assessment="touches every prediction",
        ),
        CLASSIFIED,
        {"submitted", "assessed"},
    ),
    "approve": (
        lambda request: change_request.approve(request, record=RECORD, signature=APPROVED.signature),
        APPROVED,
        {"assessed", "approved"},
    ),
    "reject": (
        lambda request: change_request.reject(request, record=RECORD, signature=APPROVED.signature),
        REJECTED,
        {"assessed", "rejected"},
    ),
    "implement": (
        lambda request: change_request.implement(request, candidate="2", model_digest="d" * 64, findings=()),
        IMPLEMENTED,
        {"approved", "implemented"},
    ),
    "verify": (
        lambda request: change_request.verify(request, verifications=("V-1",), findings=(MET,)),
        VERIFIED,
        {"implemented", "verified"},
    ),
    "close": (change_request.close, CLOSED, {"verified", "rejected", "closed"}),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_fits_its_statuses_only(verb: str, status: str) -> None:
    """Allowed it gives its event, repeated none, elsewhere it is refused."""
    decide, fact, allowed = VERBS[verb]
    request = given(change_request.evolve, *STATUSES[status])
    assert request.status == status
    if status not in allowed:
        with pytest.raises(ChangeNotInState):
            decide(request)
        return
    facts = decide(request)
    repeat = fact in STATUSES[status] or (verb, status) == ("approve", "approved")
    if repeat:
        assert facts == ()
    elif (verb, status) == ("close", "rejected"):
        assert facts == (msgspec.structs.replace(CLOSED, outcome="rejected"),)
    else:
        assert facts == (fact,)


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_never_submitted_is_not_found(verb: str) -> None:
    """No verb makes a request out of nothing."""
    with pytest.raises(change_request.ChangeRequestMissing):
        VERBS[verb][0](None)


def test_a_request_is_submitted_once() -> None:
    """The same again is a repeat, other content needs another key."""
    request = given(change_request.evolve, SUBMITTED)
    assert change_request.submit(None, submitted=SUBMITTED) == (SUBMITTED,)
    assert change_request.submit(request, submitted=SUBMITTED) == ()
    with pytest.raises(change_request.ChangeRequestExists):
        change_request.submit(request, submitted=msgspec.structs.replace(SUBMITTED, cause="incident"))


def test_only_an_escalation_opens_a_request_for_a_drift_signal() -> None:
    """A person who submits one is sent to the signal."""
    for changes in ({"cause": "drift signal"}, {"signal": "S-1"}):
        with pytest.raises(change_request.OnlyEscalationOpens):
            change_request.submit(None, submitted=msgspec.structs.replace(SUBMITTED, **changes))


def test_one_drift_signal_opens_one_request() -> None:
    """Its key is derived from the signal; seen again, also when it is closed, it opens nothing."""
    for_signal = msgspec.structs.replace(
        SUBMITTED, key=change_request.key_for_signal("S-1"), cause="drift signal", signal="S-1"
    )
    assert for_signal.key == "CR-S-1"
    assert change_request.open_for_signal(None, submitted=for_signal) == (for_signal,)
    request = given(change_request.evolve, for_signal)
    assert change_request.open_for_signal(request, submitted=for_signal) == ()
    long = change_request.key_for_signal("s" * 63)
    assert len(long) == 63
    assert long != change_request.key_for_signal("s" * 62 + "t")


def test_neither_author_nor_assessor_approves() -> None:
    """Everybody who wrote in the request is an author of it."""
    request = given(change_request.evolve, SUBMITTED, CLASSIFIED)
    for author in ("ada", "rita"):
        signature = signed_by(author, SUBMITTED, CLASSIFIED)
        for decide in (change_request.approve, change_request.reject):
            with pytest.raises(AuthorCannotApprove):
                decide(request, record=RECORD, signature=signature)


def test_a_signature_covers_the_assessment_that_was_shown() -> None:
    """A reclassification in between makes it worthless."""
    request = given(change_request.evolve, SUBMITTED, CLASSIFIED, PREDETERMINED)
    with pytest.raises(DigestMismatch):
        change_request.approve(request, record=RECORD, signature=APPROVED.signature)


def predetermined(
    plan: change_plan.ChangePlan | None, *, modification: str | None = "retrain", model: str = "delay"
) -> Sequence[Fact]:
    """Classifies the submitted request as predetermined."""
    return change_request.classify(
        given(change_request.evolve, msgspec.structs.replace(SUBMITTED, model=model)),
        author="rita",
        classification="predetermined",
        impact_assessment="as planned",
        modification=modification,
        plan=plan,
    )


def test_a_predetermined_change_needs_an_approved_plan_that_names_it() -> None:
    """No plan, a draft, another modification or another model do not do."""
    assert isinstance(predetermined(PLAN)[0], ChangeClassified)
    draft = given(change_plan.evolve, plans.DRAFTED)
    refused: tuple[dict[str, Any], ...] = (
        {"plan": None},
        {"plan": draft},
        {"plan": PLAN, "modification": "new features"},
        {"plan": PLAN, "modification": None},
        {"plan": PLAN, "model": "other"},
    )
    for fields in refused:
        with pytest.raises(change_request.PlanDoesNotAllow):
            predetermined(**fields)


def test_other_changes_name_no_plan() -> None:
    """A plan behind a change that is not predetermined would mislead."""
    with pytest.raises(change_request.PlanNotExpected):
        change_request.classify(
            given(change_request.evolve, SUBMITTED),
            author="rita",
            classification="substantial",
            plan=PLAN,
            modification=None,
            impact_assessment="large",
        )


def in_plan(*facts: Fact) -> ChangeRequest:
    """A predetermined change that was approved, then the facts."""
    signature = signed_by("ben", SUBMITTED, PREDETERMINED)
    approved = ChangeApproved(key="CR-1", signature=signature)
    return given(change_request.evolve, SUBMITTED, PREDETERMINED, approved, *facts)


def implement(finding: Finding) -> Sequence[Fact]:
    """Implements the predetermined change with one finding."""
    return change_request.implement(in_plan(), candidate="2", model_digest="d" * 64, findings=(finding,))


def test_a_failed_criterion_of_a_predetermined_change_is_terminal() -> None:
    """It is recorded, the change is not implemented, and nothing but closing follows."""
    failed = msgspec.structs.replace(MET, outcome="not met")
    rejected = ChangeRejected(key="CR-1", findings=(failed,), signature=None)
    assert implement(failed) == (rejected,)
    after = in_plan(rejected)
    for verb in ("classify", "approve", "implement", "verify"):
        with pytest.raises(ChangeNotInState):
            VERBS[verb][0](after)
    assert change_request.close(after) == (msgspec.structs.replace(CLOSED, outcome="rejected"),)


@pytest.mark.parametrize("outcome", ["inconclusive", "unverified"])
def test_an_undecided_criterion_keeps_a_predetermined_change_waiting(outcome: Any) -> None:
    """It is not a failure, and not a success."""
    with pytest.raises(change_request.CriteriaUndecided):
        implement(msgspec.structs.replace(MET, outcome=outcome))
    assert isinstance(implement(MET)[0], ChangeImplemented)


def test_a_failed_verification_ends_a_predetermined_change_and_only_that() -> None:
    """Any other change waits for better evidence."""
    failed = msgspec.structs.replace(MET, outcome="not met")
    ended = change_request.verify(in_plan(IMPLEMENTED), verifications=("V-1",), findings=(failed,))
    assert isinstance(ended[0], ChangeRejected)
    with pytest.raises(change_request.EvidenceDoesNotCount):
        change_request.verify(given(change_request.evolve, *PATH[:4]), verifications=("V-1",), findings=(failed,))
