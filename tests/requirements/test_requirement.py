"""Requirement: every verb in every status, the invariants, and that the bytes tell what was lived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import given as examples, strategies as st

from services.requirements.domain import requirement
from services.requirements.domain.acceptance_criterion import (
    CRITERIA_MAX,
    METRICS,
    AcceptanceCriterion,
    InvalidCriterion,
)
from services.requirements.domain.requirement import (
    AcceptanceCriterionRevised,
    AuthorCannotApprove,
    Content,
    DigestMismatch,
    NoCriteria,
    Requirement,
    RequirementApproved,
    RequirementDrafted,
    RequirementMissing,
    RequirementRejected,
    RequirementRetired,
    RequirementSubmitted,
    RequirementSuperseded,
    RevisionNotInState,
    WrongClassification,
    signable_digest,
)
from shared.errors import ProoftrailError
from shared.event import Fact, Signature
from tests.requirements.samples import CONTENT, CRITERION, content, criterion, signature
from tests.round_trip import replayed

AUTHOR, CO_AUTHOR, APPROVER = "person-author", "person-co-author", "person-approver"
OTHER = content(statement="Recall is at least 0.80.", criteria=(criterion(threshold=0.8),))

Verb = Callable[[Requirement | None], Sequence[Fact]]


def given(*facts: Fact) -> Requirement | None:
    """The requirement after these facts."""
    return reduce(requirement.evolve, facts, None)


def after(*verbs: Verb) -> Requirement | None:
    """The requirement after these verbs, each decided on what the ones before left."""
    state: Requirement | None = None
    for verb in verbs:
        state = reduce(requirement.evolve, verb(state), state)
    return state


def draft(classification: Any, said: Content = OTHER, by: str = AUTHOR) -> Verb:
    return lambda state: requirement.draft(state, key="REQ-1", classification=classification, author=by, content=said)


def revise(changed: AcceptanceCriterion, by: str = AUTHOR) -> Verb:
    return lambda state: requirement.revise_criterion(state, author=by, criterion=changed)


def seen(state: Requirement | None, by: str) -> Signature:
    """The signature of somebody who signs exactly the latest revision."""
    digest = signable_digest(state, state.latest.number) if state else "0" * 64
    return signature(by=by, digest=digest)


def approve(state: Requirement | None, by: str = APPROVER) -> Sequence[Fact]:
    return requirement.approve(state, signature=seen(state, by))


def reject(state: Requirement | None, by: str = APPROVER) -> Sequence[Fact]:
    return requirement.reject(state, signature=seen(state, by))


def retire(state: Requirement | None, by: str = APPROVER) -> Sequence[Fact]:
    return requirement.retire(state, signature=seen(state, by))


SUBMIT: Verb = requirement.submit
FIRST = (draft("initial", CONTENT), SUBMIT)
SECOND = (draft("material", content(title="Finds almost all late flights")), SUBMIT)
STATES: dict[str, Sequence[Verb]] = {
    "missing": (),
    "draft": FIRST[:1],
    "in review": FIRST,
    "rejected": (*FIRST, reject),
    "approved": (*FIRST, approve),
    "approved, with a draft": (*FIRST, approve, *SECOND[:1]),
    "approved, with a revision in review": (*FIRST, approve, *SECOND),
    "approved twice": (*FIRST, approve, *SECOND, approve),
    "retired": (*FIRST, approve, retire),
}
VERBS: dict[str, Verb] = {
    "draft initial": draft("initial"),
    "draft material": draft("material"),
    "draft editorial": draft("editorial"),
    "revise a criterion": revise(criterion(key="C2", metric="auroc")),
    "submit": SUBMIT,
    "approve": approve,
    "reject": reject,
    "retire": retire,
}
REPEAT: tuple[type[Fact], ...] = ()
WRONG, MISSING, NOT_NOW = WrongClassification, RequirementMissing, RevisionNotInState
DRAFTED, REVISED, SUBMITTED = (RequirementDrafted,), (AcceptanceCriterionRevised,), (RequirementSubmitted,)
APPROVED, REJECTED, RETIRED = (RequirementApproved,), (RequirementRejected,), (RequirementRetired,)
REPLACED = (RequirementApproved, RequirementSuperseded)
OUTCOMES: dict[str, tuple[Any, ...]] = {
    "missing": (DRAFTED, WRONG, WRONG, MISSING, MISSING, MISSING, MISSING, MISSING),
    "draft": (DRAFTED, WRONG, WRONG, REVISED, SUBMITTED, NOT_NOW, NOT_NOW, NOT_NOW),
    "in review": (NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, REPEAT, APPROVED, REJECTED, NOT_NOW),
    "rejected": (DRAFTED, WRONG, WRONG, REVISED, SUBMITTED, NOT_NOW, NOT_NOW, NOT_NOW),
    "approved": (WRONG, DRAFTED, DRAFTED, NOT_NOW, NOT_NOW, REPEAT, NOT_NOW, RETIRED),
    "approved, with a draft": (WRONG, DRAFTED, DRAFTED, REVISED, SUBMITTED, NOT_NOW, NOT_NOW, NOT_NOW),
    "approved, with a revision in review": (
        NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, REPEAT, REPLACED, REJECTED, NOT_NOW,
    ),
    "approved twice": (WRONG, DRAFTED, DRAFTED, NOT_NOW, NOT_NOW, REPEAT, NOT_NOW, RETIRED),
    "retired": (NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, REPEAT),
}  # fmt: skip
TABLE = [
    pytest.param(STATES[state], VERBS[verb], outcome, id=f"{verb} when {state}")
    for state, outcomes in OUTCOMES.items()
    for verb, outcome in zip(VERBS, outcomes, strict=True)
]


@pytest.mark.parametrize(("lived", "verb", "outcome"), TABLE)
def test_every_verb_in_every_status(lived: Sequence[Verb], verb: Verb, outcome: Any) -> None:
    """Each transition is allowed with exactly these facts, or refused with exactly this error."""
    state = after(*lived)
    if isinstance(outcome, tuple):
        assert tuple(type(fact) for fact in verb(state)) == outcome
        return
    with pytest.raises(outcome) as refused:
        verb(state)
    assert type(refused.value) is outcome
    assert refused.value.why
    assert refused.value.next_step


@pytest.mark.parametrize("verb", [approve, reject])
def test_the_author_of_a_revision_never_decides_on_it(verb: Callable[..., Sequence[Fact]]) -> None:
    """Approving is the deed of another person, and so is sending back."""
    with pytest.raises(AuthorCannotApprove):
        verb(after(*FIRST), by=AUTHOR)


def test_whoever_wrote_one_criterion_is_an_author() -> None:
    """A small share in the text is a share in the text."""
    state = after(draft("initial", CONTENT), revise(criterion(threshold=0.9), by=CO_AUTHOR), SUBMIT)
    with pytest.raises(AuthorCannotApprove):
        approve(state, by=CO_AUTHOR)


def test_authors_of_a_rejected_draft_stay_authors() -> None:
    """Going through another person's hands does not wash authorship off."""
    state = after(*FIRST, reject, draft("initial", OTHER, by=CO_AUTHOR), SUBMIT)
    for person in (AUTHOR, CO_AUTHOR):
        with pytest.raises(AuthorCannotApprove):
            approve(state, by=person)


