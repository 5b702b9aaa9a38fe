"""The log of one service as a process holds it: what signs, what seals, what is asked for proofs, and what it promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import asyncpg

from shared.errors import Conflict
from shared.feed import Feed
from shared.log.cosigner import Cosigner
from shared.log.patrol import Patrol
from shared.log.promise import Promisable
from shared.log.proofs import LogTables
from shared.log.sealer import USUAL_PACE, Pace, Sealer, seconds_waiting
from shared.log.signer import LogSigner
from shared.log.witness import Witness
from shared.telemetry import LogFigures, forget_log, watch_log


class SealingRefused(Conflict):
    """Nothing is being sealed; `what`, `why` and `next_step` are those of the reason."""

    def __init__(self, *, of: str, what: str, why: str, next_step: str) -> None:
        super().__init__(what, why=why, next_step=next_step)
        self.of = of


class ServiceLog:
    """Built before the service serves; `check` first, `run` for as long as it serves."""

    def __init__(
        self,
        *,
        service: str,
        pool: asyncpg.Pool,
        dsn: str,
        signer: LogSigner,
        feed: Feed,
        outside: Sequence[Witness],
        own: Sequence[Witness],
        clock: Callable[[], datetime],
        pace: Pace = USUAL_PACE,
    ) -> None:
        self.service = service
        self.signer = signer
        self.tables = LogTables(connection=pool, service=service)
        self.cosigner = Cosigner(pool=pool, service=service, outside=outside, own=own)
        self.sealer = Sealer(
            dsn=dsn, service=service, signer=signer, feed=feed, on_sealed=self.cosigner.sealed, pace=pace
        )
        self.patrol = Patrol(pool=pool, service=service, signer=signer, sealer=self.sealer)
        self._pool, self._clock = pool, clock

    @property
    def origin(self) -> str:
        """The origin of the epoch that is open."""
        return self.signer.origin

    def origin_of(self, epoch: int) -> str:
        """The origin of an epoch."""
        return f"{self.signer.name}/{epoch}"

    def promise(self, events: Sequence[Promisable]) -> str | None:
        """The signed promise that the log will contain the events; None for none, and while nothing can be sealed."""
        return None if self.sealer.refusal is not None else self.signer.promise(events)

    async def check(self) -> None:
        """Compares signer and tables, before anything is promised."""
        await self.sealer.check(self._pool)

    async def require_sealing(self) -> None:
        """Raises SealingRefused with the reason if nothing is being sealed, whichever process should."""
        row = await self._pool.fetchrow(f"SELECT reason, what, why, next_step FROM {self.service}.log_refusal")
        refusal = self.sealer.refusal
        if row is not None:
            raise SealingRefused(of=row["reason"], what=row["what"], why=row["why"], next_step=row["next_step"])
        if refusal is not None:
            raise SealingRefused(of=refusal.reason, what=refusal.what, why=refusal.why, next_step=refusal.next_step)

    async def run(self) -> None:
        """Seals, has it witnessed and patrols until cancelled."""
        watch_log(self.service, self._figures)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.sealer.run())
                group.create_task(self.cosigner.run())
                group.create_task(self.patrol.run())
        finally:
            forget_log(self.service)

    def _figures(self) -> LogFigures:
        return LogFigures(
            size=self.sealer.size,
            age_s=seconds_waiting(self.sealer, self._clock()),
            refused=int(self.sealer.refusal is not None),
            forks=self.cosigner.refused,
        )
