"""Checks an exported Prooftrail pack without trusting anybody who made it: no network, no database, no code of Prooftrail.

    python prooftrail_verify.py PACK --keys FILE       needs Python 3.11 or newer and the package `cryptography`

It is an implementation of its own of RFC 6962 trees, C2SP signed notes and cosignatures, and the pack's container. Exit codes:

     0  proven                                     12  a signature: of the manifest, a promise, a change of keys
     1  not a readable pack                        13  a checkpoint is not what its log's key signed
     2  the command was not understood             14  the events do not give the checkpoint's root
     3  all checks pass, but a key that they       15  an evidence file is not the one that an event names
        rest on came from the pack itself          16  two histories: a checkpoint, witness or promise contradicts
    10  an event was altered                       17  a printed name is not the one that was committed to
    11  an event is missing, out of order or       18  a time stamp is not of this, or not from the pinned authority
        too many

The first check that fails decides. Checks go service by service: keys, checkpoint, events, tree, witnesses; then the manifest,
the digest of every file, the contents of events, evidence, names, and what the caller brought along.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json
import multiprocessing
import re
import struct
import sys
import threading
import zlib
from array import array
from binascii import hexlify
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CHUNK_BYTES = 1 << 20
EVENT_BYTES_MAX = 1 << 24
WHOLE_BYTES_MAX = 1 << 31  # everything but events and evidence is read whole
DIRECTORY_BYTES_MAX = 1 << 28
BLOCK_LEAVES = 4096
SCAN_BYTES = 1 << 18  # fits into the cache of one core
BESIDE_BYTES_MIN = 1 << 25
SEGMENTS_OF_A_PROCESS = 4
FULL = 0xFFFFFFFF
NOT_AS_WRITTEN = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)  # what reading JSON of others may raise


class Code(IntEnum):
    PROVEN, UNREADABLE, USAGE, UNPINNED = 0, 1, 2, 3
    EVENT, ORDER, SIGNATURE, CHECKPOINT, TREE, EVIDENCE, FORK, NAME, TIME = 10, 11, 12, 13, 14, 15, 16, 17, 18


CLASSES = {
    Code.PROVEN: "every check passed",
    Code.UNREADABLE: "not a readable pack",
    Code.UNPINNED: "every check passed, but keys that they rest on came from the pack itself",
    Code.EVENT: "event altered",
    Code.ORDER: "event missing, out of order or too many",
    Code.SIGNATURE: "signature",
    Code.CHECKPOINT: "checkpoint",
    Code.TREE: "tree proof",
    Code.EVIDENCE: "evidence file",
    Code.FORK: "two histories",
    Code.NAME: "printed name",
    Code.TIME: "time stamp",
}
NOT_PROVEN = (
    "that what was entered is true: only that it was entered like this, in this order, and was not changed since",
    "that nothing was recorded after the positions named above: what came later may have been held back",
    "the times: they are what the deployment's clock said; the log proves their order",
    "signatures of persons: each is the recorded act of a person who was signed in, not made with a key of their own",
    "matrix, gaps, summaries and page (pack.json, pack.html): the deployment worked them out from these events",
)


class Failure(Exception):
    """What does not hold. `position` is the first bad one, as far as can be told; `until` is the last that it can be."""

    def __init__(
        self, code: Code, what: str, service: str | None = None, position: int | None = None, until: int | None = None
    ) -> None:
        super().__init__(what)
        self.code, self.what, self.service, self.position, self.until = code, what, service, position, until


# The container: a ZIP without compression, in which every byte follows from the names and contents of its members.


def _local(name: bytes, size: int, crc: int) -> bytes:
    extra = struct.pack("<2H2Q", 1, 16, size, size) if size >= FULL else b""
    short = min(size, FULL)
    head = (b"PK\3\4", 45 if extra else 20, 0, 0, 0, 0x21, crc, short, short, len(name), len(extra))
    return struct.pack("<4s5H3I2H", *head) + name + extra


def _central(name: bytes, size: int, crc: int, offset: int) -> bytes:
    large = [size, size] * (size >= FULL) + [offset] * (offset >= FULL)
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    need, short = 45 if extra else 20, min(size, FULL)
    head = (
        b"PK\1\2",
        need,
        need,
        0,
        0,
        0,
        0x21,
        crc,
        short,
        short,
        len(name),
        len(extra),
        0,
        0,
        0,
        0,
        min(offset, FULL),
    )
    return struct.pack("<4s6H3I5H2I", *head) + name + extra


def _end(count: int, size: int, offset: int) -> bytes:
    short = (0, 0, min(count, 0xFFFF), min(count, 0xFFFF), min(size, FULL), min(offset, FULL), 0)
    end = struct.pack("<4s4H2IH", b"PK\5\6", *short)
    if count < 0xFFFF and size < FULL and offset < FULL:
        return end
    large = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    return large + struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1) + end


@dataclass(frozen=True)
class Member:
    offset: int
    size: int
    crc: int


class Container:
    """The members by name, in their order. Refuses every container that is not the one way to write these members."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.path = Path(file.name) if isinstance(getattr(file, "name", None), str) else None
        try:
            self.members = dict(self._directory())
        except (struct.error, ValueError, OSError) as error:
            raise Failure(Code.UNREADABLE, f"the container is damaged: {error}") from error

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        content = self._file.read(size)
        if len(content) != size:
            raise Failure(Code.UNREADABLE, "the container ends too early")
        return content

    def _directory(self) -> Iterator[tuple[str, Member]]:
        length = self._file.seek(0, 2)
        size, start = struct.unpack("<2I", self._read(length - 10, 8))
        if FULL in (size, start) or self._read(length - 12, 2) == b"\xff\xff":
            size, start = struct.unpack("<2Q", self._read(length - 22 - 20 - 16, 16))
        if size > DIRECTORY_BYTES_MAX:
            raise Failure(Code.UNREADABLE, "the directory of the container is too large")
        directory, at, end, names = self._read(start, size), 0, 0, set()
        while at < size:
            crc, _, short, name_size, _ = struct.unpack_from("<3I2H", directory, at + 16)
            name = directory[at + 46 : at + 46 + name_size]
            large = struct.unpack_from("<Q", directory, at + 46 + name_size + 4)[0] if short == FULL else short
            head, central = _local(name, large, crc), _central(name, large, crc, end)
            if name in names or directory[at : at + len(central)] != central or self._read(end, len(head)) != head:
                raise Failure(Code.UNREADABLE, f"the entry {name!r} of the container is not in its canonical form")
            names.add(name)
            yield name.decode("ascii"), Member(end + len(head), large, crc)
            at, end = at + len(central), end + len(head) + large
        if end != start or self._read(start + size, length - start - size) != _end(len(names), size, start):
            raise Failure(Code.UNREADABLE, "the end of the container is not in its canonical form")

    def cuts(self, member: Member, parts: int) -> list[tuple[int, int]]:
        """Parts of the member, from and to which byte of the file, each of whole lines."""
        end, starts = member.offset + member.size, {member.offset}
        for part in range(1, parts):
            at = member.offset + member.size * part // parts
            starts.add(at + self._read(at, min(CHUNK_BYTES, end - at)).find(b"\n") + 1)
        return list(itertools.pairwise([*sorted(starts), end]))

    def read(self, name: str) -> bytes:
        """A member as a whole."""
        if name not in self.members or self.members[name].size > WHOLE_BYTES_MAX:
            raise Failure(Code.UNREADABLE, f"{name} is missing or too large")
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The member piece by piece."""
        member = self.members[name]
        for at in range(member.offset, member.offset + member.size, CHUNK_BYTES):
            yield self._read(at, min(CHUNK_BYTES, member.offset + member.size - at))

    def digest(self, name: str) -> str:
        """Hex SHA-256 of the member; empty if it has not the checksum of its entry."""
        digest, crc = hashlib.sha256(), 0
        for chunk in self.chunks(name):
            digest.update(chunk)
            crc = zlib.crc32(chunk, crc)
        return digest.hexdigest() if crc == self.members[name].crc else ""


# Signed notes, checkpoints and cosignatures (C2SP signed-note, tlog-checkpoint, tlog-cosignature).

LOG_KEY, WITNESS_KEY = 1, 4


@dataclass(frozen=True)
class Key:
    """A verifier key `name+hash+base64`: Ed25519, of a log (0x01) or of a witness (0x04)."""

    name: str
    algorithm: int
    public: bytes

    def hash(self, algorithm: int) -> bytes:
        """What a signature line of this key begins with."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([algorithm]) + self.public).digest()[:4]

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def parse_key(text: str) -> Key:
    """ValueError if it is no verifier key."""
    name, stated, encoded = text.split("+", 2)
    content = _base64(encoded)
    key = Key(name, content[0] if len(content) == 33 else 0, content[1:])
    if not name or any(c.isspace() for c in name) or key.algorithm not in (LOG_KEY, WITNESS_KEY):
        raise ValueError("no Ed25519 verifier key of a log or a witness")
    if key.hash(key.algorithm).hex() != stated:
        raise ValueError("the hash in the key is not that of name and key")
    return key


