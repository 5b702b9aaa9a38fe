"""The signer: it never contradicts what it signed, whatever happens to the database, the process, the folder or the disk."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.event_store import EventReceipt
from shared.log.checkpoint import open_checkpoint, parse_checkpoint
from shared.log.kept_folder import FolderDamaged, FolderExposed, FolderInUse
from shared.log.merkle import EMPTY_ROOT, consistency_proof
from shared.log.note import VerifierKey, open_note, parse_note
from shared.log.promise import open_promise
from shared.log.signer import HistoryContradicts, LogSigner, NoRotationBegun, RecoveryImpossible, RollbackNoticed
from shared.log.statements import Rotation, verify_recovery, verify_rotation
from tests.shared.log.signing_process import LEAVES, SUBTREE, opened, root

OTHER_ROOT = root(3)
WRITING = ("written", "synced", "renamed", "kept")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log" / "requirements"


@pytest.fixture
def signer(folder: Path) -> LogSigner:
    return opened(folder)


def grow(signer: LogSigner, size: int) -> str:
    """Signs the first leaves."""
    return signer.sign(size=size, root=root(size), consistency=consistency_proof(signer.size, size, SUBTREE))


def known(signer: LogSigner) -> list[VerifierKey]:
    """All keys of the signer."""
    return [VerifierKey.parse(key) for key in signer.vkeys]


def test_a_new_log_is_empty(signer: LogSigner, folder: Path) -> None:
    """Epoch 1, no leaves, one key, and nothing that others could read."""
    assert (signer.name, signer.origin, signer.epoch) == ("acme/requirements", "acme/requirements/1", 1)
    assert (signer.size, signer.root, signer.note, signer.recovery) == (0, EMPTY_ROOT, None, None)
    assert signer.vkeys == (signer.vkey,)
    assert [file.stat().st_mode & 0o077 for file in (folder, *folder.iterdir())] == [0] * 4


def test_checkpoints_follow_each_other(signer: LogSigner, folder: Path) -> None:
    """Each is a note by the log's key, and what was signed last is known after a restart."""
    for size in (1, 2, 7, 20):
        head = open_checkpoint(grow(signer, size), known(signer), origin=signer.origin).head
        assert (head.size, head.root) == (size, root(size))
    again = opened(folder)
    assert (again.size, again.root, again.vkey, again.note) == (20, root(20), signer.vkey, signer.note)


def test_the_same_tree_is_signed_again(signer: LogSigner) -> None:
    """Byte for byte, as when the checkpoint was signed and did not reach the database."""
    note = grow(signer, 7)
    assert signer.sign(size=7, root=root(7), consistency=[]) == note


def test_a_smaller_tree_is_a_rollback(signer: LogSigner) -> None:
    """Also one that was signed once, and nothing changes."""
    grow(signer, 5)
    grow(signer, 7)
    for size in (0, 5, 6):
        with pytest.raises(RollbackNoticed, match=f"has {size} events, and 7 were signed"):
            signer.sign(size=size, root=root(size), consistency=[])
    assert (signer.size, signer.root) == (7, root(7))


def test_another_history_is_refused(signer: LogSigner) -> None:
    """Another root at the same size; a larger tree without proof, with that of another tree, or with another root."""
    grow(signer, 7)
    proof = consistency_proof(7, 20, SUBTREE)
    for size, tree_root, consistency in (
        (7, OTHER_ROOT, []),
        (7, root(7), proof),
        (20, root(20), []),
        (20, root(20), consistency_proof(6, 20, SUBTREE)),
        (20, OTHER_ROOT, proof),
        (20, root(20), [proof[0][:-1], *proof[1:]]),
    ):
        with pytest.raises(HistoryContradicts):
            signer.sign(size=size, root=tree_root, consistency=consistency)
    assert (signer.size, signer.root) == (7, root(7))
    grow(signer, 20)


def test_two_signers_of_one_folder_know_of_each_other(signer: LogSigner, folder: Path) -> None:
    """Replicas of a service may share it: what one signed counts for the other at once, keys included."""
    other = opened(folder)
    grow(signer, 7)
    assert (other.size, other.root) == (7, root(7))
    with pytest.raises(RollbackNoticed):
        other.sign(size=5, root=root(5), consistency=[])
    grow(other, 20)
    signer.finish_rotation(other.begin_rotation())
    assert other.vkeys == signer.vkeys
    assert len(signer.vkeys) == 2
    by_new_key = signer.sign(size=20, root=root(20), consistency=[])
    assert other.note == by_new_key


