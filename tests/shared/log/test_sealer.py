"""The sealer: every event becomes a leaf once, in order, whoever writes and however often it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from shared.log.growth import Growth
from shared.log.merkle import Frontier, consistency_proof, root_of, verify_consistency, verify_inclusion
from shared.log.note import VerifierKey
from shared.log.patrol import HistoryAltered
from shared.log.promise import open_promise
from shared.log.proofs import LogIncomplete, NotYetSealed
from shared.log.sealer import seconds_waiting
from shared.log.tiles import LogTiles
from shared.runtime import utc_now
from tests.shared.log.sealed_store import SERVICE, SealedStore, running, sealed_store, until
from tests.shared.log.trees import leaves as some_leaves

LEAVES = some_leaves(2000)


@pytest.fixture
async def store(server_url: str, tmp_path: Path) -> AsyncIterator[SealedStore]:
    """Empty and not sealed."""
    async with sealed_store(server_url, tmp_path) as opened:
        yield opened


@given(st.lists(st.sampled_from((1, 2, 3, 100, 255, 256, 257, 600)), max_size=9))
def test_a_tree_grows_by_batches_as_it_grows_at_once(batches: list[int]) -> None:
    """Root, tiles and the proof between two batches are those of the tree over all leaves."""
    tree, tiles = Frontier(), {}
    for count in batches:
        growth = Growth(tree, LEAVES[tree.size : tree.size + count])
        proof = consistency_proof(tree.size, growth.after.size, growth.subtree)
        verify_consistency(
            old_size=tree.size, old_root=tree.root(), new_size=growth.after.size, new_root=growth.after.root(), proof=proof
        )  # fmt: skip
        for level, number, hash_ in growth.tiles():
            assert (level, number) not in tiles
            tiles[level, number] = hash_
        tree = growth.after
    assert tree.root() == root_of(LEAVES[: tree.size])
    assert tiles == {(1, n): root_of(LEAVES[n * 256 : (n + 1) * 256]) for n in range(tree.size // 256)}


async def test_what_eight_writers_append_is_sealed_beside_them(store: SealedStore) -> None:
    """Every position is proven by the last checkpoint, and each checkpoint continues the one before."""

    async def write(writer: int) -> None:
        for _ in range(4 if writer == 0 else 40):
            await store.append(300 if writer == 0 else 1, stream=f"count:s/{writer}")

    async with running(store.sealer().run):
        await asyncio.gather(*(write(writer) for writer in range(8)))
        await until(lambda: store.signer.size == 4 * 300 + 7 * 40)
        await until(lambda: _is_stored(store, 1480))
    checkpoints = await store.require_sound()
    last, leaves = checkpoints[-1], await store.leaves()
    assert len(checkpoints) > 1
    for position in range(1, last.size + 1):
        proof = await store.tables.inclusion(position, size=last.size)
        leaf = await store.tables.leaf_hash(position)
        verify_inclusion(index=position - 1, size=last.size, leaf=leaf, proof=proof, root=root_of(leaves))
    for old, new in pairwise(checkpoints):
        proof = await store.tables.consistency(old.size, new.size)
        verify_consistency(
            old_size=old.size, old_root=old.root, new_size=new.size, new_root=new.root, proof=proof
        )  # fmt: skip


async def _is_stored(store: SealedStore, size: int) -> bool:
    latest = await store.tables.latest()
    return latest is not None and latest.size == size


async def test_a_receipt_promises_what_the_next_checkpoint_contains(store: SealedStore) -> None:
    """Position, leaf hash and time, by the key of the log, at once; the proof comes with the checkpoint."""
    receipt = await store.append(3)
    assert receipt.promise is not None
    promise = open_promise(receipt.promise, [VerifierKey.parse(store.signer.vkey)])
    assert promise.origin == store.signer.origin == "acme/requirements/1"
    told = [(event.position, event.leaf_hash, event.recorded_at) for event in promise.events]
    assert told == [(event.position, event.leaf_hash, event.recorded_at) for event in receipt.events]
    with pytest.raises(NotYetSealed):
        await store.tables.inclusion(3, size=0)
    assert await store.seal() == 3
    verify_inclusion(
        index=2, size=3, leaf=bytes.fromhex(promise.events[2].leaf_hash),
        proof=await store.tables.inclusion(3, size=3), root=store.signer.root,
    )  # fmt: skip


async def test_without_events_there_is_neither_promise_nor_checkpoint(store: SealedStore) -> None:
    """Nothing happened, so nothing is signed; and again only when something did."""
    nothing = await store.store.append([], record="count:s/1", version=0, key=None)
    assert nothing.promise is None
    assert await store.seal() == 0
    await store.append(1)
    assert [await store.seal(), await store.seal()] == [1, 1]
    assert [checkpoint.size for checkpoint in await store.checkpoints()] == [1]


async def test_it_goes_on_where_it_was(store: SealedStore) -> None:
    """After each start the tree continues from the tables, across tiles and in odd sizes."""
    for count in (1, 254, 1, 1, 255, 300):
        await store.append(count)
        await store.seal()
    assert [checkpoint.size for checkpoint in await store.require_sound()] == [1, 255, 256, 257, 512, 812]


async def test_of_two_sealers_one_leads_and_the_other_takes_over(store: SealedStore) -> None:
    """The lock goes with the connection; who follows goes on from what the first one left."""
    first, second = store.sealer(), store.sealer()
    async with running(second.run):
        async with running(first.run):
            await until(lambda: first.leading.is_set() or second.leading.is_set())
            await store.append(10)
            await until(lambda: store.signer.size == 10)
            assert first.leading.is_set() != second.leading.is_set()
        await store.append(10)
        await until(lambda: store.signer.size == 20)
    await store.seal()
    await store.require_sound()


async def test_a_connection_that_is_cut_loses_the_lead_and_nothing_else(store: SealedStore) -> None:
    """The sealer connects again and goes on."""
    sealer = store.sealer()
    async with running(sealer.run):
        await store.append(10)
        await until(lambda: _is_stored(store, 10))
        await store.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%sealer'"
            " AND datname = current_database()"
        )
        await store.append(10)
        await until(lambda: _is_stored(store, 20))
    assert sealer.refusal is None
    await store.require_sound()


async def test_lost_tiles_are_noticed_and_made_again(store: SealedStore) -> None:
    """They are derived: a rebuild gives the same ones; and it refuses to make others than were signed."""
    await store.append(600)
    await store.seal()
    tiles = LogTiles(pool=store.pool, service=SERVICE)
    before = await tiles.state_digest()
    await store.pool.execute(f"DELETE FROM {SERVICE}.log_tile WHERE number = 0")
    with pytest.raises(LogIncomplete):
        await store.tables.inclusion(600, size=600)
    await tiles.rebuild()
    assert await tiles.state_digest() == before
    await store.tables.inclusion(600, size=600)
    await store.pool.execute(f"UPDATE {SERVICE}.log_checkpoint SET root = sha256('other')")
    with pytest.raises(HistoryAltered):
        await tiles.rebuild()


async def test_the_age_is_how_long_an_event_waits(store: SealedStore) -> None:
    """Zero once everything is sealed."""
    sealer = store.sealer()
    assert seconds_waiting(sealer, utc_now()) == 0
    receipt = await store.append(1)
    sealer.waiting_since = receipt.events[0].recorded_at
    assert seconds_waiting(sealer, utc_now()) > 0
    async with sealer.alone() as connection:
        await sealer.seal_all(connection)
    assert seconds_waiting(sealer, utc_now()) == 0
