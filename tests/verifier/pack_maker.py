"""A deployment on paper: services, logs, witnesses and packs, made with `cryptography` and `zipfile` alone.

Nothing of Prooftrail is used here, neither the services nor the verifier: the format is written down a second time.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LOG, WITNESS = 1, 4
SYSTEM = "flight-delay"
BEGAN = datetime(2026, 1, 1)  # noqa: DTZ001 -- written with a Z


def leaf_hash(event: bytes) -> bytes:
    """RFC 6962, 2.1."""
    return hashlib.sha256(b"\x00" + event).digest()


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def bare_nodes(leaves: Sequence[bytes], shown: set[int]) -> list[bytes]:
    """The roots of the maximal subtrees without a shown leaf (numbers from 0), left to right."""

    def walk(low: int, high: int) -> list[bytes]:
        if not shown.intersection(range(low, high)):
            return [tree_hash(leaves[low:high])]
        if high - low == 1:
            return []
        k = 1
        while 2 * k < high - low:
            k *= 2
        return walk(low, low + k) + walk(low + k, high)

    return walk(0, len(leaves)) if leaves else []


@dataclass(frozen=True)
class Signer:
    """An Ed25519 key under a name; `seed` makes it the same every time."""

    name: str
    seed: str = ""

    @property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"{self.name} {self.seed}".encode()).digest())

    def _hash(self, algorithm: int) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([algorithm]) + self._public).digest()[:4]

    @property
    def _public(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def vkey(self, algorithm: int = LOG) -> str:
        """The key for those who check."""
        encoded = base64.b64encode(bytes([algorithm]) + self._public).decode()
        return f"{self.name}+{self._hash(algorithm).hex()}+{encoded}"

    def signature(self, text: str) -> str:
        """The signature line of a log."""
        return self._line(self._hash(LOG) + self._private.sign(text.encode()))

    def cosignature(self, text: str, time: int = 1_767_225_600) -> str:
        """The line of a witness."""
        signed = self._private.sign(f"cosignature/v1\ntime {time}\n{text}".encode())
        return self._line(self._hash(WITNESS) + time.to_bytes(8, "big") + signed)

    def note(self, text: str) -> str:
        """The text with the signature."""
        return f"{text}\n{self.signature(text)}"

    def _line(self, content: bytes) -> str:
        return f"— {self.name} {base64.b64encode(content).decode()}\n"


@dataclass
class Service:
    """One service's store: events with their bytes, as the database would hold them."""

    name: str
    deployment: str
    keys: list[Signer]
    rotations: list[str] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    systems: list[str | None] = field(default_factory=list)
    heads: dict[str | None, tuple[int, str | None]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    sealed: str | None = None
    places: list[int] | None = None
    epoch: int = 1

    @property
    def leaves(self) -> list[bytes]:
        return [leaf_hash(event) for event in self.events]

    @property
    def origin(self) -> str:
        return f"{self.deployment}/{self.name}/{self.epoch}"

    def append(
        self, *, system: str | None, stream: str, name: str, data: Mapping[str, Any], person: Person | None = None,
        stamps: Mapping[str, Any] | None = None,
    ) -> int:  # fmt: skip
        """Stores one event as the database function does; `stamps` overrides what it would stamp."""
        position = len(self.events) + 1
        sequence, previous = self.heads.get(system, (0, None))
        event = {
            "service": self.name,
            "position": position,
            "recorded_at": (BEGAN + timedelta(milliseconds=position)).isoformat(timespec="microseconds") + "Z",
            "system": system,
            "system_sequence": sequence + 1 if system else None,
            "system_previous": previous if system else None,
            "id": f"{self.name}-{position:032x}",
            "stream": stream,
            "version": self.versions.get(stream, 0) + 1,
            "name": f"{self.name}.{name}",
            "schema": 1,
            "actor": (person or ROBOT).actor,
            "reason": "as planned",
            "correlation": "0" * 32,
            "causation": None,
            "data": data,
            **(stamps or {}),
        }
        raw = written(event)
        self.events.append(raw)
        self.systems.append(system)
        self.versions[stream] = event["version"]
        self.heads[system] = (sequence + 1, leaf_hash(raw).hex())
        return position

    def checkpoint(self, *, witnesses: Iterable[Signer], size: int | None = None, key: Signer | None = None) -> str:
        """The checkpoint of the first `size` events, by the newest key unless told otherwise."""
        covered = self.leaves[:size]
        text = f"{self.origin}\n{len(covered)}\n{base64.b64encode(tree_hash(covered)).decode()}\n"
        return (key or self.keys[-1]).note(text) + "".join(witness.cosignature(text) for witness in witnesses)

    def reopen(self) -> None:
        """Goes on from the events that there are now, as a store that was restored."""
        self.heads, self.versions = {}, {}
        for raw in self.events:
            event = json.loads(raw)
            self.heads[event["system"]] = (event["system_sequence"] or 0, leaf_hash(raw).hex())
            self.versions[event["stream"]] = event["version"]

    def restamp(self, number: int, **changes: Any) -> None:
        """Rewrites the event of this number (from 0) as somebody would who knows the format."""
        self.events[number] = written({**json.loads(self.events[number]), **changes})

    def rechain(self) -> None:
        """Makes positions, sequences and hashes of the events before fit again, as only the thorough would."""
        heads: dict[str | None, tuple[int, str | None]] = {}
        for number, system in enumerate(self.systems):
            sequence, previous = heads.get(system, (0, None))
            if system is not None:
                self.restamp(number, position=number + 1, system_sequence=sequence + 1, system_previous=previous)
            heads[system] = (sequence + 1, leaf_hash(self.events[number]).hex())

    def rotate(self, new: Signer, **told: str) -> None:
        """Introduces a new key, signed by the old one, and records it; `told` overrides what the event says."""
        note = self.keys[-1].note(f"prooftrail key rotation\n{self.origin}\n{new.vkey()}\n")
        change = {"old_key": self.keys[-1].vkey(), "new_key": new.vkey(), "signature": note, **told}
        self.append(system=None, stream=f"log::{self.name}", name="log-key-rotated", data=change)
        self.rotations.append(note)
        self.keys.append(new)

    def recover(self, *, lost: tuple[int, int], key: Signer | None = None, **told: Any) -> None:
        """Begins the log again as the next epoch, and records it; `told` overrides what the event says."""
        self.epoch += 1
        note = (key or self.keys[-1]).note(f"prooftrail recovery\n{self.origin}\n{lost[0]} {lost[1]}\n")
        statement = {
            "epoch": self.epoch, "last_checkpoint": None, "lost_first": lost[0], "lost_last": lost[1], "why": "a disk",
            "signature": note, **told,
        }  # fmt: skip
        self.append(system=None, stream=f"log::{self.name}", name="log-recovered", data=statement)

    def promise(self, position: int) -> str:
        """What the log hands out with a receipt."""
        event = json.loads(self.events[position - 1])
        line = f"{position} {self.leaves[position - 1].hex()} {event['recorded_at']}"
        return self.keys[-1].note(f"prooftrail promise\n{self.origin}\n{line}\n")


def written(event: Mapping[str, Any]) -> bytes:
    """The bytes of an event."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True)
class Person:
    """Somebody with a printed name, or a service without."""

    subject: str
    name: str | None = None

    @property
    def salt(self) -> str:
        return hashlib.sha256(self.subject.encode()).hexdigest()[:32]

    @property
    def commitment(self) -> str:
        return hashlib.sha256(f"{self.salt}\0{self.name}".encode()).hexdigest()

    @property
    def actor(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "kind": "person" if self.name else "service",
            "issuer": "urn:prooftrail:embedded-issuer",
            "auth_time": "2026-01-01T00:00:00Z" if self.name else None,
            "on_behalf_of": None,
            "name_commitment": self.commitment if self.name else None,
        }


ROBOT = Person("service-1")
ADA = Person("person-ada", "Ada Author")
QUINN = Person("person-quinn", "Quinn Quality ✓")
PREDICTIONS = b"flight,predicted\nAA1,0.25\n"


@dataclass
class Deployment:
    """All services, their witness and an outside one, the evidence and the directory."""

    name: str = "acme"
    services: dict[str, Service] = field(default_factory=dict)
    people: list[Person] = field(default_factory=lambda: [ADA, QUINN])
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def witness(self) -> Signer:
        return Signer(f"{self.name}/witness")

    @property
    def outside(self) -> Signer:
        return Signer("witness.example")

    @property
    def vkeys(self) -> list[str]:
        """Everything that a careful auditor pins."""
        logs = [service.keys[0].vkey() for service in self.services.values()]
        return [*logs, self.witness.vkey(LOG), self.outside.vkey(WITNESS)]

    def add_service(self, name: str) -> Service:
        """A service with an empty log and its own key."""
        self.services[name] = Service(name, self.name, [Signer(f"{self.name}/{name}")])
        return self.services[name]

    def proof(self, service: Service, system: str, **changes: Any) -> dict[str, Any]:
        """The proof member of one service: changes replace its fields."""
        shown = [at for at, of in enumerate(service.systems) if system == "*" or of in (system, None)]
        leaves = service.leaves
        places = service.places or list(range(1, len(leaves) + 1))
        whole = len(shown) == places[-1] if places else True
        return {
            "origin": service.origin,
            "checkpoint": service.sealed or service.checkpoint(witnesses=[self.witness, self.outside]),
            "keys": [
                {"vkey": key.vkey(), "rotation": rotation}
                for key, rotation in zip(service.keys, [None, *service.rotations], strict=True)
            ],
            "witnesses": [self.witness.vkey(WITNESS)],
            "positions": {"first": 1, "last": len(leaves)} if whole else [places[at] for at in shown],
            "leaves": base64.b64encode(b"".join(leaves[at] for at in shown)).decode(),
            "nodes": [base64.b64encode(node).decode() for node in bare_nodes(leaves, set(shown))],
            "checkpoints": service.kept if system == "*" else [],
            **changes,
        }

    def seal(self) -> None:
        """From here on packs carry the checkpoints of now, whatever happens to the events."""
        for service in self.services.values():
            service.sealed = service.checkpoint(witnesses=[self.witness, self.outside])

    def members(self, system: str) -> dict[str, bytes]:
        """The files of a pack without the manifest."""
        files: dict[str, bytes] = {}
        if system != "*":
            files["pack.json"] = json.dumps({"events": self._told(system)}).encode()
            files["pack.html"] = b"<!doctype html><title>Evidence</title>"
        for service in self.services.values():
            shown = [
                raw
                for raw, of in zip(service.events, service.systems, strict=True)
                if system == "*" or of in (system, None)
            ]
            files[f"events/{service.name}.jsonl"] = b"".join(raw + b"\n" for raw in shown)
            files[f"proof/{service.name}.json"] = json.dumps(self.proof(service, system)).encode()
        text = b"".join(content for name, content in files.items() if name.startswith("events/")).decode()
        files |= {f"artefacts/{digest}": content for digest, content in sorted(self.files.items()) if digest in text}
        named = [person for person in self.people if person.commitment in text]
        files["people.json"] = json.dumps(
            {
                person.commitment: {"subject": person.subject, "salt": person.salt, "name": person.name}
                for person in named
            }
        ).encode()
        return files

    def _told(self, system: str) -> list[dict[str, Any]]:
        return [
            {"service": s.name, "position": at, "leaf_hash": leaf_hash(raw).hex(), "event": raw.decode()}
            for s in self.services.values()
            for at, (raw, of) in enumerate(zip(s.events, s.systems, strict=True), start=1)
            if of == system
        ]

    def manifest(self, system: str, files: Mapping[str, bytes], *, key: Signer | None = None) -> bytes:
        """The signed list of the files."""
        lines = ["prooftrail pack", self.name, system, "ledger 99"]
        for service in self.services.values():
            own = [leaf_hash(raw).hex() for raw, of in zip(service.events, service.systems, strict=True)
                   if system in ("*", of)]  # fmt: skip
            size = int(service.sealed.split("\n")[1]) if service.sealed else len(service.events)
            count = size if system == "*" else len(own)
            lines.append(f"{service.name} {size} {count} {own[-1] if own else '-'}")
        lines += [f"{hashlib.sha256(content).hexdigest()} {len(content)} {name}" for name, content in files.items()]
        return (key or self.witness).note("\n".join(lines) + "\n").encode()

    def pack(self, system: str = SYSTEM, changed: Mapping[str, bytes | None] | None = None) -> bytes:
        """The pack; `changed` replaces files (None removes one) before the manifest is signed."""
        files = {
            name: content
            for name, content in {**self.members(system), **(changed or {})}.items()
            if content is not None
        }
        return packed({**files, "manifest": self.manifest(system, files)})


def packed(files: Mapping[str, bytes]) -> bytes:
    """The container, written by the standard library."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 0
            archive.writestr(entry, data)
            entry.external_attr = 0  # written at the end, in the directory
    return content.getvalue()


def unpacked(pack: bytes) -> dict[str, bytes]:
    """The files of a pack by the standard library."""
    with zipfile.ZipFile(io.BytesIO(pack)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def small_deployment(*, rounds: int = 3) -> Deployment:
    """Two services and two AI systems, a few events, one evidence file, two names, kept checkpoints."""
    made = Deployment()
    requirements, verification = made.add_service("requirements"), made.add_service("verification")
    for number in range(1, rounds + 1):
        for system in (SYSTEM, "other"):
            requirements.append(
                system=system, stream=f"requirement:{system}/REQ-{number}", name="requirement-drafted",
                data={"key": f"REQ-{number}"}, person=ADA,
            )  # fmt: skip
        signed = {"signer": QUINN.actor, "meaning": "approval", "digest": "0" * 64, "covers": ["0" * 64]}
        requirements.append(
            system=SYSTEM, stream=f"requirement:{SYSTEM}/REQ-{number}", name="requirement-approved",
            data={"key": f"REQ-{number}", "signature": signed}, person=QUINN,
        )  # fmt: skip
        requirements.kept.append(requirements.checkpoint(witnesses=[made.witness]))
    digest = hashlib.sha256(PREDICTIONS).hexdigest()
    made.files[digest] = PREDICTIONS
    verification.append(
        system=SYSTEM, stream=f"run:{SYSTEM}/RUN-1", name="evaluation-run-recorded",
        data={"artefacts": [{"name": "predictions", "digest": digest, "length": len(PREDICTIONS), "media_type": "text/csv"}]},
    )  # fmt: skip
    return made
