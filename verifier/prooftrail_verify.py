"""Checks an exported Prooftrail pack without trusting anybody who made it: no network, no database, no code of Prooftrail.

    python prooftrail_verify.py PACK --keys FILE       needs Python 3.11 or newer and the package `cryptography`

It is an implementation of its own of RFC 6962 trees, C2SP signed notes and cosignatures, and the pack's container. Exit codes:

     0  proven                                     12  a signature: of the manifest, a promise, a change of keys
     1  not a readable pack                        13  a checkpoint is not what its log's key signed
     2  the command was not understood             14  the events do not give the checkpoint's root
     3  all checks pass, but a key that they       15  an evidence file is not the one that an event names
        rest on came from the pack itself          16  two histories: a checkpoint, witness or promise contradicts
    10  an event was altered                       17  a printed name is not the one that was committed to
    11  an event is missing, out of order or too many

The first check that fails decides. Checks go service by service: keys, checkpoint, events, tree, witnesses; then the manifest,
the digest of every file, the contents of events, evidence, names, and what the caller brought along.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import re
import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CHUNK_BYTES = 1 << 20
EVENT_BYTES_MAX = 1 << 24
WHOLE_BYTES_MAX = 1 << 31  # everything but events and evidence is read whole
DIRECTORY_BYTES_MAX = 1 << 28
BLOCK_LEAVES = 4096
FULL = 0xFFFFFFFF


class Code(IntEnum):
    PROVEN, UNREADABLE, USAGE, UNPINNED = 0, 1, 2, 3
    EVENT, ORDER, SIGNATURE, CHECKPOINT, TREE, EVIDENCE, FORK, NAME = 10, 11, 12, 13, 14, 15, 16, 17


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
}
NOT_PROVEN = (
    "that what was entered is true: only that it was entered like this, in this order, and was not changed since",
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
        self._digests: dict[str, str] = {}
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

    def read(self, name: str) -> bytes:
        """A member as a whole."""
        if name not in self.members or self.members[name].size > WHOLE_BYTES_MAX:
            raise Failure(Code.UNREADABLE, f"{name} is missing or too large")
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The member piece by piece. The first reading digests it, large ones beside the work of the reader."""
        member, digest, crc = self.members[name], hashlib.sha256(), 0
        pieces = range(0, member.size, CHUNK_BYTES)
        places = ((member.offset + piece, min(CHUNK_BYTES, member.size - piece)) for piece in pieces)
        if name in self._digests:
            yield from (self._read(*place) for place in places)
            return
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            for place in places:
                chunk = self._read(*place)
                if len(pieces) == 1:
                    digest.update(chunk)
                    crc = zlib.crc32(chunk)
                    yield chunk
                else:
                    sums = beside.submit(zlib.crc32, chunk, crc), beside.submit(digest.update, chunk)
                    yield chunk
                    crc = sums[0].result()
                    sums[1].result()
        self._digests[name] = digest.hexdigest() if crc == member.crc else ""

    def digest(self, name: str) -> str:
        """Hex SHA-256 of the member; empty if it has not the checksum of its entry."""
        if name not in self._digests:
            for _ in self.chunks(name):
                pass
        return self._digests[name]


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