def _base64(text: str) -> bytes:
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        raise ValueError("base64 that is not canonical")
    return content


@dataclass(frozen=True)
class Note:
    text: str
    signatures: tuple[tuple[str, bytes], ...]

    def signed_by(self, key: Key) -> bool | None:
        """Whether a log's key signed; None if there is no line of it."""
        found = [rest for name, rest in self.signatures if name == key.name and rest[:4] == key.hash(LOG_KEY)]
        return all(key.signed(self.text.encode(), line[4:]) for line in found) if found else None

    def cosigned_by(self, key: Key) -> bool | None:
        """Whether a witness's key cosigned, at whatever time it says; None if there is no line of it."""
        found = [rest for name, rest in self.signatures if name == key.name and rest[:4] == key.hash(WITNESS_KEY)]
        return all(key.signed(self._witnessed(line), line[12:]) for line in found) if found else None

    def _witnessed(self, line: bytes) -> bytes:
        return f"cosignature/v1\ntime {int.from_bytes(line[4:12], 'big')}\n{self.text}".encode()


def parse_note(content: str) -> Note:
    """ValueError if it is no signed note."""
    text, _, lines = content.rpartition("\n\n")
    if not text or not lines.endswith("\n") or any(ord(c) < 32 and c != "\n" for c in content):
        raise ValueError("no signed note")
    signatures = []
    for line in lines[:-1].split("\n"):
        dash, name, encoded = line.split(" ")
        signatures.append((name, _base64(encoded)))
        if dash != "—" or not name or len(signatures[-1][1]) < 5:
            raise ValueError("no signature line")
    return Note(text + "\n", tuple(signatures))


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes
    note: Note


def parse_checkpoint(content: str) -> Checkpoint:
    """ValueError if it is no checkpoint."""
    note = parse_note(content)
    origin, size, root, *_ = note.text.split("\n")
    if not re.fullmatch("0|[1-9][0-9]{0,18}", size) or len(_base64(root)) != 32:
        raise ValueError("no checkpoint")
    return Checkpoint(origin, int(size), _base64(root), note)


# The tree (RFC 6962, 2.1).


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbouring subtrees of one size, of which the last may be smaller."""
    if not hashes:
        return hashlib.sha256().digest()
    sha256 = hashlib.sha256
    while len(hashes) > 1:
        pairs = iter(hashes)
        above = [sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
        hashes = above + list(hashes[-1:]) if len(hashes) % 2 else above
    return hashes[0]


class Hashes:
    """Hashes one after the other, without an object for each."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content) // 32

    def one(self, index: int) -> bytes:
        return self.content[32 * index : 32 * index + 32]

    def some(self, first: int, last: int) -> list[bytes]:
        return [self.content[at : at + 32] for at in range(32 * first, 32 * last, 32)]


@dataclass
class Tree:
    """What a pack shows of a tree: leaves at some positions (from 1), and the roots of all subtrees without any of these.

    `blocks` are roots that are known already, by the number of the block of BLOCK_LEAVES leaves.
    """

    size: int
    positions: Sequence[int]
    leaves: Hashes
    nodes: Sequence[bytes]
    blocks: dict[int, bytes] = field(default_factory=dict)

    def root(self) -> bytes:
        """ValueError if the nodes do not fit."""
        nodes = iter(self.nodes)
        try:
            root = self._root(nodes, 0, self.size, 0, len(self.positions)) if self.size else root_of(())
        except StopIteration:
            raise ValueError("hashes of the tree are missing") from None
        if next(nodes, None) is not None:
            raise ValueError("there are more hashes than the tree has")
        return root

    def _root(self, nodes: Iterator[bytes], low: int, high: int, first: int, last: int) -> bytes:
        if first == last:
            return next(nodes)
        if last - first == high - low:
            return root_of(self.leaves.some(first, last)) if low else self._first_root(high)
        split = low + (1 << (high - low - 1).bit_length() - 1)
        middle = bisect_right(self.positions, split, first, last)
        left = self._root(nodes, low, split, first, middle)
        return root_of((left, self._root(nodes, split, high, middle, last)))

    def _first_root(self, size: int) -> bytes:
        """The root over the first leaves, all of which are here."""
        blocks, rest = divmod(size, BLOCK_LEAVES)
        for number in range(blocks):
            if number not in self.blocks:
                self.blocks[number] = root_of(self.leaves.some(number * BLOCK_LEAVES, (number + 1) * BLOCK_LEAVES))
        last = [root_of(self.leaves.some(size - rest, size))] if rest else []
        return root_of([*map(self.blocks.__getitem__, range(blocks)), *last])

    def earlier_root(self, size: int) -> bytes | None:
        """The root when the tree had this size; None if the pack shows too little of it to tell."""
        if size == self.size:
            return self.root()
        if size > len(self.positions) or (size and self.positions[size - 1] != size):
            return None
        return self._first_root(size)

    def leaf(self, position: int) -> bytes | None:
        """The leaf hash of the event at the position, None if it is not in the pack."""
        index = bisect_left(self.positions, position)
        there = index < len(self.positions) and self.positions[index] == position
        return self.leaves.one(index) if there else None


# What the pack says of itself, and what its reader brings along.


@dataclass(frozen=True)
class Covered:
    """What the manifest says of a service: `count` events of the system up to `position`, and the last one's leaf hash."""

    position: int
    count: int
    last: str


@dataclass(frozen=True)
class Manifest:
    deployment: str
    system: str
    ledger: int
    services: Mapping[str, Covered]
    members: Sequence[tuple[str, str, str]]
    note: Note


@dataclass(frozen=True)
class Pins:
    """The keys that the reader trusts, each by its name."""

    keys: frozenset[Key] = frozenset()

    def of(self, name: str) -> list[Key]:
        """Log keys under this name; a witness's key signs manifests too."""
        return [Key(key.name, LOG_KEY, key.public) for key in self.keys if key.name == name]

    @property
    def witnesses(self) -> list[Key]:
        return [key for key in self.keys if key.algorithm == WITNESS_KEY]


@dataclass(frozen=True)
class Brought:
    """What the reader kept: checkpoints, promises, and time stamps (RFC 3161) with the authorities that the reader trusts."""

    checkpoints: Sequence[str] = ()
    promises: Sequence[str] = ()
    timestamps: Sequence[bytes] = ()
    authorities: Sequence[x509.Certificate] = ()


MEMBER = re.compile(
    r"pack\.(json|html)|(events/[a-z-]+\.jsonl)|(proof/[a-z-]+\.json)|artefacts/[0-9a-f]{64}|people\.json"
)
SERVICE_LINE = re.compile(r"([a-z][a-z-]*) (0|[1-9][0-9]{0,18}) (0|[1-9][0-9]{0,18}) (-|[0-9a-f]{64})")
MEMBER_LINE = re.compile(r"([0-9a-f]{64}) (0|[1-9][0-9]{0,18}) (\S+)")


def parse_manifest(content: bytes) -> Manifest:
    """ValueError if it is no manifest."""
    note = parse_note(content.decode())
    title, deployment, system, ledger, *lines = note.text[:-1].split("\n")
    if (
        title != "prooftrail pack"
        or not re.fullmatch(r"ledger (0|[1-9][0-9]{0,18})", ledger)
        or len(note.signatures) != 1
    ):
        raise ValueError("no manifest of a pack")
    services = [found.groups() for found in map(SERVICE_LINE.fullmatch, lines) if found]
    members = [(found[1], found[2], found[3]) for found in map(MEMBER_LINE.fullmatch, lines) if found]
    names = [name for name, *_ in services]
    if len(services) + len(members) != len(lines) or len(set(names)) != len(names):
        raise ValueError("a line of the manifest says nothing")
    covered = {name: Covered(int(position), int(count), last) for name, position, count, last in services}
    return Manifest(deployment, system, int(ledger[7:]), covered, members, note)


