"""What this service does unasked, again and again: deadlines that passed, and windows that somebody left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import asyncpg

from shared.command import CommandContext
from shared.errors import ProoftrailError

from .pane_tables import PaneTables
from .streams import DRIFT
from .triage import Triage
from .window_closer import WindowCloser

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """A check every `every_s` seconds; a clock only announces, the rules compare times."""

    triage: Triage
    panes: PaneTables
    closer: WindowCloser
    clock: Callable[[], datetime]
    every_s: float

    async def run(self) -> None:
        """Runs for ever; what fails is tried again in the next round."""
        while True:
            try:
                await self.make_one()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ProoftrailError) as error:
                _log.warning("a round of drift was cut short: %s", error)
            await asyncio.sleep(self.every_s)

    async def make_one(self) -> None:
        """One round."""
        context = CommandContext(actor=DRIFT, reason="a regular check", at=self.clock(), correlation=uuid4().hex)
        await self.triage.escalate_overdue(at=context.at, correlation=context.correlation)
        for watch in await self.panes.behind():
            await self.closer.close_due(context=context, watch=watch)
