"""Gathers an exported pack: the events of one AI system, their proofs, the evidence files that they name, and printed names.

The checkpoint of each service is the earliest one kept that covers what the pack needs, so that the same ledger position and the
same erasures give the same bytes. Evidence files that are said to hold personal data are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO, Protocol

import asyncpg
import msgspec

from shared.artefacts import ArtefactMissing, Artefacts
from shared.directory import Names
from shared.erasure import person_stream
from shared.event import canonical_bytes
from shared.log.merkle import root_of
from shared.log.note import MalformedKey, SignatureLine, VerifierKey, parse_note
from shared.log.proofs import Checkpoint, NotYetSealed
from shared.log.statements import Rotation

from .domain.pack_proof import (
    Covered,
    ServiceProof,
    VouchedKey,
    bare_nodes,
    encoded,
    manifest_text,
    stated_positions,
    tree_root,
)
from .ledger import Entry, Ledger
from .pack_selection import Selection, Shown, require_told
from .pack_writer import PackWriter

POLL_S = 0.05

NAMED_FILE = re.compile(
    rb'"digest":"([0-9a-f]{64})","length":[0-9]+,"media_type":"(?:[^"\\]|\\.)*","personal_data":(true|false)'
)
SUBJECT = re.compile(rb'"subject":("(?:[^"\\]|\\.)*")')
COMMITMENT = re.compile(rb'"name_commitment":"([0-9a-f]{64})"')


class _Changed(msgspec.Struct, frozen=True):
    name: str
    data: Rotation


_changed = msgspec.json.Decoder(_Changed)


class PackSigner(Protocol):
    """Who signs manifests and cosigns checkpoints: the witness of this deployment."""

    @property
    def vkey(self) -> str: ...

    def sign_manifest(self, text: str) -> str: ...

    def cosigned(self, origin: str) -> str | None: ...


@dataclass
class Named:
    """What the events of a pack name: evidence files with their AI system, those among them with personal data, and names."""

    files: dict[str, str]
    personal: set[str]
    commitments: set[str]

    @classmethod
    def nothing(cls) -> Named:
        """Before the first event."""
        return cls({}, set(), set())

    def add(self, raw: bytes, system: str | None) -> None:
        """One more event."""
        self.commitments.update(map(bytes.decode, COMMITMENT.findall(raw)))
        for digest, personal in NAMED_FILE.findall(raw):
            self.files.setdefault(digest.decode(), system or "")
            if personal == b"true":
                self.personal.add(digest.decode())


@dataclass(frozen=True, kw_only=True)
class PackExport:
    """Writes packs. `log_keys` are the known keys of a log by its origin; `timeout_s` bounds the wait for a checkpoint."""

    pool: asyncpg.Pool
    ledger: Ledger
    names: Names
    artefacts: Artefacts
    signer: PackSigner
    log_keys: Callable[[str], Sequence[VerifierKey]]
    witnesses: tuple[str, ...]
    services: tuple[str, ...]
    deployment: str
    timeout_s: float

    async def write_system(
        self, file: BinaryIO, *, system: str, position: int, entries: Sequence[Entry], pages: Mapping[str, bytes]
    ) -> None:
        """The pack of an AI system as of a ledger position; `entries` are its events up to there. NotYetSealed."""
        writer = PackWriter(file)
        for name, content in pages.items():
            writer.add(name, content)
        found = await self.ledger.reached(position)
        reached = {service: found[service] for service in self.services if service in found}
        checkpoints = {service: await self._covering(service, last) for service, last in reached.items()}
        selections = {service: Selection(service, system, last) for service, last in reached.items()}
        for service, selection in selections.items():
            await selection.read(self.ledger, size=checkpoints[service].size)
        require_told(list(selections.values()), entries)
        people = {
            _person(found) for one in selections.values() for own in one.own for found in SUBJECT.findall(own.raw)
        }
        shown = {service: selection.shown(people) for service, selection in selections.items()}
        covered, named = [], Named.nothing()
        for service, events in shown.items():
            writer.add(f"events/{service}.jsonl", b"".join(event.raw + b"\n" for event in events))
            for event in events:
                named.add(event.raw, system if event.stream is None else None)
        for service, selection in selections.items():
            proof = await self._proof(selection, checkpoints[service], shown[service])
            writer.add(f"proof/{service}.json", canonical_bytes(proof))
            last = selection.own[-1].leaf.hex() if selection.own else None
            covered.append(Covered(service=service, position=selection.last, count=len(selection.own), last=last))
        await self.finish(writer, system=system, position=position, covered=covered, named=named)

    async def finish(
        self, writer: PackWriter, *, system: str, position: int, covered: Sequence[Covered], named: Named
    ) -> None:
        """Evidence files, names and manifest, which every pack ends with."""
        for digest, of in sorted(named.files.items()):
            if digest not in named.personal:
                await asyncio.to_thread(self._add_file, writer, of, digest)
        people = await self.names.people(named.commitments)
        writer.add("people.json", canonical_bytes({key: _plain(asdict(person)) for key, person in people.items()}))
        manifest = manifest_text(
            deployment=self.deployment,
            system=system,
            ledger_position=position,
            services=covered,
            members=writer.listed,
        )
        writer.finish(await asyncio.to_thread(self.signer.sign_manifest, manifest))

    def _add_file(self, writer: PackWriter, system: str, digest: str) -> None:
        try:
            content = self.artefacts.get(system=system, digest=digest)
        except ArtefactMissing:
            return
        writer.add(f"artefacts/{digest}", content)

    async def _proof(self, selection: Selection, checkpoint: Checkpoint, shown: Sequence[Shown]) -> ServiceProof:
        positions = [event.position for event in shown]
        nodes = await asyncio.to_thread(
            bare_nodes, size=checkpoint.size, positions=positions, subtree=_subtrees(selection.leaves)
        )
        return self.proof(
            selection.service,
            checkpoint,
            positions=positions,
            leaves=b"".join(event.leaf for event in shown),
            nodes=nodes,
            statements=[event.raw for event in selection.statements],
        )

    def proof(
        self,
        service: str,
        checkpoint: Checkpoint,
        *,
        positions: Sequence[int],
        leaves: bytes,
        nodes: Sequence[bytes],
        statements: Sequence[bytes],
        kept: Sequence[str] = (),
    ) -> ServiceProof:
        """The proof of these events under the checkpoint; `statements` are those in which the log tells of itself."""
        origin = parse_note(checkpoint.note).text.partition("\n")[0]
        return ServiceProof(
            origin=origin,
            size=checkpoint.size,
            checkpoint=checkpoint.note,
            keys=_chain(_changes(service, statements), self.log_keys(origin), checkpoint.note),
            witnesses=(self.signer.vkey, *self.witnesses),
            positions=stated_positions(positions),
            leaves=b64encode(leaves).decode(),
            nodes=encoded(nodes),
            checkpoints=kept,
        )

    async def _covering(self, service: str, position: int) -> Checkpoint:
        """The earliest witnessed checkpoint from `position` on that the log still has. NotYetSealed."""
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        while True:
            rows = await self.pool.fetch(
                "SELECT DISTINCT ON (epoch) epoch, size, root, note FROM traceability.witnessed_checkpoint"
                " WHERE service = $1 AND size >= $2 ORDER BY epoch, size",
                service,
                position,
            )
            found = [Checkpoint(**row) for row in rows]
            for checkpoint in found[:-1]:
                if await self._is_held(service, checkpoint):
                    return checkpoint
            if found:
                return found[-1]
            if asyncio.get_running_loop().time() > deadline:
                raise NotYetSealed(
                    f"No witnessed checkpoint covers {service}:{position} yet.",
                    why="A pack is proven against a signed and witnessed checkpoint, and those are made every second.",
                    next_step="Ask again in a moment, or for an earlier ledger position.",
                )
            await asyncio.sleep(POLL_S)

    async def _is_held(self, service: str, checkpoint: Checkpoint) -> bool:
        """Whether the log still has the tree of a checkpoint of an older epoch."""
        leaves = await self.ledger.leaf_hashes(service, checkpoint.size)
        if len(leaves) < 32 * checkpoint.size:
            return False
        return await asyncio.to_thread(tree_root, size=checkpoint.size, subtree=_subtrees(leaves)) == checkpoint.root


def _person(subject: bytes) -> str:
    return person_stream(msgspec.json.decode(subject))


def _subtrees(leaves: bytes | bytearray) -> Callable[[int, int], bytes]:
    """The complete subtrees over these leaf hashes."""

    def subtree(level: int, number: int) -> bytes:
        first, last = 32 * (number << level), 32 * ((number + 1) << level)
        return root_of([bytes(leaves[at : at + 32]) for at in range(first, last, 32)])

    return subtree


def _changes(service: str, statements: Sequence[bytes]) -> list[Rotation]:
    """The changes of keys among them; what cannot be read as one is the verifier's to judge."""
    told = []
    for raw in statements:
        with contextlib.suppress(msgspec.MsgspecError):
            told.append(_changed.decode(raw))
    return [one.data for one in told if one.name == f"{service}.log-key-rotated"]


def _chain(changes: Sequence[Rotation], known: Sequence[VerifierKey], note: str) -> list[VouchedKey]:
    """The key that signed the note, and before it each one that introduced the next."""
    keys = [*map(str, known), *(key for change in changes for key in (change.old_key, change.new_key))]
    lines = parse_note(note).lines
    introduced = {change.new_key: change for change in changes}
    chain: list[VouchedKey] = []
    key = next((key for key in keys if any(_signs(key, line) for line in lines)), keys[0] if keys else None)
    while key is not None:
        change = introduced.pop(key, None)
        chain.append(VouchedKey(vkey=key, rotation=None if change is None else change.signature))
        key = None if change is None else change.old_key
    return chain[::-1]


def _signs(key: str, line: SignatureLine) -> bool:
    try:
        parsed = VerifierKey.parse(key)
    except MalformedKey:
        return False
    return (parsed.name, parsed.hash) == (line.name, line.hash)


def _plain(person: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in person.items() if name != "name_commitment"}
