"""1,000 subscribers on one service hold: everybody gets every event once and in order, soon, and commands go on.

The service runs in a process of its own. Its subscribers are a hundred people with ten streams each, who see everything; one stream
alone comes first, to compare with. A few more read nothing, behind a small buffer: they are cut off, and what they missed is there
when they come back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from benchmarks.command import SYSTEM, become_author, dataset_body
from benchmarks.event_listener import Arrivals, Listener, listen
from benchmarks.lean_http import LeanClient
from benchmarks.result import Result, compared, not_run, percentile, within
from benchmarks.seeding import Seed, append
from services.composition import local_issuer
from shared.local_issuer import LocalIssuer
from shared.settings import Settings
from shared.subscription import SEND_SECONDS_MAX
from tests.house import fresh_database
from tests.serving import served
from tests.streaming import EventSource

SUBSCRIBERS = 1_000
PEOPLE = 100
SLOW = 10
STREAM = "/v1/requirements/events/stream"
COMMANDS_A_SECOND = 10
DELAY_SECONDS = 6.0
CLIENTS = 16
COMMANDS = 960
HISTORY_EVENTS = 200
HISTORY_EVENT_BYTES = 60_000
"""Together more than the kernel takes for one who reads nothing."""
PATIENCE_SECONDS = 60.0

DELAY_LIMIT_MILLISECONDS = 250.0
DELAY_GOAL = 0.01
MEMORY_LIMIT_KILOBYTES = 100.0
THROUGHPUT_GOAL = 0.25


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Milliseconds from recording to arrival, kilobytes a stream, commands a second, and who got everything."""
    async with fresh_database(server_url) as url:
        data = scratch / "subscribers"
        issuer = local_issuer(Settings(data=data))
        token = issuer.mint(name="Ada Author")
        with served(data, "requirements", database_url=url) as (address, _, process):
            owner = LeanClient(address=address, token=token)
            bench = _Bench(
                port=int(address.rpartition(":")[2]), url=url, process=process, issuer=issuer, owner=owner, token=token
            )
            try:
                return await bench.run()
            finally:
                await owner.close()


