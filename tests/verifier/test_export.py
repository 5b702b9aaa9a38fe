"""Packs as traceability exports them from a running house: proven by the verifier, and the same bytes whenever they are made."""

from __future__ import annotations

import dataclasses
import io
import json

import asyncpg
import pytest

from services.composition import EMBEDDED_ISSUER
from services.traceability.evidence_html import render
from services.traceability.trace_book import When
from shared.artefacts import ArtefactFolder
from shared.event import Actor, digest_of
from shared.log.proofs import NotYetSealed
from shared.log.upkeep import rotate_key
from shared.runtime import utc_now
from tests.foreign import foreign
from tests.house import TestHouse
from tests.requirements.test_http_api import in_review, staffed
from tests.verifier.pack_maker import unpacked
from tests.verifier.sealed_house import SealedHouse
from verifier.prooftrail_verify import Brought, Code, Pins, parse_key, verify

SYSTEM = "flight-delay"


@pytest.fixture
async def sealed(house: TestHouse) -> SealedHouse:
    """A house with some history in two services and of two AI systems, sealed twice."""
    owner, author, approver = await staffed(house)
    await in_review(author)
    await author.get(f"/v1/systems/{SYSTEM}/state")
    made = SealedHouse(house)
    await made.seal()
    await owner.post("/v1/systems", key="other", name="Other", intended_use="None.", risk_class="limited")
    await approver.sign("requirements", "requirement:flight-delay/REQ-1")
    await owner.post(f"/v1/systems/{SYSTEM}/evidence-packs", key="P-1")
    await author.get(f"/v1/systems/{SYSTEM}/state")
    await made.seal()
    return made


async def exported(sealed: SealedHouse, *, known: int | None = None, person: str = "Ada Author") -> bytes:
    """The pack of the system by the application, as the person asks for it."""
    application = dataclasses.replace(sealed.house.house.services["traceability"].application, packs=sealed.packs)
    with await application.archive(
        actor=Actor(subject=sealed.house.client(person).subject, kind="person", issuer=EMBEDDED_ISSUER),
        system=SYSTEM,
        release=None,
        when=When(known=known),
        page=render,
    ) as file:
        content: bytes = file.read()
        return content


async def test_the_pack_of_a_system_is_proven(sealed: SealedHouse) -> None:
    """All its events, their names, nothing of the other system; the evidence pack in it is the one that is served."""
    pack = await exported(sealed)
    report = verify(io.BytesIO(pack), sealed.pins)
    assert report.code is Code.PROVEN, report.text()
    files = unpacked(pack)
    content = json.loads(files["pack.json"])
    served = await sealed.house.client("Ada Author").request(
        "GET", f"/v1/systems/{SYSTEM}/evidence-pack", ledger_position=content["ledger_position"]
    )
    assert files["pack.json"] == served.content
    assert files["pack.html"].decode() == render(served.content)
    events = files["events/requirements.jsonl"].splitlines()
    assert {json.loads(event)["system"] for event in events} == {SYSTEM}
    assert sum(log.events for log in report.logs) == len(content["events"])
    assert {person["name"] for person in json.loads(files["people.json"]).values()} >= {"Ada Author", "Ben Approver"}
    assert verify(io.BytesIO(pack), Pins()).code is Code.UNPINNED


async def test_the_same_position_gives_the_same_bytes_whatever_happens_later(sealed: SealedHouse) -> None:
    """Later events and later checkpoints change nothing."""
    pack = await exported(sealed)
    position = json.loads(unpacked(pack)["pack.json"])["ledger_position"]
    await sealed.house.client("Olga Owner").post(f"/v1/systems/{SYSTEM}/evidence-packs", key="P-2")
    await sealed.house.client("Ada Author").get(f"/v1/systems/{SYSTEM}/state")
    await sealed.seal()
    assert await exported(sealed, known=position) == pack
    later = await exported(sealed)
    assert later != pack
    assert verify(io.BytesIO(later), sealed.pins).code is Code.PROVEN


async def test_an_older_position_is_proven_under_the_earlier_checkpoint(sealed: SealedHouse) -> None:
    """The pack of then, with the checkpoint of then, without what came afterwards."""
    position, size = sealed.seals[0]["ledger"], sealed.seals[0]["requirements"]
    assert size < sealed.seals[1]["requirements"]
    report = verify(io.BytesIO(await exported(sealed, known=position)), sealed.pins)
    assert report.code is Code.PROVEN, report.text()
    assert [(log.service, log.checkpoint.size) for log in report.logs] == [("requirements", size)]


async def test_what_no_checkpoint_covers_is_not_exported(sealed: SealedHouse) -> None:
    """The answer says to wait; nothing is handed out that is not proven."""
    await sealed.pool.execute("DELETE FROM traceability.witnessed_checkpoint WHERE service = 'traceability'")
    with pytest.raises(NotYetSealed):
        await exported(sealed)


