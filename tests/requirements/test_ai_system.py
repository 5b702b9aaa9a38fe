"""AiSystem: every verb in every status, who may grant, and that the bytes tell what was lived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import pytest
from hypothesis import given as examples, strategies as st

from services.requirements.domain import ai_system
from services.requirements.domain.ai_system import (
    ROLES,
    AiSystem,
    AiSystemExists,
    AiSystemMissing,
    AiSystemRegistered,
    IntendedUseRevised,
    LastOwner,
    OnlyOwnerGrants,
    RoleGranted,
    RoleNotHeld,
    RoleRevoked,
    UnknownRole,
)
from shared.access import Role
from shared.errors import ProoftrailError
from shared.event import Fact
from tests.round_trip import replayed

OWNER, ADA, BEN = "person-owner", "person-ada", "person-ben"
REGISTERED = AiSystemRegistered(
    key="flight-delay", name="Flight delay", intended_use="Warn passengers.", risk_class="limited", owner=OWNER
)
GRANTED = RoleGranted(subject=ADA, role="author")
REVOKED = RoleRevoked(subject=ADA, role="author")
CO_OWNER = RoleGranted(subject=ADA, role="owner")
STEPPED_DOWN = RoleRevoked(subject=OWNER, role="owner")
REVISED_BACK = IntendedUseRevised(intended_use="Warn passengers.", risk_class="limited")
REVISED = IntendedUseRevised(intended_use="Plan connections.", risk_class="high")

Verb = Callable[[AiSystem | None], Sequence[Fact]]


def given(*facts: Fact) -> AiSystem | None:
    """The AI system after these facts."""
    return reduce(ai_system.evolve, facts, None)


def register(**changes: Any) -> Verb:
    fields: dict[str, Any] = {
        "key": "flight-delay",
        "name": "Flight delay",
        "intended_use": "Warn passengers.",
        "risk_class": "limited",
        "owner": OWNER,
        **changes,
    }
    return lambda state: ai_system.register(state, **fields)


def revise(intended_use: str = "Plan connections.", risk_class: Any = "high", by: str = OWNER) -> Verb:
    return lambda state: ai_system.revise_intended_use(state, intended_use=intended_use, risk_class=risk_class, by=by)


def grant(subject: str = ADA, role: str = "author", by: str = OWNER) -> Verb:
    return lambda state: ai_system.grant_role(state, subject=subject, role=role, by=by)


def revoke(subject: str = ADA, role: str = "author", by: str = OWNER) -> Verb:
    return lambda state: ai_system.revoke_role(state, subject=subject, role=role, by=by)


def hand_over(to: str = BEN) -> Verb:
    return lambda state: ai_system.hand_over(state, to=to)


STATES: dict[str, Sequence[Fact]] = {
    "missing": (),
    "registered": (REGISTERED,),
    "granted": (REGISTERED, GRANTED),
    "revoked": (REGISTERED, GRANTED, REVOKED),
    "revised": (REGISTERED, REVISED),
    "shared": (REGISTERED, CO_OWNER),
    "handed over": (REGISTERED, CO_OWNER, STEPPED_DOWN),
}
TABLE: list[tuple[str, Verb, Any]] = [
    ("missing", register(), (REGISTERED,)),
    ("missing", revise(), AiSystemMissing),
    ("missing", grant(), AiSystemMissing),
    ("missing", revoke(), AiSystemMissing),
    ("registered", register(), ()),
    ("registered", register(name="Another"), AiSystemExists),
    ("registered", register(owner=ADA), AiSystemExists),
    ("registered", revise(), (REVISED,)),
    ("registered", revise("Warn passengers.", "limited"), ()),
    ("registered", grant(), (GRANTED,)),
    ("registered", revoke(), RoleNotHeld),
    ("granted", grant(), ()),
    ("granted", grant(role="approver"), (RoleGranted(subject=ADA, role="approver"),)),
    ("granted", revoke(), (REVOKED,)),
    ("granted", revoke(role="approver"), RoleNotHeld),
    ("granted", revoke(subject=BEN), RoleNotHeld),
    ("revoked", revoke(), RoleNotHeld),
    ("revoked", grant(), (GRANTED,)),
    ("revised", revise(), ()),
    ("revised", revise("Warn passengers.", "limited"), (REVISED_BACK,)),
    ("missing", hand_over(), AiSystemMissing),
    ("registered", grant(role="owner"), (CO_OWNER,)),
    ("registered", grant(OWNER, "owner"), ()),
    ("registered", revoke(OWNER, "owner"), LastOwner),
    ("registered", revoke(role="owner"), RoleNotHeld),
    ("registered", hand_over(), (RoleGranted(subject=BEN, role="owner"), STEPPED_DOWN)),
    ("shared", grant(role="owner"), ()),
    ("shared", revoke(OWNER, "owner"), (STEPPED_DOWN,)),
    ("shared", revoke(OWNER, "owner", by=ADA), (STEPPED_DOWN,)),
    ("shared", revise(by=ADA), (REVISED,)),
    ("shared", hand_over(ADA), (STEPPED_DOWN,)),
    ("handed over", revise(), OnlyOwnerGrants),
    ("handed over", grant(BEN, by=ADA), (RoleGranted(subject=BEN, role="author"),)),
    ("handed over", revoke(role="owner", by=ADA), LastOwner),
    ("handed over", grant(OWNER, "owner", by=ADA), (RoleGranted(subject=OWNER, role="owner"),)),
    ("handed over", hand_over(ADA), ()),
]  # fmt: skip


@pytest.mark.parametrize(("lived", "verb", "outcome"), TABLE)
def test_every_verb_in_every_status(lived: str, verb: Verb, outcome: Any) -> None:
    """Each transition is allowed with exactly these facts, or refused with exactly this error."""
    state = given(*STATES[lived])
    if isinstance(outcome, tuple):
        assert tuple(verb(state)) == outcome
        return
    with pytest.raises(outcome) as refused:
        verb(state)
    assert type(refused.value) is outcome
    assert refused.value.next_step


@pytest.mark.parametrize("verb", [grant(subject=BEN, by=ADA), revoke(by=ADA), revise(by=ADA)])
def test_only_the_owner_grants_revokes_and_revises(verb: Verb) -> None:
    """No other role makes an owner."""
    everything = [RoleGranted(subject=ADA, role=role) for role in sorted(ROLES - {"owner"})]
    with pytest.raises(OnlyOwnerGrants):
        verb(given(REGISTERED, *everything))


@pytest.mark.parametrize("verb", [grant, revoke])
@pytest.mark.parametrize("role", ["administrator", "", "Author", "Owner"])
def test_only_roles_of_the_house_are_granted(verb: Callable[..., Verb], role: str) -> None:
    """What nobody understands would deny for ever."""
    with pytest.raises(UnknownRole) as refused:
        verb(role=role)(given(REGISTERED))
    assert [error.field for error in refused.value.fields] == ["/role"]


def test_the_roles_granted_here_are_those_that_every_service_reads() -> None:
    """A role that is granted but not understood elsewhere would deny for ever."""
    assert {role.value for role in Role} == ROLES


def test_the_first_of_the_owners_is_shown_as_the_owner() -> None:
    """Who has answered for it longest, of those who do."""
    state = given(REGISTERED, CO_OWNER)
    assert state is not None
    assert (state.owner, state.owners, state.grants) == (OWNER, (OWNER, ADA), frozenset())
    handed_over = ai_system.evolve(state, STEPPED_DOWN)
    assert (handed_over.owner, handed_over.owners) == (ADA, (ADA,))


def test_a_grant_leaves_the_others_as_they_are() -> None:
    """Who may do what changes by exactly one pair."""
    state = given(REGISTERED, GRANTED, RoleGranted(subject=BEN, role="approver"), REVOKED)
    assert state is not None
    assert state.grants == {(BEN, "approver")}


@pytest.mark.parametrize("fact", [REVISED, GRANTED, REVOKED])
def test_nothing_comes_before_the_registration(fact: Fact) -> None:
    """A stream that does not begin with it is damage."""
    with pytest.raises(TypeError):
        given(fact)


PEOPLE = st.sampled_from([OWNER, ADA, BEN])
SOME_ROLES = st.sampled_from([*sorted(ROLES), "nobody"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
RISKS = st.sampled_from(["minimal", "limited", "high", "prohibited"])
COMMANDS = st.one_of(
    st.builds(register, intended_use=TEXTS | st.just("Warn passengers."), owner=PEOPLE),
    st.builds(revise, TEXTS, RISKS, PEOPLE),
    st.builds(grant, PEOPLE, SOME_ROLES, PEOPLE),
    st.builds(revoke, PEOPLE, SOME_ROLES, PEOPLE),
    st.builds(hand_over, PEOPLE),
)


@examples(st.lists(COMMANDS, max_size=30))
def test_replay_equals_what_was_lived(commands: Sequence[Verb]) -> None:
    """Folding the stored bytes gives the state that was decided on step by step, and evolve takes all that decide emits."""
    facts: list[Fact] = []
    state: AiSystem | None = None
    for command in commands:
        try:
            decided = command(state)
        except ProoftrailError:
            continue
        facts.extend(decided)
        state = reduce(ai_system.evolve, decided, state)
    assert given(*replayed(facts, fact_types=ai_system.FACTS)) == state
