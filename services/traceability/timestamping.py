"""Has witnessed checkpoints stamped by a time stamp authority (RFC 3161): what is under them existed by then, says somebody else.

Nothing waits for it. Failure table of a stamp:
    refused, or failed before the row is there    the newest checkpoint is stamped a minute later
    twice (two replicas)                          the first row stays, the second answer is dropped
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg
import httpx

from shared.log.note import parse_note
from shared.timestamp import NoTimestamp, timestamp

EVERY_SECONDS = 3600.0
"""How often a log is stamped that has grown."""

RETRY_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StampedCheckpoint:
    """`response` is a TimeStampResp in DER over the SHA-256 of the text of `note`: all before the empty line and the signatures."""

    service: str
    size: int
    note: str
    response: bytes


@dataclass(kw_only=True)
class Timestamping:
    """The stamps of all logs of the deployment; none are asked for when `authority` is None."""

    pool: asyncpg.Pool
    authority: str | None
    every_s: float = EVERY_SECONDS
    _told: str = field(default="")

    async def run(self) -> None:
        """Runs for ever."""
        async with httpx.AsyncClient() as client:
            while self.authority is not None:
                try:
                    await self.stamp_due(client)
                    self._told = ""
                except (NoTimestamp, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    self._tell(f"{error} {getattr(error, 'why', '')}")
                await asyncio.sleep(min(RETRY_SECONDS, self.every_s))

    def _tell(self, trouble: str) -> None:
        """Once, until it is over or something else is the matter."""
        if trouble != self._told:
            _log.warning("checkpoints wait for their time stamp: %s", trouble)
        self._told = trouble

    async def stamp_due(self, client: httpx.AsyncClient) -> int:
        """Has the newest checkpoint stamped of each log that has grown and was not stamped for a while; how many. NoTimestamp."""
        assert self.authority is not None
        due = await self._due()
        for row in due:
            text = parse_note(row["note"]).text.encode()
            response = await timestamp(text, authority=self.authority, client=client)
            await self.pool.execute(
                "INSERT INTO traceability.checkpoint_timestamp (service, epoch, size, response)"
                " VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                row["service"],
                row["epoch"],
                row["size"],
                response,
            )
        return len(due)

    async def _due(self) -> Sequence[asyncpg.Record]:
        rows: Sequence[asyncpg.Record] = await self.pool.fetch(
            "SELECT c.* FROM (SELECT DISTINCT ON (service) service, epoch, size, note"
            " FROM traceability.witnessed_checkpoint ORDER BY service, epoch DESC, size DESC) c"
            " WHERE NOT EXISTS (SELECT FROM traceability.checkpoint_timestamp t WHERE t.service = c.service"
            " AND ((t.epoch, t.size) = (c.epoch, c.size) OR t.stamped_at > clock_timestamp() - make_interval(secs => $1)))",
            self.every_s,
        )
        return rows

    async def stamped(self, *, service: str, after: int, limit: int) -> list[StampedCheckpoint]:
        """The stamped checkpoints of a log above the size `after`, the smallest first."""
        rows = await self.pool.fetch(
            "SELECT service, size, note, response FROM traceability.checkpoint_timestamp"
            " JOIN traceability.witnessed_checkpoint USING (service, epoch, size)"
            " WHERE service = $1 AND size > $2 ORDER BY size, epoch DESC LIMIT $3",
            service,
            after,
            limit,
        )
        return [StampedCheckpoint(**row) for row in rows]
