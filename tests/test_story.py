"""The demo's story on a sample of the flights: every step of the main job, through the HTTP door of all five services."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from demo.__main__ import people_of
from demo.client import Client
from demo.story import DemoSettings, Story
from shared.event import digest_of, leaf_hash_of
from tests.house import TestHouse

SAMPLE = DemoSettings(share=0.15, least_slice_rows=150, window_days=1, tolerance=0.05)


@pytest.fixture
async def people(house: TestHouse) -> AsyncIterator[dict[str, Client]]:
    """Everybody in the story, speaking to the house in this process."""
    async with people_of(house.house, "http://house") as people:
        for person in people.values():
            person.http = house.http
        house.http.timeout = httpx.Timeout(120)
        yield people


@pytest.fixture
async def story(people: dict[str, Client], tmp_path: Path) -> Story:
    """The story, told."""
    lines: list[str] = []
    told = Story(system="flight-delay", people=people, settings=SAMPLE, say=lines.append, folder=tmp_path / "packs")
    await told.tell()
    assert lines
    return told


async def test_the_story_reaches_its_second_release_and_leaves_packs_that_can_be_checked(
    story: Story, house: TestHouse
) -> None:
    """Requirement, verification, release, drift, change, retraining, second release, evidence pack."""
    auditor = story.people["auditor"]
    assert story.released == ["R-1", "R-2"]
    state = await auditor.get(f"{story.at}/state")
    assert state["records"]["release"] == {"R-1": "superseded", "R-2": "released"}
    assert state["records"]["monitoring-plan"]["PLAN-2"] == "active"
    assert set(state["records"]["verification"].values()) == {"approved"}
    assert set(state["records"]["change-request"].values()) == {"closed"}
    assert set(state["records"]["drift-signal"].values()) == {"resolved"}
    await _check_pack(story)
    await _check_causes(story)
    await _check_rebuilt(house)


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
