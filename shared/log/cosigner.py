"""Has the checkpoints of one log cosigned: first by the witnesses outside, then by that of the deployment, which keeps the note.

Witnesses are asked about the last checkpoint only. One that is silent is asked again with the next checkpoint, or a little later;
one that speaks of a fork is heard in the log and in the metrics, and sealing goes on: what it says is for people to judge.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from shared.errors import ProoftrailError, Unavailable
from shared.log.proofs import Checkpoint, LogTables
from shared.log.witness import ForkRefused, OldSizeStale, Witness

OUTSIDE_SECONDS_MAX = 2.0
"""How long the checkpoint waits for witnesses outside before the deployment's own one keeps it."""

AGAIN_SECONDS = 2.0

DATABASE_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_log = logging.getLogger(__name__)


class Cosigner:
    """Asks the witnesses; `own` may grow until the service runs, since the deployment's witness is built last."""

    def __init__(self, *, pool: asyncpg.Pool, service: str, outside: Sequence[Witness], own: Sequence[Witness]) -> None:
        self.refused = 0
        self._pool, self._service = pool, service
        self._tables = LogTables(connection=pool, service=service)
        self._outside, self._own = outside, own
        self._latest: Checkpoint | None = None
        self._news = asyncio.Event()
        self._sizes: dict[tuple[str, int], int] = {}
        self._told: dict[str, str] = {}

    def sealed(self, checkpoint: Checkpoint) -> None:
        """There is a newer checkpoint."""
        self._latest = checkpoint
        self._news.set()

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                missing = await self.ask()
            except DATABASE_AWAY as error:
                _log.warning("no witness of %s can be asked now: %s", self._service, error)
                missing = True
            if missing:
                await asyncio.sleep(AGAIN_SECONDS)
                self._news.set()

    async def ask(self) -> bool:
        """Asks all witnesses about the last checkpoint; returns whether one is to be asked again."""
        checkpoint = self._latest
        if checkpoint is None:
            return False
        asked = [asyncio.ensure_future(self._lines(witness, checkpoint)) for witness in self._outside]
        if asked:
            await asyncio.wait(asked, timeout=OUTSIDE_SECONDS_MAX)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        lines = [one.result() for one in asked if not one.cancelled() and one.exception() is None]
        noted = await self._keep(checkpoint, [line for line in lines if line])
        own = [await self._lines(witness, noted) for witness in self._own]
        await self._keep(noted, [line for line in own if line])
        return len(asked) > len(lines) or None in (*lines, *own)

    async def _lines(self, witness: Witness, checkpoint: Checkpoint) -> str | None:
        """The witness's cosignature lines; empty if it refuses for good, None if it is to be asked again."""
        known = (witness.vkey, checkpoint.epoch)
        try:
            try:
                lines = await self._asked(witness, checkpoint, self._sizes.get(known, 0))
            except OldSizeStale as stale:
                lines = await self._asked(witness, checkpoint, stale.size)
        except Unavailable as silent:
            self._tell(witness, logging.WARNING, silent)
            return None
        except ProoftrailError as refusal:
            self.refused += isinstance(refusal, ForkRefused | OldSizeStale)
            self._tell(witness, logging.ERROR, refusal)
            return ""
        self._sizes[known] = checkpoint.size
        self._told.pop(witness.vkey, None)
        return lines

    async def _asked(self, witness: Witness, checkpoint: Checkpoint, old_size: int) -> str:
        proof = await self._tables.consistency(old_size, checkpoint.size) if old_size < checkpoint.size else []
        return await witness.add_checkpoint(old_size=old_size, proof=proof, note=checkpoint.note)

    def _tell(self, witness: Witness, level: int, error: ProoftrailError) -> None:
        """The same once only."""
        if self._told.get(witness.vkey) != error.reason:
            _log.log(level, "%s is not witnessed by %s: %s %s", self._service, witness.vkey, error.what, error.why)
        self._told[witness.vkey] = error.reason

    async def _keep(self, checkpoint: Checkpoint, lines: Sequence[str]) -> Checkpoint:
        """The checkpoint with the lines that its note has not yet got."""
        note = checkpoint.note + "".join(line for line in lines if line not in checkpoint.note)
        if note != checkpoint.note:
            await self._pool.execute(
                f"UPDATE {self._service}.log_checkpoint SET note = $3 WHERE epoch = $1 AND size = $2",
                checkpoint.epoch,
                checkpoint.size,
                note,
            )
        return Checkpoint(epoch=checkpoint.epoch, size=checkpoint.size, root=checkpoint.root, note=note)
