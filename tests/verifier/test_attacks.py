"""Attacks on what a pack is made of: each is found, with the right class and the first bad position.

The export is honest in most of them: it writes and signs what the altered database holds. Where an attacker has stolen a key,
the name of the test says so. `tests/verifier/test_tampering.py` holds the table of all attacks, carried out on a live database.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.verifier.pack_maker import (
    ADA,
    LOG,
    PREDICTIONS,
    QUINN,
    SYSTEM,
    WITNESS,
    Deployment,
    Service,
    Signer,
    leaf_hash,
    packed,
    small_deployment,
    unpacked,
)
from verifier.prooftrail_verify import Brought, Code, Pins, Report, parse_key, verify

Attack = Callable[[Service], None]


@pytest.fixture
def deployment() -> Deployment:
    """A deployment whose logs are sealed."""
    made = small_deployment()
    made.seal()
    return made


@pytest.fixture
def attacked(deployment: Deployment) -> Service:
    """The service that somebody alters: nine events, of flight-delay those at 1, 3, 4, 6, 7 and 9."""
    return deployment.services["requirements"]


def checked(made: Deployment, pack: bytes | None = None, *, system: str = "*", **brought: Any) -> Report:
    """The report on the pack, with every key of the deployment pinned as it was before."""
    pins = Pins(frozenset(map(parse_key, small_deployment().vkeys)))
    return verify(io.BytesIO(pack or made.pack(system)), pins, Brought(**brought))


def found(report: Report) -> tuple[Code, str | None, int | None, int | None]:
    """Class, service, first bad position and the last that it can be."""
    assert report.failure is not None, report.text()
    return report.code, report.failure.service, report.failure.position, report.failure.until


def test_control(deployment: Deployment) -> None:
    """Sealed and untouched, both kinds of pack pass."""
    for system in (SYSTEM, "*"):
        assert checked(deployment, system=system).code is Code.PROVEN


@pytest.mark.parametrize("field", ["reason", "recorded_at", "actor", "data"])
@pytest.mark.parametrize("position", [1, 4, 9])
def test_a_changed_event_has_not_its_hash(deployment: Deployment, attacked: Service, field: str, position: int) -> None:
    """Attack 1: payload, time or actor are changed in the row; the hash beside it tells."""
    stored = base64.b64encode(b"".join(attacked.leaves)).decode()
    changed = {"reason": "another", "recorded_at": f"2026-01-01T00:00:00.0000{position:02d}Z", "data": {}}
    changed["actor"] = {**json.loads(attacked.events[0])["actor"], "subject": "person-eve"}
    if field == "recorded_at":
        changed["recorded_at"] = "2026-01-01T00:00:00.000000Z"
    attacked.restamp(position - 1, **{field: changed[field]})
    proof = json.dumps(deployment.proof(attacked, "*", leaves=stored)).encode()
    report = checked(deployment, deployment.pack("*", changed={"proof/requirements.json": proof}))
    assert found(report)[:3] == (Code.EVENT, "requirements", position)


def test_a_changed_event_with_its_hash_breaks_the_chain_of_its_system(
    deployment: Deployment, attacked: Service
) -> None:
    """Attack 2: the hash columns are recomputed; the next event of the system names the hash as it was."""
    attacked.restamp(3, reason="another")
    assert found(checked(deployment)) == (Code.EVENT, "requirements", 4, None)
    assert found(checked(deployment, system=SYSTEM)) == (Code.EVENT, "requirements", 4, None)


def test_a_changed_event_with_all_hashes_gives_another_root(deployment: Deployment, attacked: Service) -> None:
    """Attack 2, thorough: the chain is made anew too; the signed root tells, and kept checkpoints tell where."""
    attacked.restamp(3, reason="another")
    attacked.rechain()
    assert found(checked(deployment)) == (Code.TREE, "requirements", 4, 6)
    assert found(checked(deployment, system=SYSTEM))[:2] == (Code.TREE, "requirements")


def test_the_last_event_with_its_hash_gives_another_root(deployment: Deployment, attacked: Service) -> None:
    """Attack 2 on an event that nothing names yet."""
    attacked.restamp(8, reason="another")
    attacked.kept.pop()
    assert found(checked(deployment)) == (Code.TREE, "requirements", 7, 9)


def _rewrite(attacked: Service) -> None:
    attacked.restamp(4, reason="another")
    attacked.rechain()


def test_history_signed_anew_with_the_stolen_key_has_no_witness(deployment: Deployment, attacked: Service) -> None:
    """Attack 3: everything is rewritten and signed with the log's own key; the witnesses did not sign that."""
    attacked.kept = []
    _rewrite(attacked)
    attacked.sealed = attacked.checkpoint(witnesses=[])
    assert found(checked(deployment)) == (Code.FORK, "requirements", None, None)


