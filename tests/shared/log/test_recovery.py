"""A database that is older than what was signed: refused, told, and taken up again only on purpose and in the open."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.errors import ProoftrailError
from shared.log.checkpoint import open_checkpoint, parse_checkpoint
from shared.log.note import VerifierKey, parse_note
from shared.log.promise import open_promise
from shared.log.sealer import SignerBehind
from shared.log.signer import HistoryContradicts, RollbackNoticed
from shared.log.statements import verify_recovery, verify_rotation
from shared.log.upkeep import NothingToRecover, record_statements, recover, rotate_key
from shared.runtime import utc_now
from tests.shared.log.sealed_store import SERVICE, SealedStore, reached, running, sealed_store, until


@pytest.fixture
async def store(server_url: str, tmp_path: Path) -> AsyncIterator[SealedStore]:
    """300 events, sealed."""
    async with sealed_store(server_url, tmp_path) as opened:
        await opened.append(300)
        await opened.seal()
        yield opened


@contextlib.asynccontextmanager
async def backup(server_url: str, store: SealedStore) -> AsyncIterator[str]:
    """A copy of the database as it is now; gives its address."""
    name = f"{store.url.rpartition('/')[2].partition('?')[0]}"
    administrator = await asyncpg.connect(server_url)
    try:
        await administrator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await administrator.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
        yield store.url.replace(name, f"{name}_copy")
        await administrator.execute(f"DROP DATABASE {name}_copy WITH (FORCE)")
    finally:
        await administrator.close()


async def refusal_of(store: SealedStore) -> ProoftrailError | None:
    """What the next start says."""
    log = store.opened_log()
    await log.check()
    return log.sealer.refusal


async def told(store: SealedStore, name: str) -> list[Any]:
    """The facts of this kind that the log tells about itself."""
    return [event.data for event in await store.store.load(f"log::{SERVICE}") if event.name == f"{SERVICE}.{name}"]


async def test_an_older_copy_is_refused_and_recovered_on_purpose(server_url: str, store: SealedStore) -> None:
    """The new epoch tells what is lost, signed; the broken promise is explained by it; and history goes on from there."""
    async with backup(server_url, store) as copy:
        async with reached(store.url, store.folder) as newer:
            newer.versions = dict(store.versions)
            broken = await newer.append(50)
            await newer.seal()
        async with reached(copy, store.folder) as older:
            older.versions = dict(store.versions)
            assert isinstance(await refusal_of(older), RollbackNoticed)
            with pytest.raises(RollbackNoticed):
                await older.seal()
            statement = await recover(store=older.store, log=older.log, why="the disk died", clock=utc_now)
            keys = [VerifierKey.parse(key) for key in older.signer.vkeys]
            verify_recovery(statement, name=older.signer.name, keys=keys)
            assert (statement.epoch, statement.lost_first, statement.lost_last) == (2, 301, 350)
            assert statement.last_checkpoint is not None
            assert open_checkpoint(statement.last_checkpoint, keys).head.size == 350
            assert await refusal_of(older) is None
            (fact,) = await told(older, "log-recovered")
            assert (fact.epoch, fact.lost_first, fact.lost_last, fact.why) == (2, 301, 350, "the disk died")
            promised = open_promise(broken.promise or "", keys)
            assert promised.origin == "acme/requirements/1"
            assert fact.lost_first <= promised.events[0].position <= promised.events[-1].position <= fact.lost_last
            again = await older.append(5)
            assert open_promise(again.promise or "", keys).origin == "acme/requirements/2"
            assert await older.seal() == 306
            head = open_checkpoint((await older.require_sound())[-1].note, keys).head
            assert (head.origin, head.size) == ("acme/requirements/2", 306)


async def test_a_change_of_keys_that_was_lost_is_told_again(server_url: str, store: SealedStore) -> None:
    """Before the recovery, so that no tree that tells of the recovery is signed by a key that it does not tell of."""
    async with backup(server_url, store) as copy:
        async with reached(store.url, store.folder) as newer:
            await rotate_key(store=newer.store, signer=newer.signer, why="it is a year old", clock=utc_now)
            await newer.seal()
        async with reached(copy, store.folder) as older:
            await recover(store=older.store, log=older.log, why="the disk died", clock=utc_now)
            (rotation,) = older.signer.rotations
            (fact,) = await told(older, "log-key-rotated")
            assert (fact.old_key, fact.new_key, fact.signature) == (
                rotation.old_key,
                rotation.new_key,
                rotation.signature,
            )
            stated = [event.name for event in await older.store.load(f"log::{SERVICE}")]
            assert stated == [f"{SERVICE}.log-key-rotated", f"{SERVICE}.log-recovered"]


async def test_an_older_copy_that_went_on_is_refused_too(server_url: str, store: SealedStore) -> None:
    """Commands go on while nothing is sealed; that there are as many events again does not make them the signed ones."""
    async with backup(server_url, store) as copy:
        async with reached(store.url, store.folder) as newer:
            newer.versions = dict(store.versions)
            await newer.append(50)
            await newer.seal()
        async with reached(copy, store.folder) as older:
            older.versions = dict(store.versions)
            async with running(older.log.run):
                await until(lambda: older.log.sealer.refusal is not None)
                assert (await older.append(60, stream="count:s/2")).promise is None
                await until(lambda: isinstance(older.log.sealer.refusal, HistoryContradicts))
            statement = await recover(store=older.store, log=older.log, why="restored last week", clock=utc_now)
            assert (statement.lost_first, statement.lost_last) == (301, 350)
            assert (await older.tables.sealed()).size == 361
            await older.require_sound()


async def test_a_running_house_goes_on_after_another_process_recovered(server_url: str, store: SealedStore) -> None:
    """The sealer lets go of the lock while it refuses, and reads the signer's folder again."""
    async with backup(server_url, store) as copy:
        async with reached(store.url, store.folder) as newer:
            newer.versions = dict(store.versions)
            await newer.append(50)
            await newer.seal()
        async with reached(copy, store.folder) as older, reached(copy, store.folder) as command:
            async with running(older.log.run):
                await until(lambda: isinstance(older.log.sealer.refusal, RollbackNoticed))
                await command.log.check()
                await recover(store=command.store, log=command.log, why="the disk died", clock=utc_now)
                await until(lambda: older.log.sealer.refusal is None)
                await older.append(1, stream="count:s/3")
                await until(lambda: older.signer.size == 302)
            assert older.signer.origin == "acme/requirements/2"


