"""Checking an exported pack of 1M events of about 1 kB: hashes, order and proofs against pymerkle over the same leaves.

pymerkle builds its tree from the same bytes, on one core, and gives the root; ours, on all cores, does that, holds every stamp to
the one before it, and checks keys, checkpoint, cosignatures and manifest lines besides. The contents (JSON, names, digests of
files) are reported beside it.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pymerkle

from benchmarks.result import Result, compared, median, within
from services.traceability.domain.pack_proof import Covered, manifest_text
from services.traceability.pack_writer import PackWriter
from tests.verifier.pack_maker import ADA, BEGAN, SYSTEM, WITNESS, Deployment, leaf_hash
from verifier.prooftrail_verify import (
    Code,
    Container,
    Pins,
    check_log,
    parse_key,
    parse_manifest,
    require_members,
    root_of,
    verify,
)

EVENTS = int(os.environ.get("BENCH_VERIFY_EVENTS", "1000000"))
EVENTS_OF_A_STREAM = 8
TEXT = "x" * 300
ROUNDS = 3
GOAL = 5.0
WHOLE_SECONDS_MAX_PER_MILLION = 60.0


async def measure(_server_url: str, scratch: Path) -> list[Result]:
    """Interleaved rounds of ours and of pymerkle's over one pack."""
    folder = scratch / "verify"
    folder.mkdir()
    deployment, pack = Deployment(), folder / "pack.zip"
    deployment.add_service("requirements")
    _write_pack(deployment, pack, folder / "events.jsonl")
    pins = Pins(frozenset(map(parse_key, deployment.vkeys)))
    ours, theirs = [], []
    # pymerkle works in a process of its own, so that its memory is no burden to ours.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        for _ in range(ROUNDS):
            ours.append(_proofs(pack, pins))
            theirs.append(apart.submit(_pymerkle, pack).result())
    assert {root for _, root in ours} == {root for _, root in theirs}
    whole = _whole(pack, pins)
    return [
        compared(
            name=f"pack of {EVENTS:,} events: hashes, order and proofs, on {os.cpu_count()} cores",
            ours=EVENTS / median([seconds for seconds, _ in ours]),
            peer=EVENTS / median([seconds for seconds, _ in theirs]),
            peer_name="pymerkle on one, same leaves",
            unit="events/s",
            goal=GOAL,
            better="more",
        ),
        within(
            name=f"pack of {EVENTS:,} events: everything, contents too",
            ours=whole,
            limit=WHOLE_SECONDS_MAX_PER_MILLION * EVENTS / 1_000_000,
            unit="s",
        ),
    ]


def _proofs(pack: Path, pins: Pins) -> tuple[float, bytes]:
    """Seconds from opening the file to a proven tree; the root."""
    began = time.perf_counter()
    with pack.open("rb") as file:
        container = Container(file)
        manifest = parse_manifest(container.read("manifest"))
        require_members(manifest, container)
        log = check_log(container, manifest, "requirements", pins)
    seconds = time.perf_counter() - began
    assert log.events == EVENTS
    return seconds, log.checkpoint.root


def _pymerkle(pack: Path) -> tuple[float, bytes]:
    """Seconds that its tree takes over the same bytes, which are read before; the root must be the same."""
    with pack.open("rb") as file:
        container = Container(file)
        lines = b"".join(container.chunks("events/requirements.jsonl")).split(b"\n")[:-1]
    began = time.perf_counter()
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for line in lines:
        tree.append_entry(line)
    root: bytes = tree.get_root()
    return time.perf_counter() - began, root


def _whole(pack: Path, pins: Pins) -> float:
    began = time.perf_counter()
    with pack.open("rb") as file:
        report = verify(file, pins)
    assert report.code is Code.PROVEN, report.text()
    return time.perf_counter() - began


def _write_pack(deployment: Deployment, pack: Path, events: Path) -> None:
    """The export of a deployment with one service; only its leaf hashes are held in memory."""
    leaves, size = [], 0
    with events.open("wb") as file:
        for raw in _events():
            leaves.append(leaf_hash(raw))
            size += file.write(raw + b"\n")
    service = deployment.services["requirements"]
    text = f"{service.origin}\n{EVENTS}\n{base64.b64encode(root_of(leaves)).decode()}\n"
    cosigned = deployment.witness.cosignature(text) + deployment.outside.cosignature(text)
    proof = {
        "checkpoint": service.keys[0].note(text) + cosigned,
        "keys": [{"vkey": service.keys[0].vkey(), "rotation": None}],
        "witnesses": [deployment.witness.vkey(WITNESS)],
        "positions": {"first": 1, "last": EVENTS},
        "leaves": base64.b64encode(b"".join(leaves)).decode(),
        "nodes": [],
    }
    person = {ADA.commitment: {"subject": ADA.subject, "salt": ADA.salt, "name": ADA.name}}
    with pack.open("w+b") as file, events.open("rb") as source:
        writer = PackWriter(file)
        writer.add_chunks("events/requirements.jsonl", size, iter(lambda: source.read(1 << 20), b""))
        writer.add("proof/requirements.json", json.dumps(proof).encode())
        writer.add("people.json", json.dumps(person).encode())
        covered = Covered(service="requirements", position=EVENTS, count=EVENTS, last=leaves[-1].hex())
        manifest = manifest_text(
            deployment=deployment.name, system="*", ledger_position=EVENTS, services=[covered], members=writer.listed
        )
        writer.finish(deployment.witness.note(manifest))


def _events() -> Iterator[bytes]:
    """Events as the store writes them: two AI systems, streams of EVENTS_OF_A_STREAM events, one actor with a name."""
    heads: dict[str, tuple[int, str | None]] = {}
    actor = json.dumps(ADA.actor, separators=(",", ":"))
    for number in range(EVENTS):
        system = SYSTEM if number // EVENTS_OF_A_STREAM % 3 else "other"
        sequence, previous = heads.get(system, (0, None))
        recorded_at = (BEGAN + timedelta(milliseconds=number)).isoformat(timespec="microseconds")
        raw = (
            f'{{"service":"requirements","position":{number + 1},"recorded_at":"{recorded_at}Z","system":"{system}"'
            f',"system_sequence":{sequence + 1},"system_previous":{json.dumps(previous)},"id":"{number:032x}"'
            f',"stream":"requirement:{system}/REQ-{number // EVENTS_OF_A_STREAM}"'
            f',"version":{number % EVENTS_OF_A_STREAM + 1},"name":"requirements.requirement-drafted","schema":1'
            f',"actor":{actor},"reason":"as planned","correlation":"{number:032x}","causation":null'
            f',"data":{{"key":"REQ-{number}","statement":"{TEXT}"}}}}'
        ).encode()
        heads[system] = (sequence + 1, leaf_hash(raw).hex())
        yield raw