@dataclass
class Tree:
    """What a pack shows of a tree: leaves at some positions (from 1), and the roots of all subtrees without any of these."""

    size: int
    positions: Sequence[int]
    leaves: Sequence[bytes]
    nodes: Sequence[bytes]
    _blocks: list[bytes] = field(default_factory=list)

    def root(self) -> bytes:
        """ValueError if the nodes do not fit."""
        if not self.size:
            return root_of(())
        nodes = iter(self.nodes)
        try:
            root = self._root(nodes, 0, self.size, 0, len(self.positions))
        except StopIteration:
            raise ValueError("hashes of the tree are missing") from None
        if next(nodes, None) is not None:
            raise ValueError("there are more hashes than the tree has")
        return root

    def _root(self, nodes: Iterator[bytes], low: int, high: int, first: int, last: int) -> bytes:
        if first == last:
            return next(nodes)
        if last - first == high - low:
            return root_of(self.leaves[first:last])
        split = low + (1 << (high - low - 1).bit_length() - 1)
        middle = bisect_right(self.positions, split, first, last)
        left = self._root(nodes, low, split, first, middle)
        return root_of((left, self._root(nodes, split, high, middle, last)))

    def earlier_root(self, size: int) -> bytes | None:
        """The root when the tree had this size; None if the pack shows too little of it to tell."""
        if size == self.size:
            return self.root()
        if size > len(self.positions) or (size and self.positions[size - 1] != size):
            return None
        if not self._blocks:
            starts = range(0, len(self.leaves), BLOCK_LEAVES)
            self._blocks = [root_of(self.leaves[start : start + BLOCK_LEAVES]) for start in starts]
        blocks, rest = divmod(size, BLOCK_LEAVES)
        return root_of(self._blocks[:blocks] + [root_of(self.leaves[size - rest : size])] * (rest > 0))


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
    """Notes that the reader kept: checkpoints and promises."""

    checkpoints: Sequence[str] = ()
    promises: Sequence[str] = ()


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
    """The log of one service as far as it holds. `trusted` are the keys that may sign for it."""

    service: str
    trusted: Sequence[Key]
    checkpoint: Checkpoint
    tree: Tree
    witnesses: Sequence[Key]
    pinned: bool
    events: int = 0
    first_at: str | None = None
    last_at: str | None = None
    kept: Sequence[Checkpoint] = ()

    @property
    def epoch(self) -> int:
        """How often the log was begun, counting lawful recoveries from a backup."""
        return int(self.checkpoint.origin.rpartition("/")[2])


def check_log(container: Container, manifest: Manifest, service: str, pins: Pins) -> Log:
    """Keys, checkpoint, witnesses, events and tree of one service; Failure says what does not hold first."""
    covered, name = manifest.services[service], f"{manifest.deployment}/{service}"
    try:
        proof = json.loads(container.read(f"proof/{service}.json"))
        positions, leaves = _positions(proof["positions"]), _base64(proof["leaves"])
        nodes = [_base64(node) for node in proof["nodes"]]
        witnesses = [parse_key(key) for key in proof["witnesses"]]
        if len(leaves) != 32 * len(positions) or any(len(node) != 32 for node in nodes):
            raise ValueError("it has not one hash for each event")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Failure(Code.TREE, f"the proof cannot be read: {error!r}", service) from error
    trusted, pinned = _trusted_keys(proof, name, service, pins)
    checkpoint = _signed_checkpoint(proof.get("checkpoint"), name, trusted, service)
    if checkpoint.size < covered.position or (positions and positions[-1] > covered.position):
        raise Failure(
            Code.CHECKPOINT, "the checkpoint or the proof is not about the positions of the manifest", service
        )
    kept = [_signed_checkpoint(note, name, trusted, service) for note in proof.get("checkpoints", ())]
    tree = Tree(checkpoint.size, positions, [], nodes)
    log = Log(service, trusted, checkpoint, tree, [], pinned, kept=sorted(kept, key=lambda one: one.size))
    order = Order(service, manifest.system, positions, leaves)
    for lines in _lines(container, service):
        order.take(lines)
    order.finish(covered)
    tree.leaves = order.hashes
    _check_tree(log, order, leaves)
    order.require_head(covered)
    log.witnesses = _witnesses(log, witnesses, pins)
    log.pinned |= any(key in pins.witnesses for key in log.witnesses)
    log.events, log.first_at, log.last_at = len(order.hashes), order.first_at.decode(), order.last_at.decode()
    return log


