"""The gate's rules: one test for each code, and what must hold for all inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given as examples, strategies as st

from services.releases.domain import gate
from services.releases.domain.evidence import CriterionInput, Standing
from services.releases.domain.gate import GateInputs, Missing, decide
from shared.event import canonical_bytes, digest_of
from tests.releases.samples import (
    DATA_DIGEST,
    MODEL_DIGEST,
    NOW,
    inputs,
    later,
    release_input,
    requirement,
    sign_off_input,
    source,
)

ALLOWED = inputs()
assert ALLOWED.release is not None
RELEASE = ALLOWED.release
PREVIOUS = gate.PreviousInput(key="R-0", model_digest="a" * 64)
CHANGE = gate.ChangeInput(key="CR-1", status="verified", model="delay", candidate="1", end="verified")


def missing(changed: GateInputs) -> list[tuple[str, str]]:
    """Code and next verb of everything missing."""
    return [(item.code, item.next_verb) for item in decide(changed).answer.missing]


def changed(start: GateInputs = ALLOWED, **changes: Any) -> GateInputs:
    """The inputs with other values."""
    return msgspec.structs.replace(start, **changes)


def test_allows_when_nothing_is_missing() -> None:
    """A verified, monitored, signed first release goes out."""
    answer = decide(ALLOWED).answer
    assert (answer.allowed, answer.missing) == (True, ())


@pytest.mark.parametrize(
    ("standing", "code", "next_verb"),
    [
        (Standing(), "requirement-unverified", "record_verification"),
        (Standing(in_review="V-1"), "verification-not-approved", "approve_verification"),
        (Standing(recorded="V-1"), "verification-not-approved", "submit_verification"),
        (Standing(suspect="V-1"), "verification-suspect", "clear_suspicion"),
        (Standing(not_met="V-1"), "verification-not-met", "grant_waiver"),
        (Standing(inconclusive="V-1"), "verification-inconclusive", "record_evaluation_run"),
        (Standing(post_hoc="V-1"), "verification-post-hoc", "open_evaluation_run"),
    ],
)
def test_a_requirement_without_evidence_that_counts_denies(standing: Standing, code: str, next_verb: str) -> None:
    """One item for the requirement, the one nearest to meeting it."""
    start = inputs(requirements=(requirement(standing=standing),))
    assert missing(start) == [(code, next_verb)]


def test_evidence_that_is_not_met_outweighs_evidence_that_is() -> None:
    """A failed attempt is voided or it stays; a later success does not hide it."""
    both = Standing(met=(f"C1 flights@march {DATA_DIGEST}",), used=("V-2",), not_met="V-1")
    assert missing(inputs(requirements=(requirement(standing=both),))) == [("verification-not-met", "grant_waiver")]


def test_every_criterion_must_be_met() -> None:
    """Meeting one of two is not meeting the requirement."""
    criteria = (*requirement().criteria, CriterionInput(key="C2", dataset="flights@march"))
    assert missing(inputs(requirements=(requirement(criteria=criteria),)))[0][0] == "requirement-unverified"


def test_a_requirement_without_criteria_is_not_met_by_nothing() -> None:
    """In doubt it denies."""
    assert missing(inputs(requirements=(requirement(criteria=()),)))[0][0] == "requirement-unverified"


def test_a_verification_counts_only_for_exactly_that_dataset_digest() -> None:
    """The same name and version with other bytes is another dataset."""
    start = inputs(datasets={"flights@march": "f" * 64})
    assert missing(start) == [("requirement-unverified", "record_verification")]


def test_a_withdrawn_dataset_denies() -> None:
    """The criterion has nothing left to be measured on."""
    assert missing(inputs(datasets={})) == [("dataset-not-standing", "draft_requirement")]


def test_without_a_requirement_in_force_it_denies() -> None:
    """No requirement is not the same as all requirements met."""
    assert missing(inputs(requirements=())) == [("no-requirements", "draft_requirement")]


def test_an_unknown_model_version_denies_with_one_item() -> None:
    """Nothing else can be recorded of it before it is registered."""
    assert missing(changed(model_versions=())) == [("model-version-unknown", "register_model_version")]


def test_a_withdrawn_model_version_denies() -> None:
    """One withdrawn version of the digest is enough."""
    withdrawn = gate.ModelVersionInput(model="delay", version="1", withdrawn=True)
    assert missing(changed(model_versions=(withdrawn,))) == [("model-version-withdrawn", "register_model_version")]


@pytest.mark.parametrize(
    ("plans", "next_verb"),
    [
        ((), "define_monitoring_plan"),
        ((gate.MonitoringPlanInput(key="MP-1", approved=False),), "approve_monitoring_plan"),
    ],
)
def test_an_approved_monitoring_plan_is_demanded(plans: tuple[gate.MonitoringPlanInput, ...], next_verb: str) -> None:
    """A defined plan is not yet an approved one."""
    assert missing(changed(monitoring_plans=plans)) == [("monitoring-plan-missing", next_verb)]


def replacing(**changes: Any) -> GateInputs:
    """A release that replaces another model."""
    release = msgspec.structs.replace(RELEASE, previous="R-0", change_request="CR-1")
    return changed(**{"previous": PREVIOUS, "newest": "R-0", "release": release, "change": CHANGE, **changes})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, [("change-request-missing", "submit_change_request")]),
        ({"status": "submitted", "end": None}, [("change-request-not-approved", "classify_change")]),
        ({"status": "assessed", "end": None}, [("change-request-not-approved", "approve_change")]),
        ({"status": "rejected", "end": "rejected"}, [("change-request-not-approved", "submit_change_request")]),
        ({"status": "closed", "end": "rejected"}, [("change-request-not-approved", "submit_change_request")]),
        ({"status": "approved", "end": None, "candidate": None}, [("change-request-not-of-this-version", "implement_change")]),
        (
            {"status": "implemented", "end": None, "candidate": "7"},
            [("change-request-not-of-this-version", "submit_change_request")],
        ),
        ({"status": "approved", "end": None}, []),
        ({"status": "implemented", "end": None}, []),
        ({"status": "closed"}, []),
    ],
)  # fmt: skip
def test_another_model_needs_an_approved_change_request(
    change: dict[str, Any] | None, expected: list[tuple[str, str]]
) -> None:
    """It names exactly this version as its candidate."""
    found = None if change is None else msgspec.structs.replace(CHANGE, **change)
    assert missing(replacing(change=found)) == expected


def test_the_same_model_again_is_no_change() -> None:
    """Releasing anew what ran before needs no change request."""
    same = gate.PreviousInput(key="R-0", model_digest=MODEL_DIGEST)
    assert missing(replacing(previous=same, change=None)) == []


def test_a_candidate_whose_predecessor_changed_is_opened_anew() -> None:
    """The difference that was signed is no longer the difference that would go out."""
    assert missing(replacing(newest="R-0b")) == [("previous-release-changed", "open_release_candidate")]


@pytest.mark.parametrize("role", ["approver", "releaser"])
def test_each_required_role_signs(role: str) -> None:
    """A missing, declined or outdated word denies, each with its own code."""
    evidence = decide(ALLOWED).evidence
    other = "releaser" if role == "approver" else "approver"
    there = sign_off_input(other, evidence)
    for sign_offs, code in (
        ((there,), "sign-off-missing"),
        ((there, sign_off_input(role, evidence, declined=True)), "sign-off-declined"),
        ((there, sign_off_input(role, evidence, evidence_digest="0" * 64)), "sign-off-outdated"),
    ):
        answer = decide(changed(release=release_input(sign_offs))).answer
        assert [(item.code, item.role) for item in answer.missing] == [(code, role)]


def test_other_evidence_outdates_every_sign_off() -> None:
    """A sign-off is bound to the state it was given for."""
    used = Standing(met=requirement().standing.met, used=("V-9",))  # type: ignore[union-attr]
    start = changed(requirements=(requirement(standing=used),))
    assert [code for code, _ in missing(start)] == ["sign-off-outdated", "sign-off-outdated"]


@pytest.mark.parametrize("status", ["superseded", "suspended", "withdrawn", "rolled back", "adopted, not governed"])
def test_a_release_at_its_end_is_denied(status: str) -> None:
    """What ended is replaced by a new candidate."""
    release = msgspec.structs.replace(RELEASE, status=status)
    assert missing(changed(release=release)) == [("release-not-open", "open_release_candidate")]


def test_before_a_candidate_exists_it_says_so() -> None:
    """Everything else is there: the one thing missing is the candidate."""
    assert missing(changed(release=None)) == [("release-candidate-missing", "open_release_candidate")]


@pytest.mark.parametrize("service", gate.SOURCES)
def test_a_silent_source_denies(service: str) -> None:
    """What it decided in the meantime is unknown."""
    silent = tuple(
        msgspec.structs.replace(one, alive_at=later(seconds=-31)) if one.service == service else one
        for one in ALLOWED.sources
    )
    assert missing(changed(sources=silent)) == [("source-silent", "evaluate_gate")]
    without = tuple(one for one in ALLOWED.sources if one.service != service)
    assert ("source-silent", "evaluate_gate") in missing(changed(sources=without))


@pytest.mark.parametrize("service", ["releases", *gate.SOURCES])
def test_a_source_ahead_of_our_copy_denies(service: str) -> None:
    """It has said something that is not known here."""
    ahead = tuple(msgspec.structs.replace(one, head=11) if one.service == service else one for one in ALLOWED.sources)
    assert missing(changed(sources=ahead)) == [("source-behind", "evaluate_gate")]


@pytest.mark.parametrize("service", ["releases", *gate.SOURCES])
def test_an_event_that_could_not_be_read_denies(service: str) -> None:
    """It may have been a requirement, or a suspicion."""
    unread = tuple(msgspec.structs.replace(one, unread=7) if one.service == service else one for one in ALLOWED.sources)
    assert missing(changed(sources=unread)) == [("source-unreadable", "evaluate_gate")]


def test_verification_must_be_past_the_requirements_that_the_gate_has_seen() -> None:
    """Otherwise a suspicion could be on its way."""
    late = (*ALLOWED.sources[:3], source("verification", reacted=9))
    assert missing(changed(sources=late)) == [("source-behind", "evaluate_gate")]


def waived(**changes: Any) -> GateInputs:
    """REQ-1 is not met, and a waiver of R-1 allows that for a day."""
    waiver = gate.WaiverInput(key="W-1", kind="requirement", requirement="REQ-1", expires_at=later(days=1))
    return inputs(
        requirements=(requirement(standing=Standing(not_met="V-1")),),
        waivers=(msgspec.structs.replace(waiver, **changes),),
    )


def test_a_waiver_stands_in_for_its_requirement() -> None:
    """It is listed as used, and the answer holds no longer than it does."""
    answer = decide(waived()).answer
    assert (answer.allowed, answer.waivers) == (True, ("W-1",))
    soon = decide(waived(expires_at=later(seconds=5))).answer
    assert soon.valid_until == later(seconds=5)


def test_a_waiver_past_its_date_is_void_because_the_rule_compares_time() -> None:
    """No event says that it expired."""
    assert missing(changed(waived(), at=later(days=1)))[-3:] == [
        ("waiver-expired", "grant_waiver"), ("sign-off-outdated", "sign_off_release"), ("sign-off-outdated", "sign_off_release"),
    ]  # fmt: skip


def test_a_waiver_holds_for_its_requirement_only() -> None:
    """Another requirement stays unmet."""
    assert missing(waived(requirement="REQ-2")) == [("verification-not-met", "grant_waiver")]


def test_a_sign_off_under_an_ended_waiver_of_segregation_no_longer_counts() -> None:
    """The waiver opened the way only until its date."""
    waiver = gate.WaiverInput(key="W-2", kind="segregation of duties", requirement=None, expires_at=later(hours=1))
    evidence = decide(ALLOWED).evidence
    sign_offs = (sign_off_input("approver", evidence), sign_off_input("releaser", evidence, waiver="W-2"))
    start = changed(release=release_input(sign_offs), waivers=(waiver,))
    assert decide(start).answer.waivers == ("W-2",)
    assert ("waiver-expired", "sign_off_release") in missing(changed(start, at=later(hours=1)))
    assert missing(changed(start, waivers=())) == [("waiver-expired", "sign_off_release")]


def test_an_allow_holds_until_a_source_would_be_silent() -> None:
    """A deny has no end that time alone could bring."""
    assert decide(ALLOWED).answer.valid_until == NOW + gate.SILENCE_MAX
    assert decide(changed(release=None)).answer.valid_until is None


def test_the_decision_id_covers_rules_inputs_positions_and_time() -> None:
    """Whoever holds the inputs can compute it again, and no two moments share one."""
    answer = decide(ALLOWED).answer
    content = canonical_bytes({"inputs": ALLOWED, "rules": gate.RULES_VERSION})
    assert answer.decision_id == digest_of(content)
    moved = (source("releases", alive_at=None, head=11, position=11), *ALLOWED.sources[1:])
    others = [changed(at=later(seconds=1)), changed(sources=moved)]
    assert len({answer.decision_id, *(decide(other).answer.decision_id for other in others)}) == 3
    assert all(decide(other).answer.allowed for other in others)


STANDINGS = st.builds(
    Standing,
    met=st.sampled_from([(), (f"C1 flights@march {DATA_DIGEST}",)]),
    used=st.just(("V-1",)),
    not_met=st.sampled_from([None, "V-2"]),
    suspect=st.sampled_from([None, "V-3"]),
    inconclusive=st.sampled_from([None, "V-4"]),
)
WAIVERS = st.builds(
    gate.WaiverInput,
    key=st.sampled_from(["W-1", "W-2"]),
    kind=st.just("requirement"),
    requirement=st.sampled_from(["REQ-0", "REQ-1", "REQ-2"]),
    expires_at=st.sampled_from([later(hours=-1), later(hours=1)]),
)


@st.composite
def any_inputs(draw: st.DrawFn) -> GateInputs:
    """Inputs with any mixture of evidence, waivers, sign-offs and life of the sources."""
    count = draw(st.integers(0, 3))
    requirements = tuple(requirement(f"REQ-{n}", standing=draw(st.none() | STANDINGS)) for n in range(count))
    start = inputs(requirements=requirements, waivers=tuple(draw(st.lists(WAIVERS, max_size=3))))
    return changed(
        start,
        at=draw(st.sampled_from([NOW, later(seconds=20), later(hours=2)])),
        monitoring_plans=draw(st.sampled_from([(), ALLOWED.monitoring_plans])),
        release=draw(st.sampled_from([None, start.release, release_input(())])),
        model_versions=draw(st.sampled_from([(), ALLOWED.model_versions])),
    )


@examples(any_inputs())
def test_the_same_inputs_give_the_same_answer(start: GateInputs) -> None:
    """Also after a journey through bytes, as another reader of the inputs would have them."""
    again = msgspec.json.decode(msgspec.json.encode(start), type=GateInputs)
    assert decide(again) == decide(start)


@examples(any_inputs())
def test_it_allows_exactly_when_nothing_is_missing(start: GateInputs) -> None:
    """Each item is listed once, and an allow says until when."""
    answer = decide(start).answer
    assert answer.allowed == (answer.missing == ())
    assert len(set(answer.missing)) == len(answer.missing)
    assert (answer.valid_until is not None) == answer.allowed


def _without_sign_off(start: GateInputs, role: str) -> GateInputs:
    assert start.release is not None
    kept = tuple(one for one in start.release.sign_offs if one.role != role)
    return changed(start, release=msgspec.structs.replace(start.release, sign_offs=kept))


def _resigned(start: GateInputs) -> GateInputs:
    """The roles have signed what there is now."""
    assert start.release is not None
    evidence = decide(start).evidence
    signed = tuple(sign_off_input(role, evidence) for role in start.release.required_roles)
    return changed(start, release=msgspec.structs.replace(start.release, sign_offs=signed))


REMOVALS: dict[str, Callable[[GateInputs, str], GateInputs]] = {
    "monitoring-plan-missing": lambda start, _key: changed(start, monitoring_plans=()),
    "change-request-missing": lambda start, _key: changed(start, change=None),
    "sign-off-missing": lambda start, _key: _without_sign_off(start, "releaser"),
    "source-silent": lambda start, _key: changed(start, sources=start.sources[:-1]),
    "model-version-withdrawn": lambda start, _key: changed(
        start, model_versions=(msgspec.structs.replace(start.model_versions[0], withdrawn=True),)
    ),
    "requirement-unverified": lambda start, key: _resigned(
        changed(
            start,
            requirements=tuple(
                msgspec.structs.replace(one, standing=None) if one.key == key else one for one in start.requirements
            ),
        )
    ),
}


@examples(st.sampled_from(sorted(REMOVALS)), st.integers(1, 5), st.data())
def test_removing_one_satisfied_item_denies_with_exactly_that_item(code: str, count: int, data: st.DataObject) -> None:
    """The list is the smallest: what is there is not listed, what was taken away is, once."""
    requirements = tuple(requirement(f"REQ-{number}") for number in range(count))
    start = _resigned(replacing(requirements=requirements))
    assert decide(start).answer.allowed
    key = data.draw(st.sampled_from([one.key for one in requirements]))
    items: tuple[Missing, ...] = decide(REMOVALS[code](start, key)).answer.missing
    assert [item.code for item in items] == [code]
    if code == "requirement-unverified":
        assert items[0].record == f"requirement:flight-delay/{key}"
