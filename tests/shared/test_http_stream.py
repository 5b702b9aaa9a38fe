"""Server-sent events: what is there and what comes, by position, for those who hold a role."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from services.server import GRACEFUL_SHUTDOWN_SECONDS
from shared.event import Actor, RecordedEvent
from shared.http_stream import FRAMES_BYTES_MAX, Frames
from shared.positions import format_positions
from shared.subscription import Delivery, StreamEnds, Subscriptions, Wish
from tests.foreign import foreign
from tests.house import Client, TestHouse
from tests.streaming import EventSource, Received, http_serving, take

STREAM = "/v1/requirements/events/stream"
MEGABYTES = 16
ACTOR = Actor(subject="person-1", kind="person", issuer="tests")
REVISED = "requirements.intended-use-revised"


@dataclass
class Wire:
    """The house behind a port."""

    house: TestHouse
    port: int
    sources: list[EventSource] = field(default_factory=list)

    async def ask(self, token: str, path: str = STREAM, **options: Any) -> EventSource:
        """Whatever the answer is."""
        source = await EventSource.connect(self.port, path, token=token, **options)
        self.sources.append(source)
        return source

    async def stream(self, who: Client, path: str = STREAM, **options: Any) -> EventSource:
        """A stream that has been accepted, once everything that was told has arrived."""
        source = await self.ask(who.token, path, **{"after": format_positions(self.house.seen), **options})
        assert source.status == 200, await source.body()
        return source


@pytest.fixture
async def wire(house: TestHouse) -> AsyncIterator[Wire]:
    async with http_serving(house.house) as port:
        wire = Wire(house, port)
        yield wire
        for source in wire.sources:
            await source.close()


async def _register(who: Client, system: str) -> None:
    await who.post("/v1/systems", key=system, name=system, intended_use="tells who will be late", risk_class="limited")


async def _page(who: Client, **query: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = (await who.get("/v1/requirements/events", **query))["events"]
    return events


async def test_it_tells_what_was_and_what_comes(wire: Wire) -> None:
    """The same positions and the exact stored text as the feed, without a hole between past and present."""
    ada = wire.house.client("Ada Author")
    await _register(ada, "past")
    source = await wire.stream(ada)
    past = await take(source, len(await _page(ada)))
    await _register(ada, "present")
    await ada.get("/v1/systems/present")
    present = await take(source, 1)
    told = [(one.position, one.data) for one in past + present]
    assert told == [(event["position"], event["event"]) for event in await _page(ada)]
    assert [one.name for one in present] == ["requirements.ai-system-registered"]
    assert source.retry_ms
    assert source.headers["content-type"].startswith("text/event-stream")


async def test_it_resumes_where_it_ended(wire: Wire) -> None:
    """Last-Event-ID goes before from_position, as a browser sends both when it connects again."""
    ada = wire.house.client("Ada Author")
    for number in range(5):
        await _register(ada, f"system-{number}")
    everything = await take(await wire.stream(ada), len(await _page(ada)))
    for cut in (1, 3):
        last = everything[cut].position
        by_query = await wire.stream(ada, from_position=last)
        by_header = await wire.stream(ada, from_position=0, headers={"Last-Event-ID": str(last)})
        for source in (by_query, by_header):
            assert await take(source, len(everything) - cut - 1) == everything[cut + 1 :]
            await source.close()


async def test_nobody_sees_a_system_without_a_role(wire: Wire) -> None:
    """Not before it is granted and not after it is revoked; the position moves on all the same."""
    ada, bob = wire.house.client("Ada Author"), wire.house.client("Bob Builder")
    source = await wire.stream(bob)
    listener = asyncio.create_task(take(source, 100))
    await _register(ada, "flights")
    await ada.post("/v1/systems/flights:grant-role", subject=bob.subject, role="author")
    await bob.get("/v1/systems/flights")
    await _revise(ada, "seen")
    await ada.post("/v1/systems/flights:revoke-role", subject=bob.subject, role="author")
    await _revise(ada, "unseen")
    await _register(bob, "his-own")
    await bob.get("/v1/systems/his-own")
    await _until_told(wire, ada)
    await source.close()
    seen = [json.loads(one.data) for one in await listener]
    flights = [event for event in seen if event["system"] == "flights"]
    assert "requirements.role-granted" in [event["name"] for event in flights]
    assert [event["data"]["intended_use"] for event in flights if event["name"] == REVISED] == ["seen"]
    assert "his-own" in [event["system"] for event in seen]


async def test_filters_narrow_it_and_heartbeats_tell_the_position(wire: Wire) -> None:
    """Nothing that was left out has to be read again."""
    ada = wire.house.client("Ada Author")
    for system in ("one", "two"):
        await _register(ada, system)
    await _revise(ada, "other", system="two")
    await ada.get("/v1/systems/two")
    head = (await _page(ada))[-1]["position"]
    one = await _until_heartbeat(await wire.stream(ada, system="one"))
    assert [json.loads(event.data)["system"] for event in one[:-1]] == ["one"]
    assert one[-1].position == head
    revised = await _until_heartbeat(await wire.stream(ada, name=REVISED))
    assert [event.name for event in revised] == [REVISED, ""]
    wire.house.house.subscriptions["requirements"].heartbeat_s = 0.05
    quiet = await wire.stream(ada, from_position=head)
    beats = []
    async for beat in quiet:
        beats.append(beat)
        if len(beats) == 3:
            break
    assert beats == [Received(head, "", "")] * 3


async def test_a_wish_that_cannot_be_met_is_refused(wire: Wire) -> None:
    """Before the stream begins, with a problem document."""
    for query, status, reason in (
        ({"from_position": -1}, 422, "invalid-request"),
        ({"from_position": "x"}, 422, "invalid-request"),
        ({"from_position": 10**6}, 409, "position-ahead"),
        ({"system": "nowhere"}, 404, "ai-system-not-found"),
        ({"name": "requirements.no-such-thing"}, 422, "unknown-event"),
        ({"headers": {"Last-Event-ID": "abc"}}, 422, "invalid-request"),
    ):
        source = await wire.ask(wire.house.client("Ada").token, **query)
        assert source.status == status
        assert json.loads(await source.body())["reason"] == reason


async def test_without_a_token_there_is_no_stream_and_with_it_it_ends(wire: Wire) -> None:
    """A token that expires takes its stream along."""
    refused = await wire.ask("none")
    assert refused.status == 401
    token = wire.house.issuer.mint(name="Ada", lifetime_s=2)
    source = await wire.ask(token)
    assert source.status == 200
    async with asyncio.timeout(60):
        received = [one async for one in source]
    assert received[-1].name == ""


async def test_one_who_reads_nothing_is_cut_off_and_resumes_without_a_gap(wire: Wire) -> None:
    """The others do not wait for it, and it gets the rest when it comes back."""
    ada = wire.house.client("Ada Author")
    await _register(ada, "flights")
    subscriptions = wire.house.house.subscriptions["requirements"]
    subscriptions.send_s_max = 0.5
    deaf = await wire.stream(ada, receive_buffer=4096)
    head = wire.house.seen["requirements"] + MEGABYTES
    quick = asyncio.create_task(take(await wire.stream(ada), head))
    await _fill(wire)
    assert [one.position for one in await quick] == list(range(1, head + 1))
    await _until_subscribers(subscriptions, 1)  # the quick one, whose connection is still open
    got = [one.position async for one in deaf if one.name]
    assert 0 < len(got) < head
    rest = await take(await wire.stream(ada, from_position=got[-1]), head - got[-1])
    assert [*got, *(one.position for one in rest)] == list(range(1, head + 1))


def test_frames_are_written_once_for_all_who_get_the_same() -> None:
    """And for nobody else: who sees other events between the same two gets those; what is kept does not grow for ever."""
    frames = Frames()
    texts = {position: f'{{"position":{position},"text":"{"x" * 1000}"}}'.encode() for position in range(1, 6)}

    def told(*positions: int) -> bytes:
        events = [_event(position, texts[position]) for position in positions]
        return frames.of(Delivery(position=positions[-1], events=events))

    assert told(1, 2, 5) is told(1, 2, 5)
    assert told(1, 4, 5) == b"".join(
        b"id: %d\nevent: requirements.told\ndata: %b\n\n" % (position, texts[position]) for position in (1, 4, 5)
    )
    assert told(1, 2, 5) != told(1, 4, 5)
    first = told(1, 2, 3)
    for position in range(10, 10 + 2 * FRAMES_BYTES_MAX // 1000):
        texts[position] = texts[1]
        told(position)
    assert told(1, 2, 3) is not first
    assert told(1, 2, 3) == first


def _event(position: int, raw: bytes) -> RecordedEvent:
    return RecordedEvent(
        service="requirements", position=position, stream="s:s", version=1, name="requirements.told", system="s",
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC), leaf_hash="", raw=raw,
    )  # fmt: skip


async def test_shutting_down_ends_the_streams_first(house: TestHouse) -> None:
    """The server does not wait for those who listen, and not for one who reads nothing either."""
    ada = house.client("Ada Author")
    await _register(ada, "flights")
    async with http_serving(house.house) as port:
        wire = Wire(house, port)
        listening = [await wire.stream(ada) for _ in range(3)]
        await wire.stream(ada, receive_buffer=4096)
        ends = [asyncio.create_task(take(source, 10**6)) for source in listening]
        await _fill(wire)
        await take(await wire.stream(ada), house.seen["requirements"])
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < GRACEFUL_SHUTDOWN_SECONDS
    assert [len(events) for events in await asyncio.gather(*ends)] == [house.seen["requirements"]] * 3
    with pytest.raises(StreamEnds):
        await house.house.subscriptions["requirements"].open(
            Wish(actor=ACTOR, after=0, systems=(), names=(), lasts_s=60.0)
        )
    for source in wire.sources:
        await source.close()


async def _fill(wire: Wire) -> None:
    """More than the kernel takes for one who does not read."""
    for _ in range(MEGABYTES):
        await foreign(
            wire.house, "requirements", "intended-use-revised", "ai-system:flights",
            intended_use="x" * 10**6, risk_class="limited",
        )  # fmt: skip


async def _until_subscribers(subscriptions: Subscriptions, count: int) -> None:
    async with asyncio.timeout(60):
        while subscriptions.subscribers != count:  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.02)


async def _revise(who: Client, intended_use: str, *, system: str = "flights") -> None:
    await who.post(f"/v1/systems/{system}:revise-intended-use", intended_use=intended_use, risk_class="limited")


async def _until_told(wire: Wire, who: Client) -> None:
    """Everything that is there has been handed out: a subscriber of everything has got it."""
    head = (await _page(who, page_size=200))[-1]["position"]
    source = await wire.stream(who)
    async for received in source:
        if received.position >= head:
            break
    await source.close()


async def _until_heartbeat(source: EventSource) -> list[Received]:
    received = []
    async for one in source:
        received.append(one)
        if not one.name:
            break
    return received