def _positions(value: Any) -> Sequence[int]:
    positions = range(value["first"], value["last"] + 1) if isinstance(value, dict) else value
    if not isinstance(positions, range) and any(
        type(at) is not int or at <= before for before, at in zip([0, *positions], positions, strict=False)
    ):
        raise ValueError("positions do not ascend")
    return list(positions) if len(positions) < BLOCK_LEAVES else positions


def _trusted_keys(proof: Any, name: str, service: str, pins: Pins) -> tuple[list[Key], bool]:
    """The keys of the log from the first pinned one on, each but the first introduced by the one before it."""
    chain: list[Key] = []
    try:
        for entry in proof["keys"]:
            key = parse_key(entry["vkey"])
            if chain:
                change = parse_note(entry["rotation"])
                title, origin, *rest = change.text.split("\n")
                if (
                    title != "prooftrail key rotation"
                    or origin.rpartition("/")[0] != name
                    or rest != [entry["vkey"], ""]
                ):
                    raise ValueError("a change of keys says something else")
                if not change.signed_by(chain[-1]):
                    raise ValueError("a change of keys is not signed by the key before it")
            if key.name != name or key.algorithm != LOG_KEY:
                raise ValueError(f"{entry['vkey']} is no key of {name}")
            chain.append(key)
        pinned = [at for at, key in enumerate(chain) if key in pins.of(name)]
        if not chain or (pins.of(name) and not pinned):
            raise ValueError(f"none of its keys is the one that is pinned for {name}")
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(Code.SIGNATURE, f"the keys of the log do not hold: {error}", service) from error
    return chain[min(pinned, default=0) :], bool(pinned)


def _signed_checkpoint(content: Any, name: str, trusted: Sequence[Key], service: str) -> Checkpoint:
    try:
        checkpoint = parse_checkpoint(content)
        if not re.fullmatch(re.escape(name) + "/[1-9][0-9]{0,8}", checkpoint.origin):
            raise ValueError(f"its origin is {checkpoint.origin}")
    except (ValueError, AttributeError, TypeError) as error:
        raise Failure(Code.CHECKPOINT, f"the checkpoint cannot be read: {error}", service) from error
    if not any(checkpoint.note.signed_by(key) for key in trusted):
        what = f"the checkpoint of size {checkpoint.size} is not signed by a key of {name}"
        raise Failure(Code.CHECKPOINT, what, service)
    return checkpoint


def _witnesses(log: Log, stated: Sequence[Key], pins: Pins) -> list[Key]:
    """Who cosigned the checkpoint; if witnesses are pinned, at least one of them must have."""
    answers = {key: log.checkpoint.note.cosigned_by(key) for key in {*pins.witnesses, *stated}}
    if False in answers.values():
        raise Failure(Code.FORK, "a cosignature on the checkpoint is not its witness's", log.service)
    if pins.witnesses and not any(answers[key] for key in pins.witnesses):
        raise Failure(Code.FORK, "none of the pinned witnesses has cosigned the checkpoint", log.service)
    return sorted((key for key, answer in answers.items() if answer), key=lambda key: key.name)


def _lines(container: Container, service: str) -> Iterator[list[bytes]]:
    rest = b""
    for chunk in container.chunks(f"events/{service}.jsonl"):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
        if len(rest) > EVENT_BYTES_MAX:
            raise Failure(Code.EVENT, "an event is larger than any can be", service)
    if rest:
        raise Failure(Code.EVENT, "the last event ends without a line feed", service)


FIRST = (b"1", b"null", 0)


