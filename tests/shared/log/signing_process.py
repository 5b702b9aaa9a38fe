"""A process that opens a signer or a witness, does one thing, says what it gave out, and may be killed at a step on the way.

python -m tests.shared.log.signing_process FOLDER DOING STEP      STEP `-`: none; `<step>` the first time that it comes
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from shared.log.checkpoint import TreeHead
from shared.log.merkle import consistency_proof, root_of
from shared.log.note import NOTE, SigningKey, sign_note
from shared.log.signer import LogSigner
from shared.log.witness import FolderWitness
from tests.shared.log.trees import leaves, subtree_of

LEAVES = leaves(20)
SUBTREE = subtree_of(LEAVES)
LOG_KEY = SigningKey("acme/requirements", NOTE, bytes(32))


def root(size: int) -> bytes:
    """The root over the first leaves."""
    return root_of(LEAVES[:size])


def main(folder: Path, doing: str, step: str) -> None:
    """Kills itself at the step, or says what it gave out."""

    def at(label: str) -> None:
        if label == step:
            os.kill(os.getpid(), signal.SIGKILL)

    given = cosigned(folder, at) if doing == "cosign" else signed(folder, doing, at)
    print(given, flush=True)


def opened(folder: Path, at: object = None) -> LogSigner:
    """The signer of the folder."""
    steps = {} if at is None else {"at": at}
    return LogSigner.open(folder, deployment="acme", service="requirements", **steps)  # type: ignore[arg-type]


def signed(folder: Path, doing: str, at: object) -> str:
    """What the signer gave out."""
    signer = opened(folder, at)
    if doing == "sign":
        proof = consistency_proof(signer.size, 20, SUBTREE)
        return signer.sign(size=20, root=root(20), consistency=proof)
    if doing == "rotate":
        return signer.begin_rotation().new_key
    if doing == "finish":
        signer.finish_rotation(signer.begin_rotation())
        return signer.vkey
    if doing == "recover":
        return signer.open_epoch(lost_first=21, lost_last=25, why="a disk").signature
    if doing == "hold":
        with signer.hold():
            print("held", flush=True)
            sys.stdin.read()
    return signer.vkey


def cosigned(folder: Path, at: object) -> str:
    """What the witness gave out for a growth from 10 to 20 leaves."""
    witness = FolderWitness.open(
        folder,
        name="acme/witness",
        logs=lambda _: [LOG_KEY.verifier],
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        at=at,  # type: ignore[arg-type]
    )
    proof = consistency_proof(10, 20, SUBTREE)
    return asyncio.run(witness.add_checkpoint(old_size=10, proof=proof, note=checkpoint(20)))


def checkpoint(size: int) -> str:
    """As the log signs it."""
    return sign_note(TreeHead("acme/requirements/1", size, root(size)).text(), LOG_KEY)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
