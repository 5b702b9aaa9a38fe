"""DriftSignal: every transition that is allowed, and every one that is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, strategies as st

from services.drift.domain import drift_signal
from services.drift.domain.drift_signal import (
    DriftSignal,
    DriftSignalAcknowledged,
    DriftSignalDismissed,
    DriftSignalEscalated,
    DriftSignalMissing,
    DriftSignalResolved,
    OnlyPersonsTriage,
    SignalNotInState,
)
from services.drift.published_events import FACTS
from shared.event import Event, EventMapper, Fact
from tests.drift.facts import ASSISTANT, NOW, RAISED, folded, person, signal_in

RITA = person("rita")
STATUSES = ("open", "acknowledged", "dismissed", "escalated", "resolved")
Verb = Callable[[DriftSignal | None], Sequence[Fact]]

VERBS: dict[str, Verb] = {
    "acknowledge": lambda signal: drift_signal.acknowledge(signal, by=RITA),
    "dismiss": lambda signal: drift_signal.dismiss(signal, by=RITA),
    "escalate": lambda signal: drift_signal.escalate(signal, to="change request", by=RITA),
    "escalate to nonconformity": lambda signal: drift_signal.escalate(signal, to="nonconformity", by=RITA),
    "escalate overdue": lambda signal: drift_signal.escalate_overdue(signal, at=NOW),
    "resolve": lambda signal: drift_signal.resolve(signal, change_request="CR-1"),
}

ACKNOWLEDGED = DriftSignalAcknowledged(key="MP-1-S1", by=RITA.subject)
DISMISSED = DriftSignalDismissed(key="MP-1-S1", by=RITA.subject)
ESCALATED = DriftSignalEscalated(
    key="MP-1-S1",
    plan="MP-1",
    model="delay",
    version="1",
    model_digest="d" * 64,
    environment="production",
    to="change request",
    by=RITA.subject,
    by_deadline=False,
)
NONCONFORMITY = msgspec.structs.replace(ESCALATED, to="nonconformity")
OVERDUE = msgspec.structs.replace(ESCALATED, by=None, by_deadline=True)
RESOLVED = DriftSignalResolved(key="MP-1-S1", change_request="CR-1", nonconformity=None)

ALLOWED: dict[tuple[str, str], tuple[Fact, ...]] = {
    ("open", "acknowledge"): (ACKNOWLEDGED,),
    ("open", "dismiss"): (DISMISSED,),
    ("open", "escalate"): (ESCALATED,),
    ("open", "escalate to nonconformity"): (NONCONFORMITY,),
    ("open", "escalate overdue"): (OVERDUE,),
    ("acknowledged", "acknowledge"): (),
    ("acknowledged", "dismiss"): (DISMISSED,),
    ("acknowledged", "escalate"): (ESCALATED,),
    ("acknowledged", "escalate to nonconformity"): (NONCONFORMITY,),
    ("acknowledged", "escalate overdue"): (OVERDUE,),
    ("dismissed", "dismiss"): (),
    ("dismissed", "escalate overdue"): (),
    ("escalated", "escalate"): (),
    ("escalated", "escalate to nonconformity"): (NONCONFORMITY,),
    ("escalated", "escalate overdue"): (),
    ("escalated", "resolve"): (RESOLVED,),
    ("resolved", "escalate"): (),
    ("resolved", "escalate overdue"): (),
    ("resolved", "resolve"): (),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_in_every_status(status: str, verb: str) -> None:
    """Given a signal in the status, the verb gives exactly these facts, or is refused and gives none."""
    signal = signal_in(status)
    expected = ALLOWED.get((status, verb))
    if expected is None:
        with pytest.raises(SignalNotInState) as refused:
            VERBS[verb](signal)
        assert status in refused.value.what
        assert refused.value.next_step
    else:
        assert tuple(VERBS[verb](signal)) == expected


@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_that_no_window_raised_does_not_exist(verb: str) -> None:
    """Nothing can be decided about it."""
    with pytest.raises(DriftSignalMissing):
        VERBS[verb](None)


@pytest.mark.parametrize(
    "verb",
    [
        lambda signal: drift_signal.acknowledge(signal, by=ASSISTANT),
        lambda signal: drift_signal.dismiss(signal, by=ASSISTANT),
        lambda signal: drift_signal.escalate(signal, to="change request", by=ASSISTANT),
    ],
    ids=["acknowledge", "dismiss", "escalate"],
)
def test_only_persons_triage(verb: Verb) -> None:
    """Acknowledging, dismissing and escalating need a person, or a deadline that passed."""
    with pytest.raises(OnlyPersonsTriage):
        verb(signal_in("open"))


def test_nothing_escalates_before_its_deadline() -> None:
    """The rule compares the time; it does not wait for a clock to announce it."""
    raised = msgspec.structs.replace(RAISED, triage_until=NOW + timedelta(seconds=1))
    signal = folded(drift_signal.evolve, raised)
    assert drift_signal.escalate_overdue(signal, at=NOW) == ()
    (escalated,) = drift_signal.escalate_overdue(signal, at=NOW + timedelta(seconds=1))
    assert isinstance(escalated, DriftSignalEscalated)
    assert (escalated.by_deadline, escalated.by) == (True, None)


def test_a_signal_is_raised_once() -> None:
    """Seen again, it raises nothing."""
    assert tuple(drift_signal.raise_signal(None, raised=RAISED)) == (RAISED,)
    assert drift_signal.raise_signal(signal_in("dismissed"), raised=RAISED) == ()


def test_every_signal_has_a_way_to_its_end() -> None:
    """From each status that is no end, some verb leads on: no signal ends nowhere."""
    for status in ("open", "acknowledged", "escalated"):
        assert signal_in(status).stands
        assert any(ALLOWED.get((status, verb)) for verb in VERBS)
    assert not signal_in("dismissed").stands
    assert not signal_in("resolved").stands


@given(st.lists(st.sampled_from(sorted(VERBS)), max_size=12))
def test_replay_equals_what_was_lived(verbs: list[str]) -> None:
    """The state after any commands is the fold of the stored bytes of their facts."""
    mapper = EventMapper(FACTS)
    signal, stored = folded(drift_signal.evolve, RAISED), [_stored(mapper, RAISED, 1)]
    for verb in verbs:
        try:
            facts = VERBS[verb](signal)
        except SignalNotInState:
            continue
        for fact in facts:
            signal = drift_signal.evolve(signal, fact)
            stored.append(_stored(mapper, fact, len(stored) + 1))
    assert folded(drift_signal.evolve, *(mapper.to_domain_event(event).data for event in stored)) == signal


def _stored(mapper: EventMapper, fact: Fact, version: int):  # type: ignore[no-untyped-def]
    return mapper.to_stored_event(
        Event(
            id=str(version),
            stream="drift-signal:flight-delay/MP-1-S1",
            version=version,
            name=fact.TOPIC,
            schema=fact.SCHEMA,
            actor=RITA,
            reason="part of the test",
            correlation="c",
            causation=None,
            data=fact,
        )
    )