def require_members(manifest: Manifest, container: Container) -> None:
    """The container holds what the manifest lists, in its order, and the manifest lists what a pack must have."""
    listed = [name for _, _, name in manifest.members]
    held = list(container.members)
    if held[-1:] != ["manifest"] or len(set(listed)) != len(listed):
        raise Failure(Code.UNREADABLE, "the manifest is not the last member, or lists one twice")
    needed = [f"{kind}/{s}.json{'l' * (kind == 'events')}" for s in manifest.services for kind in ("events", "proof")]
    needed = [name for name in needed if manifest.services[name.split("/")[1].split(".")[0]].position]
    needed += ["people.json"] + ["pack.json", "pack.html"] * (manifest.system != "*")
    for name in [*listed, *needed, *held[:-1]]:
        wanted = MEMBER.fullmatch(name) and (name in needed or name.startswith("artefacts/"))
        if not wanted or name not in listed or name not in held:
            service = name.split("/")[1].split(".")[0] if name.startswith(("events/", "proof/")) else None
            why = "is not what a pack holds" if not wanted else "is listed or there, but not both"
            raise Failure(_class_of(name), f"the file {name!r} {why}", service)
    if listed != held[:-1]:
        raise Failure(Code.UNREADABLE, "the files are not in the order of the manifest")


def _class_of(name: str) -> Code:
    classes = {"events": Code.EVENT, "proof": Code.TREE, "artefacts": Code.EVIDENCE, "people.json": Code.NAME}
    return classes.get(name.partition("/")[0], Code.SIGNATURE)


# The log of one service.


@dataclass
class Log:
    """The log of one service as far as it holds.

    `chain` are its keys with the note that introduced each, `trusted` those that may sign for it: from the first pinned one on.
    """

    service: str
    chain: Sequence[tuple[Key, str | None]]
    trusted: Sequence[Key]
    checkpoint: Checkpoint
    tree: Tree
    witnesses: Sequence[Key]
    pinned: bool
    events: int = 0
    first_at: str | None = None
    last_at: str | None = None
    kept: Sequence[Checkpoint] = ()
    newest: Key | None = None

    @property
    def epoch(self) -> int:
        """How often the log was begun, counting lawful recoveries from a backup."""
        return int(self.checkpoint.origin.rpartition("/")[2])


def check_log(container: Container, manifest: Manifest, service: str, pins: Pins) -> Log:
    """Keys, checkpoint, witnesses, events and tree of one service; Failure says what does not hold first."""
    covered, name = manifest.services[service], f"{manifest.deployment}/{service}"
    with _scanning(container, manifest, service) as scanned:
        try:
            proof = json.loads(container.read(f"proof/{service}.json"))
            positions, leaves = _positions(proof["positions"]), Hashes(base64.b64decode(proof["leaves"], validate=True))
            nodes = [_base64(node) for node in proof["nodes"]]
            witnesses = [parse_key(key) for key in proof["witnesses"]]
            if len(leaves.content) != 32 * len(positions) or any(len(node) != 32 for node in nodes):
                raise ValueError("it has not one hash for each event")
        except NOT_AS_WRITTEN as error:
            raise Failure(Code.TREE, f"the proof cannot be read: {error!r}", service) from error
        chain, trusted, pinned = _keys(proof, name, service, pins)
        checkpoint = _signed_checkpoint(proof.get("checkpoint"), name, trusted, service)
        if checkpoint.size < covered.position:
            what = f"the checkpoint is of size {checkpoint.size}, and the manifest goes up to {covered.position}"
            raise Failure(Code.CHECKPOINT, what, service)
        keys = [key for key, _ in chain]
        kept = [_signed_checkpoint(note, name, keys, service) for note in proof.get("checkpoints", ())]
        kept = [one for one in kept if any(one.note.signed_by(key) for key in trusted)]
        tree = Tree(checkpoint.size, positions, Hashes(b""), nodes)
        log = Log(service, chain, trusted, checkpoint, tree, [], pinned, kept=sorted(kept, key=lambda one: one.size))
        order = _order(container, manifest, log, leaves, scanned)
    order.finish(covered)
    tree.leaves, tree.blocks = order.hashes(), order.segment.blocks
    _check_tree(log, order, leaves)
    order.require_head(covered)
    log.witnesses = _witnesses(log, witnesses, pins)
    log.pinned |= any(key in pins.witnesses for key in log.witnesses)
    first_at, last_at = (stamp[15:-1].decode() for stamp in (order.segment.first_at, order.segment.last_at))
    log.events, log.first_at, log.last_at = len(tree.leaves), first_at or None, last_at or None
    return log


def _positions(value: Any) -> Sequence[int]:
    positions = range(value["first"], value["last"] + 1) if isinstance(value, dict) else value
    if not isinstance(positions, range) and any(
        type(at) is not int or at <= before for before, at in zip([0, *positions], positions, strict=False)
    ):
        raise ValueError("positions do not ascend")
    return list(positions) if len(positions) < BLOCK_LEAVES else positions


def _keys(proof: Any, name: str, service: str, pins: Pins) -> tuple[list[tuple[Key, str | None]], list[Key], bool]:
    """The keys of the log, each introduced by the one before it; those from the first pinned one on; whether one is."""
    chain: list[tuple[Key, str | None]] = []
    try:
        for entry in proof["keys"]:
            key, note = parse_key(entry["vkey"]), entry["rotation"]
            if chain:
                _require_rotation(note, name, chain[-1][0], entry["vkey"])
            if key.name != name or key.algorithm != LOG_KEY:
                raise ValueError(f"{entry['vkey']} is no key of {name}")
            chain.append((key, note))
        keys = [key for key, _ in chain]
        pinned = [at for at, key in enumerate(keys) if key in pins.of(name)]
        if not chain or (pins.of(name) and not pinned):
            raise ValueError(f"none of its keys is the one that is pinned for {name}")
    except NOT_AS_WRITTEN as error:
        raise Failure(Code.SIGNATURE, f"the keys of the log do not hold: {error}", service) from error
    return chain, keys[min(pinned, default=0) :], bool(pinned)


def _require_rotation(content: str, name: str, old: Key, new: str) -> None:
    """ValueError unless it is the note in which the old key of the log introduces the new one."""
    change = parse_note(content)
    title, origin, *rest = change.text.split("\n")
    if title != "prooftrail key rotation" or origin.rpartition("/")[0] != name or rest != [new, ""]:
        raise ValueError("a change of keys says something else")
    if not change.signed_by(old):
        raise ValueError("a change of keys is not signed by the key before it")


def _signed_checkpoint(content: Any, name: str, trusted: Sequence[Key], service: str) -> Checkpoint:
    try:
        checkpoint = parse_checkpoint(content)
        if not re.fullmatch(re.escape(name) + "/[1-9][0-9]{0,8}", checkpoint.origin):
            raise ValueError(f"its origin is {checkpoint.origin}")
    except NOT_AS_WRITTEN as error:
        raise Failure(Code.CHECKPOINT, f"the checkpoint cannot be read: {error}", service) from error
    if not any(checkpoint.note.signed_by(key) for key in trusted):
        what = f"the checkpoint of size {checkpoint.size} is not signed by a key of {name}"
        raise Failure(Code.CHECKPOINT, what, service)
    return checkpoint


def _witnesses(log: Log, stated: Sequence[Key], pins: Pins) -> list[Key]:
    """Who cosigned the checkpoint; if witnesses are pinned, at least one of them must have."""
    answers = {key: log.checkpoint.note.cosigned_by(key) for key in {*pins.witnesses, *stated}}
    if False in answers.values():
        what = "a cosignature on the checkpoint is not its witness's"
        raise Failure(Code.FORK, what, log.service, *_contradicted(log))
    if pins.witnesses and not any(answers[key] for key in pins.witnesses):
        what = "none of the pinned witnesses has cosigned the checkpoint"
        raise Failure(Code.FORK, what, log.service, *_contradicted(log))
    return sorted((key for key, answer in answers.items() if answer), key=lambda key: key.name)


def _lines(chunks: Iterator[bytes], service: str) -> Iterator[list[bytes]]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
        if len(rest) > EVENT_BYTES_MAX:
            raise Failure(Code.EVENT, "an event is larger than any can be", service)
    if rest:
        raise Failure(Code.EVENT, "the last event ends without a line feed", service)


def _order(
    container: Container, manifest: Manifest, log: Log, stated: Hashes, scanned: Iterable[Segment | None]
) -> Order:
    """All events of the log: as other processes scanned them, or one by one if there is anything to look at in detail."""
    last, system = manifest.services[log.service].position, manifest.system
    order = Order(log.service, system, log.tree.positions, last, stated)
    found = [segment is not None and order.join(segment) for segment in scanned]
    if found and all(found):
        return order
    order = Order(log.service, system, log.tree.positions, last, stated)
    for lines in _lines(container.chunks(f"events/{log.service}.jsonl"), log.service):
        order.take(lines)
    return order


