"""Witnesses, in a folder and over HTTP: what they cosign goes on from what they cosigned before, and two histories are refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.errors import ProoftrailError, Refused
from shared.log.checkpoint import MalformedCheckpoint, TreeHead, open_checkpoint
from shared.log.http_witness import HttpWitness, WitnessRefused, WitnessSilent
from shared.log.kept_folder import FolderDamaged, FolderInUse, KeptFolder
from shared.log.merkle import EMPTY_ROOT, consistency_proof
from shared.log.note import (
    COSIGNATURE,
    NOTE,
    MalformedNote,
    NobodyKnownSigned,
    SignatureWrong,
    SigningKey,
    VerifierKey,
    cosign_note,
    open_note,
    sign_note,
)
from shared.log.witness import (
    SIZE_MEDIA_TYPE,
    FolderWitness,
    ForkRefused,
    MalformedSubmission,
    OldSizeStale,
    Submission,
    UnknownLog,
    Witness,
    origin_hash,
    parse_submission,
    witness_answer,
)
from tests.shared.log.signing_process import LOG_KEY, SUBTREE, checkpoint, root

ORIGIN = "acme/requirements/1"
NEXT_KEY = SigningKey(LOG_KEY.name, NOTE, bytes(range(32)))
STRANGER = SigningKey("acme/strange", NOTE, bytes(range(1, 33)))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def logs(origin: str) -> list[VerifierKey]:
    """The log is known under two epochs, and with a key that followed the first."""
    known = origin in (ORIGIN, "acme/requirements/2")
    return [LOG_KEY.verifier, NEXT_KEY.verifier] if known else []


def opened(folder: Path) -> FolderWitness:
    """The witness of the folder."""
    return FolderWitness.open(folder, name="acme/witness", logs=logs, clock=lambda: NOON, wait_s=0)


def saying(status: int, media_type: str, content: bytes) -> Callable[..., Awaitable[None]]:
    """A server that gives one answer to everybody (ASGI)."""

    async def app(_scope: Message, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", media_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


class Door:
    """The witness over HTTP, as a server shows it (ASGI)."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.asked: list[bytes] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert (scope["method"], scope["path"]) == ("POST", "/witness/add-checkpoint")
        body = (await receive())["body"]
        self.asked.append(body)
        status, media_type, answer = await self._answered(body)
        await saying(status, media_type, answer.encode())(scope, receive, send)

    async def _answered(self, body: bytes) -> tuple[int, str, str]:
        try:
            asked = parse_submission(body)
            lines = await self._witness.add_checkpoint(old_size=asked.old_size, proof=asked.proof, note=asked.note)
        except ProoftrailError as error:
            return witness_answer(error)
        return 200, "text/plain; charset=utf-8", lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "witness"


@pytest.fixture
def local(folder: Path) -> FolderWitness:
    return opened(folder)


@pytest.fixture
def door(local: FolderWitness) -> Door:
    return Door(local)


@pytest.fixture
async def remote(local: FolderWitness, door: Door) -> AsyncIterator[HttpWitness]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door)) as client:
        yield HttpWitness("http://witness.example/witness/", key=VerifierKey.parse(local.vkey), client=client)


@pytest.fixture(params=["local", "remote"])
def witness(request: pytest.FixtureRequest, local: FolderWitness, remote: HttpWitness) -> Witness:
    """Both kinds of the port."""
    return local if request.param == "local" else remote


async def add(witness: Witness, old: int, new: int, note: str | None = None) -> str:
    """Asks with the right proof."""
    proof = consistency_proof(old, new, SUBTREE) if old <= new else []
    return await witness.add_checkpoint(old_size=old, proof=proof, note=note or checkpoint(new))


async def test_what_goes_on_is_cosigned(witness: Witness, local: FolderWitness) -> None:
    """Each step from the one before; the note with the line opens with both keys, and tells the time."""
    key = VerifierKey.parse(local.vkey)
    for old, new in ((0, 7), (7, 8), (8, 20)):
        line = await add(witness, old, new)
        cosigned = open_checkpoint(checkpoint(new) + line, [LOG_KEY.verifier, key])
        assert [signer.time for signer in cosigned.note.signers] == [None, int(NOON.timestamp())]
        assert local.cosigned(ORIGIN) == checkpoint(new) + line


