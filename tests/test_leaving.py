"""A service that is told to end under load: nobody's request fails who asked only while it was ready, and streams resume."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from services.composition import local_issuer, migrate_all
from shared.grpc_server import message_type
from shared.proto_schema import service_name_of
from shared.settings import Settings
from tests.commands import Numbered, numbered_command
from tests.house import fresh_database
from tests.serving import ServedProcess, free_port, start

PATIENCE_S = 60.0
WORKERS = 4
SERVICES = os.environ.get("LEAVING_SERVICES", "requirements").split()


@dataclass
class Load:
    """Commands and queries while the service is ready, over HTTP, and queries over gRPC; whatever fails ends it."""

    service: str
    command: Numbered
    address: str
    channel: Any
    token: str
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    answered: dict[str, int] = field(default_factory=lambda: {"http": 0, "grpc": 0})
    made: int = 0
    recorded: int = 0

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def watch(self) -> None:
        """As a load balancer does: asks whether it is ready, and sends nothing when it is not."""
        async with httpx.AsyncClient(base_url=self.address, timeout=PATIENCE_S, trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await http.get("/readyz")
                    (self.ready.set if answer.is_success else self.ready.clear)()
                await asyncio.sleep(0.05)

    async def ask(self) -> None:
        """Over HTTP, with connections that are kept."""
        async with httpx.AsyncClient(
            base_url=self.address, headers=self.headers, timeout=PATIENCE_S, trust_env=False
        ) as http:
            while True:
                await self.ready.wait()
                answer = await http.get(f"/v1/{self.service}/events", params={"page_size": 5})
                assert answer.is_success, answer.text
                self.made += 1
                query = {"after": self.command.after}
                answer = await http.post(self.command.path, params=query, json=self.command.body(self.made))
                assert answer.status_code == 201, answer.text
                self.recorded += 1
                self.answered["http"] += 1

    async def call(self) -> None:
        """Over gRPC."""
        package = f"prooftrail.{self.service}.v1"
        name = f"List{self.service.capitalize()}Events"
        unary = self.channel.unary_unary(
            f"/{package}.{service_name_of(self.service)}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_type(f"{package}.{name}Response").FromString,
        )
        while True:
            await self.ready.wait()
            request = message_type(f"{package}.{name}Request")(page_size=5)
            await unary(request, metadata=[("authorization", f"Bearer {self.token}")], timeout=PATIENCE_S)
            self.answered["grpc"] += 1

    async def until_answered(self, more: int) -> None:
        """Until so many more requests were answered on each wire."""
        wanted = {wire: count + more for wire, count in self.answered.items()}
        async with asyncio.timeout(PATIENCE_S):
            while any(self.answered[wire] < count for wire, count in wanted.items()):  # noqa: ASYNC110 -- a count
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def at_work(load: Load) -> AsyncIterator[None]:
    """The load runs while the block does; none of it may have failed."""
    works = [load.watch(), load.call(), *(load.ask() for _ in range(WORKERS))]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


async def listen(load: Load, seen: list[int]) -> None:
    """Server-sent events from the last position on, until the stream ends as an answer should (else httpx raises)."""
    query = {"from_position": seen[-1] if seen else 0}
    async with (
        httpx.AsyncClient(base_url=load.address, headers=load.headers, timeout=PATIENCE_S, trust_env=False) as http,
        http.stream("GET", f"/v1/{load.service}/events/stream", params=query) as answer,
    ):
        assert answer.is_success
        position = 0
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                position = int(line.removeprefix("id: "))
            elif line.startswith("data: "):
                seen.append(position)


async def subscribe(load: Load, seen: list[int]) -> grpc.StatusCode:
    """The stream of gRPC from the last position on; what it ended with."""
    package = f"prooftrail.{load.service}.v1"
    stream = load.channel.unary_stream(
        f"/{package}.{service_name_of(load.service)}/Subscribe",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_type(f"{package}.SubscribeResponse").FromString,
    )
    request = message_type(f"{package}.SubscribeRequest")(from_position=seen[-1] if seen else 0)
    try:
        async for response in stream(request, metadata=[("authorization", f"Bearer {load.token}")]):
            if response.event:
                seen.append(response.position)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_told_to_end_fails_nobody(server_url: str, tmp_path: Path, service: str) -> None:
    """SIGTERM under load, and a successor at the same address: every request is answered, every stream goes on without a gap."""
    data = tmp_path / "data"
    issuer = local_issuer(Settings(data=data))
    owner, token = issuer.subject(name="Olga Owner", kind="person"), issuer.mint(name="Olga Owner")
    ports = {"PROOFTRAIL_PORT": str(free_port()), "PROOFTRAIL_GRPC_PORT": str(free_port()), "PROOFTRAIL_DRAIN_S": "2"}
    over_sse, over_grpc = list[int](), list[int]()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(fresh_database(server_url))
        await migrate_all(url)
        command = await numbered_command(service, database_url=url, owner=owner)

        async def begun() -> ServedProcess:
            one = start(data, service, database_url=url, settings=ports)
            stack.callback(end, one)
            await asyncio.to_thread(one.until_ready)
            return one

        first = await begun()
        options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 100)]
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{first.grpc_port}", options=options)
        )
        load = Load(service=service, command=command, address=first.address, channel=channel, token=token)
        async with at_work(load):
            await load.until_answered(5)
            streams = asyncio.gather(listen(load, over_sse), subscribe(load, over_grpc))
            await load.until_answered(20)
            first.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                _, code = await streams
            assert code == grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(first.process.wait, PATIENCE_S) == 0
            second = await begun()
            streams = asyncio.gather(listen(load, over_sse), subscribe(load, over_grpc))
            await load.until_answered(20)
        async with asyncio.timeout(PATIENCE_S):
            while min(len(over_sse), len(over_grpc)) < load.recorded:  # noqa: ASYNC110 -- they grow by themselves
                await asyncio.sleep(0.02)
        second.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            _, code = await streams
        assert code == grpc.StatusCode.UNAVAILABLE
    assert load.recorded > 0
    # What was not answered any more when the load ended may be stored all the same.
    for positions in (over_sse, over_grpc):
        assert positions == list(range(1, len(positions) + 1))
        assert load.recorded <= len(positions) <= load.made


def end(one: ServedProcess) -> None:
    """Unless it ended."""
    if one.process.poll() is None:
        one.end()
