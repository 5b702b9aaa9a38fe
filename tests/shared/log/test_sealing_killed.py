"""kill -9 at every step of sealing: whoever starts next goes on, and no size is ever signed twice with two roots.

At which time of the step, and with how many events a checkpoint, is drawn by seed: FAULT_SEEDS says how many.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.log.checkpoint import parse_checkpoint
from shared.log.note import parse_note
from tests.serving import CHECKOUT
from tests.shared.log.sealed_store import SealedStore, sealed_store, signer_in
from tests.simulation.seeds import fault_seeds

STEPS = (
    "read",
    "hashed",
    "state.json written",
    "state.json synced",
    "state.json renamed",
    "state.json kept",
    "signed",
    "note signed",
    "tiles stored",
    "checkpoint stored",
    "committed",
)
LEAST_TO_SEAL = 300
BATCHES = (40, LEAST_TO_SEAL)
PATIENCE_S = 60.0


@pytest.fixture
async def store(server_url: str, tmp_path: Path) -> AsyncIterator[SealedStore]:
    """With 700 events, half of them sealed."""
    async with sealed_store(server_url, tmp_path) as opened:
        await opened.append(350)
        await opened.seal()
        await opened.append(350)
        yield opened


async def sealing(store: SealedStore, step: str, *, times: int, batch: int) -> int:
    """The exit code of a process that seals."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.shared.log.sealing_process", store.url, str(store.folder), step, str(times), str(batch),
        cwd=CHECKOUT, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return await process.wait()


def signed_here(store: SealedStore) -> tuple[int, str]:
    """The last note that left the signer's folder, or may have."""
    note = signer_in(store.folder).note
    assert note is not None
    return parse_checkpoint(parse_note(note).text).size, note


@pytest.mark.parametrize("seed", fault_seeds(1))
@pytest.mark.parametrize("step", STEPS)
async def test_whoever_starts_next_goes_on(store: SealedStore, step: str, seed: int) -> None:
    """Twice at the same step, with events in between; each size has one note, and all events are sealed at once."""
    chosen = random.Random(seed)
    notes: dict[int, set[str]] = {}
    for _ in range(2):
        batch = chosen.randint(*BATCHES)
        times = chosen.randint(1, LEAST_TO_SEAL // batch)
        assert await sealing(store, step, times=times, batch=batch) == -signal.SIGKILL
        size, note = signed_here(store)
        notes.setdefault(size, set()).add(note)
        await store.append(300)
    async with asyncio.timeout(PATIENCE_S):
        size = await store.seal()
    assert size == 1300
    for checkpoint in await store.require_sound():
        notes.setdefault(checkpoint.size, set()).add(checkpoint.note)
    assert {len(signed) for signed in notes.values()} == {1}
    assert signed_here(store)[0] == 1300


async def test_every_step_is_one_that_there_is(store: SealedStore) -> None:
    """A process without a step to die at passes all of them."""
    passed: set[str] = set()
    store.signer = signer_in(store.folder, at=passed.add)
    sealer = store.sealer(at_step=passed.add)
    async with sealer.alone() as connection:
        await sealer.seal_all(connection)
    assert passed == set(STEPS)
    assert await sealing(store, "-", times=1, batch=LEAST_TO_SEAL) == 0
