"""Subscribing over gRPC: the same events as over HTTP, as a stream."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf import descriptor_pb2

from shared.event import leaf_hash_of
from shared.grpc_server import DESCRIPTORS
from tests.foreign import foreign
from tests.grpc_streaming import reason_of, refusal, streams_serving, take
from tests.house import Client, TestHouse

MEGABYTES = 16


async def _register(who: Client, system: str) -> None:
    await who.post("/v1/systems", key=system, name=system, intended_use="tells who is late", risk_class="limited")


async def test_subscribers_get_the_events_of_the_feed(house: TestHouse) -> None:
    """What was and what comes, the exact bytes; resumed anywhere, the rest; and UNAVAILABLE when the service goes."""
    ada = house.client("Ada Author")
    await _register(ada, "past")
    async with streams_serving(house) as wire:
        stream = wire.subscribe(ada)
        feed = (await ada.get("/v1/requirements/events"))["events"]
        got = await take(stream, len(feed))
        assert [(one.position, one.event.decode(), one.leaf_hash) for one in got] == [
            (event["position"], event["event"], event["leaf_hash"]) for event in feed
        ]
        assert all(leaf_hash_of(one.event) == one.leaf_hash for one in got)
        heartbeat = await stream.read()
        assert (heartbeat.position, heartbeat.HasField("event")) == (feed[-1]["position"], False)
        await _register(ada, "present")
        got += await take(stream, 1)
        for at, one in enumerate(got):
            resumed = wire.subscribe(ada, from_position=one.position)
            assert await take(resumed, len(got) - at - 1) == got[at + 1 :]
            resumed.cancel()
        filtered = wire.subscribe(ada, systems=["present"], names=["requirements.ai-system-registered"])
        assert await take(filtered, 1) == got[-1:]
        await wire.server.aclose()
        for open_stream in (stream, filtered):
            gone = await refusal(open_stream)
            assert (gone.code, reason_of(gone)) == (grpc.StatusCode.UNAVAILABLE, "stream-ends")


async def test_every_call_of_the_protos_is_answered(house: TestHouse) -> None:
    """None is described and then served by nobody: asked without a token, each says what is missing."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    calls = [
        (f"/{file.package}.{one.name}/{call.name}", call)
        for file in files
        for one in file.service
        for call in one.method
    ]
    assert len(calls) > 190
    async with streams_serving(house) as wire:
        codes = {name: await _code_of_nobody(wire.channel, name, call) for name, call in calls}
    expected = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK}
    assert {name: code for name, code in codes.items() if code not in expected} == {}


async def _code_of_nobody(channel: Any, name: str, call: descriptor_pb2.MethodDescriptorProto) -> grpc.StatusCode:
    """What the call ends with for an empty request and no token."""
    request: Any = iter([b""]) if call.client_streaming else b""
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
    }
    asked = kinds[call.client_streaming, call.server_streaming](name)(request, timeout=60)
    return await asked.code()


async def test_a_wish_that_cannot_be_met_is_refused(house: TestHouse) -> None:
    """With the reasons of HTTP."""
    ada = house.client("Ada Author")
    async with streams_serving(house) as wire:
        for who, fields, code, reason in (
            (None, {}, grpc.StatusCode.UNAUTHENTICATED, "missing-token"),
            (ada, {"from_position": -1}, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request"),
            (ada, {"from_position": 2**62}, grpc.StatusCode.OUT_OF_RANGE, "position-ahead"),
            (ada, {"systems": ["\0"]}, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request"),
            (ada, {"systems": ["nowhere"]}, grpc.StatusCode.NOT_FOUND, "ai-system-not-found"),
            (ada, {"names": ["requirements.nothing"]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown-event"),
        ):
            refused = await refusal(wire.subscribe(who, **fields))
            assert (refused.code, reason_of(refused)) == (code, reason)


async def test_nobody_sees_what_they_hold_no_role_in(house: TestHouse) -> None:
    """Nothing of another's system but that there were events; with a role all of it, and without it again nothing more."""
    ada, eve = house.client("Ada Author"), house.client("Eve Else")
    await _register(ada, "hers")
    role: dict[str, Any] = {"subject": eve.subject, "role": "auditor"}
    async with streams_serving(house) as wire:
        stream = wire.subscribe(eve)
        heartbeat = await stream.read()
        assert (heartbeat.position, heartbeat.HasField("event")) == (house.seen["requirements"], False)
        await ada.post("/v1/systems/hers:grant-role", **role)
        (granted,) = await take(stream, 1)
        assert granted.position == house.seen["requirements"]
        (registered,) = await take(wire.subscribe(eve), 1)
        assert registered.position < granted.position
        await ada.post("/v1/systems/hers:revoke-role", **role)
        await _register(eve, "own")
        (own,) = await take(stream, 1)
        assert own.position == house.seen["requirements"]


async def test_a_silent_stream_beats(house: TestHouse) -> None:
    """Again and again, each time with the position up to which nothing comes again."""
    ada = house.client("Ada Author")
    await _register(ada, "flights")
    house.house.subscriptions["requirements"].heartbeat_s = 0.05
    async with streams_serving(house) as wire:
        stream = wire.subscribe(ada, from_position=house.seen["requirements"])
        beats = [await stream.read() for _ in range(4)]
    assert {(one.position, one.HasField("event")) for one in beats} == {(house.seen["requirements"], False)}


async def test_one_who_reads_nothing_is_cut_off_and_resumes_without_a_gap(house: TestHouse) -> None:
    """RESOURCE_EXHAUSTED behind what it had got by then."""
    ada = house.client("Ada Author")
    await _register(ada, "flights")
    for _ in range(MEGABYTES):
        await foreign(
            house, "requirements", "intended-use-revised", "ai-system:flights",
            intended_use="x" * 10**6, risk_class="limited",
        )  # fmt: skip
    head = house.seen["requirements"]
    async with streams_serving(house, send_s_max=0.3) as wire:
        deaf = wire.subscribe(ada)
        await deaf.read()
        async with asyncio.timeout(60):
            while house.house.subscriptions["requirements"].subscribers:  # noqa: ASYNC110 -- nothing tells of it
                await asyncio.sleep(0.02)
        got = [1]
        cut = await refusal(deaf, got)
        assert (cut.code, reason_of(cut)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow-subscriber")
        assert len(got) < head
        rest = await take(wire.subscribe(ada, from_position=got[-1]), head - got[-1])
        assert [*got, *(one.position for one in rest)] == list(range(1, head + 1))
