"""The second independent check: Go's sumdb/note and sumdb/tlog read what we wrote, and come to the same proofs from our tiles."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.event_store import EventReceipt
from shared.log.checkpoint import TreeHead
from shared.log.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash, root_of
from shared.log.note import COSIGNATURE, NOTE, SigningKey, cosign_note, sign_note
from shared.log.promise import promise_text
from shared.log.statements import recovery_text, rotation_text
from shared.log.tile_paths import encode_entries, tile_path, tiles_of
from tests.npm_packages import skip_loudly
from tests.shared.log.go_check import CannotBuild, built
from tests.shared.log.trees import entries

ORIGIN = "acme/requirements/1"
LOG = SigningKey("acme/requirements", NOTE, bytes(range(32)))
WITNESS = SigningKey("acme/witness", COSIGNATURE, bytes(range(1, 33)))
ENTRIES = entries(66_000)  # three levels of tiles, none of the last ones full
HASHES = [leaf_hash(entry) for entry in ENTRIES]
SIZES = (1, 2, 255, 256, 257, 65_536, 65_793, 66_000)


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return built()
    except CannotBuild as reason:
        skip_loudly(what="against Go's own log and notes", reason=reason)


@pytest.fixture(scope="module")
def levels() -> list[list[bytes]]:
    """The hashes of all complete subtrees, by level."""
    made = [HASHES]
    while len(made[-1]) > 1:
        pairs = zip(made[-1][::2], made[-1][1::2], strict=False)
        made.append([root_of(pair) for pair in pairs])
    return made


@pytest.fixture(scope="module")
def case(levels: list[list[bytes]]) -> dict[str, Any]:
    """What the program is given, by the log at several sizes."""

    def subtree(level: int, number: int) -> bytes:
        return levels[level][number]

    inclusions = [(index, size) for size in SIZES for index in {0, size // 3, size // 2, size - 1}]
    growths = [(old, new) for old in SIZES for new in SIZES if old <= new]
    return {
        "LogKey": str(LOG.verifier),
        "WitnessKey": str(WITNESS.verifier),
        "SigningKey": LOG.text,
        "Notes": notes(),
        "Checkpoints": [checkpoint(size) for size in SIZES],
        "Inclusion": [
            {
                "Index": at,
                "Size": size,
                "Leaf": encoded(ENTRIES[at]),
                "Proof": all_encoded(inclusion_proof(at, size, subtree)),
            }
            for at, size in inclusions
        ],
        "Consistency": [
            {"Old": old, "Size": new, "Proof": all_encoded(consistency_proof(old, new, subtree))}
            for old, new in growths
        ],
        "Entries": all_encoded(ENTRIES),
    }


def all_encoded(contents: Sequence[bytes]) -> list[str]:
    """As Go reads a list of bytes from JSON."""
    return [encoded(content) for content in contents]


def encoded(content: bytes) -> str:
    """As Go reads bytes from JSON."""
    return base64.b64encode(content).decode()


def notes() -> list[str]:
    """Every kind of text that a log's key signs."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    receipt = EventReceipt(name="x", position=3, leaf_hash=HASHES[2].hex(), recorded_at=moment)
    texts = (
        promise_text(origin=ORIGIN, events=[receipt]),
        rotation_text(origin=ORIGIN, new_key=LOG.verifier),
        recovery_text(origin=ORIGIN, lost_first=1, lost_last=2),
        "a\n\nb — c\n",
    )
    return [sign_note(text, LOG) for text in texts]


def checkpoint(size: int) -> str:
    """Signed and cosigned; the tree grew in two batches."""
    tree = Frontier()
    tree.extend(HASHES[: size // 2])
    tree.extend(HASHES[size // 2 : size])
    text = TreeHead(ORIGIN, size, tree.root()).text()
    return sign_note(text, LOG) + cosign_note(text, WITNESS, time=1_767_225_600)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, levels: list[list[bytes]]) -> Path:
    """All tiles of all sizes, and the entries of the largest, as files."""
    folder = tmp_path_factory.mktemp("published")
    for level, number, width in {tile for size in SIZES for tile in tiles_of(size)}:
        path = folder / f"tile/{level}/{tile_path(number, width)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(levels[8 * level][number * 256 : number * 256 + width]))
        if level == 0:
            bundle = folder / f"tile/entries/{tile_path(number, width)}"
            bundle.parent.mkdir(parents=True, exist_ok=True)
            bundle.write_bytes(encode_entries(ENTRIES[number * 256 : number * 256 + width]))
    return folder


def checked(program: Path, folder: Path, case: dict[str, Any]) -> tuple[int, str]:
    """Exit code and last line of the program."""
    (folder / "case.json").write_text(json.dumps(case))
    ended = subprocess.run([program, folder], capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).strip()


def test_go_reads_what_we_wrote(program: Path, published: Path, case: dict[str, Any]) -> None:
    """Keys, notes, cosignatures, proofs, tiles and bundles: all hold, and Go's own proofs and notes are ours byte for byte."""
    assert checked(program, published, case) == (0, "holds")


def _altered_proof(case: dict[str, Any]) -> None:
    case["Inclusion"][-1]["Proof"][0] = encoded(bytes(32))


def _another_growth(case: dict[str, Any]) -> None:
    case["Consistency"][-2]["Proof"].pop()


def _altered_note(case: dict[str, Any]) -> None:
    case["Notes"][0] = case["Notes"][0].replace("\n3 ", "\n4 ")


def _another_time(case: dict[str, Any]) -> None:
    text = "\n".join(case["Checkpoints"][0].split("\n")[:3]) + "\n"
    line = cosign_note(text, WITNESS, time=5).split(" ")[2]
    changed = bytearray(base64.b64decode(line))
    changed[11] = 6
    case["Checkpoints"][0] = sign_note(text, LOG) + f"— {WITNESS.name} {encoded(bytes(changed))}\n"


def _another_entry(case: dict[str, Any]) -> None:
    case["Entries"][65_999] = encoded(b"another")


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (_altered_proof, "inclusion of"),
        (_another_growth, "consistency of"),
        (_altered_note, "note 0"),
        (_another_time, "checkpoint 0"),
        (_another_entry, "entry 65999"),
    ],
)
def test_go_refuses_what_was_altered(
    program: Path, published: Path, case: dict[str, Any], alter: Callable[[dict[str, Any]], None], named: str
) -> None:
    """So the check above can fail."""
    altered = json.loads(json.dumps(case))
    alter(altered)
    code, said = checked(program, published, altered)
    assert code == 1
    assert said.startswith(named)


def test_go_refuses_an_altered_tile(program: Path, published: Path, case: dict[str, Any]) -> None:
    """A tile is authenticated against the root of the checkpoint."""
    tile = published / "tile/1/000"
    content = tile.read_bytes()
    tile.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, said = checked(program, published, case)
    tile.write_bytes(content)
    assert code == 1
    assert "tiles of" in said
