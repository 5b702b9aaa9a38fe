"""The log must hash far faster than anybody can append: event bytes to leaf hashes to the root of every batch, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymerkle import InmemoryTree

from benchmarks.result import Result, compared, median
from shared.log.merkle import Frontier, leaf_hash

EVENT_BYTES = 500
BATCH = 500
OUR_EVENTS = 200_000
THEIR_EVENTS = 40_000
ROUNDS = 3
LEAVES_PER_SECOND_MIN = 300_000.0
TIMES_PYMERKLE_MIN = 5.0


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Leaves a second, in batches as the sealer takes them, a root after each; pymerkle over the same bytes in the same batches."""
    del server_url, scratch
    batches = _batches(OUR_EVENTS)
    theirs = batches[: THEIR_EVENTS // BATCH]
    if _our_root(theirs) != _their_root(theirs):
        raise AssertionError("pymerkle has another root over the same events")
    rounds = [(_rate(_our_root, batches), _rate(_their_root, theirs)) for _ in range(ROUNDS)]
    ours, pymerkle = (median(rates) for rates in zip(*rounds, strict=True))
    name = f"leaf hashes and root of batches of {BATCH} events of {EVENT_BYTES} bytes, one core"
    return [
        compared(
            name=name, ours=ours, peer=pymerkle, peer_name="pymerkle", unit="leaves/s", goal=TIMES_PYMERKLE_MIN, better="more"
        ),
        compared(
            name=f"{name}, at least", ours=ours, peer=LEAVES_PER_SECOND_MIN, peer_name="limit", unit="leaves/s", goal=1.0,
            better="more",
        ),
    ]  # fmt: skip


def _batches(count: int) -> list[list[bytes]]:
    events = [f'{{"position":{number}'.ljust(EVENT_BYTES, ".").encode() for number in range(1, count + 1)]
    return [events[at : at + BATCH] for at in range(0, count, BATCH)]


def _our_root(batches: list[list[bytes]]) -> bytes:
    tree = Frontier()
    root = tree.root()
    for batch in batches:
        tree.extend([leaf_hash(event) for event in batch])
        root = tree.root()
    return root


def _their_root(batches: list[list[bytes]]) -> bytes:
    tree: Any = InmemoryTree(algorithm="sha256")
    root = b""
    for batch in batches:
        tree.append_entries(batch)
        root = tree.get_root()
    return root


def _rate(compute: Callable[[list[list[bytes]]], bytes], batches: list[list[bytes]]) -> float:
    started = time.perf_counter()
    compute(batches)
    return len(batches) * BATCH / (time.perf_counter() - started)
