"""A person is forgotten in every service: no table, answer, pack or log line has the name, and every proof still holds."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.composition import SERVICES, House, offline_house
from services.data_command import follow_erasures
from shared.command import CommandContext
from shared.directory import changes_of, commit
from shared.erasure import SOURCE, person_stream
from shared.errors import ProoftrailError
from shared.event import RecordedEvent, leaf_hash_of
from shared.event_store import read_events
from shared.log.merkle import root_of
from shared.log.upkeep import OPERATOR
from shared.runtime import utc_now
from shared.settings import Settings
from tests.house import Client, TestHouse, fresh_database, problem_of, running_house
from tests.requirements.test_http_api import in_review, staffed
from tests.verifier.pack_maker import unpacked
from tests.verifier.sealed_house import SealedHouse
from verifier.prooftrail_verify import Code, verify

NAME = "Wilhelmina Vergissmeinnicht"
WHY = "no-longer-needed"
SYSTEM = "flight-delay"
RECORD = f"requirement:{SYSTEM}/REQ-1"
MODEL: dict[str, Any] = {
    "model": "late", "version": "1", "components": [], "hosted": {"provider": "acme", "identifier": "late-1"},
    "code_revision": "9f3c", "why": "First version.",
}  # fmt: skip
NEVER_KEPT: dict[str, Any] = {"retention_days": 0}


@pytest.fixture
async def house(server_url: str, tmp_path: Path) -> AsyncIterator[TestHouse]:
    """All services, where nothing is kept for a time after its end."""
    async with running_house(
        server_url=server_url, folder=tmp_path / "data", webhook_networks=(), **NEVER_KEPT
    ) as running:
        yield running


async def signed(house: TestHouse) -> tuple[Client, Client]:
    """The owner, and somebody who left traces in three services: a signature, a model version and a pack."""
    owner, author, _ = await staffed(house)
    person = house.client(NAME)
    for role in ("approver", "author"):
        await owner.post(f"/v1/systems/{SYSTEM}:grant-role", subject=person.subject, role=role)
    await in_review(author)
    await person.sign("requirements", RECORD)
    await person.post(f"/v1/systems/{SYSTEM}/model-versions", **MODEL)
    await person.post(f"/v1/systems/{SYSTEM}/evidence-packs", key="P-1")
    return owner, person


async def retire(person: Client) -> None:
    """The requirement is retired, by the same signature that approved it."""
    events = await feed_of(person, "requirements")
    approved = next(event for event in events if event["name"] == "requirements.requirement-approved")
    await person.post(f"/v1/systems/{SYSTEM}/requirements/REQ-1:retire", digest=approved["data"]["signature"]["digest"])


async def dismiss(owner: Client, person: Client) -> None:
    """The person loses the roles."""
    for role in ("approver", "author"):
        await owner.post(f"/v1/systems/{SYSTEM}:revoke-role", subject=person.subject, role=role)


async def let_go(owner: Client, person: Client) -> None:
    """Nothing stands on the signature any more, and no role is held."""
    await retire(person)
    await dismiss(owner, person)


async def erase(owner: Client, person: Client) -> Any:
    """As over HTTP."""
    return await owner.post("/v1/people:erase", subject=person.subject, reason=WHY)


async def feed_of(reader: Client, service: str) -> list[dict[str, Any]]:
    """All events of the service that the reader may see."""
    page = await reader.get(f"/v1/{service}/events", page_size=200)
    return [json.loads(event["event"]) for event in page["events"]]


@contextlib.asynccontextmanager
async def owner_of(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Whoever may read everything."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def places_of(connection: asyncpg.Connection, text: str) -> set[str]:
    """Every table, of any schema, in which a row has the text, as text or as bytes."""
    tables = await connection.fetch(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname !~ '^pg_toast'"
    )
    found = set()
    for (table,) in tables:
        held = await connection.fetchval(
            f"SELECT count(*) FROM {table} t WHERE position($1 IN t::text) > 0 OR position($2 IN t::text) > 0",
            text,
            text.encode().hex(),
        )
        found |= {table} if held else set()
    return found


async def files_with(connection: asyncpg.Connection, text: str) -> set[str]:
    """The tables and indexes of the directories whose files on the disk hold the bytes, dead rows and free space included."""
    await connection.execute("CHECKPOINT")
    relations = await connection.fetch(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_relation_filepath(c.oid) AS path"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relname ~ '^person' AND pg_relation_filepath(c.oid) IS NOT NULL"
    )
    found = set()
    for relation in relations:
        content: bytes = await connection.fetchval("SELECT pg_read_binary_file($1)", relation["path"])
        found |= {relation["name"]} if text.encode() in content else set()
    return found


async def events_in(url: str) -> dict[str, list[RecordedEvent]]:
    """Everything that every service stored."""
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        return {service: list(await read_events(pool, service=service, after=0, limit=10_000)) for service in SERVICES}


def erased_in(events: dict[str, list[RecordedEvent]]) -> dict[str, int]:
    """How often each service recorded an erasure."""
    return {
        service: sum(event.name == f"{service}.person-erased" for event in stored) for service, stored in events.items()
    }


async def test_a_forgotten_person_is_in_no_table_answer_pack_page_log_line_or_file(
    house: TestHouse, caplog: pytest.LogCaptureFixture
) -> None:
    """Before: in the directories of three services, in packs and in the issuer's folder. After: nowhere."""
    caplog.set_level(logging.DEBUG)
    url = house.house.runtime.database_url
    owner, person = await signed(house)
    people_file = house.house.runtime.settings.data / "issuer" / "people.json"
    async with owner_of(url) as connection:
        await connection.execute("ANALYZE")
        assert await places_of(connection, NAME) == {
            "requirements.person",
            "releases.person",
            "traceability.person",
        }
        assert {"requirements.person", "requirements.person_subject_name_key"} <= await files_with(connection, NAME)
        assert NAME in people_file.read_text()
        assert NAME in json.dumps(await pack(owner))
        await let_go(owner, person)
        answer = await erase(owner, person)
        assert answer["pending"] == []
        assert [event["name"] for event in answer["events"]] == ["traceability.person-erased"]
        assert await places_of(connection, NAME) == set()
        assert await files_with(connection, NAME) == set()
        assert "Olga Owner" in json.dumps(await pack(owner))
    answers = [json.dumps(await feed_of(owner, service)) for service in SERVICES]
    answers += [json.dumps(await pack(owner)), (await page(owner)), people_file.read_text(), caplog.text]
    assert all(NAME not in text and "Vergissmeinnicht" not in text for text in answers)


