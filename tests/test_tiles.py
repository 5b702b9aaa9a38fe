"""The tiles of a running house through its door: more than one tile wide, read by Go's own code, and never with a hole in them."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx

from shared.log.note import sign_note
from shared.log.statements import rotation_text
from shared.log.tile_paths import TILE_WIDTH, decode_entries, tile_path, tiles_of
from tests.house import Client, TestHouse, problem_of
from tests.requirements.test_http_api import DATASET, staffed
from tests.shared.log.test_against_go import checked, encoded, program
from tests.test_logs import REQUIREMENTS, stolen_key, witnessed

__all__ = ["program"]

EVENTS_MORE = TILE_WIDTH + 20


async def fetched(reader: Client, folder: Path, size: int) -> list[bytes]:
    """Puts the tiles and bundles of the log at this size into the folder, each where it is served; returns the entries."""
    entries: list[bytes] = []
    for level, number, width in tiles_of(size):
        for kind in (str(level), *(["entries"] if level == 0 else [])):
            answer = await reader.request("GET", f"{REQUIREMENTS}/tile/{kind}/{tile_path(number, width)}")
            assert answer.status_code == httpx.codes.OK, answer.text
            file = folder / f"tile/{kind}/{tile_path(number, width)}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(answer.content)
            entries += decode_entries(answer.content) if kind == "entries" else []
    return entries


async def proofs(reader: Client, entries: list[bytes], old: int, size: int) -> dict[str, Any]:
    """What the door proves, as the program in Go reads it."""
    inclusion = []
    for position in (1, old, TILE_WIDTH, TILE_WIDTH + 1, size):
        proof = await reader.get(f"{REQUIREMENTS}/events/{position}/proof")
        assert proof["checkpoint"].split("\n")[1] == str(size)
        leaf = encoded(entries[position - 1])
        inclusion.append({"Index": position - 1, "Size": size, "Leaf": leaf, "Proof": proof["inclusion"]})
    growth = await reader.get(f"{REQUIREMENTS}/consistency", **{"from": old, "to": size})
    return {"Inclusion": inclusion, "Consistency": [{"Old": old, "Size": size, "Proof": growth["consistency"]}]}


async def test_go_follows_the_log_through_its_door(house: TestHouse, program: Path, tmp_path: Path) -> None:
    """Full tiles, partial ones and the level above; checkpoints, proofs and entries, all of them as they are served."""
    owner, _, _ = await staffed(house)
    first = (await witnessed(house, owner, 3)).head
    checkpoints = [(await owner.request("GET", f"{REQUIREMENTS}/checkpoint")).text]
    more = (
        owner.post("/v1/systems", key=f"system-{number}", name="S", intended_use="None.", risk_class="limited")
        for number in range(EVENTS_MORE)
    )
    await asyncio.gather(*more)
    last = (await witnessed(house, owner, 3 + EVENTS_MORE)).head
    checkpoints.append((await owner.request("GET", f"{REQUIREMENTS}/checkpoint")).text)
    await fetched(owner, tmp_path, first.size)
    entries = await fetched(owner, tmp_path, last.size)
    assert (tmp_path / "tile/0/000").stat().st_size == 32 * TILE_WIDTH
    assert (tmp_path / "tile/1/000.p/1").stat().st_size == 32
    key = stolen_key(house, "requirements")
    case = {
        "LogKey": str(key.verifier),
        "SigningKey": key.text,
        "WitnessKey": house.house.runtime.logs.own[0].vkey,
        "Notes": [sign_note(rotation_text(origin=first.origin, new_key=key.verifier), key)],
        "Checkpoints": checkpoints,
        "Entries": [base64.b64encode(entry).decode() for entry in entries],
        **await proofs(owner, entries, first.size, last.size),
    }
    assert checked(program, tmp_path, case) == (0, "holds")
    (tmp_path / "tile/1/000.p/1").write_bytes(bytes(32))
    assert checked(program, tmp_path, case)[0] == 1


async def test_what_no_entry_of_a_log_can_hold_is_refused(house: TestHouse) -> None:
    """The event is refused where it is written, so that the bundle it would lie in can be fetched; one that just fits is there."""
    _, author, _ = await staffed(house)
    path = "/v1/systems/flight-delay/datasets"
    columns = [f"column-{number:04d}-of-a-wide-table" for number in range(4000)]
    refused = problem_of(
        await author.request("POST", path, body={**DATASET, "columns": columns, "reason": "a wide table"})
    )
    assert (refused["status"], refused["reason"]) == (422, "event-too-large")
    assert "evidence file" in refused["next_step"]
    await author.post(path, **{**DATASET, "columns": [column[:13] for column in columns]})
    size = (await witnessed(house, author, 4)).head.size
    bundle = await author.request("GET", f"{REQUIREMENTS}/tile/entries/{tile_path(0, size)}")
    assert len(decode_entries(bundle.content)[3]) > 60_000
