"""Checkpoints and tile paths: the examples of the specifications, and one form for each."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, strategies as st

from shared.log.checkpoint import (
    ForeignOrigin,
    MalformedCheckpoint,
    TreeHead,
    log_name,
    log_origin,
    open_checkpoint,
    parse_checkpoint,
)
from shared.log.merkle import EMPTY_ROOT
from shared.log.note import NOTE, SigningKey, sign_note
from shared.log.tile_paths import (
    ENTRY_BYTES_MAX,
    TILE_WIDTH,
    MalformedBundle,
    NoSuchTilePath,
    decode_entries,
    encode_entries,
    parse_tile_path,
    tile_path,
    tiles_of,
)

# C2SP tlog-checkpoint.
SPECIFIED = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
KEY = SigningKey("acme/requirements", NOTE, bytes(32))


def test_the_specified_example_is_read_and_written_again() -> None:
    """Origin, size and root, and lines beyond them."""
    head = parse_checkpoint(SPECIFIED)
    assert (head.origin, head.size, head.text()) == ("example.com/behind-the-sofa", 20852163, SPECIFIED)
    extended = parse_checkpoint(SPECIFIED + "more\n")
    assert (extended.extensions, extended.text()) == (("more",), SPECIFIED + "more\n")
    assert TreeHead("o", 0, EMPTY_ROOT).text() == f"o\n0\n{base64.b64encode(EMPTY_ROOT).decode()}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n3\n",
        f"origin\n3\n{ROOT}",
        f"\n3\n{ROOT}\n",
        f"origin\n3\n{ROOT}\n\n",
        f"origin\n03\n{ROOT}\n",
        f"origin\n+3\n{ROOT}\n",
        f"origin\n-3\n{ROOT}\n",
        f"origin\n3 \n{ROOT}\n",
        f"origin\n\u0663\n{ROOT}\n",
        f"origin\n{2**63}\n{ROOT}\n",
        f"origin\n99999999999999999999\n{ROOT}\n",
        f"origin\n3\n{ROOT[:-1]}\n",
        f"origin\n3\n{ROOT[:-2]}J=\n",
        f"origin\n3\n {ROOT}\n",
        "origin\n3\nAAAA\n",
        f"origin\n0\n{ROOT}\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """Each breaks one rule of the specification."""
    with pytest.raises(MalformedCheckpoint):
        parse_checkpoint(text)


def test_what_would_be_no_checkpoint_is_not_written() -> None:
    """An origin of two lines, a short root."""
    for head in (TreeHead("two\nlines", 1, bytes(32)), TreeHead("o", 1, b"short"), TreeHead("o", -1, bytes(32))):
        with pytest.raises(MalformedCheckpoint):
            head.text()


def test_a_checkpoint_is_of_one_log() -> None:
    """The origin that was asked for, or a refusal."""
    origin = log_origin(deployment="acme", service="requirements", epoch=2)
    note = sign_note(TreeHead(origin, 3, bytes(32)).text(), KEY)
    opened = open_checkpoint(note, [KEY.verifier], origin="acme/requirements/2")
    assert (opened.head.size, opened.note.names) == (3, ("acme/requirements",))
    with pytest.raises(ForeignOrigin):
        open_checkpoint(note, [KEY.verifier], origin="acme/requirements/1")


@pytest.mark.parametrize(
    ("deployment", "service"), [("", "a"), ("A", "a"), ("a b", "a"), ("a/b", "a"), ("a", "a+b"), ("a", "")]
)
def test_a_log_has_a_short_plain_name(deployment: str, service: str) -> None:
    """Others pin it, and it is part of a path."""
    with pytest.raises(ForeignOrigin):
        log_name(deployment=deployment, service=service)


def test_tile_paths_are_the_specified_ones() -> None:
    """C2SP tlog-tiles, "Merkle Tree" and "Partial Tiles"."""
    assert tile_path(1234067) == "x001/x234/067"
    assert [tile_path(number, width) for number, width in ((0, 256), (999, 1), (1000, 255))] == [
        "000",
        "999.p/1",
        "x001/000.p/255",
    ]
    tiles = list(tiles_of(70_000))
    assert [sum(level == of for of, _, _ in tiles) for level in range(4)] == [274, 2, 1, 0]
    assert tiles[273:] == [(0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)]
    assert list(tiles_of(256)) == [(0, 0, 256), (1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(number=st.integers(min_value=0, max_value=1000**6 - 1), width=st.integers(min_value=1, max_value=TILE_WIDTH))
def test_a_tile_path_is_read_as_it_was_written(number: int, width: int) -> None:
    """For every tile that there can be."""
    assert parse_tile_path(tile_path(number, width)) == (number, width)


@pytest.mark.parametrize(
    "path",
    [
        "", "0", "00", "0000", "x000/005", "001/067", "x001/x067", "x001/67", "X001/067", "x001//067", "/000", "000/",
        "000.p", "000.p/", "000.p/0", "000.p/01", "000.p/256", "000.p/257", "000.p/999", "000.p/-1", "000.p/1/", "000 ",
        "000\n", "\u0660\u0660\u0660", "x001/" * 7 + "000", "x001/" * 1000 + "000", "../000", "entries/000",
    ],
)  # fmt: skip
def test_no_tile_has_another_path(path: str) -> None:
    """One tile, one path, or caches would hold it twice."""
    with pytest.raises(NoSuchTilePath):
        parse_tile_path(path)
    with pytest.raises(NoSuchTilePath):
        tile_path(-1)


@given(entries=st.lists(st.binary(max_size=300), max_size=TILE_WIDTH))
def test_a_bundle_gives_its_entries_back(entries: list[bytes]) -> None:
    """Each after its length in two bytes."""
    bundle = encode_entries(entries)
    assert decode_entries(bundle) == entries
    assert len(bundle) == sum(2 + len(entry) for entry in entries)


def test_a_bundle_has_limits() -> None:
    """65,535 bytes an entry, 256 entries, and nothing cut off."""
    largest = bytes(ENTRY_BYTES_MAX)
    assert decode_entries(encode_entries([largest])) == [largest]
    with pytest.raises(MalformedBundle):
        encode_entries([bytes(ENTRY_BYTES_MAX + 1)])
    for bundle in (b"\x00", b"\x00\x01", b"\x00\x02a", encode_entries([b""] * 257)):
        with pytest.raises(MalformedBundle):
            decode_entries(bundle)
