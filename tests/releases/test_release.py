"""Release: every transition allowed and refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from services.releases.domain import gate, release, release_decisions, sign_off
from services.releases.domain.evidence import evidence_digest
from services.releases.domain.gate import Decision
from services.releases.domain.release import (
    Release,
    ReleaseAdopted,
    ReleaseApproved,
    ReleaseDeployed,
    ReleaseGateEvaluated,
    ReleaseNotInState,
    ReleaseRolledBack,
    ReleaseSignedOff,
    ReleaseSuperseded,
    ReleaseSuspended,
    ReleaseWithdrawn,
)
from services.releases.domain.signature_rules import AuthorCannotApprove
from shared.event import Fact
from tests.releases.samples import EVIDENCE, MODEL_DIGEST, NOW, given, inputs, opened, sign_off_signature

OPENED = opened()
ALLOWS = gate.decide(inputs())
DENIES = gate.decide(inputs(monitoring_plans=()))


def gated(decision: Decision = ALLOWS) -> ReleaseGateEvaluated:
    """The event of this decision."""
    fact = release_decisions.record_gate(given(release.evolve, OPENED), decision=decision)[0]
    assert isinstance(fact, ReleaseGateEvaluated)
    return fact


def signed_off(role: Any, name: str) -> ReleaseSignedOff:
    """The person's word in the role over the candidate."""
    signature = sign_off_signature(given(release.evolve, OPENED), role=role, name=name)
    return ReleaseSignedOff(
        key="R-1", role=role, evidence_digest=evidence_digest(EVIDENCE), waiver=None, signature=signature
    )


SIGNED = (signed_off("approver", "ben"), signed_off("releaser", "rob"))
APPROVED = ReleaseApproved(
    key="R-1", approved_by="rob", decision_id=ALLOWS.answer.decision_id, evidence=ALLOWS.evidence
)
DEPLOYED = ReleaseDeployed(
    key="R-1",
    model="delay",
    version="1",
    model_digest=MODEL_DIGEST,
    environment="production",
    observed_digest=MODEL_DIGEST,
    reporter="rob",
    emergency=False,
    supersedes="R-0",
    sign_off_due=None,
)
ENDED: dict[str, Any] = {"key": "R-1", "environment": "production", "model_digest": MODEL_DIGEST, "by": "rob"}
SUPERSEDED = ReleaseSuperseded(key="R-1", environment="production", by="R-2")
SUSPENDED = ReleaseSuspended(**ENDED, reason="wrong alarms")
ROLLED_BACK = ReleaseRolledBack(**ENDED, reason="wrong alarms", to="R-0")
WITHDRAWN = ReleaseWithdrawn(**ENDED, reason="wrong alarms")
ADOPTED = ReleaseAdopted(
    key="baseline-production",
    model="delay",
    version="1",
    model_digest=MODEL_DIGEST,
    environment="production",
    reporter="rob",
)

CANDIDATE: tuple[Fact, ...] = (OPENED, *SIGNED)
RELEASED = (*CANDIDATE, gated(), APPROVED, DEPLOYED)
STATUSES: dict[str, tuple[Fact, ...]] = {
    "candidate": CANDIDATE,
    "gated": (*CANDIDATE, gated()),
    "approved": (*CANDIDATE, gated(), APPROVED),
    "released": RELEASED,
    "superseded": (*RELEASED, SUPERSEDED),
    "suspended": (*RELEASED, SUSPENDED),
    "rolled back": (*RELEASED, ROLLED_BACK),
    "withdrawn": (*CANDIDATE, WITHDRAWN),
    "adopted, not governed": (ADOPTED,),
}


def deploy(state: Release | None, *, decision: Decision = ALLOWS, **changes: Any) -> Sequence[Fact]:
    """Rob reports that R-1 runs in place of R-0."""
    fields = {
        "environment": "production",
        "observed_digest": MODEL_DIGEST,
        "reporter": "rob",
        "newest": "R-0",
        **changes,
    }
    return release_decisions.deploy(state, decision=decision, **fields)


def deploy_in_emergency(state: Release | None) -> Sequence[Fact]:
    """Rob lets R-1 run at once."""
    return release_decisions.deploy_in_emergency(
        state, environment="production", observed_digest=MODEL_DIGEST, reporter="rob", newest="R-0", at=NOW
    )


