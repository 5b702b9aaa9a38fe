"""Events and their bytes: written once, the same everywhere, and read only by those who know them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import given, strategies as st

from shared.event import (
    RECORD_BYTES_MAX,
    Actor,
    Event,
    EventMapper,
    EventTooLarge,
    Fact,
    FactNotWritable,
    Signature,
    UnknownEventName,
    Upcaster,
    canonical_bytes,
    digest_of,
    key_of,
    leaf_hash_of,
    stream_of,
    system_of,
)
from shared.log.tile_paths import ENTRY_BYTES_MAX

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ACTOR = Actor(subject="person-1", kind="person", issuer="https://issuer.test", auth_time=NOW, name_commitment="a" * 64)


class Measured(Fact, frozen=True, kw_only=True):
    """A fact with one of everything."""

    TOPIC: ClassVar[str] = "verification.measured"
    metric: str
    value: float
    level: float | None = None
    slices: tuple[str, ...] = ()
    counts: Mapping[str, int] = {}
    names: frozenset[str] = frozenset()
    signature: Signature | None = None


class NamedOnce(Fact, frozen=True, kw_only=True):
    """The first version: one name."""

    TOPIC: ClassVar[str] = "verification.named"
    name: str


def _split(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data["name"].partition(" ")
    return {"first": first, "last": last}


def _count(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "letters": {"first": len(data["first"]), "last": len(data["last"])}}


class Named(Fact, frozen=True, kw_only=True):
    """The third version: two names, and their lengths."""

    TOPIC: ClassVar[str] = "verification.named"
    SCHEMA: ClassVar[int] = 3
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: _split, 2: _count}
    first: str
    last: str
    letters: Mapping[str, int]


MAPPER = EventMapper([Measured, Named])


def event(fact: Fact, **changes: Any) -> Event:
    """The fact in an envelope."""
    plain = Event(
        id="e-1",
        stream="run:s/R1",
        version=1,
        name=fact.TOPIC,
        schema=fact.SCHEMA,
        actor=ACTOR,
        reason="because",
        correlation="c",
        causation=None,
        data=fact,
    )
    return msgspec.structs.replace(plain, **changes)


def stored(state: bytes, **changes: Any) -> StoredEvent:
    """The row that holds these bytes."""
    return StoredEvent(
        **{
            "originator_id": "run:s/R1",
            "originator_version": 1,
            "topic": "verification.measured",
            "state": state,
            **changes,
        }
    )


MEASURED = Measured(metric="recall", value=0.7)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)
FACTS = st.builds(
    Measured,
    metric=TEXTS,
    value=FINITE,
    level=st.none() | FINITE,
    slices=st.lists(TEXTS, max_size=3).map(tuple),
    counts=st.dictionaries(TEXTS, st.integers(-(2**63), 2**63 - 1), max_size=3),
    names=st.frozensets(TEXTS, max_size=3),
    signature=st.none()
    | st.builds(
        Signature,
        signer=st.just(ACTOR),
        meaning=TEXTS,
        signed_at=st.datetimes(timezones=st.just(UTC)),
        digest=TEXTS,
        covers=st.lists(TEXTS, max_size=2).map(tuple),
    ),
)


@given(FACTS, TEXTS, st.integers(1, 2**31))
def test_an_event_comes_back_from_its_bytes(fact: Measured, reason: str, version: int) -> None:
    """All of it: envelope, actor, fact, and the same bytes again."""
    written = event(fact, reason=reason, version=version)
    row = MAPPER.to_stored_event(written)
    assert (row.originator_id, row.originator_version, row.topic) == (written.stream, version, Measured.TOPIC)
    assert MAPPER.to_domain_event(row) == written
    assert MAPPER.to_stored_event(MAPPER.to_domain_event(row)).state == row.state


def test_the_bytes_are_these() -> None:
    """Logs and signatures commit to them; a change of one byte is a change of the contract."""
    fact = Measured(
        metric="räuber\n", value=1e-7, slices=("b", "a"), counts={"2": 1, "1": 2}, names=frozenset({"z", "y", "x"})
    )
    assert MAPPER.to_stored_event(event(fact)).state.decode() == (
        '{"id":"e-1","stream":"run:s/R1","version":1,"name":"verification.measured","schema":1,'
        '"actor":{"subject":"person-1","kind":"person","issuer":"https://issuer.test",'
        '"auth_time":"2026-03-01T12:00:00.123456Z","on_behalf_of":null,'
        '"name_commitment":"' + "a" * 64 + '"},'
        '"reason":"because","correlation":"c","causation":null,'
        '"data":{"metric":"räuber\\n","value":1e-7,"level":null,"slices":["b","a"],"counts":{"1":2,"2":1},'
        '"names":["x","y","z"],"signature":null}}'
    )


@pytest.mark.parametrize(
    "fact",
    [
        Measured(metric="recall", value=math.nan),
        Measured(metric="recall", value=math.inf),
        Measured(metric="recall", value=0.7, level=-math.inf),
        Measured(metric="recall", value=0.7, level=math.nan),
        Measured(metric="recall", value=0.7, slices=["a"]),  # type: ignore[arg-type]
        Measured(metric=7, value=0.7),  # type: ignore[arg-type]
        Measured(metric="recall", value="0.7"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_would_come_back_as_something_else_is_not_written(fact: Fact) -> None:
    """A NaN would be null for ever, and a stream with it could not be read."""
    with pytest.raises(FactNotWritable):
        MAPPER.to_stored_event(event(fact))


def test_an_event_of_somebody_else_is_not_written() -> None:
    """A service writes the facts of its own contract only."""

    class Foreign(Fact, frozen=True, kw_only=True):
        TOPIC: ClassVar[str] = "releases.foreign"

    for stranger in (event(Foreign()), event(MEASURED, name="verification.unheard")):
        with pytest.raises(UnknownEventName):
            MAPPER.to_stored_event(stranger)
    with pytest.raises(UnknownEventName):
        MAPPER.to_stored_event(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["verification.unheard", "tests.shared.test_event:Measured", "os:system", ""])
def test_a_name_that_is_not_on_the_list_is_never_imported(name: str) -> None:
    """Neither a name of a newer version nor a path of Python."""
    state = MAPPER.to_stored_event(event(MEASURED)).state.replace(b"verification.measured", name.encode())
    with pytest.raises(UnknownEventName):
        MAPPER.to_domain_event(stored(state, topic=name))


@pytest.mark.parametrize(
    "row", [{"originator_id": "run:s/R2"}, {"originator_version": 2}, {"topic": "verification.named"}], ids=str
)
def test_bytes_that_tell_another_event_than_their_row_are_refused(row: dict[str, Any]) -> None:
    """Somebody moved them."""
    state = MAPPER.to_stored_event(event(MEASURED)).state
    assert MAPPER.to_domain_event(stored(state)).data == MEASURED
    with pytest.raises(UnknownEventName, match="another event") as refused:
        MAPPER.to_domain_event(stored(state, **row))
    assert "altered" in refused.value.next_step


def test_the_stamp_of_the_store_is_no_part_of_the_event() -> None:
    """The mapper reads past what the store puts in front."""
    state = MAPPER.to_stored_event(event(MEASURED)).state
    stamped = b'{"service":"verification","position":7,"recorded_at":"2026-03-01T12:00:00Z",' + state[1:]
    assert MAPPER.to_domain_event(stored(stamped)) == event(MEASURED)


def test_old_versions_are_brought_forward_step_by_step() -> None:
    """What was written stays as it is; what is read is today's fact."""
    old = EventMapper([NamedOnce]).to_stored_event(event(NamedOnce(name="Ada Lovelace")))
    read = MAPPER.to_domain_event(old)
    assert read.data == Named(first="Ada", last="Lovelace", letters={"first": 3, "last": 8})
    assert read.schema == 1
    second = msgspec.json.encode({**msgspec.json.decode(old.state), "schema": 2, "data": {"first": "Ada", "last": "L"}})
    assert MAPPER.to_domain_event(stored(second, topic=Named.TOPIC)).data == Named(
        first="Ada", last="L", letters={"first": 3, "last": 1}
    )