def test_the_author_of_the_revision_before_may_approve_the_next() -> None:
    """Authorship belongs to a revision, so two people can review each other."""
    state = after(*FIRST, approve, draft("material", OTHER, by=APPROVER), SUBMIT)
    assert len(approve(state, by=AUTHOR)) == 2


@pytest.mark.parametrize("verb", [requirement.approve, requirement.reject])
def test_a_digest_of_something_else_decides_nothing(verb: Callable[..., Sequence[Fact]]) -> None:
    """A signature covers exactly the bytes that the signer was shown."""
    before, now = after(*FIRST), after(*FIRST, reject, draft("initial"), SUBMIT)
    with pytest.raises(DigestMismatch):
        verb(now, signature=seen(before, APPROVER))


def test_retiring_needs_the_digest_of_the_revision_in_force() -> None:
    """Nobody retires what they did not read."""
    with pytest.raises(DigestMismatch):
        requirement.retire(after(*FIRST, approve), signature=seen(after(*FIRST, approve, *SECOND), APPROVER))


@pytest.mark.parametrize(
    "changed",
    [
        {"title": "x"}, {"statement": "x"}, {"rationale": "x"}, {"quality_characteristic": "x"}, {"controls": ()},
        {"evaluation_approach": "x"}, {"criteria": (criterion(threshold=0.71),)},
        {"criteria": (criterion(sample_size_rationale="x"),)},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_the_digest_covers_every_field(changed: dict[str, Any]) -> None:
    """No word of a revision can be changed under a signature."""
    digests = {
        seen(state, APPROVER).digest
        for state in (after(draft("initial", CONTENT)), after(draft("initial", content(**changed))))
    }
    assert len(digests) == 2


def test_the_digest_covers_number_and_classification() -> None:
    """The same words as another revision, or as another class of change, are another record."""
    first = after(*FIRST, approve)
    assert first is not None
    material, editorial = after(*FIRST, approve, draft("material")), after(*FIRST, approve, draft("editorial"))
    digests = {seen(state, APPROVER).digest for state in (after(draft("initial")), material, editorial)}
    assert len(digests) == 3


def test_content_stands_still_while_it_is_reviewed() -> None:
    """What the approver reads is what was submitted."""
    submitted = requirement.submit(after(draft("initial", CONTENT)))
    assert [fact.digest for fact in submitted if isinstance(fact, RequirementSubmitted)] == [
        seen(after(*FIRST), APPROVER).digest
    ]


def test_the_old_revision_stays_in_force_until_the_new_one_is_approved() -> None:
    """A change in the making changes nothing yet."""
    for verbs in ((*FIRST, approve, *SECOND[:1]), (*FIRST, approve, *SECOND), (*FIRST, approve, *SECOND, reject)):
        state = after(*verbs)
        assert state is not None
        assert state.in_force is not None
        assert (state.in_force.number, state.in_force.content) == (1, CONTENT)
    state = after(*FIRST, approve, *SECOND, approve)
    assert state is not None
    assert state.in_force is not None
    assert (state.in_force.number, state.revisions[1].status) == (2, "superseded")


def test_the_superseding_says_what_kind_of_change_it_was() -> None:
    """Verification reads from it whether what rests on the old revision becomes suspect."""
    _, superseded = approve(after(*FIRST, approve, *SECOND))
    assert superseded == RequirementSuperseded(key="REQ-1", revision=1, by_revision=2, classification="material")


def test_the_approval_repeats_the_criteria() -> None:
    """A reader of the event needs no other one."""
    (approved,) = approve(after(*FIRST))
    assert isinstance(approved, RequirementApproved)
    assert (approved.criteria, approved.title, approved.revision) == (CONTENT.criteria, CONTENT.title, 1)


def test_a_requirement_that_nothing_can_decide_is_not_submitted() -> None:
    """Without a criterion there is nothing to measure."""
    with pytest.raises(NoCriteria):
        requirement.submit(after(draft("initial", content(criteria=()))))


def test_repeats_cause_no_event() -> None:
    """The same words again, by whomever, are no change."""
    state = after(draft("initial", CONTENT))
    assert draft("initial", CONTENT, by=CO_AUTHOR)(state) == ()
    assert revise(CRITERION, by=CO_AUTHOR)(state) == ()


def test_a_criterion_replaces_the_one_of_its_key() -> None:
    """Revising is not adding, and the others stay as they are."""
    state = after(draft("initial", CONTENT), revise(criterion(key="C0")), revise(criterion(threshold=0.9)))
    assert state is not None
    assert [(one.key, one.threshold) for one in state.latest.content.criteria] == [("C0", 0.7), ("C1", 0.9)]


def test_a_broken_criterion_is_named_where_the_request_has_it() -> None:
    """The pointer leads into the body that was sent, not into the requirement that would result."""
    state = after(draft("initial", CONTENT), revise(criterion(key="C0")))
    with pytest.raises(InvalidCriterion) as refused:
        revise(criterion(key="C9", threshold=7.0))(state)
    assert [error.field for error in refused.value.fields] == ["/criterion/threshold"]
    with pytest.raises(InvalidCriterion) as refused:
        draft("initial", content(criteria=(CRITERION, criterion(key="C2", threshold=7.0))))(None)
    assert [error.field for error in refused.value.fields] == ["/criteria/1/threshold"]


def test_criteria_cannot_be_added_without_end() -> None:
    """One by one is no way around the limit of a draft."""
    full = content(criteria=tuple(criterion(key=f"C{number:04}") for number in range(CRITERIA_MAX)))
    with pytest.raises(InvalidCriterion) as refused:
        revise(criterion(key="one-more"))(after(draft("initial", full)))
    assert refused.value.fields[0].rule == f"at most {CRITERIA_MAX} criteria"
    assert revise(criterion(key="C0001", threshold=0.9))(after(draft("initial", full)))


def test_a_fact_that_cannot_follow_is_no_state() -> None:
    """A stream that does not begin with a draft is damage, not a requirement."""
    with pytest.raises(TypeError):
        given(RequirementSubmitted(revision=1, digest="0" * 64))


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
CRITERIA = st.builds(
    criterion,
    key=st.sampled_from(["C1", "C2", "C3"]),
    metric=st.sampled_from([*sorted(METRICS), "vibes"]),
    comparator=st.sampled_from([">=", ">", "<=", "<"]),
    threshold=st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1),
    unit=TEXTS,
    slice=st.sampled_from(["overall", "carrier=UA", "="]),
    decision_rule=st.sampled_from(["point", "confidence bound"]),
    level=st.none() | st.floats(0, 1),
    minimum_sample_size=st.integers(-1, 10**12),
)
CONTENTS = st.builds(
    content, title=TEXTS, statement=TEXTS, criteria=st.lists(CRITERIA, max_size=2).map(tuple) | st.just((CRITERION,))
)
PEOPLE = st.sampled_from([AUTHOR, CO_AUTHOR, APPROVER])
CLASSIFICATIONS = st.sampled_from(["initial", "material", "editorial"])
COMMANDS = st.one_of(
    st.builds(draft, CLASSIFICATIONS, CONTENTS | st.sampled_from([CONTENT, OTHER]), PEOPLE),
    st.builds(revise, CRITERIA | st.just(CRITERION), PEOPLE),
    st.just(SUBMIT),
    st.builds(lambda verb, by: lambda state: verb(state, by), st.sampled_from([approve, reject, retire]), PEOPLE),
)


@examples(st.lists(COMMANDS, max_size=30))
def test_replay_equals_what_was_lived(commands: Sequence[Verb]) -> None:
    """Folding the stored bytes gives the state that was decided on step by step, and evolve takes all that decide emits."""
    facts: list[Fact] = []
    state: Requirement | None = None
    signed: dict[int, Any] = {}
    for command in commands:
        try:
            decided = command(state)
        except ProoftrailError:
            continue
        for fact in decided:
            state = requirement.evolve(state, fact)
            facts.append(fact)
            if isinstance(fact, RequirementApproved):
                signed[fact.revision] = state.revisions[fact.revision].content
    assert given(*replayed(facts, fact_types=requirement.FACTS)) == state
    if state is not None:
        assert {number: state.revisions[number].content for number in signed} == signed
        assert sum(revision.status == "approved" for revision in state.revisions.values()) <= 1
        for revision in state.revisions.values():
            assert msgspec.json.decode(msgspec.json.encode(revision), type=type(revision)) == revision