async def test_the_same_checkpoint_again_is_no_harm(witness: Witness, folder: Path) -> None:
    """An answer that was lost is asked for again, with the size itself as the old one, and nothing is written."""
    line = await add(witness, 0, 7)
    state = folder / f"{origin_hash(ORIGIN)}.json"
    before = state.stat().st_mtime_ns
    with pytest.raises(OldSizeStale) as stale:
        await add(witness, 0, 7)
    assert stale.value.size == 7
    assert await add(witness, 7, 7) == line
    assert state.stat().st_mtime_ns == before


async def test_an_old_size_is_corrected(witness: Witness) -> None:
    """409 with the size to go on from, for a log that is behind and for one that is ahead of the witness's memory."""
    with pytest.raises(OldSizeStale) as ahead:
        await add(witness, 7, 20)
    assert ahead.value.size == 0
    await add(witness, 0, 8)
    for old, new in ((0, 20), (7, 20), (7, 7), (9, 20)):
        with pytest.raises(OldSizeStale) as stale:
            await add(witness, old, new)
        assert stale.value.size == 8
    await add(witness, 8, 20)


async def test_two_histories_are_refused(witness: Witness, local: FolderWitness) -> None:
    """Another root at one size, another proof, no proof, a proof from nothing: nothing changes."""
    await add(witness, 0, 7)
    held = local.cosigned(ORIGIN)
    fork = sign_note(TreeHead(ORIGIN, 7, root(3)).text(), LOG_KEY)
    other = sign_note(TreeHead(ORIGIN, 20, root(3)).text(), LOG_KEY)
    right = consistency_proof(7, 20, SUBTREE)
    for proof, note in (([], fork), (right, other), (right[:-1], checkpoint(20)), ([], checkpoint(20))):
        with pytest.raises(ForkRefused):
            await witness.add_checkpoint(old_size=7, proof=proof, note=note)
    assert local.cosigned(ORIGIN) == held
    await add(witness, 7, 20)


async def test_nothing_has_no_proof(witness: Witness) -> None:
    """From size 0 everything follows without a hash; the empty tree has one root."""
    with pytest.raises(ForkRefused):
        await witness.add_checkpoint(old_size=0, proof=[bytes(32)], note=checkpoint(7))
    empty = sign_note(TreeHead(ORIGIN, 0, EMPTY_ROOT).text(), LOG_KEY)
    assert "acme/witness" in await witness.add_checkpoint(old_size=0, proof=[], note=empty)


async def test_a_fork_is_proven_by_both_notes(local: FolderWitness) -> None:
    """The refusal holds the checkpoint that was cosigned: both are signed by the log."""
    await add(local, 0, 7)
    fork = sign_note(TreeHead(ORIGIN, 7, root(3)).text(), LOG_KEY)
    with pytest.raises(ForkRefused) as refused:
        await local.add_checkpoint(old_size=7, proof=[], note=fork)
    assert refused.value.held is not None
    heads = [open_checkpoint(note, [LOG_KEY.verifier]).head for note in (fork, refused.value.held)]
    assert [head.size for head in heads] == [7, 7]
    assert heads[0].root != heads[1].root


async def test_only_a_known_log_is_cosigned(witness: Witness) -> None:
    """Another origin is unknown; another signer, or an altered note, is refused."""
    unknown = sign_note(TreeHead("acme/releases/1", 7, root(7)).text(), LOG_KEY)
    with pytest.raises(UnknownLog):
        await witness.add_checkpoint(old_size=0, proof=[], note=unknown)
    for note in (
        sign_note(TreeHead(ORIGIN, 7, root(7)).text(), STRANGER),
        checkpoint(7).replace(f"{ORIGIN}\n7", f"{ORIGIN}\n8"),
    ):
        with pytest.raises(Refused) as refused:
            await witness.add_checkpoint(old_size=0, proof=[], note=note)
        assert isinstance(refused.value, NobodyKnownSigned | SignatureWrong | WitnessRefused)


