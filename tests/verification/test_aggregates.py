"""Test cases, runs and verifications: every transition allowed and refused, and that a replay equals what was lived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from services.verification.domain import evaluation_run as runs, test_case as cases, verification as verifications
from services.verification.domain.evaluation_run import EvaluationRun, Subject
from services.verification.domain.verification import Verification, VerificationMarkedSuspect
from services.verification.published_events import FACTS
from shared.event import Fact
from tests.round_trip import replayed
from tests.verification.records import (
    APPROVAL,
    AUTHOR,
    PROCEDURE,
    REVIEWER,
    SUBJECT,
    criterion,
    defined_case,
    folded,
    recall,
    recorded_run,
    recorded_verification,
    run_fact,
    signed,
)


def case_after(*facts: Fact) -> cases.TestCase:
    """The test case after the facts."""
    state = folded(cases.evolve, facts)
    assert state is not None
    return state


def approved_case() -> list[Fact]:
    """A test case in force."""
    drafted = case_after(*defined_case())
    return [*defined_case(), *cases.approve(drafted, signature=signed(cases.signable_bytes(drafted, 1)))]


def test_a_test_case_is_approved_by_somebody_else() -> None:
    """And never by its author."""
    drafted = case_after(*defined_case())
    content = cases.signable_bytes(drafted, 1)
    with pytest.raises(cases.AuthorCannotApprove):
        cases.approve(drafted, signature=signed(content, by=AUTHOR))
    assert case_after(*approved_case()).in_force is not None
    assert cases.approve(case_after(*approved_case()), signature=signed(content)) == ()


def test_a_new_definition_is_a_new_revision_and_supersedes_when_approved() -> None:
    """The approved one stays in force until then."""
    changed = msgspec.structs.replace(PROCEDURE, title="Score, compare and count")
    facts = [*approved_case()]
    facts += cases.define(case_after(*facts), key="TC-1", author=AUTHOR, content=changed)
    pending = case_after(*facts)
    assert (pending.latest.number, pending.in_force and pending.in_force.number) == (2, 1)
    facts += cases.approve(pending, signature=signed(cases.signable_bytes(pending, 2)))
    after = case_after(*facts)
    assert {number: revision.status for number, revision in after.revisions.items()} == {1: "superseded", 2: "approved"}


def test_another_digest_does_not_approve_and_a_retired_case_is_not_defined_again() -> None:
    """A signature covers what was shown; what was retired stays retired."""
    with pytest.raises(cases.DigestMismatch):
        cases.approve(case_after(*defined_case()), signature=signed(b"something else"))
    with pytest.raises(cases.TestCaseNotInState):
        cases.retire(case_after(*defined_case()), signature=signed(b""))
    facts = approved_case()
    in_force = case_after(*facts)
    facts += cases.retire(in_force, signature=signed(cases.signable_bytes(in_force, 1)))
    with pytest.raises(cases.TestCaseNotInState):
        cases.define(case_after(*facts), key="TC-1", author=AUTHOR, content=PROCEDURE)
    with pytest.raises(cases.TestCaseMissing):
        cases.approve(None, signature=signed(b""))


def opened_run() -> Sequence[Fact]:
    """A run that was bound before it was made."""
    return runs.open_run(None, key="RUN-1", author=AUTHOR, subject=SUBJECT, approvals=(APPROVAL,), nonce="n-1")


def run_after(*facts: Fact) -> EvaluationRun:
    """The run after the facts."""
    state = folded(runs.evolve, facts)
    assert state is not None
    return state


def test_an_opened_run_is_recorded_with_its_nonce_and_digests() -> None:
    """It is not post hoc, whatever times are claimed, and keeps the approvals of its opening."""
    run = run_after(*opened_run())
    (recorded,) = recorded_run(run=run, nonce="n-1", post_hoc=True, approvals=())
    assert isinstance(recorded, runs.EvaluationRunRecorded)
    assert (recorded.opened, recorded.post_hoc, recorded.approvals) == (True, False, (APPROVAL,))
    with pytest.raises(runs.NonceMismatch):
        recorded_run(run=run, nonce="n-2")
    with pytest.raises(runs.NonceMismatch):
        recorded_run(run=run)


def test_attested_figures_come_with_a_signature_over_exactly_them() -> None:
    """Not without one, not with one over other figures, and no other grade has one."""
    content = runs.attestable_bytes(key="RUN-1", subject=SUBJECT, measurements=(recall(),))
    (fact,) = recorded_run(grade="attested", attestation=signed(content, meaning="attestation"))
    assert isinstance(fact, runs.EvaluationRunRecorded)
    assert fact.attestation is not None
    with pytest.raises(runs.AttestationNeeded):
        recorded_run(grade="attested")
    with pytest.raises(runs.AttestationNeeded):
        recorded_run(grade="claimed", attestation=signed(content))
    with pytest.raises(cases.DigestMismatch):
        recorded_run(grade="attested", attestation=signed(content), measurements=(recall(900),))


@pytest.mark.parametrize("field", Subject.__struct_fields__)
def test_an_opened_run_binds_every_digest_and_name(field: str) -> None:
    """Another model or dataset version is another run."""
    other = msgspec.structs.replace(SUBJECT, **{field: "e" * 64})
    with pytest.raises(runs.OpenedForOther):
        recorded_run(run=run_after(*opened_run()), nonce="n-1", subject=other)


def test_a_repeated_opening_keeps_its_nonce_and_a_recorded_run_never_changes() -> None:
    """The same again is a repeat; anything else needs another key."""
    run = run_after(*opened_run())
    assert runs.open_run(run, key="RUN-1", author=AUTHOR, subject=SUBJECT, approvals=(APPROVAL,), nonce="n-2") == ()
    recorded = run_after(*recorded_run())
    assert recorded_run(run=recorded) == ()
    with pytest.raises(runs.RunExists):
        recorded_run(run=recorded, measurements=(recall(900),))
    with pytest.raises(runs.RunExists):
        runs.open_run(recorded, key="RUN-1", author=AUTHOR, subject=SUBJECT, approvals=(), nonce="n")


def test_a_wrong_run_is_voided_by_a_second_person_and_stays() -> None:
    """The void is as visible as the fact."""
    recorded = run_after(*recorded_run())
    content = runs.signable_bytes(recorded)
    with pytest.raises(runs.SecondPersonNeeded):
        runs.void(recorded, signature=signed(content, by=AUTHOR, meaning="void"))
    with pytest.raises(cases.DigestMismatch):
        runs.void(recorded, signature=signed(b"other", meaning="void"))
    voided = run_after(*recorded_run(), *runs.void(recorded, signature=signed(content, meaning="void")))
    assert (voided.status, voided.recorded) == ("voided", recorded.recorded)
    assert runs.void(voided, signature=signed(content, meaning="void")) == ()
    with pytest.raises(runs.RunMissing):
        runs.void(run_after(*opened_run()), signature=signed(content, meaning="void"))


@pytest.mark.parametrize(
    ("changes", "run", "outcome", "words"),
    [
        pytest.param({}, {}, "met", "", id="met"),
        pytest.param({"threshold": 0.9}, {}, "not met", "", id="not met"),
        pytest.param({"threshold": 0.79}, {}, "inconclusive", "", id="bound on the wrong side"),
        pytest.param({}, {"grade": "claimed"}, "inconclusive", "claimed", id="evidence too weak"),
        pytest.param(
            {"least_evidence": "attested"}, {"grade": "claimed"}, "inconclusive", "claimed", id="not attested"
        ),
        pytest.param({}, {"post_hoc": True}, "inconclusive", "approved before", id="post hoc"),
        pytest.param({"dataset_version": "april"}, {}, "inconclusive", "not flights april", id="another dataset"),
        pytest.param({"slice": "origin=EWR"}, {}, "inconclusive", "no recall on origin=EWR", id="no such slice"),
        pytest.param({"metric": "auroc"}, {}, "inconclusive", "no auroc", id="no such metric"),
        pytest.param({"minimum_sample_size": 2000}, {}, "inconclusive", "2000", id="too few rows"),
        pytest.param({}, {"measurements": (recall(0, 0),)}, "inconclusive", "", id="empty slice"),
        pytest.param({"decision_rule": "point", "level": None, "threshold": 0.8}, {}, "met", "", id="point"),
    ],
)
def test_a_verdict_is_never_met_on_doubt(changes: Any, run: Any, outcome: str, words: str) -> None:
    """Each doubt is inconclusive and says why."""
    (verdict,) = verifications.judge(criteria=[criterion(**changes)], run=run_fact(**run))
    assert verdict.outcome == outcome
    assert words in verdict.explanation
    assert verdict.n == (0 if outcome == "inconclusive" and verdict.value is None else 1000)


def test_the_worst_verdict_decides() -> None:
    """One that is not met outweighs all, one in doubt outweighs those that are met, none at all decides nothing."""
    run = run_fact(measurements=(recall(),))
    met, failed, doubtful = (
        verifications.judge(criteria=[criterion(threshold=threshold)], run=run)[0] for threshold in (0.7, 0.9, 0.79)
    )
    assert verifications.worst([met, met]) == "met"
    assert verifications.worst([met, doubtful]) == "inconclusive"
    assert verifications.worst([met, doubtful, failed]) == "not met"
    assert verifications.worst([]) == "inconclusive"


def after(*facts: Fact) -> Verification:
    """The verification after the facts."""
    state = folded(verifications.evolve, facts)
    assert state is not None
    return state


def in_review() -> list[Fact]:
    """Recorded and submitted."""
    return [recorded_verification(), *verifications.submit(after(recorded_verification()))]


def approved() -> list[Fact]:
    """Approved by a reviewer."""
    state = after(*in_review())
    return [*in_review(), *verifications.approve(state, signature=signature_of(state), broken=None)]


def signature_of(state: Verification, *, by: str = REVIEWER) -> Any:
    """A signature over the verification as it is."""
    return signed(verifications.signable_bytes(state), by=by)


def cause(position: int = 9) -> VerificationMarkedSuspect:
    """A ground that was taken away."""
    return VerificationMarkedSuspect(
        key="VER-1", cause_event="requirements.dataset-withdrawn", cause_service="requirements",
        cause_position=position, cause_record="dataset:s/flights@march", explanation="withdrawn",
    )  # fmt: skip


def test_a_verification_is_reviewed_by_somebody_else_while_its_grounds_stand() -> None:
    """The author cannot, another digest does not, and what rests on nothing is not approved."""
    state = after(*in_review())
    with pytest.raises(cases.AuthorCannotApprove):
        verifications.approve(state, signature=signature_of(state, by=AUTHOR), broken=None)
    with pytest.raises(cases.DigestMismatch):
        verifications.approve(state, signature=signed(b"other"), broken=None)
    with pytest.raises(verifications.GroundsGone, match="voided"):
        verifications.approve(state, signature=signature_of(state), broken="the run RUN-1 was voided")
    assert after(*approved()).status == "approved"


def test_verbs_that_do_not_fit_the_status_are_refused() -> None:
    """Before review nothing is approved; after approval nothing is rejected; nothing that is not there has a status."""
    recorded = after(recorded_verification())
    with pytest.raises(verifications.VerificationNotInState):
        verifications.approve(recorded, signature=signature_of(recorded), broken=None)
    with pytest.raises(verifications.VerificationNotInState):
        verifications.reject(after(*approved()), signature=signature_of(after(*approved())))
    with pytest.raises(verifications.VerificationNotInState):
        verifications.submit(after(*approved()))
    with pytest.raises(verifications.VerificationNotInState):
        verifications.clear_suspicion(recorded, signature=signature_of(recorded))
    with pytest.raises(verifications.VerificationMissing):
        verifications.submit(None)
    with pytest.raises(verifications.VerificationExists):
        verifications.record(recorded, recorded=recorded_verification(test_case="TC-2"))
    assert verifications.record(recorded, recorded=recorded_verification(attempt=5)) == ()
    rejected = after(
        *in_review(), *verifications.reject(after(*in_review()), signature=signature_of(after(*in_review())))
    )
    assert rejected.status == "rejected"


def test_only_what_was_approved_becomes_suspect_and_once_a_cause() -> None:
    """A draft has nothing to lose, and the same event does not count twice."""
    assert verifications.mark_suspect(None, cause=cause()) == ()
    assert verifications.mark_suspect(after(*in_review()), cause=cause()) == ()
    suspect = after(*approved(), *verifications.mark_suspect(after(*approved()), cause=cause()))
    assert suspect.status == "suspect"
    assert verifications.mark_suspect(suspect, cause=cause()) == ()
    assert verifications.mark_suspect(suspect, cause=cause(10)) == (cause(10),)


def test_clearing_covers_the_causes_that_the_signer_saw() -> None:
    """A cause that came afterwards is not cleared by an earlier look; the author does not clear it either."""
    once = after(*approved(), cause())
    twice = after(*approved(), cause(), cause(10))
    with pytest.raises(cases.DigestMismatch):
        verifications.clear_suspicion(twice, signature=signature_of(once))
    with pytest.raises(cases.AuthorCannotApprove):
        verifications.clear_suspicion(once, signature=signature_of(once, by=AUTHOR))
    cleared = after(*approved(), cause(), *verifications.clear_suspicion(once, signature=signature_of(once)))
    assert (cleared.status, cleared.causes) == ("approved", ())


def acted(step: str, state: Verification, number: int) -> Sequence[Fact]:
    """What one step decides; it may be refused."""
    match step:
        case "submit":
            return verifications.submit(state)
        case "approve":
            return verifications.approve(state, signature=signature_of(state), broken=None)
        case "reject":
            return verifications.reject(state, signature=signature_of(state))
        case "clear":
            return verifications.clear_suspicion(state, signature=signature_of(state))
    return verifications.mark_suspect(state, cause=cause(number if step == "suspect again" else 9))


STEPS = st.lists(st.sampled_from(["submit", "approve", "reject", "suspect", "clear", "suspect again"]), max_size=10)


@given(STEPS)
def test_a_replay_of_a_verification_equals_what_was_lived(steps: list[str]) -> None:
    """Through the bytes of the store, whatever was allowed on the way."""
    facts: list[Fact] = [recorded_verification()]
    for number, step in enumerate(steps, start=20):
        try:
            facts += acted(step, after(*facts), number)
        except (verifications.VerificationNotInState, cases.DigestMismatch):
            continue
    assert after(*replayed(facts, fact_types=FACTS)) == after(*facts)


@pytest.mark.parametrize("opened", [False, True])
def test_a_replay_of_a_run_and_of_a_test_case_equals_what_was_lived(opened: bool) -> None:
    """Through the bytes of the store."""
    facts = list(opened_run()) if opened else []
    facts += recorded_run(run=run_after(*facts) if opened else None, nonce="n-1" if opened else None)
    facts += runs.void(run_after(*facts), signature=signed(runs.signable_bytes(run_after(*facts)), meaning="void"))
    assert run_after(*replayed(facts, fact_types=FACTS)) == run_after(*facts)
    assert case_after(*replayed(approved_case(), fact_types=FACTS)) == case_after(*approved_case())
