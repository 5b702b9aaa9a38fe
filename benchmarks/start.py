"""A second start of `make run` must be ready within 3 s."""

from __future__ import annotations

from pathlib import Path

from benchmarks.result import Result, median, within
from tests.serving import served

ROUNDS = 3
LIMIT_SECONDS = 3.0


async def measure(_server_url: str, scratch: Path) -> list[Result]:
    """Starts once to make the folder, then measures starts on it."""
    data = scratch / "start"
    seconds = []
    for _ in range(ROUNDS + 1):
        with served(data) as (_, ready_after, _):
            seconds.append(ready_after)
    return [within(name="second start of make run", ours=median(seconds[1:]), limit=LIMIT_SECONDS, unit="s")]