Head = tuple[int, bytes, int]
"""The last event of an AI system that was seen: its number there, its hash and its position."""


@dataclass
class Segment:
    """What events that follow each other came to, and what they need of the events before them."""

    first: int
    hashes: bytes = b""
    blocks: dict[int, bytes] = field(default_factory=dict)
    heads: dict[bytes, Head] = field(default_factory=dict)
    versions: dict[bytes, int] = field(default_factory=dict)
    first_at: bytes = b""
    last_at: bytes = b""
    needed_heads: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    needed_versions: dict[bytes, int] = field(default_factory=dict)


NONE: Head = (0, b"", 0)


class Order:
    """Hashes events and holds their stamps to each other, in one pass and without reading the JSON behind the stamps.

    With `first` it starts in the middle, and keeps what the events there need of those before.
    """

    def __init__(
        self, service: str, system: str, positions: Sequence[int], last: int, stated: Hashes, first: int | None = None
    ) -> None:
        self.segment = Segment(first or 1)
        self._service, self._system, self._positions, self._stated = service, system, positions, stated
        whole = range(first or 1, last + 1)
        self._expected = iter(whole if system == "*" else positions)
        self._from_middle = first is not None
        self._hashes: list[bytes] = []
        self._own, self._name = b'{"service":"%b"' % service.encode(), b'"name":"%b.' % service.encode()
        self._match = re.compile(
            rb'{"service":"%b","position":([1-9]\d{0,17}),("recorded_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")'
            rb',("system":(?:null|"[^"\\]+")),"system_sequence":(null|[1-9]\d{0,17}),"system_previous":(null|"[0-9a-f]{64}")'
            rb',"id":"[^"\\]+",("stream":"(?:[^"\\]|\\.)+"),"version":([1-9]\d{0,17}),"name":"%b\.[a-z0-9-]+",'
            % (service.encode(), service.encode())
        ).match

    def hashes(self) -> Hashes:
        """The leaf hashes so far."""
        return Hashes(self.segment.hashes + b"".join(self._hashes))

    def take(self, lines: Sequence[bytes]) -> None:
        """The next events. What is not plainly right is looked at in detail, which tells what is wrong."""
        sha256, segment, hashes, expected = hashlib.sha256, self.segment, self._hashes, self._expected
        heads, versions, last_at = segment.heads, segment.versions, segment.last_at
        for line in lines:
            leaf = sha256(b"\0" + line).digest()
            hashes.append(leaf)
            at = next(expected, 0)
            try:
                own, position, time, system, sequence, previous, _, stream, version, rest = line.split(b",", 9)
            except ValueError:
                own = position = time = system = sequence = previous = stream = version = rest = b""
            head, count = heads.get(system), versions.get(stream, 0) + 1
            if (
                head is not None
                and own == self._own
                and position == b'"position":%d' % at
                and time >= last_at
                and sequence == b'"system_sequence":%d' % (head[0] + 1)
                and previous == b'"system_previous":"%b"' % hexlify(head[1])
                and version == b'"version":%d' % count
                and rest.startswith(self._name)
                and len(time) == 43
            ):
                heads[system] = head[0] + 1, leaf, at
                if count == 1:
                    segment.needed_versions[stream] = 1
            else:
                segment.last_at = last_at
                time, stream, count = self._inspect(line, leaf, at)
            versions[stream] = count
            last_at = time
        segment.last_at = last_at

    def _inspect(self, line: bytes, leaf: bytes, at: int) -> tuple[bytes, bytes, int]:
        """The stamps of an event one by one; returns time, stream and version."""
        segment, found = self.segment, self._match(line)
        if not found:
            raise self._failure(at, Code.EVENT, "the text is no event of this service")
        position, time, system, sequence, previous, stream, version = found.groups()
        if int(position) != at:
            raise self._misplaced(at, int(position))
        if time < segment.last_at:
            raise self._failure(at, Code.ORDER, "the event is recorded earlier than the one before it")
        self._inspect_system(leaf, at, system, sequence, previous, stream)
        count = segment.versions.get(stream, 0) + 1
        if count == 1:
            count = int(version) if self._from_middle else 1
            segment.needed_versions[stream] = count
        if int(version) != count:
            what = f"{stream.decode(errors='replace')} goes on with version {int(version)}, not {count}"
            raise self._failure(at, Code.ORDER, what)
        segment.first_at = segment.first_at or time
        return time, stream, count

    def _inspect_system(
        self, leaf: bytes, at: int, system: bytes, sequence: bytes, previous: bytes, stream: bytes
    ) -> None:
        of_none = system == b'"system":null'
        own = self._system == "*" or system == f'"system":"{self._system}"'.encode()
        if not own and not (of_none and stream.startswith((b'"stream":"log::', b'"stream":"person::'))):
            raise self._failure(at, Code.ORDER, "the event belongs to another AI system")
        if of_none != (sequence == b"null") or (of_none and previous != b"null"):
            raise self._failure(at, Code.ORDER, "the event has a number in an AI system and belongs to none, or none")
        if of_none:
            return
        head = self.segment.heads.get(system, NONE)
        if head is NONE and self._from_middle:
            self.segment.needed_heads[system] = (int(sequence), previous)
        elif int(sequence) != head[0] + 1 or previous != _quoted(head):
            raise self._broken(at, head, int(sequence))
        self.segment.heads[system] = int(sequence), leaf, at

    def join(self, later: Segment) -> bool:
        """Takes on what another process found for the events that follow; False if it does not follow."""
        mine = self.segment
        fits = later.first == len(self.hashes()) + 1 and later.first_at >= mine.last_at
        for system, (number, previous) in later.needed_heads.items():
            head = mine.heads.get(system, NONE)
            fits &= number == head[0] + 1 and previous == _quoted(head)
        versions = mine.versions
        fits &= all(versions.get(stream, 0) + 1 == needed for stream, needed in later.needed_versions.items())
        mine.hashes += later.hashes
        mine.heads.update(later.heads)
        mine.versions.update(later.versions)
        mine.blocks.update(later.blocks)
        mine.first_at, mine.last_at = mine.first_at or later.first_at, later.last_at
        for _ in range(0, len(later.hashes), 32):
            next(self._expected, None)
        return fits

    def altered(self) -> int | None:
        """The first position whose hash is not the stated one."""
        hashes = self.hashes()
        indexes = range(min(len(hashes), len(self._stated)))
        return next((self._positions[n] for n in indexes if hashes.one(n) != self._stated.one(n)), None)

    def _failure(
        self, at: int, code: Code, what: str, position: int | None = None, until: int | None = None
    ) -> Failure:
        """An event that has not its hash is altered, whatever it says; otherwise what was found."""
        altered = self.altered()
        if altered is not None and altered <= at:
            return Failure(Code.EVENT, "the event has not the hash that the proof states", self._service, altered)
        return Failure(code, what, self._service, position or at or None, until)

    def _misplaced(self, expected: int, stamped: int) -> Failure:
        if expected and stamped > expected:
            return self._failure(expected, Code.ORDER, f"the event is missing: {stamped} stands in its place")
        what = f"the event {stamped} stands where it does not belong"
        return self._failure(expected or stamped, Code.ORDER, what, stamped)

    def _broken(self, at: int, head: Head, number: int) -> Failure:
        before, _, position = head
        if number == before + 1 and position:
            what = f"the event has not the hash that the system's next one, at {at}, names"
            return self._failure(at, Code.EVENT, what, position)
        what = f"the event is number {number} of its AI system where {before + 1} should follow"
        return self._failure(at, Code.ORDER, what, position + 1 if number > before else at, at)

    def finish(self, covered: Covered) -> None:
        """Nothing is missing at the end, and it is as many events as the manifest says."""
        missing = next(self._expected, None)
        if missing is not None:
            raise self._failure(missing, Code.ORDER, "the event is missing")
        count, _, position = self._head()
        if position > covered.position:
            raise self._failure(position, Code.ORDER, "the event lies beyond the position up to which the pack goes")
        if count != covered.count:
            what = f"{count} events are here, and the manifest says {covered.count}"
            until = covered.position if count < covered.count else None
            raise self._failure(position + 1, Code.ORDER, what, until=until)
        if len(self.hashes()) != len(self._positions):
            raise Failure(Code.TREE, "the proof has not one hash for each event", self._service, position + 1)

    def require_head(self, covered: Covered) -> None:
        """The last event is the one that the manifest names."""
        _, leaf, position = self._head()
        if (leaf.hex() or "-") != covered.last:
            what = "the last event is not the one that the manifest names"
            raise Failure(Code.ORDER, what, self._service, position or None)

    def _head(self) -> Head:
        """Count, leaf hash and position of the last event that the pack is about."""
        if self._system != "*":
            return self.segment.heads.get(f'"system":"{self._system}"'.encode(), NONE)
        hashes = self.hashes()
        return (len(hashes), hashes.one(len(hashes) - 1), len(hashes)) if len(hashes) else NONE


