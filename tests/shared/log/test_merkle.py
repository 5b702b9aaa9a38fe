"""The tree: known vectors, the words of RFC 6962, another implementation, and proofs that prove nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pymerkle import InmemoryTree

from shared.log.merkle import (
    EMPTY_ROOT,
    ConsistencyNotProven,
    Frontier,
    InclusionNotProven,
    OutsideTree,
    Subtree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    maximal_subtrees,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from tests.shared.log.trees import entries, leaves, mth, path, proof, subtree_of

# The leaves and roots that the implementations of Certificate Transparency are tested with.
KNOWN_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
KNOWN_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZE_MAX = 300
LEAVES = leaves(SIZE_MAX)
ROOTS = [mth(LEAVES[:size]) for size in range(SIZE_MAX + 1)]
SUBTREE = subtree_of(LEAVES)

sizes = st.integers(min_value=1, max_value=SIZE_MAX)
bits = st.integers(min_value=0, max_value=255)


@st.composite
def inclusions(draw: st.DrawFn) -> tuple[int, int]:
    """An index and a size above it."""
    size = draw(sizes)
    return draw(st.integers(min_value=0, max_value=size - 1)), size


@st.composite
def growths(draw: st.DrawFn) -> tuple[int, int]:
    """An older and a newer size."""
    new = draw(st.integers(min_value=2, max_value=SIZE_MAX))
    return draw(st.integers(min_value=1, max_value=new - 1)), new


def flipped(content: bytes, bit: int) -> bytes:
    """The bytes with one bit turned over."""
    return (int.from_bytes(content) ^ 1 << bit % (8 * len(content))).to_bytes(len(content))


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_that_everybody_has(size: int) -> None:
    """The known roots of zero to eight known leaves, computed in three ways."""
    hashes = [leaf_hash(data) for data in KNOWN_LEAVES[:size]]
    one_by_one, at_once = Frontier(), Frontier()
    for leaf in hashes:
        one_by_one.append(leaf)
    at_once.extend(hashes)
    assert [root.hex() for root in (root_of(hashes), one_by_one.root(), at_once.root())] == [KNOWN_ROOTS[size]] * 3


def test_proofs_are_those_of_the_example_in_the_standard() -> None:
    """RFC 6962, 2.1.3: the tree of seven leaves with its nodes a to l."""
    a, b, c, d, e, f, j = hashes = LEAVES[:7]
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, el = node_hash(g, h), node_hash(i, j)
    subtree = subtree_of(hashes)
    paths = {index: inclusion_proof(index, 7, subtree) for index in (0, 3, 4, 6)}
    assert paths == {0: [b, h, el], 3: [c, g, el], 4: [f, j, k], 6: [i, k]}
    assert consistency_proof(3, 7, subtree) == [c, d, g, el]
    assert consistency_proof(4, 7, subtree) == [el]
    assert consistency_proof(6, 7, subtree) == [i, j, k]


@given(batches=st.lists(st.integers(min_value=0, max_value=70), max_size=8), kept=st.booleans())
def test_a_tree_grows_by_batches_of_any_size(batches: list[int], kept: bool) -> None:
    """Root and hashes after each batch are those of the whole tree, also when the state was written down between."""
    frontier, size = Frontier(), 0
    for batch in batches:
        grown = min(size + batch, SIZE_MAX)
        frontier.extend(LEAVES[size:grown])
        size = grown
        frontier = Frontier.from_bytes(frontier.to_bytes()) if kept else frontier
        assert (frontier.size, frontier.root()) == (size, ROOTS[size])
        assert frontier.hashes == tuple(SUBTREE(level, number) for level, number in maximal_subtrees(size))


@given(inclusion=inclusions())
def test_inclusion_is_proven_in_the_words_of_the_standard(inclusion: tuple[int, int]) -> None:
    """The quick proof is PATH, and it verifies."""
    index, size = inclusion
    made = inclusion_proof(index, size, SUBTREE)
    assert made == path(index, LEAVES[:size])
    verify_inclusion(index=index, size=size, leaf=LEAVES[index], proof=made, root=ROOTS[size])


@given(growth=growths())
def test_growth_is_proven_in_the_words_of_the_standard(growth: tuple[int, int]) -> None:
    """The quick proof is PROOF, and it verifies."""
    old, new = growth
    made = consistency_proof(old, new, SUBTREE)
    assert made == proof(old, LEAVES[:new])
    verify_consistency(old_size=old, old_root=ROOTS[old], new_size=new, new_root=ROOTS[new], proof=made)


def test_a_proof_asks_for_few_subtrees() -> None:
    """In a tree of 2^40 - 1 leaves, for which nobody has the hashes: at most two for each level, all of them complete."""
    size = 2**40 - 1
    computations: list[Callable[[Subtree], list[bytes]]] = [
        lambda subtree: inclusion_proof(12_345, size, subtree),
        lambda subtree: consistency_proof(2**39 + 12_345, size, subtree),
    ]
    for compute in computations:
        asked: list[tuple[int, int]] = []

        def subtree(level: int, number: int, asked: list[tuple[int, int]] = asked) -> bytes:
            asked.append((level, number))
            return bytes(32)

        compute(subtree)
        assert len(asked) == len(set(asked)) <= 80
        assert all((number + 1) << level <= size for level, number in asked)


@given(inclusion=inclusions(), other=sizes, bit=bits, data=st.data())
def test_what_is_not_included_is_not_proven(
    inclusion: tuple[int, int], other: int, bit: int, data: st.DataObject
) -> None:
    """Another index, leaf, root, tree, or any other bit, order or number of hashes: refused."""
    index, size = inclusion
    given_: dict[str, Any] = {
        "index": index,
        "size": size,
        "leaf": LEAVES[index],
        "proof": path(index, LEAVES[:size]),
        "root": ROOTS[size],
    }
    hashes: list[bytes] = given_["proof"]
    at = data.draw(st.integers(min_value=0, max_value=max(len(hashes) - 1, 0)))
    wrong: list[dict[str, Any]] = [
        {"index": (index + other) % SIZE_MAX} if other < SIZE_MAX else {"index": -1},
        {"leaf": flipped(LEAVES[index], bit)},
        {"leaf": LEAVES[index][:-1]},
        {"root": flipped(ROOTS[size], bit)},
        {"proof": [*hashes, ROOTS[other]]},
        {"proof": [*hashes[:at], ROOTS[other], *hashes[at:]]},
    ]
    if other != size:
        wrong.append({"size": other, "root": ROOTS[other]})
    if hashes:
        wrong.append({"proof": [*hashes[:at], flipped(hashes[at], bit), *hashes[at + 1 :]]})
        wrong.append({"proof": [*hashes[:at], hashes[at][1:], *hashes[at + 1 :]]})
        wrong.append({"proof": hashes[:at] + hashes[at + 1 :]})
    if len(hashes) > 1:
        wrong.append({"proof": hashes[::-1]})
    for change in wrong:
        with pytest.raises((InclusionNotProven, OutsideTree)):
            verify_inclusion(**{**given_, **change})


@given(growth=growths(), other=sizes, bit=bits, data=st.data())
def test_what_did_not_grow_is_not_proven(growth: tuple[int, int], other: int, bit: int, data: st.DataObject) -> None:
    """Another older or newer tree, or any other bit, order or number of hashes: refused."""
    old, new = growth
    hashes = proof(old, LEAVES[:new])
    given_: dict[str, Any] = {
        "old_size": old,
        "old_root": ROOTS[old],
        "new_size": new,
        "new_root": ROOTS[new],
        "proof": hashes,
    }
    at = data.draw(st.integers(min_value=0, max_value=len(hashes) - 1))
    wrong: list[dict[str, Any]] = [
        {"old_root": flipped(ROOTS[old], bit)},
        {"new_root": flipped(ROOTS[new], bit)},
        {"proof": [*hashes[:at], flipped(hashes[at], bit), *hashes[at + 1 :]]},
        {"proof": [*hashes[:at], hashes[at][1:], *hashes[at + 1 :]]},
        {"proof": hashes[:at] + hashes[at + 1 :]},
        {"proof": [*hashes[:at], ROOTS[other], *hashes[at:]]},
        {"old_size": 0, "old_root": EMPTY_ROOT},
        {"new_size": old, "new_root": ROOTS[old]},
    ]
    if other != old:
        wrong += [{"old_size": other}, {"old_size": other, "old_root": ROOTS[other]}]
    if other != new:
        wrong.append({"new_size": other, "new_root": ROOTS[other]})
    if len(hashes) > 1:
        wrong.append({"proof": hashes[::-1]})
    for change in wrong:
        with pytest.raises((ConsistencyNotProven, OutsideTree)):
            verify_consistency(**{**given_, **change})


@pytest.mark.parametrize("size", [0, 1, 7])
def test_every_tree_goes_on_from_nothing_and_from_itself(size: int) -> None:
    """Both with an empty proof, and only with the right roots."""
    roots: dict[str, Any] = {"new_size": size, "new_root": ROOTS[size], "proof": []}
    verify_consistency(old_size=0, old_root=EMPTY_ROOT, **roots)
    verify_consistency(old_size=size, old_root=ROOTS[size], **roots)
    assert consistency_proof(0, size, SUBTREE) == consistency_proof(size, size, SUBTREE) == []
    with pytest.raises(ConsistencyNotProven):
        verify_consistency(old_size=size, old_root=ROOTS[9], **roots)
    with pytest.raises(ConsistencyNotProven):
        verify_consistency(old_size=0, old_root=ROOTS[9], **roots)


def test_what_the_tree_does_not_have_cannot_be_proven() -> None:
    """The error names field and rule."""
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with pytest.raises(OutsideTree) as refused:
            inclusion_proof(index, size, SUBTREE)
        assert refused.value.fields[0].field == "/index"
    for old, new in ((-1, 5), (6, 5)):
        with pytest.raises(OutsideTree):
            consistency_proof(old, new, SUBTREE)
    with pytest.raises(OutsideTree):
        Frontier(3, [LEAVES[0]])
    with pytest.raises(OutsideTree):
        Frontier.from_bytes(Frontier(1, LEAVES[:1]).to_bytes()[:-1])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 31, 64, 100])
def test_another_implementation_has_the_same_trees(size: int) -> None:
    """pymerkle: equal roots, and in proofs of inclusion equal hashes (it lists the leaf too, which RFC 6962 leaves out)."""
    tree = pymerkle_tree(size)
    assert tree.get_root() == root_of(LEAVES[:size])
    for index in range(size):
        theirs = tree.prove_inclusion(index + 1, size)
        assert sorted([LEAVES[index], *inclusion_proof(index, size, SUBTREE)]) == sorted(theirs.path)
        theirs.verify(LEAVES[index], root_of(LEAVES[:size]))


@pytest.mark.parametrize("size", [2, 3, 8, 31, 100])
def test_another_implementation_sees_the_same_growth(size: int) -> None:
    """pymerkle proves from our roots what we prove from its roots; it cuts the newer leaves into smaller subtrees than RFC 6962."""
    tree = pymerkle_tree(size)
    for old in range(1, size):
        tree.prove_consistency(old, size).verify(root_of(LEAVES[:old]), root_of(LEAVES[:size]))
        verify_consistency(
            old_size=old,
            old_root=tree.get_root(old),
            new_size=size,
            new_root=tree.get_root(size),
            proof=consistency_proof(old, size, SUBTREE),
        )


def pymerkle_tree(size: int) -> Any:
    """The same entries, in pymerkle."""
    tree = InmemoryTree(algorithm="sha256")
    for entry in entries(size):
        tree.append_entry(entry)
    return tree