async def pack(reader: Client, **query: Any) -> Any:
    """The evidence pack of the AI system."""
    return await reader.get(f"/v1/systems/{SYSTEM}/evidence-pack", **query)


async def page(reader: Client) -> str:
    """The same as a page."""
    return (await reader.request("GET", f"/v1/systems/{SYSTEM}/evidence-pack.html")).text


async def test_webhooks_go_with_the_person(house: TestHouse) -> None:
    """An address may tell who it was; those of others stay."""
    owner, person = await signed(house)
    of_owner, of_person = "https://hooks.example.com/of-the-owner", "https://hooks.example.com/of-the-person"
    for who, url in ((owner, of_owner), (person, of_person)):
        for service in SERVICES:
            body = {"key": "mine", "url": url}
            assert (await who.request("POST", f"/v1/{service}/webhooks", body=body)).is_success
    await let_go(owner, person)
    tables = {f"{service}.webhook" for service in SERVICES}
    async with owner_of(house.house.runtime.database_url) as connection:
        assert await places_of(connection, of_person) == tables
        await erase(owner, person)
        assert await places_of(connection, of_person) == set()
        assert await places_of(connection, of_owner) == tables
        for service in SERVICES:
            assert await connection.fetchval(f"SELECT count(*) FROM {service}.webhook_secret") == 1


async def test_every_service_records_the_erasure_and_every_proof_still_holds(house: TestHouse) -> None:
    """The bytes, the commitments and the tree over what was there before are as they were."""
    url = house.house.runtime.database_url
    owner, person = await signed(house)
    await let_go(owner, person)
    before = await events_in(url)
    await erase(owner, person)
    after = await events_in(url)
    assert erased_in(after) == dict.fromkeys(SERVICES, 1)
    for service in SERVICES:
        kept = after[service][: len(before[service])]
        assert kept == before[service]
        assert all(leaf_hash_of(event.raw) == event.leaf_hash for event in after[service])
        assert root_of([bytes.fromhex(event.leaf_hash) for event in kept]) == root_of(
            [bytes.fromhex(event.leaf_hash) for event in before[service]]
        )
        told = after[service][-1].content()
        assert told["data"] == {"subject": person.subject, "why": WHY}
        assert told["stream"] == person_stream(person.subject)
        assert told["actor"]["subject"] == (owner.subject if service == SOURCE else f"service:{service}")