def test_history_signed_anew_has_no_witness_and_a_kept_checkpoint_tells_where(
    deployment: Deployment, attacked: Service
) -> None:
    """Attack 3, with the checkpoints that the deployment kept: between which of them it departs."""
    _rewrite(attacked)
    attacked.sealed = attacked.checkpoint(witnesses=[])
    assert found(checked(deployment)) == (Code.FORK, "requirements", 4, 6)


def test_history_signed_anew_contradicts_the_checkpoints_kept(deployment: Deployment, attacked: Service) -> None:
    """Attack 3, with witnesses that forgot: the checkpoints that the deployment kept tell, and where."""
    _rewrite(attacked)
    attacked.sealed = attacked.checkpoint(witnesses=[deployment.witness, deployment.outside])
    assert found(checked(deployment)) == (Code.FORK, "requirements", 4, 6)


@pytest.mark.parametrize("system", ["*", SYSTEM])
def test_history_signed_anew_contradicts_a_checkpoint_that_the_reader_kept(
    deployment: Deployment, attacked: Service, system: str
) -> None:
    """Attacks 3 and 8: two signed checkpoints of one size with different roots are a fork, whoever shows them."""
    kept = attacked.sealed
    attacked.kept = []
    _rewrite(attacked)
    attacked.sealed = attacked.checkpoint(witnesses=[deployment.witness, deployment.outside])
    report = checked(deployment, system=system, checkpoints=[kept])
    assert (report.code, report.failure and report.failure.service) == (Code.FORK, "requirements")


def test_a_deleted_event_leaves_a_gap(deployment: Deployment, attacked: Service) -> None:
    """Attack 4 on an event of the system, and on one that only the whole deployment shows."""
    for rows in (attacked.events, attacked.systems):
        del rows[4 - 1]
    attacked.places = [1, 2, 3, 5, 6, 7, 8, 9]
    assert found(checked(deployment)) == (Code.ORDER, "requirements", 4, None)
    assert found(checked(deployment, system=SYSTEM)) == (Code.ORDER, "requirements", 4, 6)


def test_a_deleted_event_is_not_hidden_by_new_numbers(deployment: Deployment, attacked: Service) -> None:
    """Attack 4, thorough: positions, sequences and chain are made anew; then one is missing at the end."""
    for rows in (attacked.events, attacked.systems):
        del rows[5 - 1]
    attacked.rechain()
    assert found(checked(deployment)) == (Code.ORDER, "requirements", 9, None)


def test_a_cut_tail_is_shorter_than_the_checkpoint(deployment: Deployment, attacked: Service) -> None:
    """Attack 5, of what a checkpoint covers."""
    for rows in (attacked.events, attacked.systems):
        del rows[7:]
    assert found(checked(deployment)) == (Code.ORDER, "requirements", 8, None)


def test_a_cut_tail_breaks_the_promise_of_its_receipt(deployment: Deployment, attacked: Service) -> None:
    """Attack 5, of what no checkpoint covers yet: whoever sent the command holds a signed promise."""
    position = attacked.append(system=SYSTEM, stream=f"requirement:{SYSTEM}/REQ-9", name="requirement-drafted", data={})
    promise = attacked.promise(position)
    for rows in (attacked.events, attacked.systems):
        rows.pop()
    assert checked(deployment).code is Code.PROVEN
    assert found(checked(deployment, promises=[promise])) == (Code.ORDER, "requirements", 10, None)


