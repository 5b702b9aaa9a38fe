"""Witnesses: they remember how far a log had grown, cosign what goes on from there, and refuse two histories (C2SP tlog-witness).

    POST <witness>/add-checkpoint          200  — witness.example jWbPPwAAAABkGFDL...        the cosignature
      old 20852014                         400  the body is no such request
      PlRNCrwHpqhGrupue0L7gxbjbMi...       403  no key of the log signed the checkpoint
                                           404  a log that this witness does not know
      acme/requirements/1                  409  20852014 (text/x.tlog.size): the size that it cosigned last
      20852163                             422  the checkpoint does not go on from that one: a fork
      CsUYapGGPo4dkMgIAUqom/Xajj7...

      — acme/requirements Az3grlgtzP...

Failure table of `add_checkpoint`
    refused                                nothing changed
    failed before the state was renamed    nothing changed
    failed after it                        the tree is the last cosigned one, and nobody has the line: the request with this size as
                                           the old one gives it
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound, ProoftrailError, Refused
from shared.log.checkpoint import TreeHead, open_checkpoint, parse_checkpoint
from shared.log.kept_folder import WAIT_S, KeptFolder, Step, damaged, no_step
from shared.log.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    PROOF_HASHES_MAX,
    ConsistencyNotProven,
    OutsideTree,
    verify_consistency,
)
from shared.log.note import (
    COSIGNATURE,
    NOTE,
    MalformedKey,
    SigningKey,
    VerifierKey,
    cosign_note,
    decode_base64,
    parse_note,
    sign_note,
)

KEYS = "keys.json"
REQUEST_BYTES_MAX = 256 * 1024
SIZE_MEDIA_TYPE = "text/x.tlog.size"
MANIFEST_TITLE = "prooftrail pack\n"

_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})", re.ASCII)

LogKeys = Callable[[str], Sequence[VerifierKey]]
"""The keys of the log with this origin that count, rotated ones among them; none for an unknown log. Called in a worker thread."""


class MalformedSubmission(Invalid):
    """The request has not the form that tlog-witness gives it."""

    status = 400


class UnknownLog(NotFound):
    """A log of which this witness knows no key."""


class OldSizeStale(Conflict):
    """The request does not begin where the last cosigned tree ended; `size` is that tree's."""

    def __init__(self, origin: str, size: int) -> None:
        super().__init__(
            f"The last cosigned tree of {origin} has {size} leaves.",
            why="A witness goes on from the tree that it cosigned last, and from nowhere else.",
            next_step=f"Send the proof from size {size} to that of the checkpoint.",
        )
        self.size = size


class ForkRefused(Invalid):
    """The checkpoint does not go on from the last cosigned one, `held`: two notes of one size that prove a fork."""

    def __init__(self, origin: str, held: str | None, rule: str) -> None:
        super().__init__(
            f"The checkpoint of {origin} does not go on from the one that was cosigned last.",
            why=rule,
            next_step="Keep both checkpoints: if the log really signed two histories, they prove it.",
            fields=(FieldError(field="/checkpoint", rule=rule),),
        )
        self.held = held