@dataclass
class _Bench:
    port: int
    url: str
    process: int
    issuer: LocalIssuer
    owner: LeanClient
    token: str
    commands: int = 0

    async def run(self) -> list[Result]:
        await become_author(self.owner, self.issuer.subject(name="Ada Author"))
        await self._seed_history()
        deaf_since = time.monotonic()
        slow = [await self._slow_stream(after=0) for _ in range(SLOW)]
        alone = Arrivals()
        first = await self._open(alone, [self.token])
        delay_alone = await self._delay(alone)
        rate_alone = await self._rate()
        first[0].close()
        tokens = await self._people()
        before = _resident_kilobytes(self.process)
        arrivals = Arrivals()
        listeners = await self._open(arrivals, tokens * (SUBSCRIBERS // PEOPLE))
        memory = _resident_kilobytes(self.process) - before
        delay = await self._delay(arrivals)
        rate = await self._rate()
        head = await self._head()
        holding = await _share_holding(listeners, head)
        for listener in listeners:
            listener.close()
        await asyncio.sleep(deaf_since + 1.5 * SEND_SECONDS_MAX - time.monotonic())
        cut, resumed = await self._resume_slow(slow, head)
        return [
            _holding("subscribers of one service that got every event once and in order", holding),
            within(
                name=f"recorded to arrived at {SUBSCRIBERS:,} subscribers, p99", ours=delay, limit=DELAY_LIMIT_MILLISECONDS,
                unit="ms",
            ),
            compared(
                name="the same against one subscriber", ours=delay, peer=delay_alone, peer_name="one subscriber", unit="ms",
                goal=DELAY_GOAL, better="less",
            ),
            compared(
                name=f"commands a second with {SUBSCRIBERS:,} subscribers", ours=rate, peer=rate_alone, peer_name="one subscriber",
                unit="commands/s", goal=THROUGHPUT_GOAL, better="more",
            ),
            _memory(memory / SUBSCRIBERS),
            _holding("subscribers that read nothing and were cut off", cut),
            _holding("of these, that got the rest without a gap when they came back", resumed),
        ]  # fmt: skip

    async def _seed_history(self) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await append(connection, "requirements", _history())
        finally:
            await connection.close()

    async def _people(self) -> list[str]:
        """The tokens of people with a role."""
        people = [f"Person {number}" for number in range(PEOPLE)]
        position = ""
        for person in people:
            role = {"subject": self.issuer.subject(name=person), "role": "auditor", "reason": "measured"}
            position = (await self.owner.post(f"/v1/systems/{SYSTEM}:grant-role", role))["position"]
        await self.owner.get(f"/v1/systems/{SYSTEM}?after={position}")
        return [self.issuer.mint(name=person) for person in people]

    async def _open(self, arrivals: Arrivals, tokens: Sequence[str]) -> list[Listener]:
        """All from the end on, a hundred at a time."""
        head, listeners = await self._head(), list[Listener]()
        for start in range(0, len(tokens), PEOPLE):
            listeners += await asyncio.gather(
                *(
                    listen(self.port, STREAM, token=token, after=head, arrivals=arrivals)
                    for token in tokens[start : start + PEOPLE]
                )
            )
        return listeners

    async def _head(self) -> int:
        connection = await asyncpg.connect(self.url)
        try:
            head: int = await connection.fetchval("SELECT position FROM requirements.head")
        finally:
            await connection.close()
        return head

    async def _command(self) -> None:
        self.commands += 1
        await self.owner.post(f"/v1/systems/{SYSTEM}/datasets", dataset_body(f"version-{self.commands}"))

    async def _delay(self, arrivals: Arrivals) -> float:
        """The 99th percentile in milliseconds, while commands come at a steady rate."""
        await asyncio.sleep(1.0)  # what was told before has arrived
        arrivals.measuring = True
        began = time.perf_counter()
        for number in range(int(COMMANDS_A_SECOND * DELAY_SECONDS)):
            await asyncio.sleep(max(0.0, began + number / COMMANDS_A_SECOND - time.perf_counter()))
            await self._command()
        await asyncio.sleep(1.0)
        arrivals.measuring = False
        return percentile(arrivals.delays, 0.99) * 1000

    async def _rate(self) -> float:
        """Commands a second of so many clients at a time."""

        async def one_after_the_other() -> None:
            for _ in range(COMMANDS // CLIENTS):
                await self._command()

        began = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(CLIENTS)))
        return COMMANDS / (time.perf_counter() - began)

    async def _slow_stream(self, after: int) -> EventSource:
        return await EventSource.connect(self.port, STREAM, token=self.token, from_position=after, receive_buffer=4096)

    async def _resume_slow(self, slow: Sequence[EventSource], head: int) -> tuple[float, float]:
        """The shares of the slow ones that were cut off before they had everything, and that are whole in the end."""
        cut = whole = 0
        for source in slow:
            got = [one.position async for one in source if one.name]
            cut += got[-1] < head
            rest = await self._slow_stream(after=got[-1])
            async for one in rest:
                got += [one.position] if one.name else []
                if got[-1] >= head:
                    break
            whole += got == list(range(1, head + 1))
            await source.close()
            await rest.close()
        return cut / len(slow), whole / len(slow)


def _history() -> Iterator[Seed]:
    for number in range(HISTORY_EVENTS):
        data = {**dataset_body(f"past-{number}"), "provenance": "x" * HISTORY_EVENT_BYTES}
        del data["reason"]
        yield Seed(f"dataset:{SYSTEM}/flights@past-{number}", "requirements.dataset-registered", data)


async def _share_holding(listeners: Sequence[Listener], head: int) -> float:
    """The share of those that are still open, had no gap and have come to the end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and any(one.position < head and not one.ended for one in listeners):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return sum(one.whole and not one.ended and one.position == head for one in listeners) / len(listeners)


def _holding(name: str, share: float) -> Result:
    return compared(name=name, ours=share, peer=1.0, peer_name="all", unit="share", goal=1.0, better="more")


def _memory(kilobytes: float) -> Result:
    name = "memory of one subscriber more"
    if not Path("/proc/self/status").exists():
        return not_run(name=name, why="this system does not tell the memory of a process", unit="kB")
    return within(name=name, ours=kilobytes, limit=MEMORY_LIMIT_KILOBYTES, unit="kB")


def _resident_kilobytes(process: int) -> float:
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.exists() else ["VmRSS: 0 kB"]
    return next(float(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