def test_a_promise_holds_for_the_event_that_was_promised_only(deployment: Deployment, attacked: Service) -> None:
    """A kept promise passes; one of another event at the position is a fork; one that nobody signed is none."""
    assert checked(deployment, promises=[attacked.promise(4)]).code is Code.PROVEN
    other = small_deployment().services["requirements"]
    other.restamp(3, reason="another")
    assert found(checked(deployment, promises=[other.promise(4)])) == (Code.FORK, "requirements", 4, None)
    forged = attacked.promise(4).replace(attacked.leaves[3].hex(), "0" * 64)
    assert found(checked(deployment, promises=[forged]))[0] is Code.SIGNATURE


def _swap_bytes(attacked: Service) -> None:
    rows = attacked.events
    rows[3], rows[5] = rows[5], rows[3]


def _swap_stamped(attacked: Service) -> None:
    fourth, sixth = (json.loads(attacked.events[number]) for number in (3, 5))
    kept = ("position", "recorded_at", "system_sequence", "system_previous")
    attacked.restamp(3, **{name: value for name, value in sixth.items() if name not in kept})
    attacked.restamp(5, **{name: value for name, value in fourth.items() if name not in kept})


def _swap_versions(attacked: Service) -> None:
    attacked.restamp(0, version=2)
    attacked.restamp(2, version=1)


@pytest.mark.parametrize(
    ("attack", "code", "position"),
    [(_swap_bytes, Code.ORDER, 4), (_swap_stamped, Code.ORDER, 4), (_swap_versions, Code.ORDER, 1)],
)
def test_events_in_another_order(
    deployment: Deployment, attacked: Service, attack: Attack, code: Code, position: int
) -> None:
    """Attack 6: rows exchanged, contents exchanged under the right stamps, versions exchanged."""
    attack(attacked)
    assert found(checked(deployment))[:3] == (code, "requirements", position)


def test_an_event_put_in_between(deployment: Deployment, attacked: Service) -> None:
    """Attack 7: a second event at a position; and one that pushes all others on, renumbered, which gives another root."""
    attacked.events.insert(4, attacked.events[3])
    attacked.systems.insert(4, SYSTEM)
    for rows in (attacked.events, attacked.systems):
        rows.pop()
    assert found(checked(deployment))[:3] == (Code.ORDER, "requirements", 4)
    attacked.restamp(4, stream=f"requirement:{SYSTEM}/REQ-77", id="new", version=1)
    attacked.rechain()
    assert found(checked(deployment)) == (Code.TREE, "requirements", 4, 6)


def test_a_clock_that_goes_back(deployment: Deployment, attacked: Service) -> None:
    """Attacks 7 and 16: an event that says to be older than the one before it, however well it is sealed."""
    attacked.append(
        system=SYSTEM, stream=f"requirement:{SYSTEM}/REQ-8", name="requirement-drafted", data={},
        stamps={"recorded_at": "2025-12-31T23:59:59.000000Z"},
    )  # fmt: skip
    deployment.seal()
    assert found(checked(deployment)) == (Code.ORDER, "requirements", 10, None)


def _again_with_its_id(attacked: Service) -> None:
    event = json.loads(attacked.events[3])
    attacked.append(
        system=SYSTEM, stream=f"requirement:{SYSTEM}/REQ-8", name="requirement-drafted", data=event["data"],
        stamps={"id": event["id"]},
    )  # fmt: skip


def _again_in_its_stream(attacked: Service) -> None:
    event = json.loads(attacked.events[3])
    attacked.append(
        system=SYSTEM, stream=event["stream"], name="requirement-drafted", data=event["data"],
        stamps={"version": event["version"]},
    )  # fmt: skip


