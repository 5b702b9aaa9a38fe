"""Replay equals what was lived: the state after each command is the fold of what was stored, read back from its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import reduce
from typing import Any

import msgspec
from hypothesis import given as examples, strategies as st

from services.releases.domain import (
    change_plan,
    change_request,
    gate,
    model_version,
    nonconformity,
    release,
    release_decisions,
    sign_off,
    waiver,
)
from services.releases.published_events import FACTS, SERVICE
from shared.erasure import erasure_fact
from shared.errors import ProoftrailError
from shared.event import Fact
from shared.log.facts import log_facts
from tests.releases import test_change_plan as plans, test_change_request as changes, test_release as releases
from tests.releases.samples import (
    EVIDENCE,
    NOW,
    RECORD,
    inputs,
    later,
    opened,
    registered,
    sign_off_signature,
    signed,
)
from tests.releases.test_nonconformity import PLANNED, RAISED, VERIFIED
from tests.releases.test_waiver import CONTENT
from tests.round_trip import replayed

Decide = Callable[[Any], Sequence[Fact]]
Evolve = Callable[[Any, Fact], Any]

PEOPLE = ("ada", "ben", "rob", "cleo")


def lives(evolve: Evolve, commands: Sequence[Decide]) -> None:
    """Carries out the commands, refused ones without effect, and compares the state with the replay after each."""
    state, stored = None, list[Fact]()
    for decide in commands:
        try:
            facts = decide(state)
        except ProoftrailError:
            continue
        state = reduce(evolve, facts, state)
        stored += facts
        assert reduce(evolve, replayed(stored, fact_types=FACTS), None) == state


def sign(role: Any, name: str, *, word: Any) -> Decide:
    """The person signs or declines the release as it is."""

    def decide(state: release.Release | None) -> Sequence[Fact]:
        found = release.existing(state)
        signature = sign_off_signature(found, role=role, name=name)
        fields = {"role": role, "evidence": EVIDENCE, "record": RECORD, "signature": signature}
        return sign_off.sign_off(state, waivers=(), **fields) if word == "sign" else sign_off.decline(state, **fields)

    return decide


RELEASE_COMMANDS: list[Decide] = [
    lambda state: release_decisions.open_candidate(state, opened=opened()),
    lambda state: release_decisions.adopt(state, adopted=releases.ADOPTED, newest=None),
    lambda state: release_decisions.record_gate(state, decision=releases.DENIES),
    lambda state: release_decisions.record_gate(state, decision=gate.decide(inputs())),
    *(sign(role, name, word=word) for role in ("approver", "releaser") for name in PEOPLE[:3] for word in ("sign", "decline")),
    *(verb for verb, *_ in releases.VERBS.values()),
    lambda state: release_decisions.supersede(state, by="R-2"),
]  # fmt: skip


@examples(st.lists(st.sampled_from(RELEASE_COMMANDS), max_size=15))
def test_release(commands: list[Decide]) -> None:
    """Whatever is asked in whatever order."""
    lives(release.evolve, [RELEASE_COMMANDS[0], *commands])


@examples(st.permutations(RELEASE_COMMANDS))
def test_release_with_every_command(commands: list[Decide]) -> None:
    """Every command once, in any order."""
    lives(release.evolve, commands)


def judged(judge: Any, name: str) -> Decide:
    """The person signs for or against the change as it is."""

    def decide(state: Any) -> Sequence[Fact]:
        content = change_request.signable_bytes(change_request.existing(state), record=changes.RECORD)
        facts: Sequence[Fact] = judge(state, record=changes.RECORD, signature=signed(name, content))
        return facts

    return decide


def findings(outcome: Any) -> tuple[change_request.Finding, ...]:
    """One finding with the outcome."""
    return (msgspec.structs.replace(changes.MET, outcome=outcome),)


CHANGE_COMMANDS: list[Decide] = [
    lambda state: change_request.submit(state, submitted=changes.SUBMITTED),
    lambda state: change_request.classify(
        state,
        author="rita",
        classification="predetermined",
        plan=changes.PLAN,
        modification="retrain",
        impact_assessment="as planned",
    ),
    *(verb for verb, *_ in changes.VERBS.values()),
    *(judged(judge, name) for judge in (change_request.approve, change_request.reject) for name in PEOPLE[:2]),
    lambda state: change_request.implement(state, candidate="2", model_digest="d" * 64, findings=findings("not met")),
    lambda state: change_request.implement(state, candidate="2", model_digest="d" * 64, findings=findings("met")),
    lambda state: change_request.verify(state, verifications=("V-1",), findings=findings("not met")),
]


@examples(st.lists(st.sampled_from(CHANGE_COMMANDS), max_size=15))
def test_change_request(commands: list[Decide]) -> None:
    """Whatever is asked in whatever order."""
    lives(change_request.evolve, [CHANGE_COMMANDS[0], *commands])


def plan_approved(name: str) -> Decide:
    """The person signs the plan as it is."""

    def decide(state: Any) -> Sequence[Fact]:
        content = change_plan.signable_bytes(change_plan.existing(state), record=plans.RECORD)
        return change_plan.approve(state, record=plans.RECORD, signature=signed(name, content))

    return decide


def drafted(title: str, author: str) -> Decide:
    """The author drafts the plan under this title."""
    content = msgspec.structs.replace(plans.CONTENT, title=title)
    return lambda state: change_plan.draft(state, key="P-1", author=author, content=content)


@examples(st.lists(st.one_of(
    st.builds(drafted, st.sampled_from(["one", "two"]), st.sampled_from(PEOPLE)),
    st.builds(plan_approved, st.sampled_from(PEOPLE)),
)))  # fmt: skip
def test_change_plan(commands: list[Decide]) -> None:
    """Whatever is asked in whatever order."""
    lives(change_plan.evolve, commands)


def granted(name: str, expires_at: datetime) -> Decide:
    """The person grants a waiver until then."""
    content = msgspec.structs.replace(CONTENT, expires_at=expires_at)
    signature = signed(name, waiver.grant_bytes(content, record="w"))
    return lambda state: waiver.grant(state, content=content, record="w", signature=signature)


def revoked(name: str) -> Decide:
    """The person revokes the waiver as it is."""
    return lambda state: waiver.revoke(
        state, record="w", signature=signed(name, waiver.revocation_bytes(waiver.existing(state), record="w"))
    )


@examples(st.lists(st.one_of(
    st.builds(granted, st.sampled_from(PEOPLE), st.sampled_from([NOW, later(days=1), later(days=2)])),
    st.builds(revoked, st.sampled_from(PEOPLE)),
)))  # fmt: skip
def test_waiver(commands: list[Decide]) -> None:
    """Whatever is asked in whatever order."""
    lives(waiver.evolve, commands)


NONCONFORMITY_COMMANDS: list[Decide] = [
    lambda state: nonconformity.raise_nonconformity(state, raised=RAISED),
    lambda state: nonconformity.plan_corrective_action(state, planned=PLANNED, at=NOW),
    lambda state: nonconformity.plan_corrective_action(
        state, planned=msgspec.structs.replace(PLANNED, action="sign images"), at=NOW
    ),
    lambda state: nonconformity.verify_corrective_action(state, verified=VERIFIED),
]


@examples(st.lists(st.sampled_from(NONCONFORMITY_COMMANDS)))
def test_nonconformity(commands: list[Decide]) -> None:
    """Whatever is asked in whatever order."""
    lives(nonconformity.evolve, commands)


@examples(st.lists(st.sampled_from([
    lambda state: model_version.register(state, registered=registered()),
    lambda state: model_version.register(state, registered=registered(why="second")),
    model_version.withdraw,
])))  # fmt: skip
def test_model_version(commands: list[Decide]) -> None:
    """Whatever is asked in whatever order."""
    lives(model_version.evolve, commands)


def test_every_fact_of_the_service_survives_its_bytes() -> None:
    """A new event cannot be forgotten: the bytes of each are read back."""
    reached: set[str] = set()
    paths: list[tuple[Evolve, Sequence[Fact]]] = [
        *((release.evolve, facts) for facts in releases.STATUSES.values()),
        (release.evolve, (opened(), *sign_declined())),
        *((change_request.evolve, facts) for facts in changes.STATUSES.values()),
        (change_plan.evolve, (plans.DRAFTED, plans.approved())),
        (nonconformity.evolve, (RAISED, PLANNED, VERIFIED)),
        (model_version.evolve, (registered(), *model_version.withdraw(model_version.evolve(None, registered())))),
        (waiver.evolve, waiver_path()),
    ]
    for evolve, facts in paths:
        assert reduce(evolve, replayed(facts, fact_types=FACTS), None) == reduce(evolve, facts, None)
        reached |= {fact.TOPIC for fact in facts}
    shared = {fact.TOPIC for fact in (*log_facts(SERVICE), erasure_fact(SERVICE))}
    assert reached == {fact.TOPIC for fact in FACTS} - shared


def sign_declined() -> Sequence[Fact]:
    """Ben's no."""
    return sign("approver", "ben", word="decline")(release.evolve(None, opened()))


def waiver_path() -> Sequence[Fact]:
    """A waiver that was granted and revoked."""
    first = granted("ben", later(days=1))(None)
    return (*first, *revoked("ben")(reduce(waiver.evolve, first, None)))
