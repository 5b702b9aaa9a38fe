"""The trace: a fold that gives the same state however it is split, keeps what it does not know, and survives any order."""

from __future__ import annotations

from hypothesis import given, strategies as st

from services.traceability.domain.gaps import gaps
from services.traceability.domain.matrix import rows
from services.traceability.domain.trace import STATUS_AFTER, Trace, state_digest
from tests.contracts.samples import facts
from tests.traceability.histories import BEGAN, Happened, complete, folded, requirement, suspect, verification


@given(st.permutations([*complete(), suspect()]))
def test_an_effect_that_arrives_before_its_cause_does_no_harm(events: list[Happened]) -> None:
    """Services are not in order with each other: any order can be folded, shown and asked for gaps."""
    trace = folded(*events)
    assert len(rows(trace, after="", limit=10)) == 1
    gaps(trace, at=BEGAN)
    assert len(trace.records) == 6


@given(st.permutations(complete()))
def test_services_that_arrive_in_another_order_end_in_the_same_matrix(events: list[Happened]) -> None:
    """As long as each service's own order is kept."""
    by_service: dict[str, list[Happened]] = {}
    for event in complete():
        by_service.setdefault(event[0].partition(".")[0], []).append(event)
    order = [event[0].partition(".")[0] for event in events]
    interleaved = [by_service[service].pop(0) for service in order]
    assert rows(folded(*interleaved), after="", limit=10) == rows(folded(*complete()), after="", limit=10)


def test_an_unknown_event_is_kept_and_shown() -> None:
    """A newer version may have written it; it changes no status and is not lost."""
    unknown: Happened = (
        "requirements.requirement-blessed",
        "requirement:loans/REQ-1",
        {"key": "REQ-1", "by": "somebody"},
    )
    record = folded(requirement(), unknown).records["requirement:loans/REQ-1"]
    assert record.status == "approved"
    assert record.events == [(1, "requirements.requirement-approved"), (2, "requirements.requirement-blessed")]
    assert record.fields["by"] == "somebody"


def test_another_history_has_another_state_digest() -> None:
    """The digest covers records, statuses, positions and roles."""
    assert state_digest(folded(*complete())) == state_digest(folded(*complete()))
    assert state_digest(folded(*complete())) != state_digest(folded(*complete(), suspect()))
    assert state_digest(folded(*complete())) != state_digest(folded(*complete()[:-1]))
    assert state_digest(Trace(system="loans")) != state_digest(folded(requirement()))


def test_every_status_is_entered_by_exactly_one_named_event_of_the_contract() -> None:
    """The table names only events that exist; a record's status comes from nowhere else."""
    known = {fact.TOPIC for _, fact in facts()}
    assert set(STATUS_AFTER) <= known


def test_a_page_of_the_matrix_begins_after_its_key_and_ends_at_its_limit() -> None:
    """Rows are in order of requirement, each with its own verifications."""
    keys = ["REQ-3", "REQ-1", "REQ-2"]
    trace = folded(*(requirement(key) for key in keys), *verification("VER-2", requirement="REQ-2"))
    assert [row.requirement for row in rows(trace, after="", limit=10)] == ["REQ-1", "REQ-2", "REQ-3"]
    (second,) = rows(trace, after="REQ-1", limit=1)
    assert second.requirement == "REQ-2"
    assert [cell.verification for cell in second.cells] == ["VER-2"]
    assert rows(trace, after="REQ-3", limit=10) == []