def _again_for_another_service(attacked: Service) -> None:
    attacked.append(
        system=SYSTEM, stream=f"run:{SYSTEM}/RUN-9", name="requirement-drafted", data={},
        stamps={"service": "verification"},
    )  # fmt: skip


def _with_stamps_twice(attacked: Service) -> None:
    attacked.append(system=SYSTEM, stream=f"requirement:{SYSTEM}/REQ-8", name="requirement-drafted", data={})
    attacked.events[-1] = attacked.events[-1][:-1] + b',"stream":"requirement:other/REQ-1"}'


def _with_a_malicious_name(attacked: Service) -> None:
    attacked.append(system=SYSTEM, stream=f"requirement:{SYSTEM}/REQ-8", name="x", data={}, stamps={"name": "this:s"})


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (_again_with_its_id, Code.ORDER),
        (_again_in_its_stream, Code.ORDER),
        (_again_for_another_service, Code.EVENT),
        (_with_stamps_twice, Code.EVENT),
        (_with_a_malicious_name, Code.EVENT),
    ],
)
def test_an_event_that_was_appended_and_sealed_but_cannot_be(
    deployment: Deployment, attacked: Service, attack: Attack, code: Code
) -> None:
    """Attacks 9 and 17: a valid event again, under a new position, stream or service, and names that no service has."""
    attack(attacked)
    attacked.kept = []
    deployment.seal()
    for system in (SYSTEM, "*"):
        assert found(checked(deployment, system=system))[:3] == (code, "requirements", 10)


def test_an_event_of_another_system_in_the_pack(deployment: Deployment, attacked: Service) -> None:
    """Attack 9, another tenant: what belongs to another AI system is not taken for one of this."""
    attacked.systems[1] = SYSTEM
    assert found(checked(deployment, system=SYSTEM)) == (Code.ORDER, "requirements", 2, None)


def test_a_manifest_that_another_key_signed(deployment: Deployment) -> None:
    """Attack 10 on the manifest: under its own name, or under one that nobody pinned."""
    files = deployment.members("*")
    for key in (Signer("acme/witness", "stolen"), Signer("acme/other")):
        pack = packed({**files, "manifest": deployment.manifest("*", files, key=key)})
        assert found(checked(deployment, pack))[0] is Code.SIGNATURE


def test_a_checkpoint_of_another_log(deployment: Deployment, attacked: Service) -> None:
    """A true checkpoint of one service does not stand for another."""
    attacked.sealed = deployment.services["verification"].sealed
    assert found(checked(deployment)) == (Code.CHECKPOINT, "requirements", None, None)


@pytest.mark.parametrize("content", [PREDICTIONS[:-2] + b"9\n", PREDICTIONS + b"more", b""])
def test_another_evidence_file_under_the_same_digest(deployment: Deployment, content: bytes) -> None:
    """Attack 11: other bytes, of the same length too; the honest export lists what it found."""
    digest = hashlib.sha256(PREDICTIONS).hexdigest()
    pack = deployment.pack(changed={f"artefacts/{digest}": content})
    assert found(checked(deployment, pack)) == (Code.EVIDENCE, "verification", 1, None)
    changed = {**unpacked(deployment.pack()), f"artefacts/{digest}": content}
    assert found(checked(deployment, packed(changed))) == (Code.EVIDENCE, "verification", 1, None)


def test_an_evidence_file_that_no_event_names(deployment: Deployment) -> None:
    """Attack 11: a file under its true digest, which nobody measured."""
    files = deployment.members("*")
    digest = hashlib.sha256(b"better").hexdigest()
    ordered = {
        f"artefacts/{digest}" if name.startswith("artefacts/") else name: content for name, content in files.items()
    }
    ordered[f"artefacts/{digest}"] = b"better"
    pack = packed({**ordered, "manifest": deployment.manifest("*", ordered)})
    assert found(checked(deployment, pack)) == (Code.EVIDENCE, None, None, None)