def test_a_version_from_the_future_is_refused() -> None:
    """Its new fields would be lost without a word."""
    newer = MAPPER.to_stored_event(event(Named(first="Ada", last="L", letters={})))
    with pytest.raises(UnknownEventName, match="schema 3"):
        EventMapper([NamedOnce]).to_domain_event(newer)


def test_fields_that_a_reader_does_not_know_do_not_disturb_it() -> None:
    """A field may be added without a new version."""
    state = msgspec.json.decode(MAPPER.to_stored_event(event(MEASURED)).state)
    state["data"]["colour"], state["weather"] = "red", "fair"
    assert MAPPER.to_domain_event(stored(msgspec.json.encode(state))).data == MEASURED


def test_the_hashes_are_those_of_the_standards() -> None:
    """SHA-256, and the leaf hash of RFC 6962, 2.1, computed here apart."""
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert leaf_hash_of(b"abc") == hashlib.sha256(b"\0abc").hexdigest()
    assert leaf_hash_of(b"") == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(st.dictionaries(TEXTS, FINITE | TEXTS | st.none() | st.booleans(), max_size=5), st.randoms())
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(value: dict[str, Any], random: Any) -> None:
    """The same content is the same digest."""
    keys = list(value)
    random.shuffle(keys)
    assert canonical_bytes({key: value[key] for key in keys}) == canonical_bytes(value)
    assert msgspec.json.decode(canonical_bytes(value)) == value