async def test_the_same_position_and_the_same_erasures_are_the_same_bytes_of_a_pack(house: TestHouse) -> None:
    """And another erasure changes the printed names, nothing else."""
    owner, person = await signed(house)
    await let_go(owner, person)
    first = await pack(owner)
    position = first["ledger_position"]
    assert await pack(owner, ledger_position=position) == first
    await erase(owner, person)
    after = [await raw_pack(owner, position) for _ in range(2)]
    assert after[0] == after[1]
    content = json.loads(after[0])
    gone = {key for key, entry in first["people"].items() if entry["subject"] == person.subject}
    assert gone
    assert content == {**first, "people": {key: first["people"][key] for key in first["people"].keys() - gone}}


async def raw_pack(reader: Client, position: int) -> bytes:
    """Its exact bytes."""
    answer = await reader.request("GET", f"/v1/systems/{SYSTEM}/evidence-pack", ledger_position=position)
    return answer.content


async def test_an_exported_pack_stays_proven_and_shows_the_erasure(house: TestHouse) -> None:
    """The verifier proves the pack of before, that of the same position after, and a later one, in which the erasure is told."""
    owner, person = await signed(house)
    await let_go(owner, person)
    sealed = SealedHouse(house)
    await sealed.seal()
    before = await archive(owner)
    position = json.loads(unpacked(before)["pack.json"])["ledger_position"]
    await erase(owner, person)
    await owner.post(f"/v1/systems/{SYSTEM}/evidence-packs", key="P-2")
    await sealed.seal()
    same, later = await archive(owner, position), await archive(owner)
    assert same == await archive(owner, position)
    packs = [unpacked(content) for content in (before, same, later)]
    assert [NAME.encode() in b"".join(members.values()) for members in packs] == [True, False, False]
    for service in SERVICES:
        assert packs[1].get(f"events/{service}.jsonl") == packs[0].get(f"events/{service}.jsonl")
    reports = [verify(io.BytesIO(content), sealed.pins) for content in (before, same, later)]
    assert [report.code for report in reports] == [Code.PROVEN] * 3, [report.text() for report in reports]
    told = [
        json.loads(line)
        for member, lines in packs[2].items()
        if member.startswith("events/")
        for line in lines.splitlines()
    ]
    assert sum(event["name"].endswith(".person-erased") for event in told) == len(SERVICES)
    assert any("of 0 of them it holds no recorded erasure" in line for line in reports[-1].not_proven)


async def archive(reader: Client, position: int | None = None) -> bytes:
    """The exported pack."""
    asked: dict[str, Any] = {} if position is None else {"ledger_position": position}
    answer = await reader.request("GET", f"/v1/systems/{SYSTEM}/evidence-pack.zip", **asked)
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_who_comes_back_has_a_new_entry_from_the_first_command_on(house: TestHouse) -> None:
    """Reading makes none. The old commitments stay unreadable; the new one has a salt of its own."""
    owner, person = await signed(house)
    token = person.token  # the embedded issuer forgets the name too, so a new token would be of another subject
    await let_go(owner, person)
    await erase(owner, person)
    back = Client(http=person.http, name=NAME, subject=person.subject, token=token, seen=person.seen)
    await owner.post(f"/v1/systems/{SYSTEM}:grant-role", subject=back.subject, role="author")
    await back.get(f"/v1/systems/{SYSTEM}/requirements")
    names = house.house.services[SOURCE].application.names
    assert await names.holding(back.subject) == []
    await back.post(f"/v1/systems/{SYSTEM}/model-versions", **{**MODEL, "version": "2"})
    assert await names.holding(back.subject) == ["releases"]
    commitments = [
        event["actor"]["name_commitment"]
        for event in await feed_of(owner, "releases")
        if event["name"] == "releases.model-version-registered"
    ]
    assert len(set(commitments)) == 2
    people = await names.people(commitments)
    assert list(people) == [commitments[1]]
    assert commit(salt=people[commitments[1]].salt, name=NAME) == commitments[1]
    await owner.post(f"/v1/systems/{SYSTEM}:revoke-role", subject=back.subject, role="author")
    again = await erase(owner, back)
    assert again["version"] == 2
    assert await names.holding(back.subject) == []


