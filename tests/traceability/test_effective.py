"""The second time axis: since when each kind of fact is true, and what was true at t as known at t', against a naive oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from services.traceability.domain.effective import BEGINNING, CONSEQUENCES, FROM_THE_START, told, true_from
from services.traceability.domain.gaps import gaps
from services.traceability.domain.trace import STATUS_AFTER, Trace, apply, pass_over, state_digest
from tests.contracts.samples import facts
from tests.traceability.histories import BEGAN, codes, complete

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Told:
    """One event as the ledger holds it; `hour` is when it was recorded, `since` what it states of itself."""

    name: str
    stream: str
    hour: int
    since: int | None = None
    cause: int | None = None

    @property
    def recorded_at(self) -> datetime:
        """The time of recording."""
        return BEGAN + self.hour * HOUR

    def content(self, number: int) -> dict[str, Any]:
        """The event as JSON values; its id is its number."""
        data: dict[str, Any] = {"key": self.stream.partition("/")[2], "model_digest": "d", "requirement": "REQ-1"}
        if self.since is not None:
            data["effective_at"] = (BEGAN + self.since * HOUR).isoformat()
        return {
            "id": str(number), "service": self.name.partition(".")[0], "position": number, "name": self.name,
            "stream": self.stream, "causation": None if self.cause is None else str(self.cause), "data": data,
        }  # fmt: skip


def since_of(*entries: Told) -> list[float]:
    """Since which hour each of the entries is true; they are numbered from 1."""
    found = true_from(
        [told(recorded_at=one.recorded_at, content=one.content(number)) for number, one in enumerate(entries, start=1)]
    )
    return [(moment - BEGAN) / HOUR for moment in found]


def seen(entries: Sequence[Told], *, at: int) -> Trace:
    """What was true at the hour, as far as these entries tell."""
    trace = Trace(system="loans")
    contents = [one.content(number) for number, one in enumerate(entries, start=1)]
    since = true_from([told(recorded_at=e.recorded_at, content=c) for e, c in zip(entries, contents, strict=True)])
    for number, (entry, content, begun) in enumerate(zip(entries, contents, since, strict=True), start=1):
        fold = apply if begun <= BEGAN + at * HOUR else pass_over
        fold(trace, position=number, recorded_at=entry.recorded_at, content=content)
    return trace


def statuses(trace: Trace) -> dict[str, str]:
    """The status of each record."""
    return {stream: record.status for stream, record in trace.records.items()}


RELEASE, RUN, DATASET, CHECK = (
    "release:loans/R-1",
    "evaluation-run:loans/RUN-1",
    "dataset:loans/D@1",
    "verification:loans/V-1",
)

KINDS: list[tuple[str, list[Told], list[float]]] = [
    ("recorded when it happened", [Told("requirements.requirement-approved", "requirement:loans/REQ-1", 5)], [5]),
    ("told late", [Told("requirements.dataset-withdrawn", DATASET, 9, since=2)], [2]),
    (
        "no event of a record is true before the one ahead of it",
        [Told("releases.release-approved", RELEASE, 4), Told("releases.release-deployed", RELEASE, 9, since=2)],
        [4, 4],
    ),
    (
        "a voided run was void from its recording on",
        [Told("verification.evaluation-run-recorded", RUN, 3), Told("verification.evaluation-run-voided", RUN, 9)],
        [3, 3],
    ),
    (
        "suspicion is as old as its cause",
        [
            Told("verification.verification-approved", CHECK, 1),
            Told("requirements.dataset-withdrawn", DATASET, 8, since=4),
            Told("verification.verification-marked-suspect", CHECK, 9, cause=2),
        ],
        [1, 4, 4],
    ),
    (
        "but not older than the approval that it doubts",
        [
            Told("requirements.dataset-withdrawn", DATASET, 8, since=4),
            Told("verification.verification-approved", CHECK, 6),
            Told("verification.verification-marked-suspect", CHECK, 9, cause=1),
        ],
        [4, 6, 6],
    ),
    (
        "a cause that arrives after its consequence counts as well",
        [
            Told("verification.verification-marked-suspect", CHECK, 9, cause=2),
            Told("requirements.dataset-withdrawn", DATASET, 8, since=4),
        ],
        [4, 4],
    ),
    (
        "a cause that is not known yet cannot be dated",
        [Told("verification.verification-marked-suspect", CHECK, 9, cause=7)],
        [9],
    ),
    (
        "causes in a circle end",
        [
            Told("verification.verification-marked-suspect", CHECK, 8, cause=2),
            Told("verification.verification-marked-suspect", "verification:loans/V-2", 9, cause=1),
        ],
        [8, 8],
    ),
]


@pytest.mark.parametrize(("entries", "expected"), [one[1:] for one in KINDS], ids=[one[0] for one in KINDS])
def test_each_kind_of_fact_is_true_from_a_moment_of_its_own(entries: list[Told], expected: list[float]) -> None:
    """One line of the definition each."""
    assert since_of(*entries) == expected


@pytest.mark.parametrize("odd", [7, None, "soon", "2026-01-01T00:00:00", {"at": 1}])
def test_what_an_unknown_event_calls_effective_at_does_no_harm(odd: object) -> None:
    """It is true from its recording."""
    content = Told("requirements.something-new", DATASET, 3).content(1)
    content["data"]["effective_at"] = odd
    assert told(recorded_at=BEGAN, content=content).stated is None


def test_windows_and_signals_of_production_are_dated_by_their_windows() -> None:
    """They are judged after their window has ended, and say when it did."""
    end = (BEGAN - 3 * HOUR).isoformat()
    for name, field in (("drift.drift-window-closed", "end"), ("drift.drift-signal-raised", "window_end")):
        content = {**Told(name, "monitoring-plan:loans/P-1", 0).content(1), "data": {field: end}}
        assert told(recorded_at=BEGAN, content=content).stated == BEGAN - 3 * HOUR


def test_every_name_of_the_definition_is_an_event_of_the_contract() -> None:
    """And every event that may be told late is read by the name of its field."""
    known = {fact.TOPIC: fact for _, fact in facts()}
    assert {*CONSEQUENCES, *FROM_THE_START} <= set(known)
    late = [name for name, fact in known.items() if "effective_at" in fact.__struct_fields__]
    assert len(late) == 8
    for name in late:
        content = {**Told(name, "x:loans/1", 5).content(1), "data": {"effective_at": BEGAN.isoformat()}}
        assert told(recorded_at=BEGAN + HOUR, content=content).stated == BEGAN


def test_what_is_learnt_late_changes_what_was_true_and_not_what_was_known() -> None:
    """The dataset was withdrawn in hour 9 for reasons that hold since hour 4; at hour 6 nobody knew."""
    history = [
        Told("requirements.dataset-registered", DATASET, 1),
        Told("verification.verification-approved", CHECK, 3),
        Told("requirements.dataset-withdrawn", DATASET, 9, since=4),
        Told("verification.verification-marked-suspect", CHECK, 9, cause=3),
    ]
    assert statuses(seen(history[:2], at=6)) == {DATASET: "registered", CHECK: "approved"}
    assert statuses(seen(history, at=6)) == {DATASET: "withdrawn", CHECK: "suspect"}
    assert statuses(seen(history, at=3)) == {DATASET: "registered", CHECK: "approved"}
    assert statuses(seen(history, at=0)) == {}


def test_gaps_are_those_of_the_moment() -> None:
    """Before the release of a complete history went out it was no gap that nobody had verified it."""
    entries = [
        (number, content, BEGAN + number * HOUR)
        for number, (name, stream, data) in enumerate(complete(), start=1)
        for content in [{**Told(name, stream, number).content(number), "data": data}]
    ]
    trace = Trace(system="loans")
    for number, content, at in entries:
        fold = pass_over if content["name"].startswith("verification.verification") else apply
        fold(trace, position=number, recorded_at=at, content=content)
    assert codes(gaps(trace, at=BEGAN)) == ["criterion-unverified"]


LIVES: list[tuple[str, list[tuple[str, bool]]]] = [
    (DATASET, [("requirements.dataset-registered", False), ("requirements.dataset-withdrawn", True)]),
    (
        RELEASE,
        [
            ("releases.release-candidate-opened", False), ("releases.release-approved", False),
            ("releases.release-deployed", True), ("releases.release-suspended", True), ("releases.release-withdrawn", True),
        ],
    ),
    (RUN, [("verification.evaluation-run-recorded", False), ("verification.evaluation-run-voided", False)]),
    (
        CHECK,
        [
            ("verification.verification-recorded", False), ("verification.verification-approved", False),
            ("verification.verification-marked-suspect", False), ("verification.suspicion-cleared", False),
            ("verification.verification-marked-suspect", False),
        ],
    ),
]  # fmt: skip
"""Records with their events in order, and whether each may be told late."""


@st.composite
def ledgers(draw: st.DrawFn) -> list[Told]:
    """Lives that were cut off anywhere and interleaved in any way, recorded at any hour, told late or not, with any cause."""
    left = {stream: life[: draw(st.integers(0, len(life)))] for stream, life in LIVES}
    ledger: list[Told] = []
    while streams := sorted(stream for stream, life in left.items() if life):
        stream = draw(st.sampled_from(streams))
        (name, late), *left[stream] = left[stream]
        hour = draw(st.integers(0, 40))
        since = draw(st.none() | st.integers(0, hour)) if late else None
        cause = draw(st.integers(1, 14)) if name in CONSEQUENCES else None
        ledger.append(Told(name, stream, hour, since=since, cause=cause))
    return ledger


def oracle_since(ledger: Sequence[Told], number: int) -> datetime:
    """The definition word for word, for the entry of this number; nothing is remembered, and circles are not met."""
    entry = ledger[number - 1]
    own = entry.recorded_at
    if entry.since is not None:
        own = BEGAN + entry.since * HOUR
    elif entry.name in FROM_THE_START:
        own = BEGINNING
    elif entry.cause is not None and entry.cause <= len(ledger):
        own = oracle_since(ledger, entry.cause)
    ahead = [other for other in range(1, number) if ledger[other - 1].stream == entry.stream]
    return max(own, oracle_since(ledger, ahead[-1])) if ahead else own


def is_circular(ledger: Sequence[Told], number: int, asked: frozenset[int] = frozenset()) -> bool:
    """Whether an entry's date would depend on itself: no service writes that."""
    if number in asked:
        return True
    entry = ledger[number - 1]
    ahead = [other for other in range(1, number) if ledger[other - 1].stream == entry.stream][-1:]
    causes = [entry.cause] if entry.cause is not None and entry.cause <= len(ledger) else []
    return any(is_circular(ledger, other, asked | {number}) for other in ahead + causes)