async def test_a_lost_folder_is_noticed_and_recovered_under_a_new_key(store: SealedStore) -> None:
    """The database holds checkpoints that the new signer did not give; nothing is lost but the key."""
    old_key = store.signer.vkey
    shutil.rmtree(store.folder / "log")
    async with reached(store.url, store.folder) as again:
        assert isinstance(await refusal_of(again), SignerBehind)
        await again.log.check()
        statement = await recover(store=again.store, log=again.log, why="the folder is gone", clock=utc_now)
        assert (statement.epoch, statement.lost_first, statement.lost_last) == (2, 301, 300)
        assert parse_checkpoint(parse_note(statement.last_checkpoint or "").text).origin == "acme/requirements/1"
        assert again.signer.vkey != old_key
        assert (await again.tables.sealed()).size == 301


async def test_what_needs_no_recovery_is_not_recovered(store: SealedStore) -> None:
    """No new epoch without a loss."""
    await store.log.check()
    with pytest.raises(NothingToRecover):
        await recover(store=store.store, log=store.log, why="to be sure", clock=utc_now)
    assert store.signer.epoch == 1


async def test_a_recovery_that_was_cut_off_is_told_at_the_next_start(server_url: str, store: SealedStore) -> None:
    """The epoch was opened and the process died before the log told it."""
    store.signer.open_epoch(lost_first=301, lost_last=350, why="the disk died")
    for _ in range(2):
        await record_statements(store.store, store.signer, clock=utc_now)
    (fact,) = await told(store, "log-recovered")
    assert (fact.epoch, fact.why) == (2, "the disk died")
    assert await store.seal() == 301


async def test_a_key_is_followed_by_one_that_it_signed(store: SealedStore) -> None:
    """Checkpoints and promises carry the new key, older ones stay valid, and the log tells the change."""
    old_key, old_note = store.signer.vkey, store.signer.note
    rotation = await rotate_key(store=store.store, signer=store.signer, why="it is a year old", clock=utc_now)
    assert store.signer.vkeys[1:] == ()
    assert await store.seal() == 301
    assert store.signer.vkeys == (old_key, rotation.new_key)
    new = verify_rotation(rotation, name=store.signer.name, keys=[VerifierKey.parse(old_key)])
    receipt = await store.append(1)
    open_promise(receipt.promise or "", [new])
    assert await store.seal() == 302
    open_checkpoint(store.signer.note or "", [new])
    open_checkpoint(old_note or "", [VerifierKey.parse(old_key)])
    (fact,) = await told(store, "log-key-rotated")
    assert (fact.old_key, fact.new_key, fact.signature) == (old_key, rotation.new_key, rotation.signature)
    await store.require_sound()


async def test_a_change_of_keys_that_was_cut_off_is_finished_at_the_next_start(store: SealedStore) -> None:
    """The new key signs only trees that hold its event, and those it does; a restore that lost the event has it told again."""
    old_key = store.signer.vkey
    rotation = store.signer.begin_rotation()
    assert store.signer.vkey == old_key
    for _ in range(2):
        await record_statements(store.store, store.signer, clock=utc_now)
    assert store.signer.vkey == old_key
    await store.seal()
    assert store.signer.vkey == rotation.new_key
    assert [fact.new_key for fact in await told(store, "log-key-rotated")] == [rotation.new_key]