async def test_a_repeated_erasure_changes_nothing(house: TestHouse) -> None:
    """The answer names the stream and no new event."""
    owner, person = await signed(house)
    await let_go(owner, person)
    await erase(owner, person)
    again = await erase(owner, person)
    assert (again["events"], again["pending"], again["version"]) == ([], [], 1)


async def test_somebody_whose_name_is_needed_is_kept_and_the_records_are_named(house: TestHouse) -> None:
    """First the roles, then the requirement in force: each refusal says what has to end."""
    owner, person = await signed(house)
    path = "/v1/people:erase"
    body: dict[str, Any] = {"subject": person.subject, "reason": WHY}
    roles = await owner.refused(path, **body)
    assert roles["reason"] == "roles-still-held"
    assert {error["field"] for error in roles["errors"]} == {f"approver of {SYSTEM}", f"author of {SYSTEM}"}
    await dismiss(owner, person)
    needed = await owner.refused(path, **body)
    assert (needed["status"], needed["reason"]) == (409, "name-still-needed")
    assert [error["field"] for error in needed["errors"]] == [RECORD]
    assert erased_in(await events_in(house.house.runtime.database_url)) == dict.fromkeys(SERVICES, 0)


async def test_a_record_that_ended_is_kept_for_its_time(server_url: str, tmp_path: Path) -> None:
    """Ten years unless it is set."""
    async with running_house(server_url=server_url, folder=tmp_path / "data") as house:
        owner, person = await signed(house)
        await let_go(owner, person)
        needed = await owner.refused("/v1/people:erase", subject=person.subject, reason=WHY)
        assert [error["field"] for error in needed["errors"]] == [RECORD]
        assert "has to be kept until" in needed["errors"][0]["rule"]


async def test_only_owners_of_every_system_with_traces_may_erase_and_never_themselves(house: TestHouse) -> None:
    """Rights are given per AI system, and what is not given is denied."""
    owner, person = await signed(house)
    stranger, other = house.client("Sam Stranger"), house.client("Ulla Other")
    await other.post("/v1/systems", key="other", name="Another", intended_use="Something else.", risk_class="limited")
    body: dict[str, Any] = {"subject": person.subject, "reason": WHY}
    for client in (stranger, other):
        assert (await client.refused("/v1/people:erase", **body))["reason"] == "not-the-owner"
    itself = await owner.refused("/v1/people:erase", subject=owner.subject, reason=WHY)
    assert itself["reason"] == "oneself-erased"
    service = house.client("pipeline", kind="service")
    assert (await service.refused("/v1/people:erase", **body))["status"] in (401, 403)
    unknown = await owner.refused("/v1/people:erase", subject="person-of-nowhere", reason=WHY)
    assert (unknown["status"], unknown["reason"]) == (404, "person-unknown")


async def test_the_reason_is_a_code(house: TestHouse) -> None:
    """In words it might hold the name."""
    owner, person = await signed(house)
    problem = await owner.refused("/v1/people:erase", subject=person.subject, reason=f"{NAME} asked for it")
    assert problem["status"] == 422
    assert [error["field"] for error in problem["errors"]] == ["/reason"]
    without = problem_of(await owner.request("POST", "/v1/people:erase", body={"subject": person.subject}))
    assert without["status"] == 422


def operator() -> CommandContext:
    """Somebody at the terminal."""
    return CommandContext(actor=OPERATOR, reason=WHY, at=utc_now(), correlation="0" * 32)


@contextlib.asynccontextmanager
async def stopped_house(server_url: str, folder: Path) -> AsyncIterator[tuple[House, str, Settings]]:
    """A house that holds a person who may be forgotten, and that does not run."""
    async with fresh_database(server_url) as url:
        settings = Settings(data=folder, database_url=url, retention_days=0)
        async with offline_house(settings=settings, database_url=url) as house:
            for service in ("requirements", "drift", "traceability"):
                await house.services[service].foundation.directory.commitment(subject="person-1", name=NAME)
            yield house, url, settings