def _quoted(head: Head) -> bytes:
    return b'"%b"' % hexlify(head[1]) if head[0] else b"null"


@contextlib.contextmanager
def _scanning(container: Container, manifest: Manifest, service: str) -> Iterator[Iterable[Segment | None]]:
    """Scans the events of a large log in other processes for as long as the block is open; nothing for a small one."""
    member = container.members[f"events/{service}.jsonl"]
    if container.path is None or manifest.system != "*" or member.size < BESIDE_BYTES_MIN:
        yield ()
        return
    count = multiprocessing.cpu_count()
    places = container.cuts(member, SEGMENTS_OF_A_PROCESS * count)
    method = "spawn" if threading.active_count() > 1 else None  # a process with threads is not forked
    with concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context(method)) as processes:
        yield processes.map(_scan, [(container.path, *place, service) for place in places])


def _scan(place: tuple[Path, int, int, str]) -> Segment | None:
    """The events in a part of the file; None if something is wrong with them."""
    gc.disable()  # this process makes no cycles, and ends soon
    path, start, end, service = place
    with path.open("rb") as file:
        file.seek(start)
        found = re.match(rb'{"service":"[a-z-]+","position":([1-9]\d{0,17}),', file.read(100))
        if not found:
            return None
        file.seek(start)
        first = int(found[1])
        order = Order(service, "*", range(first, FULL), FULL, Hashes(b""), first)
        pieces = (file.read(min(SCAN_BYTES, end - at)) for at in range(start, end, SCAN_BYTES))
        try:
            for lines in _lines(pieces, service):
                order.take(lines)
        except Failure:
            return None
    segment, hashes = order.segment, order.hashes()
    segment.hashes, last = hashes.content, first - 1 + len(hashes)
    for number in range(-(-(first - 1) // BLOCK_LEAVES), last // BLOCK_LEAVES):
        begin = number * BLOCK_LEAVES - (first - 1)
        segment.blocks[number] = root_of(hashes.some(begin, begin + BLOCK_LEAVES))
    return segment


def _check_tree(log: Log, order: Order, stated: Hashes) -> None:
    tree, code, what = log.tree, Code.TREE, "the events do not give the root that the checkpoint names"
    try:
        holds = tree.root() == log.checkpoint.root
    except ValueError as error:
        holds, what = False, str(error)
    if tree.leaves.content != stated.content:
        altered = order.altered()
        if holds:
            raise Failure(code, "the proof states another hash than the event has", log.service, altered)
        raise Failure(Code.EVENT, "the event has not the hash that the proof states", log.service, altered)
    if not holds:
        position, until = _between(log, tree.size)
        raise Failure(code, what, log.service, position, until)


def _between(log: Log, size: int) -> tuple[int, int]:
    """Where the first bad position lies: after the last kept checkpoint that holds, up to the first that does not."""
    roots = [(kept, log.tree.earlier_root(kept.size)) for kept in log.kept if kept.size < size]
    good = max((kept.size for kept, root in roots if root == kept.root), default=0)
    bad = min((kept.size for kept, root in roots if root not in (None, kept.root)), default=size)
    return good + 1, bad


def _contradicted(log: Log) -> tuple[int, int] | tuple[None, None]:
    """Where the tree departs from the checkpoints that came with it, if it does."""
    known = [(one.root, log.tree.earlier_root(one.size)) for one in log.kept if one.size <= log.tree.size]
    return _between(log, log.tree.size) if any(found not in (None, root) for root, found in known) else (None, None)


def check_history(log: Log, others: Sequence[Checkpoint], recoveries: Sequence[Recovery]) -> list[str]:
    """Other checkpoints of the log against its tree. Returns what cannot be compared, or was given up by a recovery."""
    remarks = []
    for other in others:
        root = log.tree.earlier_root(other.size) if other.size <= log.tree.size else None
        same = other.origin == log.checkpoint.origin
        if root == other.root:
            continue
        if any(_gives_up(recovery, other) for recovery in recoveries):
            remarks.append(f"{log.service}: the checkpoint of size {other.size} was given up by a recorded recovery")
        elif root is not None:
            position, until = _between(dataclasses.replace(log, kept=[*log.kept, *others]), other.size)
            what = f"the log signed another history up to {other.size}"
            raise Failure(Code.FORK, what, log.service, position, until)
        elif other.size > log.tree.size and same and other in log.kept:
            what = f"the log was rolled back: it had signed {other.size} events"
            raise Failure(Code.FORK, what, log.service, log.tree.size + 1, other.size)
        else:
            remarks.append(
                f"{log.service}: the checkpoint of size {other.size} cannot be compared with this pack alone"
            )
    return remarks


def _gives_up(recovery: Recovery, other: Checkpoint) -> bool:
    epoch, first, last = recovery
    return int(other.origin.rpartition("/")[2]) < epoch and first <= other.size <= last


# What the events say, the files and the names beside them.


PERSON = re.compile(
    rb'"subject":("(?:[^"\\]|\\.)*"),"kind":"[a-z]+","issuer":"(?:[^"\\]|\\.)*","auth_time":(?:null|"[^"]*"),'
    rb'"on_behalf_of":(?:null|"(?:[^"\\]|\\.)*"),"name_commitment":"([0-9a-f]{64})"'
)
NAMED_FILE = re.compile(rb'"digest":"([0-9a-f]{64})","length":(\d{1,18})')
DIGEST = re.compile(rb"[0-9a-f]{64}")
STAMPS = [
    "service",
    "position",
    "recorded_at",
    "system",
    "system_sequence",
    "system_previous",
    "id",
    "stream",
    "version",
    "name",
]


@dataclass
class Contents:
    """What all events name together."""

    signatures: int = 0
    people: dict[str, set[str]] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    files: set[tuple[str, int]] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    recoveries: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    rotations: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)


def read_contents(container: Container, logs: Sequence[Log]) -> Contents:
    """Reads every event as JSON; Failure if one cannot be, says its stamps twice, or has the id of another."""
    contents, wanted = Contents(), {name[10:] for name in container.members if name.startswith("artefacts/")}
    ids = array("q")
    for log in logs:
        for position, line in _events(container, log):
            try:
                event = json.loads(line)
                stamps = json.dumps({key: event[key] for key in STAMPS}, ensure_ascii=False, separators=(",", ":"))
                if not line.startswith(stamps[:-1].encode()):
                    raise ValueError("it says its stamps twice")
                _add(contents, event, log.service, position)
            except NOT_AS_WRITTEN as error:
                raise Failure(Code.EVENT, f"the event is not plain JSON: {error!r}", log.service, position) from error
            ids.append(hash(event["id"]))
            for subject, commitment in PERSON.findall(line):
                contents.people.setdefault(commitment.decode(), set()).add(json.loads(subject))
            if wanted:
                contents.files.update((digest.decode(), int(length)) for digest, length in NAMED_FILE.findall(line))
                contents.digests.update(wanted.intersection(map(bytes.decode, DIGEST.findall(line))))
    ordered = sorted(ids)
    twice = {one for one, other in itertools.pairwise(ordered) if one == other}
    if twice:
        _require_unique(container, logs, twice)
    return contents


def _events(container: Container, log: Log) -> Iterator[tuple[int, bytes]]:
    chunks = container.chunks(f"events/{log.service}.jsonl")
    lines = (line for lines in _lines(chunks, log.service) for line in lines)
    return zip(log.tree.positions, lines, strict=True)


def _add(contents: Contents, event: Any, service: str, position: int) -> None:
    name, data = event["name"], event["data"]
    contents.signatures += isinstance(data.get("signature"), dict)
    if name == f"{service}.log-recovered":
        contents.recoveries.setdefault(service, []).append((position, data))
    elif name == f"{service}.log-key-rotated":
        contents.rotations.setdefault(service, []).append((position, data))
    elif name == f"{service}.person-erased":
        contents.erased.add(data["subject"])


def _require_unique(container: Container, logs: Sequence[Log], hashes: set[int]) -> None:
    seen: dict[str, str] = {}
    for log in logs:
        for position, line in _events(container, log):
            event_id = json.loads(line)["id"]
            if hash(event_id) in hashes:
                if event_id in seen:
                    what = f"the event is there twice: it has the id of {seen[event_id]}"
                    raise Failure(Code.ORDER, what, log.service, position)
                seen[event_id] = f"{log.service}:{position}"


def check_rotations(log: Log, recorded: Sequence[tuple[int, Any]]) -> None:
    """Every change of keys is an event of the log, signed by the old key; also those that this pack does not rest on."""
    name, known, notes = log.checkpoint.origin.rpartition("/")[0], {key for key, _ in log.chain}, set()
    for position, data in recorded:
        try:
            old, new = parse_key(data["old_key"]), parse_key(data["new_key"])
            _require_rotation(data["signature"], name, old, data["new_key"])
        except NOT_AS_WRITTEN as error:
            raise Failure(
                Code.SIGNATURE, f"the recorded change of keys does not hold: {error}", log.service, position
            ) from error
        notes.add((old, new, data["signature"]))
        if old in known:
            known.add(new)
            log.newest = new
    for (old, _), (new, note) in itertools.pairwise(log.chain):
        if (old, new, note) not in notes:
            raise Failure(
                Code.SIGNATURE, "the log has not recorded the change to a key that its proof names", log.service
            )


Recovery = tuple[int, int, int]
"""An epoch, and the first and the last position that are lost to it."""


def check_recoveries(log: Log, recorded: Sequence[tuple[int, Any]]) -> list[Recovery]:
    """The recoveries that a key of the log signed. A log that was begun again must have recorded its own; Failure."""
    found: list[Recovery] = []
    why, place = "the log was begun again, and has recorded no recovery", None
    for position, data in recorded:
        try:
            found.append(_recovery(log, data))
        except NOT_AS_WRITTEN as error:
            why, place = f"the recorded recovery does not hold: {error}", position
    if log.epoch > 1 and all(epoch != log.epoch for epoch, _, _ in found):
        raise Failure(Code.FORK, why, log.service, place)
    return [recovery for recovery in found if recovery[0] <= log.epoch]


def _recovery(log: Log, data: Any) -> Recovery:
    epoch, first, last = data["epoch"], data["lost_first"], data["lost_last"]
    origin = f"{log.checkpoint.origin.rpartition('/')[0]}/{epoch}"
    note = parse_note(data["signature"])
    if note.text != f"prooftrail recovery\n{origin}\n{first} {last}\n":
        raise ValueError("its signature is of another one")
    if not any(note.signed_by(key) for key, _ in log.chain):
        raise ValueError("no key of the log signed it")
    return int(epoch), int(first), int(last)


def check_manifest(
    manifest: Manifest, container: Container, logs: Sequence[Log], stated: Sequence[Key], pins: Pins
) -> bool:
    """The manifest's signature and the digest of every file; returns whether its key is pinned."""
    name = manifest.note.signatures[0][0]
    keys = pins.of(name) or [Key(key.name, LOG_KEY, key.public) for key in stated if key.name == name]
    if not any(manifest.note.signed_by(key) for key in keys):
        raise Failure(Code.SIGNATURE, f"the manifest is not signed by the key of {name}")
    for digest, length, member in manifest.members:
        if container.digest(member) != digest or str(container.members[member].size) != length:
            what = f"the file {member} is not the one that the manifest lists"
            raise Failure(_class_of(member), what, *_place_of(container, logs, member))
    if not container.digest("manifest"):
        raise Failure(Code.UNREADABLE, "the manifest has not the checksum of its entry")
    return bool(pins.of(name))


def _place_of(container: Container, logs: Sequence[Log], member: str) -> tuple[str | None, int | None]:
    kind, _, name = member.partition("/")
    if kind == "artefacts":
        return _naming(container, logs, name)
    return name.partition(".")[0] or None, None


def check_summary(container: Container, manifest: Manifest, logs: Sequence[Log]) -> None:
    """pack.json tells of exactly the events that are proven."""
    proven = {(log.service, at): log.tree.leaves.one(n) for log in logs for n, at in enumerate(log.tree.positions)}
    told = set()
    try:
        for event in json.loads(container.read("pack.json"))["events"]:
            place, leaf = (
                (event["service"], event["position"]),
                hashlib.sha256(b"\0" + event["event"].encode()).digest(),
            )
            if place not in proven or place in told:
                raise Failure(Code.ORDER, "pack.json tells of an event that is not here, or twice", *place)
            if proven[place] != leaf or event["leaf_hash"] != leaf.hex():
                raise Failure(Code.EVENT, "pack.json tells the event otherwise", *place)
            told.add(place)
    except NOT_AS_WRITTEN as error:
        raise Failure(Code.SIGNATURE, f"pack.json cannot be read: {error!r}") from error
    if len(told) != sum(covered.count for covered in manifest.services.values()):
        raise Failure(Code.ORDER, "pack.json leaves events out")


def _naming(container: Container, logs: Sequence[Log], text: str) -> tuple[str, int] | tuple[None, None]:
    """Service and position of the first event that holds the text."""
    events = ((log.service, *event) for log in logs for event in _events(container, log))
    return next(((service, at) for service, at, line in events if text.encode() in line), (None, None))


def check_evidence(container: Container, logs: Sequence[Log], contents: Contents) -> int:
    """Every evidence file has the digest it is stored under, and an event names it with its length; returns how many."""
    files = [name for name in container.members if name.startswith("artefacts/")]
    for name in files:
        digest, size = name[10:], container.members[name].size
        lengths = {length for named, length in contents.files if named == digest}
        if container.digest(name) != digest:
            what = f"the file {name} has not the digest that it is stored under"
            raise Failure(Code.EVIDENCE, what, *_naming(container, logs, digest))
        if digest not in contents.digests or not lengths <= {size}:
            what = f"no event names the file {name} with its length"
            raise Failure(Code.EVIDENCE, what, *_naming(container, logs, digest))
    return len(files)


def check_names(container: Container, logs: Sequence[Log], contents: Contents) -> set[str]:
    """Every printed name is the one that an event committed to, for that person; returns their commitments."""
    try:
        people = json.loads(container.read("people.json"))
        for commitment, person in people.items():
            salted = person["salt"].encode() + b"\0" + person["name"].encode()
            if hashlib.sha256(salted).hexdigest() != commitment:
                what = f"the name {person['name']!r} is not the one that was committed to"
                raise Failure(Code.NAME, what, *_naming(container, logs, commitment))
            if contents.people.get(commitment) != {person["subject"]}:
                what = f"no event of {person['subject']!r} commits to the name {person['name']!r}"
                raise Failure(Code.NAME, what, *_naming(container, logs, commitment))
    except NOT_AS_WRITTEN as error:
        raise Failure(Code.NAME, f"people.json cannot be read: {error!r}") from error
    return set(people)


def check_promise(content: str, manifest: Manifest, logs: Sequence[Log]) -> None:
    """The events that a log promised are in the pack as they were promised."""
    try:
        note = parse_note(content)
        title, origin, *lines, _ = note.text.split("\n")
        log = next(log for log in logs if log.checkpoint.origin.rpartition("/")[0] == origin.rpartition("/")[0])
        promised = [(int(position), bytes.fromhex(leaf)) for position, leaf, _ in map(str.split, lines)]
        if title != "prooftrail promise" or not any(note.signed_by(key) for key in log.trusted):
            raise ValueError("no key of the log signed it")
    except (ValueError, StopIteration) as error:
        raise Failure(Code.SIGNATURE, f"a promise is not one of a log of this pack: {error!r}") from error
    for position, leaf in promised:
        held = log.tree.leaf(position)
        if held is None:
            what = f"the promised event is not in the pack, which goes up to {manifest.services[log.service].position}"
            raise Failure(Code.ORDER, what, log.service, position)
        if held != leaf:
            raise Failure(Code.FORK, "the log had promised another event at this position", log.service, position)


# Time stamps (RFC 3161, as CMS signed data, RFC 5652): only DER, and only what an authority's answer needs.

SIGNED_DATA, TIME_STAMPED = "2a864886f70d010702", "2a864886f70d0109100104"
CONTENT_TYPE, MESSAGE_DIGEST = "2a864886f70d010903", "2a864886f70d010904"
SIGNING_CERTIFICATE, SIGNING_CERTIFICATE_V2 = "2a864886f70d010910020c", "2a864886f70d010910022f"
SHA256 = "608648016503040201"
DIGESTS: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    SHA256: ("sha256", hashes.SHA256()),
    "608648016503040202": ("sha384", hashes.SHA384()),
    "608648016503040203": ("sha512", hashes.SHA512()),
}
NO_CERTIFICATE = (
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)  # what reading certificates of others may raise
INTEGER, OCTETS, NAMED, TIME, SEQUENCE, SET, FIRST, SECOND = 0x02, 0x04, 0x06, 0x18, 0x30, 0x31, 0xA0, 0xA1
"""DER tags; the last two are [0] and [1], constructed."""


