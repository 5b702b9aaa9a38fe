"""The demo's story on a sample of the flights: every step of the main job, in one process and in one for each service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
import pytest

from demo.__main__ import PEOPLE, PIPELINE
from demo.client import Client
from demo.story import DemoSettings, Story
from services.composition import SERVICES, local_issuer
from shared.event import digest_of, leaf_hash_of
from shared.kafka_settings import KafkaSettings
from shared.local_issuer import LocalIssuer
from shared.settings import Settings
from tests.house import TestHouse, fresh_database, running_house
from tests.serving import ServedProcess, served_apart
from tests.test_cluster import assert_the_ledger_is_the_store
from tests.two_wires import Door, TwoWires

PATIENCE_S = 60.0
SAMPLE = DemoSettings(share=0.15, least_slice_rows=150, window_days=1, tolerance=0.05, production_from=6)


@dataclass(kw_only=True)
class Told:
    """A story that was told, its lines, and how it ended."""

    story: Story
    lines: list[str] = field(default_factory=list)

    @classmethod
    async def through(cls, http: httpx.AsyncClient, issuer: LocalIssuer, folder: Path) -> Told:
        """By the people of the demo, who all speak to that client."""
        lines: list[str] = []
        people = people_at(http, issuer)
        story = Story(system="flight-delay", people=people, settings=SAMPLE, say=lines.append, folder=folder)
        await story.tell()
        return cls(story=story, lines=lines)

    async def matrix(self) -> Any:
        return (await self.story.people["auditor"].get(f"{self.story.at}/matrix"))["items"]

    async def verdicts(self) -> dict[str, Any]:
        """With every figure and bound, by verification."""
        author, found = self.story.people["author"], {}
        for item in (await author.get(f"{self.story.at}/verifications"))["items"]:
            recorded = (await author.get(f"{self.story.at}/verifications/{item['key']}"))["recorded"]
            found[item["key"]] = [recorded[name] for name in ("outcome", "verdicts", "comparison")]
        return found

    async def gate_decisions(self) -> dict[str, Any]:
        """Those the releases rest on, and what the gate says now; without their ids, times and positions."""
        author, found = self.story.people["author"], {}
        for release in self.story.released:
            kept = (await author.get(f"{self.story.at}/releases/{release}"))["gate"]
            now = await author.get(f"{self.story.at}/gate", release=release)
            found[release] = [
                {name: decision[name] for name in ("allowed", "rules_version", "missing", "waivers")}
                for decision in (kept, now)
            ]
        return found

    async def events(self) -> dict[tuple[str, str], list[str]]:
        """The names of the events of every record, in order."""
        found: dict[tuple[str, str], list[str]] = {}
        position = 0
        while True:
            page = await self.story.people["auditor"].get(
                f"{self.story.at}/timeline", from_position=position, page_size=200
            )
            if not page["items"]:
                return found
            for event in page["items"]:
                found.setdefault((event["service"], event["record"]), []).append(event["name"])
            position = page["next_position"]

    def heard(self) -> list[str]:
        """What was said on the way: refusals, figures, verdicts, the day of the drift; without the ids of decisions."""
        return [re.sub(r"decision \w+…", "decision", line) for line in self.lines]


def people_at(http: httpx.AsyncClient, issuer: LocalIssuer) -> dict[str, Client]:
    """Everybody in the story, each with a token of their own."""
    seen: dict[str, int] = {}

    def client(name: str, kind: Any) -> Client:
        token = issuer.mint(name=name, kind=kind)
        return Client(http=http, name=name, subject=issuer.subject(name=name, kind=kind), token=token, seen=seen)

    people = {role: client(name, "person") for role, name in PEOPLE.items()}
    return {**people, "pipeline": client(PIPELINE, "service")}


@pytest.fixture(scope="module")
async def told_in(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TestHouse]:
    """The house of the story: all services in this process."""
    folder = tmp_path_factory.mktemp("story") / "data"
    async with running_house(server_url=server_url, folder=folder) as house:
        house.http.timeout = httpx.Timeout(PATIENCE_S)
        yield house


@pytest.fixture(scope="module")
async def here(told_in: TestHouse, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The story, told in this process."""
    return await Told.through(told_in.http, told_in.issuer, tmp_path_factory.mktemp("packs"))


@pytest.fixture
async def databases(server_url: str) -> AsyncIterator[dict[str, str]]:
    """One for each service."""
    async with contextlib.AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(fresh_database(server_url)) for name in SERVICES}


async def test_the_story_reaches_its_second_release_and_leaves_packs_that_can_be_checked(
    here: Told, told_in: TestHouse
) -> None:
    """Requirement, verification, release, drift, change, retraining, second release, evidence pack."""
    story, auditor = here.story, here.story.people["auditor"]
    assert story.released == ["R-1", "R-2"]
    state = await auditor.get(f"{story.at}/state")
    assert state["records"]["release"] == {"R-1": "superseded", "R-2": "released"}
    assert state["records"]["monitoring-plan"]["PLAN-2"] == "active"
    assert set(state["records"]["verification"].values()) == {"approved"}
    assert set(state["records"]["change-request"].values()) == {"closed"}
    assert set(state["records"]["drift-signal"].values()) == {"resolved"}
    await _check_pack(story)
    await _check_causes(story)
    await _check_rebuilt(told_in)


