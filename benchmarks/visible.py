"""What a command did is to be seen in traceability within 250 ms at the 99th percentile, at 200 commands a second.

The services run in their own process, as `make run` serves them; commands arrive by an open loop, whether the one before is done or
not, and each is timed from its acknowledgement until an answer of traceability that has waited for its position.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.lean_http import LeanClient
from benchmarks.result import Result, compared, percentile, within
from services.composition import local_issuer
from shared.settings import Settings
from tests.house import fresh_database
from tests.serving import served

COMMANDS_A_SECOND = 200
SECONDS = 15
WARM_UP_SECONDS = 3
LIMIT_MILLISECONDS = 250.0
RATE_SHARE_MIN = 0.95


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Milliseconds, and the rate at which commands were really acknowledged."""
    async with fresh_database(server_url) as url:
        data = scratch / "visible"
        token = local_issuer(Settings(data=data)).mint(name="Ada Author", lifetime_s=3600)
        with served(data, database_url=url) as (address, _, _):
            client = LeanClient(address=address, token=token)
            lags, rate = await open_loop(client, client, commands_a_second=COMMANDS_A_SECOND)
            await client.close()
    return [
        within(
            name=f"command acknowledged to visible in traceability at {COMMANDS_A_SECOND}/s, p99",
            ours=percentile(lags, 0.99), limit=LIMIT_MILLISECONDS, unit="ms",
        ),
        compared(
            name="commands acknowledged while that was measured", ours=rate, peer=COMMANDS_A_SECOND, peer_name="offered",
            unit="commands/s", goal=RATE_SHARE_MIN, better="more",
        ),
    ]  # fmt: skip


async def open_loop(
    commands: LeanClient, reads: LeanClient, *, commands_a_second: int, seconds: int = SECONDS
) -> tuple[list[float], float]:
    """Milliseconds from each acknowledgement until its effect was read from traceability, and acknowledgements a second."""
    await _register(commands, "bench-first")
    began = time.perf_counter()
    tasks = []
    for number in range(commands_a_second * (WARM_UP_SECONDS + seconds)):
        due = began + number / commands_a_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(_command(commands, reads, number)))
    results = await asyncio.gather(*tasks)
    measured = results[commands_a_second * WARM_UP_SECONDS :]
    acknowledged = sorted(at for at, _ in measured)
    rate = (len(acknowledged) - 1) / (acknowledged[-1] - acknowledged[0])
    return [lag for _, lag in measured], rate


async def _command(commands: LeanClient, reads: LeanClient, number: int) -> tuple[float, float]:
    """When it was acknowledged, and the milliseconds from there until it was seen."""
    position = await _register(commands, f"bench-{number}")
    acknowledged = time.perf_counter()
    page = await reads.get(f"/v1/systems/bench-{number}/ledger?after={position}&page_size=1")
    assert len(page["events"]) == 1
    return acknowledged, (time.perf_counter() - acknowledged) * 1000


async def _register(client: LeanClient, key: str) -> str:
    body = {
        "key": key,
        "name": "Bench",
        "intended_use": "to be seen soon",
        "risk_class": "limited",
        "reason": "measured",
    }
    position: str = (await client.post("/v1/systems", body))["position"]
    return position
