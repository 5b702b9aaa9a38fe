"""The examples for subscribers do what they say, against the real services: killed or cut off, they go on without loss or gap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook as Checker

from tests.house import Client, TestHouse, running_house
from tests.kafka_broker.proxy import TcpProxy
from tests.npm_packages import CannotRun, skip_loudly
from tests.serving import free_port
from tests.streaming import http_serving
from tests.webhook_receiver import LOOPBACK, PATIENCE_SECONDS

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
LINES_MAX = 15
NODE_VERSION_MIN = 18
STREAM = "/v1/requirements/events/stream"

SUBSCRIBERS = {
    "python": (sys.executable, "subscribe.py"),
    "node": ("node", "subscribe.mjs"),
    "curl": ("bash", "subscribe.sh"),
}


@dataclass(frozen=True)
class Wire:
    """The house behind a port that can be cut."""

    house: TestHouse
    proxy: TcpProxy
    url: str


@dataclass
class Printing:
    """A running example, which prints a position and an event in each line."""

    process: asyncio.subprocess.Process

    async def take(self, count: int) -> list[tuple[int, str]]:
        """The next `count` lines."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            lines = [(await self.process.stdout.readline()).decode() for _ in range(count)]
        return [(int(line.partition(" ")[0]), line.partition(" ")[2].rstrip("\n")) for line in lines]


@pytest.fixture
async def wire(server_url: str, tmp_path: Path) -> AsyncIterator[Wire]:
    async with (
        running_house(server_url=server_url, folder=tmp_path / "data", webhook_networks=(LOOPBACK,)) as house,
        http_serving(house.house) as port,
    ):
        there = free_port()
        async with TcpProxy.between(there, port) as proxy:
            yield Wire(house, proxy, f"http://127.0.0.1:{there}{STREAM}")


@contextlib.asynccontextmanager
async def _printing(*command: str, **environment: str) -> AsyncIterator[Printing]:
    """The example at work; killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        command[0], EXAMPLES / command[1], *command[2:], env={**os.environ, **environment}, limit=1 << 22,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield Printing(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # and what it has started
        await process.communicate()


def _require(language: str) -> None:
    needs = {"node": f"Node.js {NODE_VERSION_MIN} or newer", "curl": "curl and bash"}
    missing = [
        name for name in ({"curl": ("curl", "bash"), "node": ("node",)}.get(language, ())) if not shutil.which(name)
    ]
    if missing:
        skip_loudly(what=f"the example for {language}", reason=CannotRun(f"install {needs[language]}"))


async def _register(who: Client, *systems: str) -> None:
    for system in systems:
        await who.post("/v1/systems", key=system, name="Flüge ✈", intended_use="who is late?\n", risk_class="limited")


async def _told(who: Client) -> list[tuple[int, str]]:
    events = (await who.get("/v1/requirements/events", page_size=200))["events"]
    return [(event["position"], event["event"]) for event in events]


@pytest.mark.parametrize("language", SUBSCRIBERS)
async def test_a_subscriber_in_ten_lines_resumes(wire: Wire, language: str) -> None:
    """Killed, it goes on at the position that it is given; cut off, by itself; and it prints every event once."""
    _require(language)
    ada = wire.house.client("Ada Author")
    await _register(ada, "one", "two", "three")
    told = await _told(ada)
    async with _printing(*SUBSCRIBERS[language], wire.url, "0", PROOFTRAIL_TOKEN=ada.token) as first:
        got = await first.take(2)
    await _register(ada, "four")
    async with _printing(*SUBSCRIBERS[language], wire.url, str(got[-1][0]), PROOFTRAIL_TOKEN=ada.token) as second:
        got += await second.take(len(told) - 1)
        for system in ("five", "six"):
            wire.proxy.cut()
            await _register(ada, system)
            got += await second.take(1)
    assert got == await _told(ada)


async def test_a_receiver_in_ten_lines_checks_what_it_takes(wire: Wire) -> None:
    """It takes what we send, and refuses what somebody else does, what was altered, and what is old."""
    ada = wire.house.client("Ada Author")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    registration = {"key": "mine", "url": url, "from_position": 0}
    registered = (await ada.request("POST", "/v1/requirements/webhooks", body=registration)).json()
    await _register(ada, "one", "two")
    command = (sys.executable, "receive_webhook.py", str(port))
    async with _printing(*command, PROOFTRAIL_WEBHOOK_SECRET=registered["secret"]) as receiver:
        told = await _told(ada)
        assert await receiver.take(len(told)) == told
        now, then = datetime.now(UTC), datetime.now(UTC) - timedelta(hours=1)
        ours, theirs = Checker(registered["secret"]), Checker(b"theirs")
        for headers, body, status in (
            ({}, b"{}", 401),
            (_signed(theirs, now, b"{}"), b"{}", 401),
            (_signed(ours, now, b"{}"), b"[]", 401),
            (_signed(ours, then, b"{}"), b"{}", 401),
            (_signed(ours, now, b"{}") | {"webhook-id": "another"}, b"{}", 401),
            (_signed(ours, now, b"{}"), b"{}", 204),
        ):
            async with httpx.AsyncClient() as somebody:
                answer = await somebody.post(url, content=body, headers=headers)
            assert answer.status_code == status, headers


def _signed(checker: Checker, at: datetime, body: bytes) -> dict[str, str]:
    """By the library of those who wrote the specification."""
    signature = checker.sign("an-id", at, body.decode())
    return {"webhook-id": "an-id", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def test_examples_are_short() -> None:
    """About ten lines, without libraries: whoever reads one has understood how to subscribe."""
    lengths = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.iterdir() if file.is_file()}
    assert {name for _, name in SUBSCRIBERS.values()} < set(lengths)
    assert {name: length for name, length in lengths.items() if length > LINES_MAX} == {}