async def _check_pack(story: Story) -> None:
    """The pack's bytes have the digest that was issued, and each event its leaf hash and its place in the chain."""
    content = next(pack for pack in story.packs if pack.name == "flight-delay.json").read_bytes()
    pack = json.loads(content)
    issued = await story.people["auditor"].get(f"{story.at}/record", stream="pack:flight-delay/PACK-all")
    assert issued["fields"]["ledger_position"] < pack["ledger_position"]
    again = await story.people["auditor"].request("GET", f"{story.at}/evidence-packs/PACK-all")
    assert digest_of(again.content) == issued["fields"]["digest"]
    assert [leaf_hash_of(event["event"].encode()) for event in pack["events"]] == [
        event["leaf_hash"] for event in pack["events"]
    ]
    for service in pack["service_positions"]:
        chain = [json.loads(event["event"]) for event in pack["events"] if event["service"] == service]
        hashes = [event["leaf_hash"] for event in pack["events"] if event["service"] == service]
        assert [event["system_sequence"] for event in chain] == list(range(1, len(chain) + 1))
        assert [event["system_previous"] for event in chain] == [None, *hashes[:-1]]
    signed = {signature["name"] for signature in pack["signatures"]}
    assert {"requirements.requirement-approved", "releases.release-signed-off"} <= signed
    printed = {person["name"] for person in pack["people"].values()}
    assert {"Ada Author", "Quinn Quality", "Rita Releaser"} <= printed
    assert not any("Quinn" in event["event"] for event in pack["events"]), "a printed name is in an event"


async def _check_causes(story: Story) -> None:
    """What one service did because of another names the event that caused it."""
    timeline, position = [], 0
    while True:
        page = await story.people["auditor"].get(f"{story.at}/timeline", from_position=position, page_size=200)
        if not page["items"]:
            break
        timeline += page["items"]
        position = page["next_position"]
    ledger = {event["name"]: event for event in timeline}
    for effect in (
        "releases.change-request-submitted",
        "drift.monitoring-plan-activated",
        "drift.drift-signal-resolved",
    ):
        assert ledger[effect]["causation"] is not None
        assert ledger[effect]["actor"]["kind"] == "service"


async def _check_rebuilt(house: TestHouse) -> None:
    """Every projection and every trace comes out the same when it is folded again from the first event."""
    for service in house.house.services.values():
        for part in service.rebuildable:
            await part.catch_up()
            before = await part.state_digest()
            await part.rebuild()
            assert await part.state_digest() == before, part.name


@contextlib.asynccontextmanager
async def two_wires(processes: Mapping[str, ServedProcess]) -> AsyncIterator[TwoWires]:
    """To every process over both wires."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False))
        doors = {}
        for name, one in processes.items():
            options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{one.grpc_port}", options=options)
            )
            doors[name] = Door(address=one.address, channel=channel)
        yield TwoWires(doors=doors, http=http)


async def assert_every_ledger_is_its_store(databases: Mapping[str, str]) -> None:
    """Event for event and byte for byte; none twice."""
    async with contextlib.AsyncExitStack() as stack:
        pools = {
            name: await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=2))
            for name, url in databases.items()
        }
        for name, pool in pools.items():
            await assert_the_ledger_is_the_store(pool, pools["traceability"], name)


async def test_the_story_ends_in_many_processes_as_it_does_in_one(
    here: Told, databases: dict[str, str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    """The same matrix, verdicts, gate decisions and events, whichever wire a verb takes; the ledger is the five stores."""
    data = tmp_path / "apart"
    issuer = local_issuer(Settings(data=data))
    settings = {"KAFKA_BOOTSTRAP": ",".join(kafka.bootstrap), "KAFKA_TOPIC_PREFIX": kafka.topic_prefix}
    with contextlib.ExitStack() as stack:
        processes = await asyncio.to_thread(stack.enter_context, served_apart(data, databases, settings))
        async with two_wires(processes) as wires, httpx.AsyncClient(transport=wires, base_url="http://apart") as http:
            apart = await Told.through(http, issuer, tmp_path / "packs")
            assert apart.story.released == here.story.released == ["R-1", "R-2"]
            assert await apart.matrix() == await here.matrix()
            assert await apart.verdicts() == await here.verdicts()
            assert await apart.gate_decisions() == await here.gate_decisions()
            assert await apart.events() == await here.events()
            assert apart.heard() == here.heard()
        await assert_every_ledger_is_its_store(databases)
    assert min(len(names) for names in wires.used.values()) >= 0.4 * sum(len(names) for names in wires.used.values())