@pytest.mark.parametrize(
    ("stream", "system", "key"),
    [
        ("requirement:flight-delay/REQ-1", "flight-delay", "REQ-1"),
        ("dataset:flight-delay/flights@march", "flight-delay", "flights@march"),
        ("ai-system:flight-delay", "flight-delay", ""),
        ("log::requirements", None, ""),
    ],
)
def test_a_stream_says_whose_it_is(stream: str, system: str | None, key: str) -> None:
    """Kind, AI system and key are in its name."""
    assert (system_of(stream), key_of(stream)) == (system, key)


def test_streams_are_named_in_one_way() -> None:
    """As the contracts between the services write them."""
    assert stream_of(kind="requirement", system="flight-delay", key="REQ-1") == "requirement:flight-delay/REQ-1"
    assert stream_of(kind="ai-system", system="flight-delay") == "ai-system:flight-delay"
    assert stream_of(kind="log", system=None, key="requirements") == "log::requirements"


def test_what_no_entry_of_a_log_can_hold_is_refused() -> None:
    """One byte more than fits; and the largest stamps that the store can write fit into what is left for them."""
    mapper = EventMapper([Measured])

    def event(length: int) -> Event:
        return Event(
            id="e", stream="run:s/R", version=1, name=Measured.TOPIC, schema=1, actor=ACTOR, reason="r",
            correlation="c", causation=None, data=Measured(metric="m" * length, value=0.5),
        )  # fmt: skip

    empty = len(mapper.to_stored_event(event(0)).state)
    assert len(mapper.to_stored_event(event(RECORD_BYTES_MAX - empty)).state) == RECORD_BYTES_MAX
    with pytest.raises(EventTooLarge, match="65,036 bytes, and an event can have 65,035") as refused:
        mapper.to_stored_event(event(RECORD_BYTES_MAX - empty + 1))
    assert "evidence file" in refused.value.next_step
    stamps = (
        f'{{"service":"{"s" * 40}","position":{2**63},"recorded_at":"2026-01-01T00:00:00.000000Z","system":"{"s" * 63}",'
        f'"system_sequence":{2**63},"system_previous":"{"0" * 64}",'
    )
    assert len(stamps) + RECORD_BYTES_MAX <= ENTRY_BYTES_MAX
