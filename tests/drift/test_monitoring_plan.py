"""MonitoringPlan: every transition that is allowed, and every one that is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from services.drift.domain import monitoring_plan
from services.drift.domain.monitoring_plan import (
    AuthorCannotApprove,
    Definition,
    DigestMismatch,
    InvalidMonitoringPlan,
    MonitoringPlan,
    MonitoringPlanActivated,
    MonitoringPlanApproved,
    MonitoringPlanDeclined,
    MonitoringPlanDefined,
    MonitoringPlanMissing,
    NotWatchedThere,
    PlanNotInState,
    ReferenceOfOtherFeatures,
    ReferenceProfileMissing,
    ReferenceProfileSet,
    WatchedFeature,
)
from services.drift.published_events import FACTS
from shared.errors import ProoftrailError
from shared.event import Event, EventMapper, Fact
from tests.drift.facts import (
    DEFINITION,
    PROFILE,
    active,
    approved,
    defined,
    folded,
    person,
    referenced,
    set_reference,
    signature_over,
)

OTHER = msgspec.structs.replace(DEFINITION, tolerance=0.02)


def plan_after(*facts: Fact) -> MonitoringPlan:
    """The plan after these facts."""
    return monitoring_plan.existing(folded(monitoring_plan.evolve, *facts))


def declined() -> tuple[Fact, ...]:
    """A plan that an approver refused to sign."""
    plan = plan_after(*referenced(defined()))
    return (*referenced(defined()), *monitoring_plan.decline(plan, signature=signature_over(plan)))


STATES: dict[str, Callable[[], tuple[Fact, ...]]] = {
    "draft without reference": lambda: (defined(),),
    "draft": lambda: referenced(defined()),
    "declined": declined,
    "approved": approved,
    "active": active,
}
VERBS: dict[str, Callable[[MonitoringPlan], Sequence[Fact]]] = {
    "define the same": lambda plan: monitoring_plan.define(
        plan, key="MP-1", author="person:ada", definition=DEFINITION
    ),
    "define anew": lambda plan: monitoring_plan.define(plan, key="MP-1", author="person:ada", definition=OTHER),
    "set the same reference": set_reference,
    "set another reference": lambda plan: monitoring_plan.set_reference(
        plan, author="person:ada", digest="e" * 64, rows=10, chunks=0, features=PROFILE.features
    ),
    "approve": lambda plan: monitoring_plan.approve(plan, signature=signature_over(plan)),
    "decline": lambda plan: monitoring_plan.decline(plan, signature=signature_over(plan)),
    "activate": lambda plan: monitoring_plan.activate(plan, environment="production", release="R-1"),
    "activate elsewhere": lambda plan: monitoring_plan.activate(plan, environment="staging", release="R-1"),
}
DEFINED, SET, APPROVED = MonitoringPlanDefined, ReferenceProfileSet, MonitoringPlanApproved
DECLINED, ACTIVATED = MonitoringPlanDeclined, MonitoringPlanActivated
MISSING = ReferenceProfileMissing
# The facts by state and verb; an error stands for a refusal.
EXPECTED: dict[str, dict[str, tuple[type[Fact], ...] | type[ProoftrailError]]] = {
    "define the same": {
        "draft without reference": (), "draft": (), "declined": (DEFINED,), "approved": PlanNotInState, "active": PlanNotInState,
    },
    "define anew": {
        "draft without reference": (DEFINED,), "draft": (DEFINED,), "declined": (DEFINED,), "approved": PlanNotInState,
        "active": PlanNotInState,
    },
    "set the same reference": {
        "draft without reference": (SET,), "draft": (), "declined": (SET,), "approved": (), "active": (),
    },
    "set another reference": {
        "draft without reference": (SET,), "draft": (SET,), "declined": (SET,), "approved": PlanNotInState,
        "active": PlanNotInState,
    },
    "approve": {
        "draft without reference": MISSING, "draft": (APPROVED,), "declined": PlanNotInState, "approved": (), "active": (),
    },
    "decline": {
        "draft without reference": MISSING, "draft": (DECLINED,), "declined": PlanNotInState, "approved": PlanNotInState,
        "active": PlanNotInState,
    },
    "activate": {
        "draft without reference": PlanNotInState, "draft": PlanNotInState, "declined": PlanNotInState,
        "approved": (ACTIVATED,), "active": (),
    },
    "activate elsewhere": {
        "draft without reference": PlanNotInState, "draft": PlanNotInState, "declined": PlanNotInState,
        "approved": (ACTIVATED,), "active": (ACTIVATED,),
    },
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_in_every_state(state: str, verb: str) -> None:
    """Given the state, the verb gives exactly these facts, or is refused and gives none."""
    plan, expected = plan_after(*STATES[state]()), EXPECTED[verb][state]
    if isinstance(expected, tuple):
        assert tuple(type(fact) for fact in VERBS[verb](plan)) == expected
    else:
        with pytest.raises(expected) as refused:
            VERBS[verb](plan)
        assert refused.value.why
        assert refused.value.next_step


def test_a_new_plan_is_defined() -> None:
    """The first fact says everything about it."""
    facts = monitoring_plan.define(None, key="MP-1", author="person:ada", definition=DEFINITION)
    assert tuple(facts) == (defined(),)


@pytest.mark.parametrize(
    "verb",
    [
        lambda: monitoring_plan.activate(None, environment="production", release="R-1"),
        lambda: set_reference(None),
        lambda: monitoring_plan.approve(None, signature=signature_over(plan_after(*referenced(defined())))),
    ],
    ids=["activate", "set reference", "approve"],
)
def test_a_plan_that_was_never_defined_does_not_exist(verb: Callable[[], Any]) -> None:
    """Nothing can be done with it."""
    with pytest.raises(MonitoringPlanMissing):
        verb()


@pytest.mark.parametrize("author", ["person:ada", "person:ann", "person:ron"])
def test_an_author_never_approves(author: str) -> None:
    """Whoever defined it, redefined it, or set its reference is an author of it."""
    first = defined(author="person:ada")
    second = defined(OTHER, author="person:ann")
    facts = (first, second, *set_reference(plan_after(first, second), author="person:ron"))
    plan = plan_after(*facts)
    with pytest.raises(AuthorCannotApprove):
        monitoring_plan.approve(plan, signature=signature_over(plan, by=author.removeprefix("person:")))


def test_a_signature_covers_the_plan_with_its_reference() -> None:
    """A digest that was fetched before the reference changed signs nothing."""
    before = plan_after(*referenced(defined()))
    facts = (*referenced(defined()), *VERBS["set another reference"](before))
    with pytest.raises(DigestMismatch):
        monitoring_plan.approve(plan_after(*facts), signature=signature_over(before))


def test_defining_anew_throws_the_reference_away() -> None:
    """It was computed for other windows or features."""
    assert plan_after(*referenced(defined()), defined(OTHER)).reference is None


def test_a_reference_has_exactly_the_features_of_the_plan() -> None:
    """One more, one less, or one of another kind is refused."""
    plan = plan_after(defined(msgspec.structs.replace(DEFINITION, features=DEFINITION.features[:1])))
    with pytest.raises(ReferenceOfOtherFeatures):
        set_reference(plan)
    kinds = (WatchedFeature(name="x", kind="numeric"), WatchedFeature(name="y", kind="categorical"))
    with pytest.raises(ReferenceOfOtherFeatures):
        set_reference(plan_after(defined(msgspec.structs.replace(DEFINITION, features=kinds))))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"features": ()}, "/features"),
        ({"features": DEFINITION.features + DEFINITION.features}, "/features"),
        ({"slide_s": 7}, "/slide_s"),
        ({"window_s": 604_800, "slide_s": 60, "false_alarms_per_week": 0.5}, "/slide_s"),
        ({"false_alarms_per_week": 169.0}, "/false_alarms_per_week"),
        ({"false_alarms_per_week": 0.0}, "/false_alarms_per_week"),
        ({"tolerance": 0.0}, "/tolerance"),
        ({"tolerance": 1.5}, "/tolerance"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused(changes: dict[str, Any], field: str) -> None:
    """The field and the rule are named."""
    definition: Definition = msgspec.structs.replace(DEFINITION, **changes)
    with pytest.raises(InvalidMonitoringPlan) as refused:
        monitoring_plan.define(None, key="MP-1", author="person:ada", definition=definition)
    assert field in [error.field for error in refused.value.fields]


def test_a_plan_watches_only_where_it_was_activated() -> None:
    """Another environment is told where it does."""
    plan = plan_after(*active())
    assert plan.watch("production").release == "R-1"
    with pytest.raises(NotWatchedThere) as refused:
        plan.watch("staging")
    assert "production" in refused.value.next_step


def test_another_release_of_the_same_model_goes_on_watching() -> None:
    """The evidence so far stays."""
    plan = plan_after(*active())
    (again,) = monitoring_plan.activate(plan, environment="production", release="R-2")
    assert monitoring_plan.evolve(plan, again).watch("production").release == "R-2"


@given(st.lists(st.sampled_from(sorted(VERBS)), max_size=12))
def test_replay_equals_what_was_lived(verbs: list[str]) -> None:
    """The state after any commands is the fold of the stored bytes of their facts."""
    mapper = EventMapper(FACTS)
    plan, stored = plan_after(defined()), [_stored(mapper, defined(), 1)]
    for verb in verbs:
        try:
            facts = VERBS[verb](plan)
        except ProoftrailError:
            continue
        for fact in facts:
            plan = monitoring_plan.evolve(plan, fact)
            stored.append(_stored(mapper, fact, len(stored) + 1))
    assert folded(monitoring_plan.evolve, *(mapper.to_domain_event(event).data for event in stored)) == plan


def _stored(mapper: EventMapper, fact: Fact, version: int):  # type: ignore[no-untyped-def]
    return mapper.to_stored_event(
        Event(
            id=str(version),
            stream="monitoring-plan:flight-delay/MP-1",
            version=version,
            name=fact.TOPIC,
            schema=fact.SCHEMA,
            actor=person("ada"),
            reason="part of the test",
            correlation="c",
            causation=None,
            data=fact,
        )
    )