def test_a_held_folder_is_of_one_process(signer: LogSigner, folder: Path) -> None:
    """Promises go on, since they change nothing; when the other process ends, however it ends, the folder is free."""
    other = start(folder, "hold", stdin=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(FolderInUse):
        LogSigner.open(folder, deployment="acme", service="requirements", wait_s=0)
    assert promise(signer) is not None
    other.kill()
    other.communicate()
    grow(signer, 7)


def promise(signer: LogSigner) -> str | None:
    """Of one event."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return signer.promise([EventReceipt(name="x", position=3, leaf_hash=LEAVES[2].hex(), recorded_at=moment)])


def test_a_receipt_is_promised(signer: LogSigner) -> None:
    """By the key that signs now, for this epoch; a receipt without events promises nothing."""
    note = promise(signer)
    assert note is not None
    promised = open_promise(note, known(signer))
    assert (promised.origin, promised.events[0].leaf_hash) == (signer.origin, LEAVES[2].hex())
    assert signer.promise([]) is None


def test_a_key_is_followed_by_another(signer: LogSigner, folder: Path) -> None:
    """Begun, recorded, finished: the old key introduces the new one, and from then on only the new one signs."""
    before, old = grow(signer, 7), signer.vkey
    rotation = signer.begin_rotation()
    assert signer.begin_rotation() == opened(folder).pending_rotation == rotation
    assert signer.vkey == old
    new = verify_rotation(rotation, name=signer.name, keys=[VerifierKey.parse(old)])
    signer.finish_rotation(rotation)
    signer.finish_rotation(rotation)
    assert (signer.vkeys, signer.rotations, signer.pending_rotation) == ((old, str(new)), (rotation,), None)
    assert [line.hash for line in parse_note(grow(signer, 20)).lines] == [new.hash]
    assert open_note(before, known(signer)).names == (signer.name,)
    third = signer.begin_rotation()
    assert verify_rotation(third, name=signer.name, keys=[new]) not in known(signer)
    private = b"".join(file.read_bytes() for file in folder.iterdir())
    assert private.count(b"PRIVATE+KEY") == 2


def test_a_key_waits_for_the_tree_that_holds_its_event(signer: LogSigner, folder: Path) -> None:
    """A smaller tree, read before the event was there, is still signed by the old one; a process that starts later knows."""
    old = signer.vkey
    rotation = signer.begin_rotation()
    for one in (signer, opened(folder)):
        one.finish_rotation(rotation, size=20)
    new = VerifierKey.parse(rotation.new_key)
    assert [line.hash for line in parse_note(grow(signer, 19)).lines] == [VerifierKey.parse(old).hash]
    assert (signer.vkeys, signer.pending_rotation) == ((old,), rotation)
    assert [line.hash for line in parse_note(grow(opened(folder), 20)).lines] == [new.hash]
    assert (signer.vkeys, signer.rotations, signer.pending_rotation) == ((old, str(new)), (rotation,), None)


def test_only_a_key_from_here_can_follow(signer: LogSigner) -> None:
    """A rotation that was begun elsewhere has no private half here."""
    rotation = signer.begin_rotation()
    other = Rotation(old_key=rotation.old_key, new_key=rotation.old_key, signature=rotation.signature)
    with pytest.raises(NoRotationBegun):
        signer.finish_rotation(other)
    assert signer.pending_rotation == rotation


def test_a_recovery_begins_a_new_epoch(signer: LogSigner, folder: Path) -> None:
    """It names what is lost, keeps the last checkpoint before, and is told until the log has it."""
    note = grow(signer, 20)
    statement = signer.open_epoch(lost_first=8, lost_last=20, why="restored from a backup")
    assert (statement.epoch, statement.last_checkpoint, statement.lost_first, statement.lost_last) == (2, note, 8, 20)
    verify_recovery(statement, name=signer.name, keys=known(signer))
    again = opened(folder)
    assert (again.recovery, again.origin, again.size, again.note) == (statement, "acme/requirements/2", 0, None)
    assert parse_checkpoint(parse_note(grow(again, 7)).text).origin == "acme/requirements/2"


def test_a_lost_folder_is_told_the_epoch(signer: LogSigner) -> None:
    """Epoch and last checkpoint come from the database then."""
    statement = signer.open_epoch(lost_first=8, lost_last=7, why="a lost disk", epoch=4, last_checkpoint="a note")
    assert (statement.epoch, statement.last_checkpoint, signer.epoch) == (4, "a note", 4)
    verify_recovery(statement, name=signer.name, keys=known(signer))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("epoch", {"epoch": 1}),
        ("epoch", {"epoch": 0}),
        ("lost_first", {"lost_first": 0}),
        ("lost_last", {"lost_last": 6}),
    ],
)
def test_an_impossible_recovery_is_refused(signer: LogSigner, field: str, changes: dict[str, int]) -> None:
    """An epoch that was, positions that are none."""
    with pytest.raises(RecoveryImpossible) as refused:
        signer.open_epoch(**{"lost_first": 8, "lost_last": 9, "why": "", **changes})  # type: ignore[arg-type]
    assert refused.value.fields[0].field == f"/{field}"
    assert signer.epoch == 1


@pytest.mark.parametrize("name", ["state.json", "keys.json"])
def test_a_damaged_file_is_refused(signer: LogSigner, folder: Path, name: str) -> None:
    """Cut off anywhere, any byte changed, or missing: never made anew."""
    grow(signer, 7)
    path = folder / name
    whole = path.read_bytes()
    damages = [whole[:length] for length in range(0, len(whole), 7)]
    damages += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for content in damages:
        path.write_bytes(content)
        with pytest.raises(FolderDamaged):
            opened(folder)
        with pytest.raises(FolderDamaged):
            signer.sign(size=7, root=root(7), consistency=[])
    path.unlink()
    with pytest.raises(FolderDamaged, match="it is missing"):
        opened(folder)
    assert not path.exists()


def test_a_folder_of_another_log_is_refused(signer: LogSigner, folder: Path, tmp_path: Path) -> None:
    """By its name, and by its key."""
    with pytest.raises(FolderDamaged, match="acme/requirements/1"):
        LogSigner.open(folder, deployment="acme", service="releases")
    other = tmp_path / "other"
    LogSigner.open(other, deployment="acme", service="releases")
    (other / "keys.json").replace(folder / "keys.json")
    with pytest.raises(FolderDamaged, match="not the one that signs for acme/requirements"):
        signer.sign(size=7, root=root(7), consistency=[])


@pytest.mark.parametrize(
    ("name", "mode"), [("keys.json", 0o640), ("keys.json", 0o604), ("state.json", 0o666), (".", 0o770)]
)
def test_a_key_that_others_may_read_is_refused(signer: LogSigner, folder: Path, name: str, mode: int) -> None:
    """The error says what to do."""
    (folder / name).chmod(mode)
    with pytest.raises(FolderExposed) as refused:
        opened(folder)
    assert "chmod" in refused.value.next_step
    assert signer.name == "acme/requirements"


def start(folder: Path, doing: str, step: str = "-", stdin: int | None = None) -> subprocess.Popen[bytes]:
    """Another process at the folder."""
    command = [sys.executable, "-m", "tests.shared.log.signing_process", str(folder), doing, step]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE)


def killed(folder: Path, doing: str, step: str) -> None:
    """Another process, which is killed at the step and gave nothing out."""
    process = start(folder, doing, step)
    assert (process.communicate()[0], process.returncode) == (b"", -9)


@pytest.mark.parametrize("step", [f"state.json {step}" for step in WRITING] + ["signed"])
def test_killed_while_signing(folder: Path, step: str) -> None:
    """The state is the old or the new one, nobody has a signature that it does not know of, and the same tree is signed again."""
    grow(opened(folder), 7)
    killed(folder, "sign", step)
    signer = opened(folder)
    assert signer.size == (7 if step in ("state.json written", "state.json synced") else 20)
    with pytest.raises((HistoryContradicts, RollbackNoticed)):
        signer.sign(size=19, root=OTHER_ROOT, consistency=[])
    assert open_checkpoint(grow(signer, 20), known(signer)).head.size == 20


@pytest.mark.parametrize("step", [f"{name} {step}" for name in ("state.json", "keys.json") for step in WRITING])
def test_killed_while_beginning(folder: Path, step: str) -> None:
    """A log that was never signed begins again, with one key."""
    killed(folder, "open", step)
    signer = opened(folder)
    grow(signer, 7)
    assert opened(folder).vkeys == signer.vkeys


@pytest.mark.parametrize("step", [f"keys.json {step}" for step in WRITING])
def test_killed_while_rotating(folder: Path, step: str) -> None:
    """Begun or not, finished or not: the key that signs is always one that the key before introduced."""
    first = opened(folder).vkey
    killed(folder, "rotate", step)
    rotation = opened(folder).begin_rotation()
    killed(folder, "finish", step)
    signer = opened(folder)
    assert signer.vkey == (first if step in ("keys.json written", "keys.json synced") else rotation.new_key)
    signer.finish_rotation(rotation)
    assert signer.vkeys == (first, rotation.new_key)
    grow(signer, 7)


@pytest.mark.parametrize("step", [f"state.json {step}" for step in WRITING])
def test_killed_while_recovering(folder: Path, step: str) -> None:
    """The old epoch, or the new one with its statement: never a new one in silence."""
    grow(opened(folder), 7)
    killed(folder, "recover", step)
    signer = opened(folder)
    if step in ("state.json written", "state.json synced"):
        assert (signer.epoch, signer.size, signer.recovery) == (1, 7, None)
    else:
        assert (signer.epoch, signer.size) == (2, 0)
        assert signer.recovery is not None
        verify_recovery(signer.recovery, name=signer.name, keys=known(signer))


def test_a_full_disk_changes_nothing(folder: Path) -> None:
    """A write that fails gives no signature out, and the next one goes on from the old state."""
    failing = [False]

    def at(label: str) -> None:
        if failing[0] and label == "state.json written":
            raise OSError(28, "No space left on device")

    signer = opened(folder, at)
    grow(signer, 7)
    failing[0] = True
    with pytest.raises(OSError, match="No space left"):
        grow(signer, 20)
    failing[0] = False
    assert (signer.size, opened(folder).size) == (7, 7)
    grow(signer, 20)