@dataclass(frozen=True)
class Der:
    """One element: its tag, its content, and all its bytes."""

    tag: int
    content: bytes
    whole: bytes

    @classmethod
    def read(cls, content: bytes) -> Der:
        """The one element that the bytes are; ValueError."""
        [element] = cls._all(content)
        return element

    @classmethod
    def _all(cls, content: bytes) -> Iterator[Der]:
        at = 0
        while at < len(content):
            if at + 2 > len(content):
                raise ValueError("DER that ends too early")
            tag, size, start = content[at], content[at + 1], at + 2
            if size > 0x80:
                count = size - 0x80
                size, start = int.from_bytes(content[start : start + count]), start + count
                if count > 4 or size < (0x80 if count == 1 else 1 << 8 * (count - 1)):
                    raise ValueError("a length that is not DER")
            if content[at + 1] == 0x80 or tag & 31 == 31 or start + size > len(content):
                raise ValueError("no DER")
            yield cls(tag, content[start : start + size], content[at : start + size])
            at = start + size

    def parts(self, *tags: int) -> list[Der]:
        """The elements in it, of which the first ones have these tags."""
        parts = list(self._all(self.content))
        if [part.tag for part in parts[: len(tags)]] != list(tags):
            raise ValueError("an element is missing")
        return parts

    def only(self, *tags: int) -> Der:
        """The element in the element in this one, with these tags, each alone."""
        [element] = self.parts(tags[0])
        return element.only(*tags[1:]) if tags[1:] else element

    def named(self) -> str:
        """The object identifier that it begins with, in hex."""
        return self.parts(NAMED)[0].content.hex()


