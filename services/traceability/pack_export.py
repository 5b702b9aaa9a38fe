"""Gathers an exported pack: the events of one AI system, their proofs, the evidence files that they name, and printed names.

The checkpoint of each service is the earliest one kept that covers what the pack needs, so that the same ledger position and the
same erasures give the same bytes. Evidence files that are said to hold personal data are left out.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Protocol

import asyncpg
import msgspec

from shared.artefacts import ArtefactMissing, Artefacts
from shared.directory import Names
from shared.erasure import person_stream
from shared.event import canonical_bytes
from shared.log.facts import log_stream
from shared.log.merkle import root_of
from shared.log.note import VerifierKey, parse_note
from shared.log.proofs import Checkpoint, NotYetSealed

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
from .pack_writer import PackWriter

POLL_S = 0.05

NAMED_FILE = re.compile(
    rb'"digest":"([0-9a-f]{64})","length":[0-9]+,"media_type":"(?:[^"\\]|\\.)*","personal_data":(true|false)'
)
SUBJECT = re.compile(rb'"subject":("(?:[^"\\]|\\.)*")')
COMMITMENT = re.compile(rb'"name_commitment":"([0-9a-f]{64})"')


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
        shown = await self._by_service(entries, position)
        found = await self.ledger.reached(position)
        reached = {service: found[service] for service in self.services if service in found}
        covered, named = [], Named.nothing()
        for service in reached:
            raws = [entry.event.raw for entry in shown[service]]
            writer.add(f"events/{service}.jsonl", b"".join(raw + b"\n" for raw in raws))
            for entry in shown[service]:
                named.add(entry.event.raw, entry.event.system)
        for service, last in reached.items():
            proof = await self._proof(service, last, shown[service])
            writer.add(f"proof/{service}.json", canonical_bytes(proof))
            own = [entry.event for entry in shown[service] if entry.event.system == system]
            head = own[-1].leaf_hash if own else None
            covered.append(Covered(service=service, position=last, count=len(own), last=head))
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

    async def _by_service(self, entries: Sequence[Entry], position: int) -> dict[str, list[Entry]]:
        """The entries, with what logs recorded about themselves and erasures of the people in them, up to the position."""
        shown: dict[str, list[Entry]] = {service: [] for service in self.services}
        subjects = {subject for entry in entries for subject in SUBJECT.findall(entry.event.raw)}
        streams = [log_stream(service) for service in self.services]
        streams += [person_stream(msgspec.json.decode(subject)) for subject in subjects]
        for entry in (*entries, *await self.ledger.read_streams(streams, to=position)):
            shown[entry.event.service].append(entry)
        return {service: sorted(own, key=lambda entry: entry.event.position) for service, own in shown.items()}

    async def _proof(self, service: str, last: int, shown: Sequence[Entry]) -> ServiceProof:
        checkpoint = await self._covering(service, last)
        positions = [entry.event.position for entry in shown]
        subtree = await self._subtrees(service, checkpoint.size)
        nodes = await asyncio.to_thread(bare_nodes, size=checkpoint.size, positions=positions, subtree=subtree)
        leaves = [bytes.fromhex(entry.event.leaf_hash) for entry in shown]
        return await self.proof(service, checkpoint, positions=positions, leaves=b"".join(leaves), nodes=nodes)

    async def _subtrees(self, service: str, size: int) -> Callable[[int, int], bytes]:
        """The complete subtrees of a log's first `size` leaves, as the ledger has them."""
        leaves = await self.ledger.leaf_hashes(service, size)

        def subtree(level: int, number: int) -> bytes:
            first, last = 32 * (number << level), 32 * ((number + 1) << level)
            return root_of([leaves[at : at + 32] for at in range(first, last, 32)])

        return subtree

    async def proof(
        self,
        service: str,
        checkpoint: Checkpoint,
        *,
        positions: Sequence[int],
        leaves: bytes,
        nodes: Sequence[bytes],
        kept: Sequence[str] = (),
    ) -> ServiceProof:
        """The proof of these events under the checkpoint."""
        origin = parse_note(checkpoint.note).text.partition("\n")[0]
        return ServiceProof(
            origin=origin,
            size=checkpoint.size,
            checkpoint=checkpoint.note,
            keys=await self._keys(service, origin, checkpoint.note),
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
        subtree = await self._subtrees(service, checkpoint.size)
        return await asyncio.to_thread(tree_root, size=checkpoint.size, subtree=subtree) == checkpoint.root

    async def _keys(self, service: str, origin: str, note: str) -> list[VouchedKey]:
        """The keys of the log from its first one up to that which signed the note."""
        rows = await self.pool.fetch(
            "SELECT event FROM traceability.ledger WHERE service = $1 AND name = $2 ORDER BY service_position",
            service,
            f"{service}.log-key-rotated",
        )
        changes = [msgspec.json.decode(row["event"])["data"] for row in rows]
        return _chain(changes, self.log_keys(origin), {(line.name, line.hash) for line in parse_note(note).lines})


def _chain(
    changes: Sequence[Mapping[str, Any]], known: Sequence[VerifierKey], signers: Collection[tuple[str, bytes]]
) -> list[VouchedKey]:
    first = [changes[0]["old_key"]] if changes else list(map(str, known[:1]))
    keys = [VouchedKey(vkey=key, rotation=None) for key in first]
    keys += [VouchedKey(vkey=change["new_key"], rotation=change["signature"]) for change in changes]
    parsed = [VerifierKey.parse(key.vkey) for key in keys]
    last = max((at for at, key in enumerate(parsed) if (key.name, key.hash) in signers), default=len(keys) - 1)
    return keys[: last + 1]


def _plain(person: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in person.items() if name != "name_commitment"}
