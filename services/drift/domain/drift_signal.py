"""DriftSignal: a detected difference with its test and effect, triaged by people (ISO/IEC 42001, 10.2; EU AI Act, 72).

No signal ends nowhere: it is dismissed by a person with a reason, or it is escalated, by a person or by its deadline, and resolved
by what the escalation led to.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias

import msgspec

from shared.errors import Conflict, NotFound, Refused
from shared.event import Actor, Fact

Status: TypeAlias = Literal["open", "acknowledged", "dismissed", "escalated", "resolved"]
Destination: TypeAlias = Literal["change request", "nonconformity"]

STANDING: frozenset[Status] = frozenset({"open", "acknowledged", "escalated"})
"""While a signal has one of these statuses, its plan raises no other one in that environment."""


class DriftSignalMissing(NotFound):
    """There is no such drift signal."""


class SignalNotInState(Conflict):
    """The verb does not fit the status of the signal."""


class OnlyPersonsTriage(Refused):
    """Acknowledging, dismissing and escalating need a person."""


class SignalFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature that drifted: effect (PSI), test (the p-value against the tolerance) and the channel with most evidence."""

    name: str
    psi: float | None
    psi_debiased: float | None
    p_value: float | None
    channel: str
    channel_p_value: float | None
    evidence: float


class DriftSignalRaised(Fact, frozen=True, kw_only=True):
    """`features` are those that drifted, the most evident first. After `triage_until` the signal escalates by itself."""

    TOPIC: ClassVar[str] = "drift.drift-signal-raised"
    key: str
    plan: str
    model: str
    version: str
    model_digest: str
    environment: str
    release: str
    features: tuple[SignalFeature, ...]
    evidence: float
    threshold: float
    window_start: datetime
    window_end: datetime
    owner: str
    triage_until: datetime