@dataclass(frozen=True)
class Stamp:
    """What an authority says: something with this SHA-256 existed at the time."""

    digest: bytes
    at: datetime
    authority: str


def check_timestamp(content: bytes, authorities: Sequence[x509.Certificate]) -> Stamp:
    """A time stamp, alone or in an authority's answer; Failure unless a pinned authority signed it."""
    try:
        return _stamp(content, authorities)
    except (*NOT_AS_WRITTEN, *NO_CERTIFICATE, InvalidSignature) as error:
        why = "its signature is not its signer's" if isinstance(error, InvalidSignature) else error
        raise Failure(Code.TIME, f"a time stamp does not hold: {why}") from error


def _stamp(content: bytes, authorities: Sequence[x509.Certificate]) -> Stamp:
    outer = Der.read(content)
    parts = outer.parts()
    token = outer if parts[0].tag == NAMED else outer.parts(SEQUENCE, SEQUENCE)[1]
    if token.named() != SIGNED_DATA:
        raise ValueError("it is no signed data")
    _, _, inner, *rest = token.parts(NAMED, FIRST)[1].only(SEQUENCE).parts(INTEGER, SET, SEQUENCE)
    if inner.named() != TIME_STAMPED:
        raise ValueError("it signs no time stamp")
    stamped = inner.parts(NAMED, FIRST)[1].only(OCTETS).content
    held = [x509.load_der_x509_certificate(one.whole) for part in rest if part.tag == FIRST for one in part.parts()]
    _, _, imprint, _, time, *_ = Der.read(stamped).parts(INTEGER, NAMED, SEQUENCE, INTEGER, TIME)
    at = _time(time.content)
    signer = _signer(rest[-1].only(SEQUENCE), stamped, [*authorities, *held])
    _require_vouched(signer, authorities, held, at)
    algorithm, digest = imprint.parts(SEQUENCE, OCTETS)
    if algorithm.named() != SHA256 or len(digest.content) != 32:
        raise ValueError("it is not over a SHA-256")
    return Stamp(digest.content, at, signer.subject.rfc4514_string())


