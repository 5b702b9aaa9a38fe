"""An untouched pack passes; with any byte of it changed, or any of them missing, it does not."""

from __future__ import annotations

import io
import os
import random

import pytest

from tests.verifier.pack_maker import SYSTEM, Deployment, packed, small_deployment, unpacked
from tests.verifier.sealed_house import SealedHouse
from tests.verifier.test_export import exported, sealed
from verifier.prooftrail_verify import Code, Pins, parse_key, verify

__all__ = ["sealed"]

HOLDS = (Code.PROVEN, Code.UNPINNED)
FLIP_EVERY = int(os.environ.get("FLIP_EVERY", "29"))
FLIP_SEED = int(os.environ.get("FLIP_SEED", "7"))


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    """A deployment whose packs are small enough to try every byte."""
    return small_deployment()


@pytest.fixture(scope="module")
def pins(deployment: Deployment) -> Pins:
    """All of its keys."""
    return Pins(frozenset(map(parse_key, deployment.vkeys)))


@pytest.mark.parametrize("system", [SYSTEM, "other", "*"])
def test_an_untouched_pack_passes(deployment: Deployment, pins: Pins, system: str) -> None:
    """The control of every other test here, also for a system with nothing in one of the services."""
    report = verify(io.BytesIO(deployment.pack(system)), pins)
    assert (report.code, report.failure) == (Code.PROVEN, None)


@pytest.mark.parametrize("system", [SYSTEM, "*"])
def test_every_changed_byte_is_noticed(deployment: Deployment, pins: Pins, system: str) -> None:
    """One bit of each byte is turned, another one from byte to byte; no pack survives it."""
    pack = bytearray(deployment.pack(system))
    survivors = []
    for at in range(len(pack)):
        pack[at] ^= 1 << at % 8
        if verify(io.BytesIO(pack), pins).code in HOLDS:
            survivors.append(at)
        pack[at] ^= 1 << at % 8
    assert survivors == []
    assert verify(io.BytesIO(pack), pins).code is Code.PROVEN


@pytest.mark.parametrize("whole", [True, False], ids=["everything", "one system"])
async def test_every_changed_byte_of_an_exported_pack_is_noticed(sealed: SealedHouse, whole: bool) -> None:
    """The same on packs that a running house wrote; `make flips` tries each bit of each byte, this every so many bytes."""
    pack = bytearray((await sealed.exported()).getvalue() if whole else await exported(sealed))
    pins, survivors = sealed.pins, []
    assert verify(io.BytesIO(pack), pins).code is Code.PROVEN
    for at in range(random.Random(FLIP_SEED).randrange(FLIP_EVERY), len(pack), FLIP_EVERY):
        for bit in range(8) if FLIP_EVERY == 1 else (at % 8,):
            pack[at] ^= 1 << bit
            if verify(io.BytesIO(pack), pins).code in HOLDS:
                survivors.append((at, bit))
            pack[at] ^= 1 << bit
    assert survivors == []


def test_every_changed_byte_is_noticed_without_a_pinned_key(deployment: Deployment) -> None:
    """The keys that came along are enough to notice a change by accident."""
    pack = deployment.pack()
    chosen = random.Random(5)
    for at in chosen.sample(range(len(pack)), 800):
        changed = bytearray(pack)
        changed[at] ^= chosen.randrange(1, 256)
        assert verify(io.BytesIO(changed), Pins()).code not in HOLDS, at


def test_every_lost_end_is_noticed(deployment: Deployment, pins: Pins) -> None:
    """A pack that was cut anywhere, or that something was added to, is not a readable one."""
    pack = deployment.pack()
    for length in [0, 1, 21, 22, *range(100, len(pack), 97), len(pack) - 1]:
        assert verify(io.BytesIO(pack[:length]), pins).code is Code.UNREADABLE, length
    for more in (b"\0", b"PK", pack[-22:], pack):
        assert verify(io.BytesIO(pack + more), pins).code is Code.UNREADABLE
        assert verify(io.BytesIO(more + pack), pins).code is Code.UNREADABLE


@pytest.mark.parametrize("system", [SYSTEM, "*"])
def test_every_lost_or_moved_file_is_noticed(deployment: Deployment, pins: Pins, system: str) -> None:
    """Whatever is taken out, put elsewhere or added, without a new manifest."""
    files = unpacked(deployment.pack(system))
    for name in files:
        others = {other: content for other, content in files.items() if other != name}
        assert verify(io.BytesIO(packed(others)), pins).code not in HOLDS, name
        if name != "manifest":
            moved = {**others, name: files[name]}
            assert verify(io.BytesIO(packed(moved)), pins).code not in HOLDS, name
    for extra in ("events/drift.jsonl", "../../etc/passwd", "artefacts/" + "0" * 64, "note.txt"):
        assert verify(io.BytesIO(packed({extra: b"x", **files})), pins).code not in HOLDS, extra


def test_random_bytes_are_no_pack(pins: Pins) -> None:
    """Nothing that is read makes the verifier stumble."""
    chosen = random.Random(6)
    for length in (0, 10, 100, 1000):
        assert verify(io.BytesIO(chosen.randbytes(length)), pins).code is Code.UNREADABLE
    for name in unpacked(small_deployment().pack()):
        for content in (b"", b"{}", b"[]", b"null", b'{"a":' * 3000, b"\xff\xfe", chosen.randbytes(50)):
            if name != "manifest" and (name, content) != ("people.json", b"{}"):
                report = verify(io.BytesIO(small_deployment().pack(changed={name: content})), pins)
                assert report.code not in HOLDS or name == "pack.html", (name, content)