async def test_a_log_may_change_its_key_and_begin_again(witness: Witness) -> None:
    """Any of its known keys counts; a new epoch is another origin, and begins at nothing."""
    await add(witness, 0, 7)
    await add(witness, 7, 20, note=sign_note(TreeHead(ORIGIN, 20, root(20)).text(), NEXT_KEY))
    await add(witness, 0, 7, note=sign_note(TreeHead("acme/requirements/2", 7, root(7)).text(), NEXT_KEY))


async def test_lines_of_others_are_not_kept(local: FolderWitness) -> None:
    """The kept checkpoint bears the log's signature and the witness's own."""
    other = SigningKey("witness.example", COSIGNATURE, bytes(range(3, 35)))
    text = TreeHead(ORIGIN, 7, root(7)).text()
    line = await add(local, 0, 7, note=checkpoint(7) + cosign_note(text, other, time=1))
    assert local.cosigned(ORIGIN) == checkpoint(7) + line
    assert local.cosigned("acme/requirements/2") is None


async def test_an_old_size_above_the_checkpoint_is_malformed(local: FolderWitness, door: Door) -> None:
    """400, before the witness tells what it has."""
    with pytest.raises(MalformedSubmission):
        await add(local, 8, 7)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://witness.example") as client:
        body = Submission(old_size=8, proof=(), note=checkpoint(7)).body()
        assert (await client.post("/witness/add-checkpoint", content=body)).status_code == 400


