"""What an administrator of the database changes, the sealer notices: in events that are sealed, and in those that are not yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.errors import ProoftrailError
from shared.log.patrol import HistoryAltered, Patrol, TileAltered
from shared.log.proofs import LogIncomplete
from shared.log.row_check import EventAltered, EventsMissing
from shared.log.sealer import TilesAltered
from shared.log.service_log import SealingRefused
from shared.log.signer import RollbackNoticed
from tests.shared.log.sealed_store import SERVICE, SealedStore, running, sealed_store, until

EVENT = f"{SERVICE}.event"
REWRITTEN = "event = convert_to(replace(convert_from(event, 'UTF8'), 'counted in a test', 'changed in test'), 'UTF8')"
REHASHED = f"UPDATE {EVENT} SET leaf_hash = sha256('\\x00'::bytea || event)"


@pytest.fixture
async def store(server_url: str, tmp_path: Path) -> AsyncIterator[SealedStore]:
    """600 events, of which 580 are sealed."""
    async with sealed_store(server_url, tmp_path) as opened:
        await opened.append(580)
        await opened.seal()
        await opened.append(20)
        yield opened


def patrol(store: SealedStore) -> Patrol:
    """The patrol of the store's log."""
    return Patrol(pool=store.pool, service=SERVICE, signer=store.signer, sealer=store.log.sealer)


async def test_an_untouched_store_passes(store: SealedStore) -> None:
    """The control: nothing is found where nothing was done."""
    assert await patrol(store).look() is None
    assert await store.seal() == 600
    assert await patrol(store).look() is None


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        (f"UPDATE {EVENT} SET {REWRITTEN} WHERE position = 590", 590),
        (f"UPDATE {EVENT} SET leaf_hash = sha256('x') WHERE position = 595", 595),
        (
            f"UPDATE {EVENT} e SET event = o.event, leaf_hash = o.leaf_hash FROM {EVENT} o"
            " WHERE e.position IN (585, 586) AND o.position = 1171 - e.position",
            585,
        ),
    ],
    ids=["bytes", "hash", "two exchanged with their hashes"],
)
async def test_an_event_that_is_not_sealed_yet(store: SealedStore, statement: str, position: int) -> None:
    """It is never signed, and named."""
    await store.as_superuser(statement)
    with pytest.raises(EventAltered) as noticed:
        await store.seal()
    assert noticed.value.position == position
    assert store.signer.size == 580


async def test_events_that_are_not_sealed_yet_and_removed(store: SealedStore) -> None:
    """A hole, at the end too."""
    await store.as_superuser(f"DELETE FROM {EVENT} WHERE position = 590")
    with pytest.raises(EventsMissing):
        await store.seal()
    await store.as_superuser(f"DELETE FROM {EVENT} WHERE position > 580")
    with pytest.raises(EventsMissing):
        await store.seal()


@pytest.mark.parametrize(
    ("statements", "error"),
    [
        ([f"UPDATE {EVENT} SET {REWRITTEN} WHERE position = 300"], EventAltered),
        ([f"UPDATE {EVENT} SET {REWRITTEN} WHERE position = 300", f"{REHASHED} WHERE position = 300"], TileAltered),
        ([f"UPDATE {EVENT} SET {REWRITTEN} WHERE position = 570", f"{REHASHED} WHERE position = 570"], HistoryAltered),
        ([f"UPDATE {SERVICE}.log_tile SET hash = sha256('x') WHERE number = 1"], TileAltered),
        ([f"DELETE FROM {EVENT} WHERE position = 300"], EventsMissing),
    ],
    ids=["bytes", "bytes and hash", "bytes and hash beyond the tiles", "a tile", "removed"],
)
async def test_an_event_that_is_sealed(store: SealedStore, statements: list[str], error: type[ProoftrailError]) -> None:
    """The patrol finds it."""
    for statement in statements:
        await store.as_superuser(statement)
    found = await patrol(store).look()
    assert isinstance(found, error)
    assert found.why
    assert found.next_step


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (f"UPDATE {EVENT} SET {REWRITTEN}; {REHASHED}", TilesAltered),
        (f"UPDATE {SERVICE}.log_tile SET hash = sha256('x')", TilesAltered),
        (f"UPDATE {SERVICE}.log_checkpoint SET root = sha256('x')", TilesAltered),
        (f"DELETE FROM {SERVICE}.log_tile", LogIncomplete),
        (f"DELETE FROM {EVENT} WHERE position > 500; UPDATE {SERVICE}.head SET position = 500", RollbackNoticed),
    ],
    ids=["rewritten and rehashed", "tiles", "the root", "tiles lost", "the end cut off"],
)
async def test_history_that_is_not_the_signed_one_is_not_continued(
    store: SealedStore, statement: str, error: type[ProoftrailError]
) -> None:
    """At the next start, before anything is signed or promised."""
    for one in statement.split("; "):
        await store.as_superuser(one)
    with pytest.raises(error):
        await store.seal()
    log = store.opened_log()
    await log.check()
    assert isinstance(log.sealer.refusal, error)
    assert log.promise((await store.append(1, stream="count:s/2")).events) is None
    assert store.signer.size == 580


async def test_sealing_stops_and_says_so_while_commands_go_on(
    store: SealedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An ERROR once, a refusal that every process can read, no promise; and it goes on when the row is as it was."""
    (before,) = await store.pool.fetchrow(f"SELECT event FROM {EVENT} WHERE position = 590")
    await store.as_superuser(f"UPDATE {EVENT} SET {REWRITTEN} WHERE position = 590")
    async with running(store.log.sealer.run):
        await until(lambda: store.log.sealer.refusal is not None)
        await until(lambda: _is_told(store))
        assert (await store.append(1)).promise is None
        with pytest.raises(SealingRefused, match="590 was altered"):
            await store.opened_log().require_sealing()
        assert [record.levelname for record in caplog.records if "not being sealed" in record.message] == ["ERROR"]
        await store.as_superuser(f"UPDATE {EVENT} SET event = '\\x{before.hex()}'::bytea WHERE position = 590")
        await until(lambda: store.signer.size == 601)
        await until(lambda: store.log.sealer.refusal is None)
    await store.opened_log().require_sealing()
    assert (await store.append(1)).promise is not None


async def _is_told(store: SealedStore) -> bool:
    return bool(await store.pool.fetchval(f"SELECT count(*) FROM {SERVICE}.log_refusal"))


async def test_what_the_patrol_finds_stops_a_sealer_that_has_nothing_to_do(store: SealedStore) -> None:
    """It is waiting for events, and still it says so at once."""
    log = store.log
    async with running(log.sealer.run):
        await until(lambda: store.signer.size == 600)
        await store.as_superuser(f"UPDATE {EVENT} SET {REWRITTEN} WHERE position = 300")
        async with running(log.patrol.run):
            await until(lambda: isinstance(log.sealer.refusal, EventAltered))
        await until(lambda: _is_told(store))