@pytest.mark.parametrize("carried_out", range(len(SERVICES)))
async def test_an_erasure_that_is_cut_off_between_two_services_is_completed(
    server_url: str, tmp_path: Path, carried_out: int
) -> None:
    """Whether it is asked for again or the services only start again: one event a service, and no name."""
    async with stopped_house(server_url, tmp_path / "data") as (house, url, settings):
        erasure = house.services[SOURCE].application.erasure
        first = await erasure.erase_as_operator(context=operator(), subject="person-1", why=WHY)
        for service in SERVICES[:carried_out]:
            await house.services[service].foundation.erasures.advance(SOURCE)
        assert len(await erasure.pending(first.events[0].position)) == len(SERVICES) - carried_out
        async with offline_house(settings=settings, database_url=url) as started_again:
            repeated = started_again.services[SOURCE].application.erasure
            again = await repeated.erase_as_operator(context=operator(), subject="person-1", why=WHY)
            assert again.events == ()
            await follow_erasures(started_again)
            assert await repeated.pending(first.events[0].position) == ()
        assert erased_in(await events_in(url)) == dict.fromkeys(SERVICES, 1)
        async with owner_of(url) as connection:
            assert await places_of(connection, NAME) == set()


async def test_an_erasure_that_is_cut_off_inside_a_service_is_completed(server_url: str, tmp_path: Path) -> None:
    """Deleted and not recorded; recorded and the position not stored."""
    async with stopped_house(server_url, tmp_path / "data") as (house, url, _):
        await house.services[SOURCE].application.erasure.erase_as_operator(
            context=operator(), subject="person-1", why=WHY
        )
        foundation = house.services["drift"].foundation
        assert await foundation.directory.erase("person-1") == 1
        assert erased_in(await events_in(url))["drift"] == 0
        await follow_erasures(house)
        async with owner_of(url) as connection:
            await connection.execute("UPDATE drift.reaction_position SET position = 0 WHERE source = 'traceability'")
        await follow_erasures(house)
        assert erased_in(await events_in(url)) == dict.fromkeys(SERVICES, 1)


@pytest.mark.parametrize(
    ("isolation", "reading"),
    [("read_committed", "LOCK drift.person IN ACCESS SHARE MODE"), ("repeatable_read", "SELECT 1")],
    ids=["a backup holds the tables", "an older transaction still sees the rows"],
)
async def test_a_service_is_pending_until_the_names_are_wiped_from_the_file(
    server_url: str, tmp_path: Path, isolation: Any, reading: str
) -> None:
    """It records nothing before, and tries again."""
    async with stopped_house(server_url, tmp_path / "data") as (house, url, _):
        await house.services[SOURCE].application.erasure.erase_as_operator(
            context=operator(), subject="person-1", why=WHY
        )
        foundation = house.services["drift"].foundation
        async with owner_of(url) as reader, reader.transaction(isolation=isolation):
            await reader.execute(reading)
            with pytest.raises(ProoftrailError) as busy:
                await foundation.erasures.advance(SOURCE)
            assert busy.value.reason == "directory-busy"
            assert erased_in(await events_in(url))["drift"] == 0
        await follow_erasures(house)
        assert erased_in(await events_in(url))["drift"] == 1
        async with owner_of(url) as connection:
            assert await files_with(connection, NAME) == set()


async def test_the_directory_is_a_compacted_feed_with_tombstones(server_url: str, tmp_path: Path) -> None:
    """Each entry once, at its last change; one that was erased has no person, and no name is in the feed's own table."""
    async with stopped_house(server_url, tmp_path / "data") as (house, url, _):
        directory, pool = house.services["drift"].foundation.directory, house.services["drift"].foundation.pool
        kept = await directory.commitment(subject="person-2", name="Ben")
        first, second = await changes_of(pool, service="drift", after=0, limit=10)
        assert [first.person and first.person.name, second.person and second.person.name] == [NAME, "Ben"]
        await directory.erase("person-1")
        tombstone = (await changes_of(pool, service="drift", after=second.number, limit=10))[0]
        assert (tombstone.name_commitment, tombstone.person) == (first.name_commitment, None)
        whole = await changes_of(pool, service="drift", after=0, limit=10)
        assert [change.name_commitment for change in whole] == [kept, first.name_commitment]
        assert await changes_of(pool, service="drift", after=0, limit=1) == whole[:1]
        async with owner_of(url) as connection:
            rows = await connection.fetch("SELECT t::text FROM drift.person_change t")
        assert len(rows) == 2
        assert all(NAME not in row["t"] for row in rows)