class Order:
    """Hashes events and holds their stamps to each other, in one pass and without reading the JSON behind the stamps."""

    def __init__(self, service: str, system: str, positions: Sequence[int], stated: bytes) -> None:
        self.hashes: list[bytes] = []
        self.first_at = self.last_at = b""
        self._service, self._system, self._positions, self._stated = service, system, positions, stated
        self._expected = iter(positions)
        self._versions: dict[bytes, int] = {}
        # By system: the sequence and the hash of the one before that its next event must name, and where that one stands.
        self._heads = {b"null": (b"null", b"null", 0)}
        self._wanted = b'"%b"' % system.encode()
        self._match = re.compile(
            rb'{"service":"%b","position":([1-9]\d{0,17}),"recorded_at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"'
            rb',"system":(null|"[^"\\]+"),"system_sequence":(null|[1-9]\d{0,17}),"system_previous":(null|"[0-9a-f]{64}")'
            rb',"id":"[^"\\]+","stream":"((?:[^"\\]|\\.)+)","version":([1-9]\d{0,17}),"name":"%b\.[a-z0-9-]+",'
            % (service.encode(), service.encode())
        ).match

    def take(self, lines: Sequence[bytes]) -> None:
        """The next events."""
        sha256, match, versions, heads, hashes = hashlib.sha256, self._match, self._versions, self._heads, self.hashes
        for line in lines:
            leaf = sha256(b"\0" + line).digest()
            hashes.append(leaf)
            found = match(line)
            at = next(self._expected, 0)
            if not found:
                raise self._failure(at, Code.EVENT, "the text is no event of this service")
            position, time, system, sequence, previous, stream, version = found.groups()
            if int(position) != at:
                raise self._misplaced(at, int(position))
            if time < self.last_at:
                raise self._failure(at, Code.ORDER, "the event is recorded earlier than the one before it")
            head = heads.get(system, FIRST)
            if sequence != head[0] or previous != head[1]:
                raise self._broken(at, head, sequence, previous)
            if system != b"null":
                heads[system] = (b"%d" % (int(sequence) + 1), b'"%b"' % leaf.hex().encode(), at)
            if system != self._wanted and self._system != "*" and not (system == b"null" and stream[:5] == b"log::"):
                raise self._failure(at, Code.ORDER, "the event belongs to another AI system")
            count = versions.get(stream, 0) + 1
            if int(version) != count:
                what = f"{stream.decode(errors='replace')} goes on with version {int(version)}, not {count}"
                raise self._failure(at, Code.ORDER, what)
            versions[stream] = count
            self.first_at, self.last_at = self.first_at or time, time

    def altered(self) -> int | None:
        """The first position whose hash is not the stated one."""
        known = zip(self._positions, self.hashes, range(0, len(self._stated), 32), strict=False)
        return next((at for at, leaf, byte in known if leaf != self._stated[byte : byte + 32]), None)

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
        return self._failure(
            expected or stamped, Code.ORDER, f"the event {stamped} stands where it does not belong", stamped
        )

    def _broken(self, at: int, head: tuple[bytes, bytes, int], sequence: bytes, previous: bytes) -> Failure:
        if sequence == head[0] and head[2]:
            what = f"the event has not the hash that the system's next one, at {at}, names"
            return self._failure(at, Code.EVENT, what, head[2])
        what = f"the event is number {sequence.decode()} of its AI system where {head[0].decode()} should follow"
        return self._failure(at, Code.ORDER, what, head[2] + 1 if sequence > head[0] else at, at)

    def finish(self, covered: Covered) -> None:
        """Nothing is missing at the end, and it is as many events as the manifest says."""
        missing = next(self._expected, None)
        if missing is not None:
            raise self._failure(missing, Code.ORDER, "the event is missing")
        count, _, last = self._head()
        if self._system == "*":
            last = next((n - 1 for n, at in enumerate(self._positions, start=1) if n != at), last)
        if count != covered.count or (self._system == "*" and last != covered.position):
            what = f"{count} events are here, and the manifest says {covered.count}"
            raise self._failure(last + 1, Code.ORDER, what, until=covered.position if count < covered.count else None)

    def require_head(self, covered: Covered) -> None:
        """The last event is the one that the manifest names."""
        _, head, last = self._head()
        if head != covered.last:
            raise Failure(
                Code.ORDER, "the last event is not the one that the manifest names", self._service, last or None
            )

    def _head(self) -> tuple[int, str, int]:
        """Count, leaf hash and position of the last event of the pack's system."""
        if self._system == "*":
            count = len(self.hashes)
            return (count, self.hashes[-1].hex(), self._positions[count - 1]) if count else (0, "-", 0)
        sequence, quoted, last = self._heads.get(self._wanted, FIRST)
        return int(sequence) - 1, quoted.decode().strip('"') if last else "-", last