class DriftSignalAcknowledged(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "drift.drift-signal-acknowledged"
    key: str
    by: str


class DriftSignalDismissed(Fact, frozen=True, kw_only=True):
    """The reason stands in the envelope. The features stay muted until windows no longer show the difference."""

    TOPIC: ClassVar[str] = "drift.drift-signal-dismissed"
    key: str
    by: str


class DriftSignalEscalated(Fact, frozen=True, kw_only=True):
    """`by_deadline` says that nobody decided in time; `by` is then None."""

    TOPIC: ClassVar[str] = "drift.drift-signal-escalated"
    key: str
    plan: str
    model: str
    version: str
    model_digest: str
    environment: str
    to: Destination
    by: str | None
    by_deadline: bool


class DriftSignalResolved(Fact, frozen=True, kw_only=True):
    """Exactly one of the two is named: what the escalation led to, and whose closure resolves the signal."""

    TOPIC: ClassVar[str] = "drift.drift-signal-resolved"
    key: str
    change_request: str | None
    nonconformity: str | None


FACTS = (
    DriftSignalRaised,
    DriftSignalAcknowledged,
    DriftSignalDismissed,
    DriftSignalEscalated,
    DriftSignalResolved,
)


class DriftSignal(msgspec.Struct, frozen=True, kw_only=True):
    """The state. `escalated_to` is None unless it was escalated, `resolved_by` the record that resolved it."""

    raised: DriftSignalRaised
    status: Status
    acknowledged_by: str | None = None
    escalated_to: Destination | None = None
    by_deadline: bool = False
    resolved_by: str | None = None

    @property
    def stands(self) -> bool:
        """Whether it keeps its plan from raising another one."""
        return self.status in STANDING


def raise_signal(signal: DriftSignal | None, *, raised: DriftSignalRaised) -> Sequence[Fact]:
    """A new signal; a repeat raises nothing."""
    return () if signal is not None else (raised,)


def acknowledge(signal: DriftSignal | None, *, by: Actor) -> Sequence[Fact]:
    """Somebody looks into it; the deadline stays."""
    signal = existing(signal)
    _require_person(by)
    if signal.status == "acknowledged":
        return ()
    _require_status(signal, "open", verb="acknowledge")
    return (DriftSignalAcknowledged(key=signal.raised.key, by=by.subject),)


def dismiss(signal: DriftSignal | None, *, by: Actor) -> Sequence[Fact]:
    """The difference is no problem, says a person, with the reason in the envelope."""
    signal = existing(signal)
    _require_person(by)
    if signal.status == "dismissed":
        return ()
    _require_status(signal, "open", "acknowledged", verb="dismiss")
    return (DriftSignalDismissed(key=signal.raised.key, by=by.subject),)


def escalate(signal: DriftSignal | None, *, to: Destination, by: Actor) -> Sequence[Fact]:
    """A person makes it a change request or a nonconformity.

    A signal whose change request came to nothing may still become a nonconformity.
    """
    signal = existing(signal)
    _require_person(by)
    if signal.escalated_to == to:
        return ()
    if not (signal.status == "escalated" and to == "nonconformity"):
        _require_status(signal, "open", "acknowledged", verb="escalate")
    return (_escalated(signal, to=to, by=by.subject),)


def escalate_overdue(signal: DriftSignal | None, *, at: datetime) -> Sequence[Fact]:
    """What happens when nobody decided in time; nothing before the deadline or once it was decided."""
    signal = existing(signal)
    if signal.status not in ("open", "acknowledged") or at < signal.raised.triage_until:
        return ()
    return (_escalated(signal, to="change request", by=None),)


def resolve(
    signal: DriftSignal | None, *, change_request: str | None = None, nonconformity: str | None = None
) -> Sequence[Fact]:
    """What the escalation led to is closed."""
    signal = existing(signal)
    if signal.status == "resolved":
        return ()
    _require_status(signal, "escalated", verb="resolve")
    return (DriftSignalResolved(key=signal.raised.key, change_request=change_request, nonconformity=nonconformity),)


def existing(signal: DriftSignal | None) -> DriftSignal:
    """The signal, or DriftSignalMissing."""
    if signal is None:
        raise DriftSignalMissing(
            "There is no such drift signal.", why="No window raised it.", next_step="List the signals."
        )
    return signal


def _escalated(signal: DriftSignal, *, to: Destination, by: str | None) -> DriftSignalEscalated:
    raised = signal.raised
    return DriftSignalEscalated(
        key=raised.key,
        plan=raised.plan,
        model=raised.model,
        version=raised.version,
        model_digest=raised.model_digest,
        environment=raised.environment,
        to=to,
        by=by,
        by_deadline=by is None,
    )


def _require_person(actor: Actor) -> None:
    if actor.kind != "person":
        raise OnlyPersonsTriage(
            "A service cannot triage a drift signal.",
            why="Acknowledging, dismissing and escalating need a person and a reason.",
            next_step="Have a person decide; after the deadline the signal escalates by itself.",
        )


def _require_status(signal: DriftSignal, *wanted: Status, verb: str) -> None:
    if signal.status not in wanted:
        raise SignalNotInState(
            f"You cannot {verb} {signal.raised.key}: it is {signal.status}.",
            why="The signal would have to be " + " or ".join(wanted) + ".",
            next_step="Read the signal; what was decided stays, a new difference raises a new signal.",
        )


def evolve(signal: DriftSignal | None, fact: Fact) -> DriftSignal:
    """The state after one more fact."""
    if isinstance(fact, DriftSignalRaised):
        return DriftSignal(raised=fact, status="open")
    if signal is None:
        raise TypeError(f"{fact!r} cannot come first")
    match fact:
        case DriftSignalAcknowledged():
            return msgspec.structs.replace(signal, status="acknowledged", acknowledged_by=fact.by)
        case DriftSignalDismissed():
            return msgspec.structs.replace(signal, status="dismissed")
        case DriftSignalEscalated():
            return msgspec.structs.replace(
                signal, status="escalated", escalated_to=fact.to, by_deadline=fact.by_deadline
            )
        case DriftSignalResolved():
            return msgspec.structs.replace(
                signal, status="resolved", resolved_by=fact.change_request or fact.nonconformity
            )
    raise TypeError(f"{fact!r} is no fact of a drift signal")
