"""Four ways to the same tree: the verifier's, the log's, the export's nodes, and pymerkle's, on random trees and selections."""

from __future__ import annotations

import base64
import random
from functools import partial
from hashlib import sha256

import pymerkle
import pytest
from hypothesis import given, strategies as st

from services.traceability.domain.pack_proof import bare_nodes, tree_root
from shared.log import merkle, note
from shared.log.checkpoint import TreeHead
from tests.verifier import pack_maker
from verifier.prooftrail_verify import BLOCK_LEAVES, Hashes, Tree, parse_checkpoint, parse_key, parse_note, root_of


def leaves_of(count: int, seed: int = 0) -> list[bytes]:
    """Leaf hashes that differ."""
    return [sha256(f"{seed} {number}".encode()).digest() for number in range(count)]


def subtree(leaves: list[bytes], level: int, number: int) -> bytes:
    """The hash of a complete subtree."""
    whole = leaves[number << level : (number + 1) << level]
    assert len(whole) == 1 << level
    return merkle.root_of(whole)


@given(size=st.integers(0, 300), seed=st.integers(0, 9))
def test_all_give_the_same_root(size: int, seed: int) -> None:
    """RFC 6962, 2.1, five times."""
    entries = [f"{seed} {number}".encode() for number in range(size)]
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    peer = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        peer.append_entry(entry)
    expected = pack_maker.tree_hash(leaves)
    assert root_of(leaves) == merkle.root_of(leaves) == expected
    assert tree_root(size=size, subtree=partial(subtree, leaves)) == expected
    assert not size or peer.get_root() == expected


@given(size=st.integers(1, 400), data=st.data())
def test_nodes_and_shown_leaves_give_the_root(size: int, data: st.DataObject) -> None:
    """Whatever is shown: the export's nodes are those of the naive walk, and with them the verifier comes to the log's root."""
    positions = sorted(data.draw(st.sets(st.integers(1, size))))
    leaves = leaves_of(size)
    nodes = bare_nodes(size=size, positions=positions, subtree=partial(subtree, leaves))
    assert nodes == pack_maker.bare_nodes(leaves, {position - 1 for position in positions})
    shown = [leaves[position - 1] for position in positions]
    assert Tree(size, positions, Hashes(b"".join(shown)), nodes).root() == merkle.root_of(leaves)


@given(size=st.integers(1, 120), data=st.data())
def test_a_wrong_proof_gives_another_root_or_none(size: int, data: st.DataObject) -> None:
    """One bit of a leaf or a node, one node too many or too few."""
    positions = sorted(data.draw(st.sets(st.integers(1, size), min_size=1)))
    leaves = leaves_of(size)
    nodes = bare_nodes(size=size, positions=positions, subtree=partial(subtree, leaves))
    content = [*(leaves[position - 1] for position in positions), *nodes]
    changed = data.draw(st.integers(0, len(content) - 1))
    content[changed] = bytes([content[changed][0] ^ 1]) + content[changed][1:]
    shown, other = Hashes(b"".join(content[: len(positions)])), content[len(positions) :]
    assert Tree(size, positions, shown, other).root() != merkle.root_of(leaves)
    for wrong in ([*nodes, nodes[0] if nodes else leaves[0]], nodes[:-1] if nodes else [leaves[0]]):
        with pytest.raises(ValueError, match="hashes"):
            Tree(size, positions, shown, wrong).root()


def test_earlier_roots_are_those_of_earlier_trees() -> None:
    """With all leaves every earlier root is known, over block boundaries too; with a gap only those before it are."""
    size = 2 * BLOCK_LEAVES + 77
    leaves = leaves_of(size)
    tree = Tree(size, range(1, size + 1), Hashes(b"".join(leaves)), [])
    chosen = random.Random(2)
    for earlier in [0, 1, BLOCK_LEAVES, 2 * BLOCK_LEAVES, size, *chosen.sample(range(size), 20)]:
        assert tree.earlier_root(earlier) == merkle.root_of(leaves[:earlier])
    positions = [at for at in range(1, 101) if at != 50]
    nodes = bare_nodes(size=100, positions=positions, subtree=partial(subtree, leaves[:100]))
    with_a_gap = Tree(100, positions, Hashes(b"".join(leaves[at - 1] for at in positions)), nodes)
    assert with_a_gap.earlier_root(49) == merkle.root_of(leaves[:49])
    assert with_a_gap.earlier_root(50) is None
    assert with_a_gap.earlier_root(100) == merkle.root_of(leaves[:100])


@given(seed=st.binary(min_size=32, max_size=32), size=st.integers(0, 2**40), root=st.binary(min_size=32, max_size=32))
def test_notes_of_the_log_are_read_by_the_verifier(seed: bytes, size: int, root: bytes) -> None:
    """What the log signs and a witness cosigns, the verifier takes for theirs; one changed character, and it does not."""
    log = note.SigningKey("acme/requirements", note.NOTE, seed)
    witness = note.SigningKey("acme/witness", note.COSIGNATURE, sha256(seed).digest())
    text = TreeHead("acme/requirements/1", size, merkle.EMPTY_ROOT if size == 0 else root).text()
    signed = note.sign_note(text, log) + note.cosign_note(text, witness, time=1_767_225_600)
    checkpoint = parse_checkpoint(signed)
    assert (checkpoint.origin, checkpoint.size) == ("acme/requirements/1", size)
    assert base64.b64encode(checkpoint.root).decode() in text
    assert checkpoint.note.signed_by(parse_key(str(log.verifier))) is True
    assert checkpoint.note.cosigned_by(parse_key(str(witness.verifier))) is True
    assert checkpoint.note.signed_by(parse_key(str(note.SigningKey("acme/drift", note.NOTE, seed).verifier))) is None
    other = parse_note(signed.replace("requirements/1", "requirements/2", 1))
    assert other.signed_by(parse_key(str(log.verifier))) is False
    assert other.cosigned_by(parse_key(str(witness.verifier))) is False