def oracle_statuses(ledger: Sequence[Told], at: int) -> dict[str, str]:
    """The status that the last true event of each record gives."""
    found: dict[str, str] = {}
    for number, entry in enumerate(ledger, start=1):
        if oracle_since(ledger, number) <= BEGAN + at * HOUR:
            found[entry.stream] = STATUS_AFTER[entry.name]
    return found


@given(ledger=ledgers(), known=st.integers(0, 14), at=st.integers(-1, 41))
def test_what_was_true_at_t_as_known_at_another_t_is_what_the_definition_says(
    ledger: list[Told], known: int, at: int
) -> None:
    """For any history, any position up to which it is known, and any moment."""
    ledger = ledger[:known]
    assume(not any(is_circular(ledger, number) for number in range(1, len(ledger) + 1)))
    assert statuses(seen(ledger, at=at)) == oracle_statuses(ledger, at)


@given(ledger=ledgers())
def test_after_everything_has_begun_the_moment_makes_no_difference(ledger: list[Told]) -> None:
    """The two axes agree: the state as of now is the plain fold."""
    plain = Trace(system="loans")
    for number, entry in enumerate(ledger, start=1):
        apply(plain, position=number, recorded_at=entry.recorded_at, content=entry.content(number))
    assert state_digest(seen(ledger, at=41)) == state_digest(plain)
