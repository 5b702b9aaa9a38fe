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

FAILURES = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    ProoftrailError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """A check every `every_s` seconds; a clock only announces, the rules compare times."""

    triage: Triage
    panes: PaneTables
    closer: WindowCloser
    clock: Callable[[], datetime]
    every_s: float

    async def run(self) -> None:
        """Runs for ever; what fails is told, and tried again in the next round."""
        while True:
            await self.make_one()
            await asyncio.sleep(self.every_s)

    async def make_one(self) -> None:
        """One round. What is wrong with one plan keeps no other one waiting."""
        context = CommandContext(actor=DRIFT, reason="a regular check", at=self.clock(), correlation=uuid4().hex)
        try:
            await self.triage.escalate_overdue(at=context.at, correlation=context.correlation)
            behind = await self.panes.behind()
        except FAILURES as error:
            _log.warning("a round of drift was cut short: %s", error)
            return
        for watch in behind:
            try:
                await self.closer.close_due(context=context, watch=watch)
            except FAILURES:
                _log.exception("the windows of %s in %s are not closed", watch.plan, watch.environment)