class Witness(Protocol):
    """Somebody who remembers logs."""

    @property
    def vkey(self) -> str:
        """The verifier key of its cosignatures."""

    async def add_checkpoint(self, *, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """The cosignature lines for the checkpoint in `note`; durable at the witness when it returns.

        `proof` leads from `old_size`, the size that this witness cosigned last (0 before the first), to the checkpoint's (RFC 6962,
        2.1.2). Raises OldSizeStale with the right size; ForkRefused, UnknownLog, Refused; Unavailable.
        """


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A request to a witness."""

    old_size: int
    proof: tuple[bytes, ...]
    note: str

    def body(self) -> str:
        """As it is sent."""
        lines = [f"old {self.old_size}", *(base64.b64encode(one).decode() for one in self.proof), "", self.note]
        return "\n".join(lines)


def parse_submission(body: bytes) -> Submission:
    """A request as it came; MalformedSubmission. The note in it is not looked at."""
    if len(body) > REQUEST_BYTES_MAX:
        raise _malformed(f"at most {REQUEST_BYTES_MAX} bytes")
    try:
        head, empty, note = body.decode().partition("\n\n")
    except UnicodeDecodeError as error:
        raise _malformed("UTF-8") from error
    old, *encoded = head.split("\n")
    found, proof = _OLD.fullmatch(old), [decode_base64(line) for line in encoded]
    whole = tuple(one for one in proof if one is not None and len(one) == HASH_BYTES)
    if found is None or not empty or len(whole) != len(proof) or len(proof) > PROOF_HASHES_MAX:
        raise _malformed(
            f"a line `old <size>`, at most {PROOF_HASHES_MAX} hashes in base64, an empty line, a checkpoint"
        )
    return Submission(old_size=int(found[1]), proof=whole, note=note)


def witness_answer(error: ProoftrailError) -> tuple[int, str, str]:
    """Status, media type and body with which the door of a witness tells the error."""
    if isinstance(error, OldSizeStale):
        return error.status, SIZE_MEDIA_TYPE, f"{error.size}\n"
    return error.status, "text/plain; charset=utf-8", f"{error.what} {error.why}\n"


class _Cosigned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last tree of one log that was cosigned; `note` is the checkpoint with the log's signatures and ours."""

    origin: str
    size: int
    root: str
    note: str | None


class _WitnessKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    signing: str


class FolderWitness:
    """A witness with its key and its memory in a folder, one file a log. Several processes may use one folder.

    `at` is told each step of a write (`<SHA-256 of the origin>.json written` and so on), so that a test can end the process there.
    """

    def __init__(
        self, folder: KeptFolder, *, key: SigningKey, logs: LogKeys, clock: Callable[[], datetime], at: Step
    ) -> None:
        self._folder, self._key, self._logs, self._clock, self._at = folder, key, logs, clock, at
        self._one_at_a_time = threading.Lock()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        name: str,
        logs: LogKeys,
        clock: Callable[[], datetime],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        at: Step = no_step,
        wait_s: float = WAIT_S,
    ) -> FolderWitness:
        """The witness that lives in `folder`, with a key under `name` if the folder is empty.

        FolderDamaged if its key is missing, torn or under another name; FolderExposed; FolderInUse.
        """
        kept = KeptFolder(folder, at=at, wait_s=wait_s)
        with kept.held():
            if kept.stamp(KEYS) is None and not any(folder.glob("*.json")):
                kept.write(KEYS, _WitnessKey(signing=SigningKey(name, COSIGNATURE, random_bytes(32)).text))
        return cls(kept, key=_own_key(kept, name), logs=logs, clock=clock, at=at)

    @property
    def vkey(self) -> str:
        """The verifier key of its cosignatures."""
        return str(self._key.verifier)

    @property
    def manifest_vkey(self) -> str:
        """The verifier key of its manifests: the same key with another type, and so another hash."""
        return str(self._manifest_key.verifier)

    async def add_checkpoint(self, *, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """As `Witness.add_checkpoint`."""
        return await asyncio.to_thread(self._add_checkpoint, old_size, proof, note)

    def cosigned(self, origin: str) -> str | None:
        """The last checkpoint of the log that was cosigned, with the log's signatures and ours; None if there is none."""
        return self._held(origin).note

    def sign_manifest(self, text: str) -> str:
        """The signed note over the manifest of a pack. Nothing else is signed in this way: a checkpoint has another first line."""
        if not text.startswith(MANIFEST_TITLE):
            raise Refused("A witness signs manifests of packs only.", why="Whatever it signs must be no checkpoint.")
        return sign_note(text, self._manifest_key)

    @property
    def _manifest_key(self) -> SigningKey:
        return SigningKey(self._key.name, NOTE, self._key.seed)

    def _add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        origin = parse_checkpoint(parse_note(note).text).origin
        keys = self._logs(origin)
        if not keys:
            raise UnknownLog(
                f"No log {origin[:200]} is known here.",
                why="A witness cosigns for logs whose keys it was given.",
                next_step="Have the log's verifier key added at this witness.",
            )
        opened = open_checkpoint(note, keys, origin=origin)
        with self._one_at_a_time, self._folder.held():
            held = self._held(origin)
            _require_growth(held, opened.head, old_size, proof)
            line = cosign_note(opened.note.text, self._key, time=int(self._clock().timestamp()))
            if opened.head.size > held.size:
                self._keep(opened.head, _signed_by(note, [signer.key for signer in opened.note.signers]) + line)
        self._at("cosigned")
        return line

    def _keep(self, head: TreeHead, note: str) -> None:
        kept = _Cosigned(origin=head.origin, size=head.size, root=head.root.hex(), note=note)
        self._folder.write(_file_of(head.origin), kept)

    def _held(self, origin: str) -> _Cosigned:
        held = self._folder.read(_file_of(origin), _Cosigned)
        if held is not None and held.origin != origin:
            raise damaged(self._folder.path / _file_of(origin), f"it is that of {held.origin}")
        return held or _Cosigned(origin=origin, size=0, root=EMPTY_ROOT.hex(), note=None)


def _require_growth(held: _Cosigned, head: TreeHead, old_size: int, proof: Sequence[bytes]) -> None:
    if old_size > head.size:
        raise _malformed("an old size that is not above the checkpoint's")
    if old_size != held.size:
        raise OldSizeStale(held.origin, held.size)
    try:
        verify_consistency(
            old_size=held.size,
            old_root=bytes.fromhex(held.root),
            new_size=head.size,
            new_root=head.root,
            proof=proof,
        )
    except (ConsistencyNotProven, OutsideTree) as error:
        raise ForkRefused(held.origin, held.note, error.what) from error


def _signed_by(note: str, keys: Sequence[VerifierKey]) -> str:
    """The note with the lines of these keys only."""
    parsed, known = parse_note(note), {(key.name, key.hash) for key in keys}
    lines = [str(line) for line in parsed.lines if (line.name, line.hash) in known]
    return f"{parsed.text}\n{''.join(lines)}"


def _own_key(kept: KeptFolder, name: str) -> SigningKey:
    held = kept.read(KEYS, _WitnessKey)
    if held is None:
        raise damaged(kept.path / KEYS, "it is missing, and this witness has cosigned")
    try:
        key = SigningKey.parse(held.signing)
    except MalformedKey:
        raise damaged(kept.path / KEYS, "its private key is none") from None
    if (key.name, key.kind) != (name, COSIGNATURE):
        raise damaged(kept.path / KEYS, f"its key is that of {key.name}, not of {name}")
    return key


def _file_of(origin: str) -> str:
    return f"{origin_hash(origin)}.json"


def origin_hash(origin: str) -> str:
    """Hex SHA-256 of the origin: what a log is called in the address of its last cosigned checkpoint (tlog-witness)."""
    return hashlib.sha256(origin.encode()).hexdigest()


def _malformed(rule: str) -> MalformedSubmission:
    return MalformedSubmission(
        f"This is no request to a witness: it must have {rule}.",
        why="The request has one form (C2SP tlog-witness).",
        next_step="Send `old <size>`, the proof's hashes, an empty line and the checkpoint, each line with a newline.",
        fields=(FieldError(field="/body", rule=rule),),
    )