def test_a_database_taken_back_to_a_backup(deployment: Deployment, attacked: Service) -> None:
    """Attack 12: the log had signed nine events, and the pack knows of six only."""
    for rows in (attacked.events, attacked.systems):
        del rows[6:]
    attacked.sealed = attacked.checkpoint(witnesses=[deployment.witness, deployment.outside])
    assert found(checked(deployment)) == (Code.FORK, "requirements", 7, 9)


def _people(made: Deployment, change: Callable[[dict[str, Any]], None]) -> bytes:
    people = json.loads(made.members("*")["people.json"])
    change(people)
    return json.dumps(people).encode()


def _other_name(people: dict[str, Any]) -> None:
    people[ADA.commitment]["name"] = "Eve Author"


def _other_person(people: dict[str, Any]) -> None:
    people[ADA.commitment]["subject"] = QUINN.subject


def _exchanged(people: dict[str, Any]) -> None:
    people[ADA.commitment], people[QUINN.commitment] = people[QUINN.commitment], people[ADA.commitment]


def _nobody(people: dict[str, Any]) -> None:
    people[hashlib.sha256(b"salt\0Eve").hexdigest()] = {"subject": "person-eve", "salt": "salt", "name": "Eve"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (_other_name, ("requirements", 1)),
        (_other_person, ("requirements", 1)),
        (_exchanged, ("requirements", 1)),
        (_nobody, (None, None)),
    ],
)
def test_a_printed_name_that_was_not_committed_to(
    deployment: Deployment, change: Callable[..., None], place: tuple[str | None, int | None]
) -> None:
    """Attack 15: the directory beside the events is altered; names and persons are held to the events that commit to them."""
    pack = deployment.pack("*", changed={"people.json": _people(deployment, change)})
    assert found(checked(deployment, pack)) == (Code.NAME, *place, None)


def test_an_erased_name_breaks_nothing(deployment: Deployment) -> None:
    """Everything is proven without the name; the report says that one is not there, and whether its erasure was recorded."""
    deployment.people.remove(ADA)
    recorded = ("of 1 of them it holds no recorded erasure", "of 0 of them it holds no recorded erasure")
    for told in recorded:
        report = checked(deployment)
        assert report.code is Code.PROVEN
        assert any(told in line for line in report.not_proven)
        erased = {"subject": ADA.subject, "why": "consent-withdrawn"}
        service = deployment.services["requirements"]
        service.append(system=None, stream=f"person::{ADA.subject}", name="person-erased", data=erased)
        deployment.seal()


def test_a_summary_that_tells_another_event(deployment: Deployment) -> None:
    """The events in pack.json are the proven ones: none other, none changed, none left out."""
    told = json.loads(deployment.members(SYSTEM)["pack.json"])["events"]
    text = told[2]["event"].replace("as planned", "as hoped")
    changed = {**told[2], "event": text, "leaf_hash": leaf_hash(text.encode()).hex()}
    for events, code, position in [
        ([*told[:2], changed, *told[3:]], Code.EVENT, 4),
        ([*told, {**told[0], "position": 2}], Code.ORDER, 2),
        ([*told, told[0]], Code.ORDER, 1),
        (told[1:], Code.ORDER, None),
    ]:
        pack = deployment.pack(SYSTEM, changed={"pack.json": json.dumps({"events": events}).encode()})
        assert found(checked(deployment, pack, system=SYSTEM))[::2][:2] == (code, position)


def test_a_pack_that_is_opened_signed_anew_and_closed_by_a_stranger(deployment: Deployment) -> None:
    """Without a key of the deployment nothing in a pack can be changed, not even its order of files."""
    files = unpacked(deployment.pack(SYSTEM))
    del files["manifest"]
    stranger = Signer("acme/witness", "stranger")
    pack = packed({**files, "manifest": deployment.manifest(SYSTEM, files, key=stranger)})
    assert found(checked(deployment, pack))[0] is Code.SIGNATURE
    assert verify(io.BytesIO(pack), Pins()).code is Code.SIGNATURE
    assert stranger.vkey(LOG) != deployment.witness.vkey(LOG) != deployment.witness.vkey(WITNESS)