async def test_the_pack_is_served_to_those_with_a_role(sealed: SealedHouse) -> None:
    """Over HTTP, in pieces, the same bytes; a stranger learns nothing."""
    answer = await sealed.house.client("Ada Author").request("GET", f"/v1/systems/{SYSTEM}/evidence-pack.zip")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.content == await exported(sealed)
    stranger = sealed.house.client("Sam Stranger")
    refused = await stranger.request("GET", f"/v1/systems/{SYSTEM}/evidence-pack.zip")
    assert refused.status_code == 404


async def test_a_promise_of_a_receipt_is_kept_by_the_pack(sealed: SealedHouse) -> None:
    """What the log signed at once when the command was answered is in the pack as it was promised."""
    owner = sealed.house.client("Olga Owner")
    receipt = await owner.post(f"/v1/systems/{SYSTEM}/evidence-packs", key="P-2")
    await owner.get(f"/v1/systems/{SYSTEM}/state")
    await sealed.seal()
    report = verify(io.BytesIO(await exported(sealed)), sealed.pins, Brought(promises=[receipt["promise"]]))
    assert report.code is Code.PROVEN, report.text()
    assert "1 promises that the reader kept" in report.proven


async def test_the_deployment_is_proven_as_a_whole(sealed: SealedHouse) -> None:
    """Every event of every service, with the checkpoints that were kept; a checkpoint that a reader kept fits too."""
    kept = [str(signer.note) for signer in sealed.signers.values() if signer.note]
    report = verify(await sealed.exported(), sealed.pins, Brought(checkpoints=kept))
    assert report.code is Code.PROVEN, report.text()
    counts = {log.service: log.events for log in report.logs}
    assert {**sealed.seals[-1], **counts} == sealed.seals[-1]
    assert {"requirements", "traceability"} <= set(counts)


async def test_evidence_files_are_in_the_pack_unless_they_hold_personal_data(sealed: SealedHouse) -> None:
    """The file that an event names is there under its digest; one with personal data stays where it is."""
    data = sealed.house.house.runtime.settings.data / "artefacts"
    store = ArtefactFolder(folder=data)
    contents = {False: b"flight,predicted\n", True: b"passenger,late\n"}
    artefacts = [
        {"name": "a", "digest": digest_of(content), "length": len(content), "media_type": "text/csv", "personal_data": personal}
        for personal, content in contents.items()
    ]  # fmt: skip
    for content in contents.values():
        store.put(system=SYSTEM, digest=digest_of(content), content=content)
    await foreign(sealed.house, "verification", "evaluation-run-recorded", f"run:{SYSTEM}/RUN-1", artefacts=artefacts)
    await sealed.house.client("Ada Author").get(f"/v1/systems/{SYSTEM}/state", after="verification:1")
    await sealed.seal()
    pack = await exported(sealed)
    assert verify(io.BytesIO(pack), sealed.pins).code is Code.PROVEN
    assert [name for name in unpacked(pack) if name.startswith("artefacts/")] == [
        f"artefacts/{digest_of(contents[False])}"
    ]


async def hide_the_logs_own(sealed: SealedHouse) -> None:
    """Lets the columns of the ledger say that no log has recorded anything of itself."""
    superuser = await asyncpg.connect(sealed.house.house.runtime.database_url)
    await superuser.execute("SET session_replication_role = replica")
    changed = await superuser.execute(
        "UPDATE traceability.ledger SET stream = 'x::', name = 'x' WHERE stream LIKE 'log::%'"
    )
    assert changed == "UPDATE 1"
    await superuser.close()


async def test_a_changed_key_is_followed_from_the_one_that_was_pinned(sealed: SealedHouse) -> None:
    """The pack carries the change, in its proof and as the log's own event; who pinned the first key needs no other."""
    pins, service = sealed.pins, sealed.house.house.services["requirements"]
    log = service.foundation.log
    await rotate_key(store=service.foundation.store, signer=log.signer, why="a yearly change", clock=utc_now)
    await sealed.house.client("Olga Owner").post(f"/v1/systems/{SYSTEM}/evidence-packs", key="P-2")
    await sealed.seal()
    position = sealed.seals[-1]["ledger"]
    for pack in (await sealed.exported(), io.BytesIO(await exported(sealed, known=position))):
        report = verify(pack, pins)
        assert report.code is Code.PROVEN, report.text()
        assert not any("has replaced since" in line for line in report.not_proven)
        proof = json.loads(unpacked(pack.getvalue())["proof/requirements.json"])
        assert [key["vkey"] for key in proof["keys"]] == list(log.signer.vkeys)
        assert len(proof["keys"]) == 2
    before = await exported(sealed, known=position)
    await hide_the_logs_own(sealed)
    assert await exported(sealed, known=position) == before
    newer = [key for key in pins.keys if not key.name.endswith("/requirements")]
    followed = Pins(frozenset([*newer, parse_key(log.signer.vkey)]))
    assert verify(await sealed.exported(), followed).code is Code.PROVEN
