"""What a log states about itself, in a pack: another key follows, and it was begun again. What counts is recorded and signed."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tests.verifier.pack_maker import SYSTEM, Deployment, Service, Signer, packed, small_deployment
from tests.verifier.test_attacks import attacked, checked, deployment, found
from verifier.prooftrail_verify import Code, Pins, parse_key, verify

__all__ = ["attacked", "deployment"]


def test_a_log_key_that_nobody_introduced(deployment: Deployment, attacked: Service) -> None:
    """Attack 10: history signed anew under a new key of the same name, alone or with a change that the old key did not sign."""
    attacked.keys = [Signer("acme/requirements", "stolen")]
    attacked.sealed = attacked.checkpoint(witnesses=[])
    assert found(checked(deployment)) == (Code.SIGNATURE, "requirements", None, None)
    attacked.keys = [Signer("acme/requirements"), Signer("acme/requirements", "stolen")]
    attacked.rotations = [
        attacked.keys[1].note(f"prooftrail key rotation\n{attacked.origin}\n{attacked.keys[1].vkey()}\n")
    ]
    assert found(checked(deployment)) == (Code.SIGNATURE, "requirements", None, None)


@pytest.mark.parametrize("system", [SYSTEM, "*"])
def test_a_key_that_the_old_one_introduced(deployment: Deployment, attacked: Service, system: str) -> None:
    """A lawful change of keys holds, whichever of the keys is pinned; the old one signs nothing for who pinned the new one."""
    attacked.rotate(Signer("acme/requirements", "second"))
    attacked.kept = []
    deployment.seal()
    pack = deployment.pack(system)
    assert checked(deployment, pack).code is Code.PROVEN
    newer = Pins(frozenset(map(parse_key, [attacked.keys[1].vkey(), *deployment.vkeys[1:]])))
    assert verify(io.BytesIO(pack), newer).code is Code.PROVEN
    attacked.sealed = attacked.checkpoint(witnesses=[deployment.witness, deployment.outside], key=attacked.keys[0])
    assert verify(io.BytesIO(deployment.pack(system)), newer).code is Code.CHECKPOINT


@pytest.mark.parametrize("system", [SYSTEM, "*"])
def test_a_change_of_keys_that_the_log_never_recorded(deployment: Deployment, attacked: Service, system: str) -> None:
    """Attack 10 by whoever once had the old key: its signature alone introduces nobody; the event of another change does not."""
    first, second = attacked.keys[0], Signer("acme/requirements", "second")
    attacked.rotations = [first.note(f"prooftrail key rotation\n{attacked.origin}\n{second.vkey()}\n")]
    attacked.keys.append(second)
    deployment.seal()
    assert found(checked(deployment, system=system)) == (Code.SIGNATURE, "requirements", None, None)
    attacked.keys, attacked.rotations, attacked.kept = [first], [], []
    attacked.rotate(Signer("acme/requirements", "third"))
    attacked.keys[1] = second
    attacked.rotations = [first.note(f"prooftrail key rotation\n{attacked.origin}\n{second.vkey()}\n")]
    deployment.seal()
    assert found(checked(deployment, system=system)) == (Code.SIGNATURE, "requirements", None, None)


@pytest.mark.parametrize("signature", ["not a note", "", "another log's", "a stranger's"])
@pytest.mark.parametrize("used", [True, False])
def test_a_recorded_change_of_keys_that_the_old_one_did_not_sign(
    deployment: Deployment, attacked: Service, signature: str, used: bool
) -> None:
    """Whether the log signs with the new key yet or not."""
    second = Signer("acme/requirements", "second")
    text = f"prooftrail key rotation\n{{}}\n{second.vkey()}\n"
    notes = {
        "another log's": attacked.keys[0].note(text.format("acme/verification/1")),
        "a stranger's": second.note(text.format(attacked.origin)),
    }
    attacked.rotate(second, signature=notes.get(signature, signature))
    if not used:
        attacked.keys, attacked.rotations = attacked.keys[:1], []
    attacked.kept = []
    deployment.seal()
    for system in (SYSTEM, "*"):
        assert found(checked(deployment, system=system)) == (Code.SIGNATURE, "requirements", 10, None)


def test_a_key_that_was_replaced_is_told_of(deployment: Deployment, attacked: Service) -> None:
    """The log itself records the change, so a later checkpoint by the old key is shown as one."""
    first, second = attacked.keys[0], Signer("acme/requirements", "second")
    attacked.rotate(second)
    attacked.kept = []
    witnesses = [deployment.witness, deployment.outside]
    for key, told in ((second, False), (first, True)):
        attacked.sealed = attacked.checkpoint(witnesses=witnesses, key=key)
        for system in (SYSTEM, "*"):
            report = checked(deployment, system=system)
            assert report.code is Code.PROVEN, report.text()
            assert any("a key that the log has replaced" in line for line in report.not_proven) is told


LOST = (7, 9)


def lost_tail(deployment: Deployment, attacked: Service) -> str:
    """Takes the log back to six events, unsealed; returns the checkpoint of nine that a reader kept."""
    kept = attacked.checkpoint(witnesses=[deployment.witness])
    for rows in (attacked.events, attacked.systems):
        del rows[6:]
    attacked.kept = attacked.kept[:2]
    attacked.reopen()
    return kept


@pytest.mark.parametrize("rotated", [False, True])
def test_a_recovery_that_a_key_of_the_log_signed(deployment: Deployment, attacked: Service, rotated: bool) -> None:
    """Lawful and told: a checkpoint of what was lost is given up, also where another key has followed since."""
    first = attacked.keys[0].vkey()
    kept = lost_tail(deployment, attacked)
    attacked.recover(lost=LOST)
    if rotated:
        attacked.rotate(Signer("acme/requirements", "second"))
    deployment.seal()
    for system in (SYSTEM, "*"):
        report = checked(deployment, system=system, checkpoints=[kept])
        assert report.code is Code.PROVEN, report.text()
        assert "requirements: the checkpoint of size 9 was given up by a recorded recovery" in report.not_proven
        newer = Pins(frozenset(map(parse_key, [attacked.keys[-1].vkey(), *deployment.vkeys[1:]])))
        assert verify(io.BytesIO(deployment.pack(system)), newer).code is Code.PROVEN
    assert first == deployment.vkeys[0]


@pytest.mark.parametrize("system", [SYSTEM, "*"])
def test_a_log_that_was_begun_again_without_a_word(deployment: Deployment, attacked: Service, system: str) -> None:
    """Attack 12 by whoever holds the key: the epoch is another, and no event says so; nor does that of an earlier recovery."""
    kept = lost_tail(deployment, attacked)
    attacked.epoch = 2
    for checkpoints in ([], [kept]):
        deployment.seal()
        report = checked(deployment, system=system, checkpoints=checkpoints)
        assert found(report) == (Code.FORK, "requirements", None, None)
    attacked.epoch = 1
    attacked.recover(lost=LOST)
    attacked.epoch = 3
    deployment.seal()
    assert found(checked(deployment, system=system)) == (Code.FORK, "requirements", None, None)


@pytest.mark.parametrize(
    "told",
    [
        {"signature": "not a note"},
        {"lost_first": 1},
        {"lost_last": 90},
        {"lost_last": None},
        {"key": Signer("acme/requirements", "stolen")},
        {"key": Signer("acme/witness")},
    ],
)
def test_a_recovery_that_no_key_of_the_log_signed(
    deployment: Deployment, attacked: Service, told: dict[str, Any]
) -> None:
    """Or that says something else than was signed: whoever can write into the database cannot give positions up."""
    lost_tail(deployment, attacked)
    attacked.recover(lost=LOST, **told)
    deployment.seal()
    for system in (SYSTEM, "*"):
        assert found(checked(deployment, system=system)) == (Code.FORK, "requirements", 7, None)


def test_a_recovery_gives_up_nothing_of_its_own_epoch(deployment: Deployment, attacked: Service) -> None:
    """Nor what was signed before the first lost position."""
    lost_tail(deployment, attacked)
    attacked.recover(lost=LOST)
    other = small_deployment().services["requirements"]
    other.epoch = 2
    other.restamp(4, reason="another")
    for epoch, size in ((2, 7), (1, 5)):
        other.epoch = epoch
        deployment.seal()
        kept = other.checkpoint(witnesses=[], size=size)
        assert found(checked(deployment, checkpoints=[kept]))[0] is Code.FORK


def test_what_a_log_states_is_shown_beyond_the_position_of_a_pack_and_nothing_else(
    deployment: Deployment, attacked: Service
) -> None:
    """The checkpoint may be later than the pack, and signed by a key that was introduced in between."""
    attacked.rotate(Signer("acme/requirements", "second"))
    deployment.seal()
    for stated, expected in (("10 6 ", None), ("9 6 ", None), ("8 6 ", (Code.ORDER, "requirements", 9, None))):
        files = deployment.members(SYSTEM)
        text = deployment.manifest(SYSTEM, files).decode().rpartition("\n\n")[0] + "\n"
        assert "requirements 10 6 " in text
        text = text.replace("requirements 10 6 ", f"requirements {stated}")
        report = checked(deployment, packed({**files, "manifest": deployment.witness.note(text).encode()}))
        assert (expected is None and report.code is Code.PROVEN) or found(report) == expected, report.text()