def _check_tree(log: Log, order: Order, stated: bytes) -> None:
    tree, code, what = log.tree, Code.TREE, "the events do not give the root that the checkpoint names"
    try:
        holds = tree.root() == log.checkpoint.root
    except ValueError as error:
        holds, what = False, str(error)
    if b"".join(order.hashes) != stated:
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


def check_history(log: Log, others: Sequence[Checkpoint], recovered: Sequence[tuple[int, int]]) -> list[str]:
    """Other checkpoints of the log against its tree. Returns what cannot be compared. `recovered`: positions named as lost."""
    remarks = []
    for other in others:
        root = log.tree.earlier_root(other.size) if other.size <= log.tree.size else None
        same = other.origin == log.checkpoint.origin
        if root == other.root:
            continue
        if not same and any(first <= other.size <= last for first, last in recovered):
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


# What the events say, the files and the names beside them.


PERSON = re.compile(
    rb'"subject":("(?:[^"\\]|\\.)*"),"kind":"[a-z]+","issuer":"(?:[^"\\]|\\.)*","auth_time":(?:null|"[^"]*"),'
    rb'"on_behalf_of":(?:null|"(?:[^"\\]|\\.)*"),"name_commitment":"([0-9a-f]{64})"'
)
NAMED_FILE = re.compile(rb'"digest":"([0-9a-f]{64})","length":(\d{1,18})')
DIGEST = re.compile(rb"[0-9a-f]{64}")
STAMPS = (
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
)


@dataclass
class Contents:
    """What all events name together, and how often each event name occurs."""

    names: Counter[str] = field(default_factory=Counter)
    signatures: int = 0
    people: dict[str, set[str]] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    files: set[tuple[str, int]] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    recoveries: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


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
                _add(contents, event, log.service)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
    lines = (line for lines in _lines(container, log.service) for line in lines)
    return zip(log.tree.positions, lines, strict=True)


def _add(contents: Contents, event: Any, service: str) -> None:
    name, data = event["name"], event["data"]
    contents.names[name] += 1
    contents.signatures += isinstance(data.get("signature"), dict)
    if name == f"{service}.log-recovered":
        contents.recoveries.setdefault(service, []).append((int(data["lost_first"]), int(data["lost_last"])))
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
            service = member.split("/")[1].split(".")[0] if member.startswith(("events/", "proof/")) else None
            raise Failure(_class_of(member), f"the file {member} is not the one that the manifest lists", service)
    if not container.digest("manifest"):
        raise Failure(Code.UNREADABLE, "the manifest has not the checksum of its entry")
    return bool(pins.of(name))


def check_summary(container: Container, manifest: Manifest, logs: Sequence[Log]) -> None:
    """pack.json tells of exactly the events that are proven."""
    proven = {
        (log.service, at): leaf for log in logs for at, leaf in zip(log.tree.positions, log.tree.leaves, strict=True)
    }
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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Failure(Code.SIGNATURE, f"pack.json cannot be read: {error!r}") from error
    if len(told) != sum(covered.count for covered in manifest.services.values()):
        raise Failure(Code.ORDER, "pack.json leaves events out")


def check_evidence(container: Container, contents: Contents) -> int:
    """Every evidence file has the digest it is stored under, and an event names it with its length; returns how many."""
    files = [name for name in container.members if name.startswith("artefacts/")]
    for name in files:
        digest, size = name[10:], container.members[name].size
        lengths = {length for named, length in contents.files if named == digest}
        if container.digest(name) != digest:
            raise Failure(Code.EVIDENCE, f"the file {name} has not the digest that it is stored under")
        if digest not in contents.digests or (lengths and lengths != {size}):
            raise Failure(Code.EVIDENCE, f"no event names the file {name} with its length")
    return len(files)


