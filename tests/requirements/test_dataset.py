"""Dataset: every verb in every status, that a version never changes, and that the bytes tell what was lived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import given as examples, strategies as st

from services.requirements.domain import dataset
from services.requirements.domain.dataset import (
    Dataset,
    DatasetExists,
    DatasetMissing,
    DatasetRegistered,
    DatasetWithdrawn,
    WithdrawnBefore,
)
from shared.errors import ProoftrailError
from shared.event import Fact
from tests.round_trip import replayed

REGISTERED = DatasetRegistered(
    name="flights",
    version="march",
    digest="a" * 64,
    rows=1000,
    columns=("carrier", "late"),
    purpose="test",
    provenance="collected by the airport",
    licence="CC0",
    sequestered=True,
    personal_data=False,
)
WITHDRAWN = DatasetWithdrawn(name="flights", version="march", digest="a" * 64)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
WITHDRAWN_LATE = msgspec.structs.replace(WITHDRAWN, effective_at=FEBRUARY)

Verb = Callable[[Dataset | None], Sequence[Fact]]


def given(*facts: Fact) -> Dataset | None:
    """The dataset version after these facts."""
    return reduce(dataset.evolve, facts, None)


def register(**changes: Any) -> Verb:
    registered = msgspec.structs.replace(REGISTERED, **changes)
    return lambda state: dataset.register(state, registered=registered)


def withdraw_from(moment: datetime) -> Verb:
    return lambda state: dataset.withdraw(state, effective_at=moment)


TABLE: list[tuple[Sequence[Fact], Verb, Any]] = [
    ((), register(), (REGISTERED,)),
    ((), dataset.withdraw, DatasetMissing),
    ((REGISTERED,), register(), ()),
    ((REGISTERED,), dataset.withdraw, (WITHDRAWN,)),
    ((REGISTERED, WITHDRAWN), dataset.withdraw, ()),
    ((REGISTERED, WITHDRAWN), register(), ()),
    ((REGISTERED,), withdraw_from(FEBRUARY), (WITHDRAWN_LATE,)),
    ((REGISTERED, WITHDRAWN_LATE), withdraw_from(FEBRUARY), ()),
    ((REGISTERED, WITHDRAWN_LATE), dataset.withdraw, ()),
    ((REGISTERED, WITHDRAWN_LATE), withdraw_from(FEBRUARY + timedelta(days=1)), WithdrawnBefore),
    ((REGISTERED, WITHDRAWN), withdraw_from(FEBRUARY), WithdrawnBefore),
    ((REGISTERED, WITHDRAWN), register(digest="b" * 64), DatasetExists),
]


@pytest.mark.parametrize(("lived", "verb", "outcome"), TABLE)
def test_every_verb_in_every_status(lived: Sequence[Fact], verb: Verb, outcome: Any) -> None:
    """Each transition is allowed with exactly these facts, or refused with exactly this error."""
    state = given(*lived)
    if isinstance(outcome, tuple):
        assert tuple(verb(state)) == outcome
        return
    with pytest.raises(outcome) as refused:
        verb(state)
    assert type(refused.value) is outcome
    assert refused.value.next_step


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "b" * 64}, {"rows": 1001}, {"columns": ("late", "carrier")}, {"purpose": "training"},
        {"provenance": "bought"}, {"licence": "unknown"}, {"sequestered": False}, {"personal_data": True},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_version_never_changes(change: dict[str, Any]) -> None:
    """Not its bytes, and no word that was said of them either."""
    with pytest.raises(DatasetExists):
        register(**change)(given(REGISTERED))


def test_a_withdrawn_version_stays_withdrawn() -> None:
    """Registering it again is a repeat of what was said, not a way back."""
    state = given(REGISTERED, WITHDRAWN)
    assert reduce(dataset.evolve, register()(state), state) == state
    assert state is not None
    assert state.withdrawn


def test_nothing_comes_before_the_registration() -> None:
    """A stream that does not begin with it is damage."""
    with pytest.raises(TypeError):
        given(WITHDRAWN)


COMMANDS = st.one_of(
    st.just(dataset.withdraw),
    st.builds(
        register,
        rows=st.sampled_from([1, 10**12]),
        columns=st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=3).map(tuple),
        purpose=st.sampled_from(["training", "tuning", "test"]),
        provenance=st.text(st.characters(codec="utf-8"), max_size=5),
    )
    | st.just(register()),
)


@examples(st.lists(COMMANDS, max_size=10))
def test_replay_equals_what_was_lived(commands: Sequence[Verb]) -> None:
    """Folding the stored bytes gives the state that was decided on step by step, and evolve takes all that decide emits."""
    facts: list[Fact] = []
    state: Dataset | None = None
    for command in commands:
        try:
            decided = command(state)
        except ProoftrailError:
            continue
        facts.extend(decided)
        state = reduce(dataset.evolve, decided, state)
    assert given(*replayed(facts, fact_types=dataset.FACTS)) == state
