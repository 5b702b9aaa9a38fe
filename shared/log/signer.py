"""The signer of one log: it keeps key and state in a folder outside the database, and signs no history that contradicts its own.

Failure table of `sign`
    refused                          RollbackNoticed, HistoryContradicts, FolderInUse, FolderDamaged: nothing changed
    failed, state not renamed        the state is the old one; signing the same or another continuation works
    failed, state renamed            the state is the new one, and nobody has its signature; the same tree is signed again

So no signature is ever given out that the folder does not know of. Whoever brings back an older database is told by the signer;
who brings back an older folder with an older database is not, and that is what witnesses are for.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shared.errors import Conflict, FieldError, Invalid
from shared.log.checkpoint import TreeHead, log_name, log_origin
from shared.log.kept_folder import WAIT_S, KeptFolder, Stamp, Step, damaged, no_step
from shared.log.merkle import EMPTY_ROOT, ConsistencyNotProven, verify_consistency
from shared.log.note import NOTE, MalformedKey, SigningKey, sign_note
from shared.log.promise import Promisable, promise_text
from shared.log.statements import RecoveryStatement, Rotation, recovery_text, rotation_text

STATE, KEYS = "state.json", "keys.json"


class RollbackNoticed(Conflict):
    """The tree is smaller than one that was signed: the database was set back, or events were removed."""


class HistoryContradicts(Conflict):
    """The tree does not begin with the one that was signed: history was rewritten."""


class NoRotationBegun(Conflict):
    """A rotation can only be finished as it was begun."""


class RecoveryImpossible(Invalid):
    """An epoch that is not above the last one, or a range of positions that is none."""


class _State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last tree that was signed. `recovery` is what this epoch began with."""

    origin: str
    epoch: int
    size: int
    root: str
    note: str | None = None
    recovery: RecoveryStatement | None = None


