"""A disk that fills up under the store: what was acknowledged stays, and it goes on when there is space again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from shared.embedded_postgres import EmbeddedPostgres
from shared.errors import ProoftrailError, Unavailable
from shared.runtime import migrate_service
from tests.npm_packages import skip_loudly
from tests.shared.counting import READER, Counted, Counter, event_of
from tests.shared.followers import following
from tests.shared.log.sealed_store import SERVICE

DISK_MEGABYTES = 120
BALLAST_MEGABYTES = 30
REASON = random.Random(1).randbytes(20_000).hex()
"""It does not compress, so that the disk fills soon."""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own that PostgreSQL can fill; needs root to mount it."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-test-") as parent:
        Path(parent).chmod(0o755)  # as root the server runs under another account
        folder = Path(parent) / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=755", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            skip_loudly(what="on a full disk", reason="mounting a small file system needs root")
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: Path, tmp_path: Path) -> None:
    """Appends go on until the disk is full, are refused, and go on when something else gives space back; so do those who follow."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(BALLAST_MEGABYTES << 20))
    with contextlib.ExitStack() as server:
        url = server.enter_context(EmbeddedPostgres.start(small_disk / "server")).dsn
        for service in (SERVICE, READER):
            await migrate_service(url, service=service)
        async with following(url, tmp_path) as followers:
            async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
                acknowledged, refusal = await _append_until_refused(pool)
                assert acknowledged, "the disk was full before the first event"
                assert isinstance(refusal, Unavailable), refusal
            await asyncio.to_thread(server.close)
            ballast.unlink()
            server.enter_context(await asyncio.to_thread(EmbeddedPostgres.start, small_disk / "server"))
            await _require_all_and_go_on(url, acknowledged)
            await followers.require_everything()


async def _require_all_and_go_on(url: str, acknowledged: set[str]) -> None:
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        store = Counter(pool=pool).store
        events = await store.read(after=0, limit=20_000)
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        stored = {event.stream for event in events}
        assert acknowledged <= stored
        assert len(stored - acknowledged) <= 1, "more is there than was acknowledged or being written"
        event = event_of(Counted(number=1), stream="counter:s/after", version=1)
        receipt = await store.append([event], record=event.stream, version=1, key=None)
        assert receipt.events[0].position == len(events) + 1


async def _append_until_refused(pool: asyncpg.Pool) -> tuple[set[str], Exception]:
    """Streams of one large event each that were acknowledged, and the error that the first refused one met."""
    store = Counter(pool=pool).store
    acknowledged: set[str] = set()
    for number in range(20_000):
        stream = f"counter:s/{number}"
        event = event_of(Counted(number=number), stream=stream, version=1)
        large = type(event)(**{**{name: getattr(event, name) for name in event.__struct_fields__}, "reason": REASON})
        try:
            await store.append([large], record=stream, version=1, key=None)
        except (ProoftrailError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            return acknowledged, error
        acknowledged.add(stream)
    raise AssertionError("the disk never filled up")