def _time(content: bytes) -> datetime:
    """GeneralizedTime as RFC 3161 has it: UTC, with or without a fraction."""
    text = content.decode("ascii")
    if not re.fullmatch(r"\d{14}(\.\d{0,8}[1-9])?Z", text, re.ASCII):
        raise ValueError("its time is not one of RFC 3161")
    return datetime.strptime(text[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _signer(info: Der, stamped: bytes, certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    """Whose signature it is: of the certificate that the signed attributes name by its hash."""
    _, _, digest, attributes, _, signature, *_ = info.parts(INTEGER)
    name, algorithm = DIGESTS[digest.named()]
    if (attributes.tag, signature.tag) != (FIRST, OCTETS):
        raise ValueError("it has no signed attributes")
    pairs = [one.parts(NAMED, SET) for one in attributes.parts()]
    said = {key.content.hex(): value.parts()[0] for key, value in pairs}
    if len(said) != len(pairs) or any(len(value.parts()) != 1 for _, value in pairs):
        raise ValueError("it says an attribute twice")
    if said[CONTENT_TYPE].content.hex() != TIME_STAMPED:
        raise ValueError("its attributes are those of something else")
    if said[MESSAGE_DIGEST].content != hashlib.new(name, stamped).digest():
        raise ValueError("its text is not the one that was signed")
    signer = next((one for one in certificates if _is_named(one, said)), None)
    if signer is None:
        raise ValueError("the certificate of its signer is neither in it nor pinned")
    _verify_signature(signer, signature.content, b"\x31" + attributes.whole[1:], algorithm)
    return signer


def _is_named(certificate: x509.Certificate, said: Mapping[str, Der]) -> bool:
    """Whether this is the certificate that signed (RFC 2634, 5.4, and RFC 5035)."""
    content, name = certificate.public_bytes(serialization.Encoding.DER), "sha1"
    if SIGNING_CERTIFICATE_V2 in said:
        first = said[SIGNING_CERTIFICATE_V2].parts(SEQUENCE)[0].parts(SEQUENCE)[0]
        stated = first.parts()[0]
        name = DIGESTS[stated.named()][0] if stated.tag == SEQUENCE else "sha256"
        first = first.parts()[1] if stated.tag == SEQUENCE else stated
    else:
        first = said[SIGNING_CERTIFICATE].parts(SEQUENCE)[0].parts(SEQUENCE)[0].parts(OCTETS)[0]
    return first.tag == OCTETS and hashlib.new(name, content, usedforsecurity=False).digest() == first.content


def _verify_signature(
    signer: x509.Certificate, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm
) -> None:
    key = signer.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, message, ec.ECDSA(algorithm))
    else:
        raise ValueError("it is signed neither with RSA nor with ECDSA")


def _require_vouched(
    signer: x509.Certificate, pinned: Sequence[x509.Certificate], held: Sequence[x509.Certificate], at: datetime
) -> None:
    """A chain of certificates, all valid at that time, leads from the signer to a pinned one."""
    uses = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    if list(uses.value) != [x509.oid.ExtendedKeyUsageOID.TIME_STAMPING] or not uses.critical:
        raise ValueError("its signer's certificate is not one for time stamps alone")
    certificate, seen = signer, 0
    while certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc and seen <= len(held):
        if certificate in pinned:
            return
        issuers = [one for one in (*pinned, *held) if one != certificate and _issued(one, certificate)]
        if not issuers:
            raise ValueError(f"no pinned authority vouches for {signer.subject.rfc4514_string()}")
        certificate, seen = issuers[0], seen + 1
    raise ValueError("a certificate was not valid at its time")


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints)
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return constraints.value.ca


# The whole check, and what it tells.


@dataclass
class Report:
    """What a check came to. `proven` and `not_proven` are sentences for people."""

    code: Code
    failure: Failure | None = None
    manifest: Manifest | None = None
    logs: Sequence[Log] = ()
    proven: list[str] = field(default_factory=list)
    not_proven: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The report as plain values."""
        failed, manifest = self.failure, self.manifest
        services = [
            {
                "service": log.service,
                "events": log.events,
                "origin": log.checkpoint.origin,
                "checkpoint_size": log.checkpoint.size,
                "first_recorded_at": log.first_at,
                "last_recorded_at": log.last_at,
                "witnesses": [key.name for key in log.witnesses],
                "pinned": log.pinned,
            }
            for log in self.logs
        ]
        return {
            "code": int(self.code),
            "class": CLASSES[self.code],
            "failure": failed
            and {"what": failed.what, "service": failed.service, "position": failed.position, "until": failed.until},
            "deployment": manifest and manifest.deployment,
            "system": manifest and manifest.system,
            "ledger_position": manifest and manifest.ledger,
            "services": services,
            "proven": self.proven,
            "not_proven": self.not_proven,
        }

    def text(self) -> str:
        """The report for a person."""
        verdict = {Code.PROVEN: "PROVEN", Code.UNPINNED: "NOT PINNED"}.get(self.code, "NOT PROVEN")
        head = f"{verdict} (exit code {int(self.code)}): {CLASSES[self.code]}"
        if self.failure is not None:
            where = [f"service {self.failure.service}"] * (self.failure.service is not None)
            if self.failure.position is not None:
                until = self.failure.until or self.failure.position
                between = f"first bad position between {self.failure.position} and {until}"
                where.append(f"first bad position {until}" if until == self.failure.position else between)
            return "\n".join([head, f"  {self.failure.what}", *(f"  {line}" for line in where)])
        parts = [head, "Proven:", *(f"  - {line}" for line in self.proven)]
        return "\n".join([*parts, "Not proven:", *(f"  - {line}" for line in self.not_proven)])


def verify(file: BinaryIO, pins: Pins, brought: Brought = Brought()) -> Report:
    """Checks the pack; never raises for what is in it."""
    report = Report(Code.PROVEN)
    try:
        _verify(file, pins, brought, report)
    except Failure as failure:
        report.code, report.failure = failure.code, failure
    return report


def _verify(file: BinaryIO, pins: Pins, brought: Brought, report: Report) -> None:
    container = Container(file)
    try:
        manifest = report.manifest = parse_manifest(container.read("manifest"))
    except ValueError as error:
        raise Failure(Code.UNREADABLE, f"the manifest cannot be read: {error}") from error
    require_members(manifest, container)
    covered = [service for service, one in manifest.services.items() if one.position]
    logs = report.logs = [check_log(container, manifest, service, pins) for service in covered]
    stated = [key for log in logs for key in log.witnesses]
    unpinned = [] if check_manifest(manifest, container, logs, stated, pins) else ["the manifest"]
    unpinned += [f"the log of {log.service}" for log in logs if not log.pinned]
    contents = read_contents(container, logs)
    if manifest.system != "*":
        check_summary(container, manifest, logs)
    for log in logs:
        check_rotations(log, contents.rotations.get(log.service, ()))
    remarks = [remark for log in logs for remark in _compare(log, brought, contents)]
    files, names = check_evidence(container, logs, contents), check_names(container, logs, contents)
    for promise in brought.promises:
        check_promise(promise, manifest, logs)
    report.proven = _proven(manifest, logs, contents, files, len(names), len(brought.promises))
    if brought.authorities:
        report.proven += _stamped(container, logs, brought)
    elif brought.timestamps:
        remarks.append("time stamps that were brought along: no authority is pinned (--authority)")
    report.not_proven = [*remarks, *_limits(manifest, logs, contents, names, pins), *NOT_PROVEN]
    if unpinned:
        report.code = Code.UNPINNED
        report.not_proven.insert(0, f"whose keys these are: no pinned key vouches for {', '.join(unpinned)}")


def _compare(log: Log, brought: Brought, contents: Contents) -> list[str]:
    name = log.checkpoint.origin.rpartition("/")[0]
    texts = [text for text in brought.checkpoints if text.rpartition("\n\n")[0].startswith(name + "/")]
    others = [*log.kept, *(_signed_checkpoint(text, name, log.trusted, log.service) for text in texts)]
    return check_history(log, others, check_recoveries(log, contents.recoveries.get(log.service, ())))


def _stamped(container: Container, logs: Sequence[Log], brought: Brought) -> list[str]:
    """What the time stamps prove; Failure for one of something else than the pack, or a checkpoint that its tree goes on from."""
    subjects = {hashlib.sha256(container.read("manifest")).digest(): "this pack"}
    brought_texts = [text.rpartition("\n\n")[0] + "\n" for text in brought.checkpoints]
    for log in logs:
        for text in [log.checkpoint.note.text, *(one.note.text for one in log.kept), *brought_texts]:
            origin, size, root = text.split("\n")[:3]
            if origin.rpartition("/")[0] != log.checkpoint.origin.rpartition("/")[0]:
                continue
            shown = log.tree.earlier_root(int(size)) if int(size) <= log.tree.size else None
            if shown == _base64(root):
                subjects[hashlib.sha256(text.encode()).digest()] = f"{log.service} up to position {size}"
    lines = []
    for content in brought.timestamps:
        stamp = check_timestamp(content, brought.authorities)
        if stamp.digest not in subjects:
            raise Failure(
                Code.TIME, f"a time stamp of {stamp.at:%Y-%m-%d %H:%M:%S} is of something else than this pack"
            )
        lines.append(f"{subjects[stamp.digest]}: existed by {stamp.at:%Y-%m-%d %H:%M:%S} UTC, says {stamp.authority}")
    return lines


def _proven(
    manifest: Manifest, logs: Sequence[Log], contents: Contents, files: int, names: int, promises: int
) -> list[str]:
    whole = "the whole deployment" if manifest.system == "*" else f"the AI system {manifest.system}"
    lines = [f"deployment {manifest.deployment}, {whole}, as of ledger position {manifest.ledger}"]
    for log in logs:
        covered = manifest.services[log.service]
        span = f", recorded from {log.first_at} to {log.last_at}" if log.events else ""
        lines.append(f"{log.service}: {log.events} events up to position {covered.position}{span}")
    lines.append("each event is byte for byte the one in its service's log, in the log's order")
    lines.append(
        f"nothing of {whole} up to these positions is left out, says the key of {manifest.note.signatures[0][0]}"
    )
    lines.append(f"{contents.signatures} recorded signatures of people, {files} evidence files, {names} printed names")
    if promises:
        lines.append(f"{promises} promises that the reader kept")
    lines += [
        f"{log.service}: cosigned by {', '.join(key.name for key in log.witnesses)}" for log in logs if log.witnesses
    ]
    return lines


def _limits(manifest: Manifest, logs: Sequence[Log], contents: Contents, names: set[str], pins: Pins) -> list[str]:
    outside = {key for key in pins.witnesses if not key.name.startswith(manifest.deployment + "/")}
    alone = [log.service for log in logs if not outside.intersection(log.witnesses)]
    lines = [f"operator only: no pinned witness outside the operator cosigned {', '.join(alone)}"] * bool(alone)
    lines += [f"{log.service}: taken up from a backup, this is epoch {log.epoch}" for log in logs if log.epoch > 1]
    replaced = [log for log in logs if log.newest is not None and not log.checkpoint.note.signed_by(log.newest)]
    lines += [f"{log.service}: the checkpoint is signed by a key that the log has replaced since" for log in replaced]
    missing = [people for commitment, people in contents.people.items() if commitment not in names]
    if missing:
        silent = sum(not people & contents.erased for people in missing)
        lines.append(f"{len(missing)} names that are not in the pack; of {silent} of them it holds no recorded erasure")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="prooftrail verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("pack", type=Path, metavar="PACK", help="the exported pack, a ZIP file")
    parser.add_argument("--key", action="append", default=[], metavar="VKEY", help="a verifier key that you trust")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="a file of such keys, one a line")
    parser.add_argument(
        "--checkpoint", action="append", default=[], type=Path, metavar="FILE", help="a checkpoint that you kept"
    )
    parser.add_argument(
        "--promise", action="append", default=[], type=Path, metavar="FILE", help="a promise that you kept"
    )
    parser.add_argument(
        "--timestamp", action="append", default=[], type=Path, metavar="FILE",
        help="a time stamp (RFC 3161) of the pack, or of a checkpoint in it or brought along",
    )  # fmt: skip
    parser.add_argument("--authority", type=Path, metavar="FILE", help="certificates (PEM) of whom you trust for time")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(parsed: argparse.Namespace) -> int:
    """Checks the pack that the arguments name and prints the report; returns the exit code."""
    try:
        lines = [*parsed.key, *(parsed.keys.read_text().splitlines() if parsed.keys else [])]
        pins = Pins(frozenset(parse_key(line.strip()) for line in lines if line.strip() and not line.startswith("#")))
        kept = [[file.read_text() for file in files] for files in (parsed.checkpoint, parsed.promise)]
        stamps = [file.read_bytes() for file in parsed.timestamp]
        trusted = x509.load_pem_x509_certificates(parsed.authority.read_bytes()) if parsed.authority else []
    except (OSError, ValueError) as error:
        print(f"not understood: {error}", file=sys.stderr)
        return int(Code.USAGE)
    try:
        with parsed.pack.open("rb") as file:
            report = verify(file, pins, Brought(kept[0], kept[1], stamps, trusted))
    except OSError as error:
        report = Report(Code.UNREADABLE, Failure(Code.UNREADABLE, str(error)))
    print(json.dumps(report.plain(), indent=2) if parsed.json else report.text())
    return int(report.code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
