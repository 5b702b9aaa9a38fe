"""Stored bytes never change: a golden file holds one example of every event of every version, for ever.

`python -m tests.contracts.test_golden_events` writes the files of new events; it never touches one that exists.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest
from eventsourcing.persistence import StoredEvent

from shared.event import Event, EventMapper, Fact
from shared.event_store import PostgresEventStore
from shared.runtime import migrate_service
from tests.contracts.samples import facts, sample_fact, stored_bytes
from tests.house import fresh_database

GOLDEN = Path(__file__).parent / "golden"


def golden_file(fact: type[Fact], schema: int) -> Path:
    """Where the example of one version of an event is kept."""
    return GOLDEN / f"{fact.TOPIC}.{schema}.json"


@pytest.mark.parametrize(("service", "fact"), [pytest.param(*one, id=one[1].TOPIC) for one in facts()])
async def test_the_example_is_written_as_the_golden_bytes(service: str, fact: type[Fact]) -> None:
    """A change of field, order, name or codec shows here before it reaches anybody's log."""
    assert await stored_bytes(service, sample_fact(fact)) == golden_file(fact, fact.SCHEMA).read_bytes()


@pytest.mark.parametrize(("service", "fact"), [pytest.param(*one, id=one[1].TOPIC) for one in facts()])
def test_every_version_that_was_ever_written_is_read(service: str, fact: type[Fact]) -> None:
    """Old versions through their upcasters; the current one comes back as it was."""
    for schema in range(1, fact.SCHEMA + 1):
        raw = golden_file(fact, schema).read_bytes()
        content = json.loads(raw)
        event = EventMapper([fact]).to_domain_event(
            StoredEvent(
                originator_id=content["stream"], originator_version=content["version"], topic=content["name"], state=raw
            )
        )
        assert isinstance(event, Event)
        assert content["service"] == service
        if schema == fact.SCHEMA:
            assert event.data == sample_fact(fact)


async def test_postgresql_stamps_the_same_bytes(server_url: str) -> None:
    """The function `append` writes what the store in memory writes, but for the time that it stamps."""
    service, fact = facts()[0]
    golden = golden_file(fact, fact.SCHEMA).read_bytes()
    content = json.loads(golden)
    async with fresh_database(server_url) as url:
        await migrate_service(url, service=service)
        async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
            mapper = EventMapper([fact])
            stored = StoredEvent(
                originator_id=content["stream"], originator_version=1, topic=content["name"], state=golden
            )
            event = mapper.to_domain_event(stored)
            store = PostgresEventStore(pool=pool, service=service, mapper=mapper)
            await store.append([event], record=event.stream, version=1, key=None)
            (recorded,) = await store.read(after=0, limit=1)
    time = recorded.content()["recorded_at"].encode()
    assert recorded.raw.replace(time, content["recorded_at"].encode(), 1) == golden


def test_no_golden_file_is_without_its_event() -> None:
    """Events are never removed: somebody's store may hold them."""
    known = {golden_file(fact, schema).name for _, fact in facts() for schema in range(1, fact.SCHEMA + 1)}
    assert {file.name for file in GOLDEN.glob("*.json")} == known


def test_stored_names_are_those_of_their_service_and_in_the_past_tense_of_the_contract() -> None:
    """`<service>.<event-in-kebab-case>`, each once."""
    names = [fact.TOPIC for _, fact in facts()]
    assert len(names) == len(set(names))
    for service, fact in facts():
        assert fact.TOPIC.startswith(f"{service}.")
        words = fact.TOPIC.partition(".")[2].split("-")
        assert "".join(word.capitalize() for word in words) == fact.__name__


def test_an_event_of_today_holds_no_name_of_a_person() -> None:
    """Fields that could hold one do not exist: people are subjects and commitments."""
    for _, fact in facts():
        content = json.loads(golden_file(fact, fact.SCHEMA).read_bytes())
        fields = {field for value in _nested(content) for field in value}
        assert not fields & {"printed_name", "email", "person_name", "signer_name", "display_name"}, fact.TOPIC


def _nested(value: object) -> list[dict[str, object]]:
    if isinstance(value, dict):
        return [value, *(inner for child in value.values() for inner in _nested(child))]
    if isinstance(value, list):
        return [inner for child in value for inner in _nested(child)]
    return []


def write_missing() -> list[str]:
    """Writes the golden files that are not there; returns their names."""
    GOLDEN.mkdir(exist_ok=True)
    written = []
    for service, fact in facts():
        file = golden_file(fact, fact.SCHEMA)
        if not file.exists():
            file.write_bytes(asyncio.run(stored_bytes(service, sample_fact(fact))))
            written.append(file.name)
    return written


if __name__ == "__main__":
    print("\n".join(write_missing()) or "every event has its golden file")