Verb = Callable[[Release | None], Sequence[Fact]]
VERBS: dict[str, tuple[Verb, type[Fact], set[str], set[str]]] = {
    # The verb, the event that it enters a status by, from which statuses, and where it is a repeat.
    "approve": (
        lambda state: release_decisions.approve(state, decision=ALLOWS, by="rob"),
        ReleaseApproved,
        {"candidate", "gated"},
        {"approved"},
    ),
    "deploy": (deploy, ReleaseDeployed, {"approved"}, {"released"}),
    "deploy in an emergency": (
        deploy_in_emergency,
        ReleaseDeployed,
        {"candidate", "gated", "approved"},
        {"released"},
    ),
    "suspend": (
        lambda state: release_decisions.suspend(state, by="rob", reason="wrong alarms"),
        ReleaseSuspended,
        {"released", "adopted, not governed"},
        {"suspended"},
    ),
    "roll back": (
        lambda state: release_decisions.roll_back(state, to="R-0", by="rob", reason="wrong alarms"),
        ReleaseRolledBack,
        {"released", "suspended", "adopted, not governed"},
        set(),
    ),
    "run again": (
        lambda state: release_decisions.run_again(
            state, environment="production", observed_digest=None, reporter="rob"
        ),
        ReleaseDeployed,
        {"superseded"},
        set(),
    ),
    "withdraw": (
        lambda state: release_decisions.withdraw(state, by="rob", reason="wrong alarms"),
        ReleaseWithdrawn,
        {"candidate", "gated", "approved", "released", "adopted, not governed", "superseded", "suspended"},
        {"withdrawn"},
    ),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_fits_its_statuses_only(verb: str, status: str) -> None:
    """Allowed it ends with its event, repeated it gives none, elsewhere it is refused."""
    decide, fact, allowed, repeated = VERBS[verb]
    state = given(release.evolve, *STATUSES[status])
    assert state.status == status
    if status in allowed:
        assert isinstance(decide(state)[-1], fact)
    elif status in repeated:
        assert decide(state) == ()
    else:
        with pytest.raises(ReleaseNotInState):
            decide(state)


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_never_opened_is_not_found(verb: str) -> None:
    """No verb makes a release out of nothing."""
    with pytest.raises(release.ReleaseMissing):
        VERBS[verb][0](None)


@pytest.mark.parametrize("status", STATUSES)
def test_a_release_gives_way_only_while_the_environment_has_it(status: str) -> None:
    """Otherwise somebody else was faster, and the command is sent again."""
    state = given(release.evolve, *STATUSES[status])
    if status in ("released", "suspended", "adopted, not governed"):
        fact = release_decisions.supersede(state, by="R-2")[0]
        assert isinstance(fact, ReleaseSuperseded)
        assert release.evolve(state, fact).superseded_by == "R-2"
    else:
        with pytest.raises(release_decisions.EnvironmentMoved):
            release_decisions.supersede(state, by="R-2")


def test_a_candidate_is_opened_once() -> None:
    """What was computed when it was opened does not make a repeat another request."""
    assert release_decisions.open_candidate(None, opened=OPENED) == (OPENED,)
    state = given(release.evolve, OPENED)
    assert release_decisions.open_candidate(state, opened=opened(verifications=("V-1", "V-2"))) == ()
    for other in (opened(version="2"), opened(author="bob"), opened(environment="staging")):
        with pytest.raises(release_decisions.ReleaseExists):
            release_decisions.open_candidate(state, opened=other)


def test_keys_of_adopted_releases_are_reserved() -> None:
    """A candidate cannot keep an environment from being adopted."""
    with pytest.raises(release_decisions.ReservedKey):
        release_decisions.open_candidate(None, opened=opened(key="baseline-production"))


def test_a_release_is_adopted_once_and_only_where_nothing_is_governed() -> None:
    """It is marked as adopted and not governed."""
    assert release_decisions.adopt(None, adopted=ADOPTED, newest=None) == (ADOPTED,)
    state = given(release.evolve, ADOPTED)
    assert (state.status, state.governed) == ("adopted, not governed", False)
    assert release_decisions.adopt(state, adopted=ADOPTED, newest="baseline-production") == ()
    other = msgspec.structs.replace(ADOPTED, version="2")
    with pytest.raises(release_decisions.AdoptedBefore):
        release_decisions.adopt(state, adopted=other, newest="baseline-production")
    with pytest.raises(release_decisions.AdoptedBefore):
        release_decisions.adopt(None, adopted=ADOPTED, newest="R-1")


def test_only_a_changed_answer_of_the_gate_is_recorded() -> None:
    """A later answer that says the same has another decision id and appends nothing."""
    state = given(release.evolve, OPENED, gated(DENIES))
    same_later = gate.decide(inputs(monitoring_plans=(), at=NOW + timedelta(seconds=5)))
    assert same_later.answer.decision_id != DENIES.answer.decision_id
    assert release_decisions.record_gate(state, decision=same_later) == ()
    assert release_decisions.record_gate(state, decision=ALLOWS) == (gated(ALLOWS),)


def test_a_gate_that_denies_enters_no_status() -> None:
    """Gated is entered by the first allow; a later deny is kept as the last answer."""
    assert given(release.evolve, OPENED, gated(DENIES)).status == "candidate"
    state = given(release.evolve, OPENED, gated(), gated(DENIES))
    assert (state.status, state.gate and state.gate.allowed) == ("gated", False)


def test_approving_records_the_answer_it_stands_on() -> None:
    """And what met each requirement."""
    facts = VERBS["approve"][0](given(release.evolve, *CANDIDATE))
    assert facts == (gated(), APPROVED)


def test_what_the_gate_denies_is_neither_approved_nor_deployed() -> None:
    """The refusal lists what is missing."""
    with pytest.raises(release_decisions.GateDenies) as refused:
        release_decisions.approve(given(release.evolve, *CANDIDATE), decision=DENIES, by="rob")
    assert refused.value.fields[0].rule.startswith("monitoring-plan-missing")
    with pytest.raises(release_decisions.GateDenies):
        deploy(given(release.evolve, *STATUSES["approved"]), decision=DENIES)


def test_the_author_does_not_approve() -> None:
    """Also when gate and sign-offs are there."""
    with pytest.raises(AuthorCannotApprove):
        release_decisions.approve(given(release.evolve, *CANDIDATE), decision=ALLOWS, by="ada")


def test_without_every_sign_off_nothing_is_approved() -> None:
    """The records decide, even if the copy behind the gate said otherwise."""
    state = given(release.evolve, OPENED, SIGNED[0])
    with pytest.raises(sign_off.SignOffsIncomplete):
        release_decisions.approve(state, decision=ALLOWS, by="rob")


def test_what_runs_must_be_what_was_released() -> None:
    """Another digest or another environment is refused."""
    state = given(release.evolve, *STATUSES["approved"])
    with pytest.raises(release_decisions.ObservedDigestDiffers):
        deploy(state, observed_digest="0" * 64)
    with pytest.raises(release_decisions.WrongEnvironment):
        deploy(state, environment="staging")
    assert deploy(state) == (DEPLOYED,)


def test_an_emergency_release_is_due_for_its_sign_offs() -> None:
    """The deadline is in the event."""
    fact = deploy_in_emergency(given(release.evolve, OPENED))[0]
    assert isinstance(fact, ReleaseDeployed)
    assert (fact.emergency, fact.sign_off_due) == (True, NOW + release_decisions.EMERGENCY_SIGN_OFF_WITHIN)


def test_suspending_and_rolling_back_ask_no_gate() -> None:
    """One releaser and a reason, on the release's own records alone."""
    state = given(release.evolve, *RELEASED)
    assert release_decisions.suspend(state, by="rob", reason="wrong alarms") == (SUSPENDED,)
    assert release_decisions.roll_back(state, to="R-0", by="rob", reason="wrong alarms") == (ROLLED_BACK,)


def test_there_must_be_something_to_roll_back_to() -> None:
    """The first release of an environment is suspended instead."""
    with pytest.raises(release_decisions.NothingToRollBackTo):
        release_decisions.roll_back(given(release.evolve, *RELEASED), to=None, by="rob", reason="wrong alarms")


def test_what_was_suspended_does_not_run_again_by_a_rollback() -> None:
    """It was stopped for a reason."""
    state = given(release.evolve, *RELEASED, SUSPENDED, SUPERSEDED)
    with pytest.raises(release_decisions.NothingToRollBackTo):
        VERBS["run again"][0](state)


def test_a_release_that_runs_again_remembers_what_it_replaced() -> None:
    """So it can be rolled back itself."""
    state = given(release.evolve, *RELEASED, SUPERSEDED)
    again = release.evolve(state, VERBS["run again"][0](state)[0])
    assert (again.status, again.supersedes, again.superseded_by) == ("released", "R-0", None)