async def test_the_door_speaks_the_specified_language(remote: HttpWitness, door: Door) -> None:
    """The request body line by line, and the conflict with its media type (C2SP tlog-witness)."""
    await add(remote, 0, 7)
    await add(remote, 7, 20)
    lines = door.asked[1].decode().split("\n")
    assert (lines[0], lines[1 + lines[1:].index("") + 1]) == ("old 7", ORIGIN)
    assert len(lines[1 : lines.index("")]) == len(consistency_proof(7, 20, SUBTREE))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://witness.example") as client:
        answer = await client.post("/witness/add-checkpoint", content=door.asked[1])
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (409, SIZE_MEDIA_TYPE, "20\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 3",
        b"old 3\n",
        b"old 03\n\nnote",
        b"old -1\n\nnote",
        b"new 3\n\nnote",
        b"old 3 \n\nnote",
        b"old 3\nAAAA\n\nnote",
        b"old 3\n!\n\nnote",
        b"old 3\n" + b"A" * 43 + b"=\r\n\nnote",
        b"old 3\n" + (b"A" * 43 + b"=\n") * 64 + b"\nnote",
        b"\xff\n\nnote",
        b"old 3\n\n" + b"x" * 300_000,
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    """Each breaks one rule of the form."""
    with pytest.raises(MalformedSubmission):
        parse_submission(body)


def test_a_request_is_read_as_it_was_written() -> None:
    """With and without hashes, up to the largest number of them."""
    for count in (0, 1, 63):
        submission = Submission(old_size=count, proof=(bytes(32),) * count, note=checkpoint(7))
        assert parse_submission(submission.body().encode()) == submission


async def test_what_is_no_checkpoint_is_refused(local: FolderWitness) -> None:
    """A note with another text, and no note."""
    with pytest.raises(MalformedCheckpoint):
        await local.add_checkpoint(old_size=0, proof=[], note=sign_note("text\n", LOG_KEY))
    with pytest.raises(MalformedNote):
        await local.add_checkpoint(old_size=0, proof=[], note="text")


def test_the_witness_signs_manifests_and_nothing_else(local: FolderWitness) -> None:
    """By the same key under another hash; a checkpoint is no manifest."""
    note = local.sign_manifest("prooftrail pack\nacme\n*\nledger 3\n")
    assert open_note(note, [VerifierKey.parse(local.manifest_vkey)]).names == ("acme/witness",)
    with pytest.raises(NobodyKnownSigned):
        open_note(note, [VerifierKey.parse(local.vkey)])
    with pytest.raises(Refused):
        local.sign_manifest(TreeHead(ORIGIN, 7, root(7)).text())


async def test_what_was_cosigned_is_known_after_a_restart(local: FolderWitness, folder: Path) -> None:
    """Key and memory; and a damaged or missing file is refused, never made anew."""
    await add(local, 0, 7)
    again = opened(folder)
    assert again.vkey == local.vkey
    with pytest.raises(OldSizeStale):
        await add(again, 0, 20)
    state = folder / f"{origin_hash(ORIGIN)}.json"
    state.write_bytes(state.read_bytes()[:-2])
    with pytest.raises(FolderDamaged):
        await add(again, 7, 20)
    (folder / "keys.json").unlink()
    with pytest.raises(FolderDamaged, match="it is missing"):
        opened(folder)


async def test_a_folder_of_another_witness_is_refused(local: FolderWitness, folder: Path) -> None:
    """By its name; and while another process holds it."""
    with pytest.raises(FolderDamaged, match="acme/witness"):
        FolderWitness.open(folder, name="other/witness", logs=logs, clock=lambda: NOON)
    with KeptFolder(folder).held(), pytest.raises(FolderInUse):
        await add(local, 0, 7)
    await add(local, 0, 7)


@pytest.mark.parametrize("step", ["written", "synced", "renamed", "kept", "cosigned"])
async def test_killed_while_cosigning(local: FolderWitness, folder: Path, step: str) -> None:
    """The memory is the old or the new one; nobody has a line that it does not know of, and the same checkpoint gets one."""
    await add(local, 0, 10)
    label = step if step == "cosigned" else f"{origin_hash(ORIGIN)}.json {step}"
    command = [sys.executable, "-m", "tests.shared.log.signing_process", str(folder), "cosign", label]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert ((await process.communicate())[0], process.returncode) == (b"", -9)
    again = opened(folder)
    size = 10 if step in ("written", "synced") else 20
    fork = sign_note(TreeHead(ORIGIN, 20, root(3)).text(), LOG_KEY)
    with pytest.raises(ForkRefused):
        await again.add_checkpoint(old_size=size, proof=[], note=fork)
    assert "acme/witness" in await add(again, size, 20)


@pytest.mark.parametrize(
    ("status", "media_type", "content"),
    [
        (200, "text/plain", b""),
        (200, "text/plain", b"hello\n"),
        (200, "text/plain", b"\xff\n"),
        (200, "text/plain", b"x" * 300_000),
        (200, "text/plain", cosign_note("text\n", SigningKey("w", COSIGNATURE, bytes(32)), time=1).encode()),
        (409, "text/plain", b"7\n"),
        (409, SIZE_MEDIA_TYPE, b"seven\n"),
        (301, "text/plain", b""),
        (400, "text/plain", b"no"),
        (500, "text/plain", b"no"),
    ],
)
async def test_a_witness_that_makes_no_sense_is_silent(status: int, media_type: str, content: bytes) -> None:
    """Whatever a server answers, only a cosignature by the pinned key counts."""
    transport = httpx.MockTransport(
        lambda _: httpx.Response(status, headers={"content-type": media_type}, content=content)
    )
    async with httpx.AsyncClient(transport=transport) as client:
        key = SigningKey("witness.example", COSIGNATURE, bytes(32)).verifier
        with pytest.raises(WitnessSilent):
            await add(HttpWitness("http://witness.example", key=key, client=client), 0, 7)


async def test_a_false_cosignature_is_noticed(local: FolderWitness) -> None:
    """A line under the pinned key's name and hash that is not by it."""
    line = await add(local, 0, 7)
    transport = httpx.ASGITransport(saying(200, "text/plain", line.encode()))
    async with httpx.AsyncClient(transport=transport) as client:
        witness = HttpWitness("http://witness.example", key=VerifierKey.parse(local.vkey), client=client)
        assert await add(witness, 0, 7) == line
        with pytest.raises(SignatureWrong):
            await add(witness, 0, 8)


async def test_a_witness_that_is_not_there_is_silent() -> None:
    """Nobody listens."""
    async with httpx.AsyncClient(trust_env=False) as client:
        key = SigningKey("witness.example", COSIGNATURE, bytes(32)).verifier
        with pytest.raises(WitnessSilent, match=r"witness\.example"):
            await add(HttpWitness("http://127.0.0.1:1", key=key, client=client), 0, 7)