class _Next(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that is to follow: from the first tree of `size` leaves on, which hold its event; None while that is not recorded."""

    signing: str
    rotation: Rotation
    size: int | None = None


class _Keys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The private key, the public halves of those before it with their statements, and a key that is to follow."""

    signing: str
    rotations: tuple[Rotation, ...] = ()
    next: _Next | None = None


class LogSigner:
    """Signs checkpoints, promises and statements of one log. Several processes may use one folder; one writes at a time.

    `at` is told each step (`state.json written` and so on, `signed`), so that a test can end the process there.
    """

    def __init__(
        self,
        folder: KeptFolder,
        *,
        deployment: str,
        service: str,
        random_bytes: Callable[[int], bytes],
        at: Step,
    ) -> None:
        self.name = log_name(deployment=deployment, service=service)
        self._deployment, self._service = deployment, service
        self._folder, self._random_bytes, self._at = folder, random_bytes, at
        self._one_at_a_time = threading.Lock()
        self._read: tuple[tuple[Stamp, Stamp], _State, _Keys, SigningKey] | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        deployment: str,
        service: str,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        at: Step = no_step,
        wait_s: float = WAIT_S,
    ) -> LogSigner:
        """The signer that lives in `folder`; an empty folder becomes that of a new log, in epoch 1.

        FolderDamaged if one of its two files is missing or torn, or it is that of another log; FolderExposed; FolderInUse.
        """
        kept = KeptFolder(folder, at=at, wait_s=wait_s)
        signer = cls(kept, deployment=deployment, service=service, random_bytes=random_bytes, at=at)
        with kept.held():
            signer._begin_if_new()
        signer._current()
        return signer

    @property
    def epoch(self) -> int:
        """How often the log was begun; 1 without a recovery."""
        return self._current()[0].epoch

    @property
    def origin(self) -> str:
        """The log's name with the epoch: `acme/requirements/1`."""
        return self._current()[0].origin

    @property
    def size(self) -> int:
        """How many leaves the last signed tree of this epoch has."""
        return self._current()[0].size

    @property
    def root(self) -> bytes:
        """The root of the last signed tree of this epoch."""
        return bytes.fromhex(self._current()[0].root)

    @property
    def note(self) -> str | None:
        """The last checkpoint of this epoch, as it was signed; None before the first."""
        return self._current()[0].note

    @property
    def recovery(self) -> RecoveryStatement | None:
        """What this epoch began with: whoever starts the service makes sure that the log tells it. None in epoch 1."""
        return self._current()[0].recovery

    @property
    def vkey(self) -> str:
        """The verifier key that signs now."""
        return str(self._current()[2].verifier)

    @property
    def vkeys(self) -> tuple[str, ...]:
        """All verifier keys, the oldest first; the last one signs now."""
        return (*(rotation.old_key for rotation in self.rotations), self.vkey)

    @property
    def rotations(self) -> tuple[Rotation, ...]:
        """The statements by which each key but the first was introduced, in order."""
        return self._current()[1].rotations

    @property
    def pending_rotation(self) -> Rotation | None:
        """A rotation that was begun and not finished."""
        following = self._current()[1].next
        return None if following is None else following.rotation

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs no other process can sign here. FolderInUse if another one holds it."""
        return self._folder.held()

    def sign(self, *, size: int, root: bytes, consistency: Sequence[bytes]) -> str:
        """The checkpoint as a signed note. `consistency` leads from the signer's own size to `size` (RFC 6962, 2.1.2).

        The same size again, with the same root and an empty proof, gives the same tree again. RollbackNoticed if `size` is below
        the signer's own, HistoryContradicts if the proof does not hold.
        """
        with self._one_at_a_time, self._folder.held():
            state = self._current()[0]
            self._require_growth(state, size=size, root=root, consistency=consistency)
            self._let_follow(size)
            key = self._current()[2]
            note = sign_note(TreeHead(state.origin, size, root).text(), key)
            if note != state.note:
                self._folder.write(STATE, msgspec.structs.replace(state, size=size, root=root.hex(), note=note))
        self._at("signed")
        return note

    def promise(self, events: Sequence[Promisable]) -> str | None:
        """The signed promise of the events of one receipt (`shared.log.promise`); None for none."""
        if not events:
            return None
        state, _, key = self._current()
        return sign_note(promise_text(origin=state.origin, events=events), key)

    def begin_rotation(self) -> Rotation:
        """A new key, introduced by the one that signs now; it is to be recorded as an event before `finish_rotation`.

        Until then the answer is the same.
        """
        with self._one_at_a_time, self._folder.held():
            state, keys, key = self._current()
            if keys.next is not None:
                return keys.next.rotation
            following = SigningKey(self.name, NOTE, self._random_bytes(32))
            rotation = Rotation(
                old_key=str(key.verifier),
                new_key=str(following.verifier),
                signature=sign_note(rotation_text(origin=state.origin, new_key=following.verifier), key),
            )
            following_text = _Next(signing=following.text, rotation=rotation)
            self._folder.write(KEYS, msgspec.structs.replace(keys, next=following_text))
            return rotation

    def finish_rotation(self, rotation: Rotation, *, size: int = 0) -> None:
        """From the first tree of so many leaves on the new key signs, and promises; again is no harm.

        A tree that a key signs thus holds the event that introduced it. NoRotationBegun if this one was not begun here.
        """
        with self._one_at_a_time, self._folder.held():
            state, keys, _ = self._current()
            if rotation in keys.rotations:
                return
            if keys.next is None or keys.next.rotation != rotation:
                raise NoRotationBegun(
                    f"The signer of {self.name} holds no private half of {rotation.new_key}.",
                    why="A key that signs is made by the signer itself and never leaves its folder.",
                    next_step="Run `prooftrail rotate-key` again.",
                )
            waiting = msgspec.structs.replace(keys, next=msgspec.structs.replace(keys.next, size=size))
            self._folder.write(KEYS, _followed(keys, keys.next) if state.size >= size else waiting)

    def _let_follow(self, size: int) -> None:
        keys = self._current()[1]
        if keys.next is not None and keys.next.size is not None and size >= keys.next.size:
            self._folder.write(KEYS, _followed(keys, keys.next))

    def open_epoch(
        self,
        *,
        lost_first: int,
        lost_last: int,
        why: str,
        epoch: int | None = None,
        last_checkpoint: str | None = None,
    ) -> RecoveryStatement:
        """Begins the log again under a new origin, with an empty tree, and states it; `recovery` tells the statement again.

        `lost_last` is one less than `lost_first` when nothing is lost. `epoch` and `last_checkpoint`, from the database, are for
        a folder that was lost; else they are the signer's own. RecoveryImpossible.
        """
        with self._one_at_a_time, self._folder.held():
            state, _, key = self._current()
            opened = state.epoch + 1 if epoch is None else epoch
            self._require_recoverable(state, opened, lost_first, lost_last)
            origin = log_origin(deployment=self._deployment, service=self._service, epoch=opened)
            statement = RecoveryStatement(
                epoch=opened,
                last_checkpoint=last_checkpoint or state.note,
                lost_first=lost_first,
                lost_last=lost_last,
                why=why,
                signature=sign_note(recovery_text(origin=origin, lost_first=lost_first, lost_last=lost_last), key),
            )
            self._folder.write(STATE, _empty(origin, opened, statement))
            return statement

    def _begin_if_new(self) -> None:
        """The state first: a folder with a key and without a state has forgotten what it signed."""
        state, keys = self._folder.stamp(STATE), self._folder.stamp(KEYS)
        if state is None and keys is None:
            origin = log_origin(deployment=self._deployment, service=self._service, epoch=1)
            self._folder.write(STATE, _empty(origin, 1, None))
        if keys is None and self._is_untouched(self._folder.read(STATE, _State)):
            key = SigningKey(self.name, NOTE, self._random_bytes(32))
            self._folder.write(KEYS, _Keys(signing=key.text))

    def _is_untouched(self, state: _State | None) -> bool:
        return state is not None and (state.epoch, state.size, state.note) == (1, 0, None)

    def _current(self) -> tuple[_State, _Keys, SigningKey]:
        """State and keys as the folder has them now; read again only when a file was replaced."""
        stamps = (self._folder.stamp(STATE), self._folder.stamp(KEYS))
        if self._read is None or self._read[0] != stamps:
            state, keys = self._folder.read(STATE, _State), self._folder.read(KEYS, _Keys)
            if state is None or keys is None:
                raise damaged(self._folder.path / (STATE if state is None else KEYS), "it is missing")
            self._require_own(state)
            self._read = (stamps, state, keys, self._own_key(keys))
        return self._read[1:]

    def _require_own(self, state: _State) -> None:
        origin = log_origin(deployment=self._deployment, service=self._service, epoch=state.epoch)
        if state.origin != origin:
            raise damaged(self._folder.path / STATE, f"it is that of {state.origin}, not of {origin}")

    def _own_key(self, keys: _Keys) -> SigningKey:
        try:
            key = SigningKey.parse(keys.signing)
        except MalformedKey:
            raise damaged(self._folder.path / KEYS, "its private key is none") from None
        introduced = keys.rotations[-1].new_key if keys.rotations else str(key.verifier)
        if (key.name, key.kind) != (self.name, NOTE) or introduced != str(key.verifier):
            raise damaged(self._folder.path / KEYS, f"its key is not the one that signs for {self.name}")
        return key

    def _require_growth(self, state: _State, *, size: int, root: bytes, consistency: Sequence[bytes]) -> None:
        if size < state.size:
            raise RollbackNoticed(
                f"{self.name} has {size} events, and {state.size} were signed.",
                why="The database was set back to an older state, or events were removed.",
                next_step=f"Bring the newer database back; if it is lost, run `prooftrail recover {self._service}`.",
            )
        try:
            verify_consistency(
                old_size=state.size,
                old_root=bytes.fromhex(state.root),
                new_size=size,
                new_root=root,
                proof=consistency,
            )
        except ConsistencyNotProven as error:
            raise HistoryContradicts(
                f"The {size} events of {self.name} do not begin with the {state.size} that were signed.",
                why=error.what,
                next_step="Keep this database as evidence, restore a backup beside it and compare: packs hold the hashes.",
            ) from error

    def _require_recoverable(self, state: _State, epoch: int, lost_first: int, lost_last: int) -> None:
        for field, holds, rule in (
            ("epoch", epoch > state.epoch, f"above {state.epoch}"),
            ("lost_first", lost_first >= 1, "a position, from 1 on"),
            ("lost_last", lost_last >= lost_first - 1, f"at least {lost_first - 1}"),
        ):
            if not holds:
                raise RecoveryImpossible(
                    f"No new epoch of {self.name}: {field} must be {rule}.",
                    why="A recovery names what is lost, and its epoch was never used.",
                    next_step=f"Run `prooftrail recover {self._service}`, which works it out.",
                    fields=(FieldError(field=f"/{field}", rule=rule),),
                )


def _followed(keys: _Keys, following: _Next) -> _Keys:
    return _Keys(signing=following.signing, rotations=(*keys.rotations, following.rotation))


def _empty(origin: str, epoch: int, recovery: RecoveryStatement | None) -> _State:
    return _State(origin=origin, epoch=epoch, size=0, root=EMPTY_ROOT.hex(), recovery=recovery)
