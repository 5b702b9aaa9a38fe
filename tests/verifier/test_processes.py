"""A large pack is read by several processes: they find what one finds, and leave it to one to say where."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.verifier.pack_maker import SYSTEM, Deployment, packed, unpacked
from verifier import prooftrail_verify
from verifier.prooftrail_verify import Code, Pins, Report, parse_key, verify

EVENTS = 9000
"""Two blocks of 4,096 leaves and a rest, in eight segments."""


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    """One service with two AI systems and streams that go on from segment to segment."""
    made = Deployment(people=[])
    requirements = made.add_service("requirements")
    for number in range(EVENTS):
        system = SYSTEM if number % 3 else "other"
        stream = f"requirement:{system}/REQ-{number % 700}" if number % 50 else "log::requirements"
        requirements.append(
            system=None if number % 50 == 0 else system, stream=stream, name="requirement-drafted", data={}
        )
        if number in (10, 4500):
            requirements.kept.append(requirements.checkpoint(witnesses=[made.witness]))
    return made


@pytest.fixture(autouse=True)
def _several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For packs of any size."""
    monkeypatch.setattr(prooftrail_verify, "BESIDE_BYTES_MIN", 0)


def checked(pack: bytes, pins: Pins, folder: Path | None) -> Report:
    """By several processes from a file, by this one without."""
    if folder is None:
        return verify(io.BytesIO(pack), pins)
    (folder / "pack.zip").write_bytes(pack)
    with (folder / "pack.zip").open("rb") as file:
        return verify(file, pins)


def test_several_processes_say_what_one_says(deployment: Deployment, tmp_path: Path) -> None:
    """The same report, for the untouched pack and for changed ones."""
    pins = Pins(frozenset(map(parse_key, deployment.vkeys)))
    files = unpacked(deployment.pack("*"))
    alone, together = checked(packed(files), pins, None), checked(packed(files), pins, tmp_path)
    assert (together.code, together.plain()) == (Code.PROVEN, alone.plain())
    chosen = random.Random(3)
    events = files["events/requirements.jsonl"]
    lines = events.splitlines(keepends=True)
    swapped = [*lines[:6000], lines[6001], lines[6000], *lines[6002:]]
    changes = [
        b"".join(swapped),
        b"".join(lines[:5000] + lines[5001:]),
        events[:-1],
        events + lines[-1],
        b"\n" + events,
    ]
    for _ in range(12):
        at = chosen.randrange(len(events))
        changes.append(events[:at] + bytes([events[at] ^ 1 << chosen.randrange(8)]) + events[at + 1 :])
    for changed in changes:
        pack = packed({**files, "events/requirements.jsonl": changed})
        alone, together = checked(pack, pins, None), checked(pack, pins, tmp_path)
        assert together.code not in (Code.PROVEN, Code.UNPINNED)
        assert together.plain() == alone.plain()


def test_an_untouched_pack_is_read_once(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What several processes found is taken as it is; only what is wrong is looked at again."""
    taken: list[int] = []

    class Counting(prooftrail_verify.Order):
        def take(self, lines: Sequence[bytes]) -> None:
            taken.append(len(lines))
            super().take(lines)

    monkeypatch.setattr(prooftrail_verify, "Order", Counting)
    pins = Pins(frozenset(map(parse_key, deployment.vkeys)))
    assert checked(deployment.pack("*"), pins, tmp_path).code is Code.PROVEN
    assert taken == []
    assert checked(deployment.pack("*"), pins, None).code is Code.PROVEN
    assert sum(taken) == EVENTS