def check_names(container: Container, contents: Contents) -> int:
    """Every printed name is the one that an event committed to, for that person; returns how many."""
    try:
        people = json.loads(container.read("people.json"))
        for commitment, person in people.items():
            salted = person["salt"].encode() + b"\0" + person["name"].encode()
            if hashlib.sha256(salted).hexdigest() != commitment:
                raise Failure(Code.NAME, f"the name {person['name']!r} is not the one that was committed to")
            if contents.people.get(commitment) != {person["subject"]}:
                raise Failure(Code.NAME, f"no event of {person['subject']!r} commits to the name {person['name']!r}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Failure(Code.NAME, f"people.json cannot be read: {error!r}") from error
    return len(people)


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
        index = bisect_left(log.tree.positions, position)
        if index == len(log.tree.positions) or log.tree.positions[index] != position:
            what = f"the promised event is not in the pack, which goes up to {manifest.services[log.service].position}"
            raise Failure(Code.ORDER, what, log.service, position)
        if log.tree.leaves[index] != leaf:
            raise Failure(Code.FORK, "the log had promised another event at this position", log.service, position)


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
    remarks = [remark for log in logs for remark in _compare(log, brought, contents)]
    files, names = check_evidence(container, contents), check_names(container, contents)
    for promise in brought.promises:
        check_promise(promise, manifest, logs)
    report.proven = _proven(manifest, logs, contents, files, names, len(brought.promises))
    report.not_proven = [*remarks, *_limits(manifest, logs, contents, names, pins), *NOT_PROVEN]
    if unpinned:
        report.code = Code.UNPINNED
        report.not_proven.insert(0, f"whose keys these are: no pinned key vouches for {', '.join(unpinned)}")


def _compare(log: Log, brought: Brought, contents: Contents) -> list[str]:
    name = log.checkpoint.origin.rpartition("/")[0]
    texts = [text for text in brought.checkpoints if text.rpartition("\n\n")[0].startswith(name + "/")]
    others = [*log.kept, *(_signed_checkpoint(text, name, log.trusted, log.service) for text in texts)]
    return check_history(log, others, contents.recoveries.get(log.service, []))


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


def _limits(manifest: Manifest, logs: Sequence[Log], contents: Contents, names: int, pins: Pins) -> list[str]:
    outside = {key for key in pins.witnesses if not key.name.startswith(manifest.deployment + "/")}
    alone = [log.service for log in logs if not outside.intersection(log.witnesses)]
    lines = [f"operator only: no pinned witness outside the operator cosigned {', '.join(alone)}"] * bool(alone)
    lines += [f"{log.service}: taken up from a backup, this is epoch {log.epoch}" for log in logs if log.epoch > 1]
    missing = len(contents.people) - names
    if missing:
        lines.append(f"{missing} names that are not in the pack; {len(contents.erased)} erasures are recorded in it")
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
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(parsed: argparse.Namespace) -> int:
    """Checks the pack that the arguments name and prints the report; returns the exit code."""
    try:
        lines = [*parsed.key, *(parsed.keys.read_text().splitlines() if parsed.keys else [])]
        pins = Pins(frozenset(parse_key(line.strip()) for line in lines if line.strip() and not line.startswith("#")))
        kept = [[file.read_text() for file in files] for files in (parsed.checkpoint, parsed.promise)]
    except (OSError, ValueError) as error:
        print(f"not understood: {error}", file=sys.stderr)
        return int(Code.USAGE)
    try:
        with parsed.pack.open("rb") as file:
            report = verify(file, pins, Brought(*kept))
    except OSError as error:
        report = Report(Code.UNREADABLE, Failure(Code.UNREADABLE, str(error)))
    print(json.dumps(report.plain(), indent=2) if parsed.json else report.text())
    return int(report.code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
