"""Appends many commands by one call of the function `append_batch`, and finds out what became of a call whose answer got lost.

Failure table of one batch
    refused by PostgreSQL           nothing was written; when an argument may be the reason, each command is tried alone
    the connection broke, any time  the same batch is sent again, for GIVE_UP_SECONDS: the function knows what the first call
                                    stored, so nothing is written twice and every answer is the one that was lost
    it stayed broken                StoreAway: with `may_be_stored` if any call may have been committed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any, Literal, TypeVar

import asyncpg
import msgspec
from eventsourcing.persistence import StoredEvent

from shared.database_connection import may_come_from_an_argument
from shared.errors import Unavailable
from shared.event import system_of
from shared.kept_connection import KeptConnection
from shared.telemetry import append_batch_size

GIVE_UP_SECONDS = 5.0
"""How long a batch is sent again while the database is away: a restart takes less."""

ANSWER_SECONDS_MAX = 30.0
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.02, 0.5

BROKEN = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
"""What the loss of a connection looks like, while it is used or made; TimeoutError is an OSError."""

ROLLED_BACK = (asyncpg.QueryCanceledError, asyncpg.TransactionRollbackError)
"""PostgreSQL ended the transaction for a reason that passes."""

_log = logging.getLogger(__name__)


class StoreAway(Unavailable):
    """PostgreSQL did not answer, or refused. `may_be_stored`: the command may have been carried out all the same."""

    def __init__(self, *, why: str, may_be_stored: bool) -> None:
        super().__init__(
            "The store did not answer.",
            why=f"{why} "
            + ("The command may or may not have been carried out." if may_be_stored else "Nothing was written."),
            next_step="Send the same request with the same Idempotency-Key again.",
        )
        self.may_be_stored = may_be_stored


class AppendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one command, and under which key its answer is kept: (subject, key, fingerprint)."""

    events: Sequence[StoredEvent]
    record: str
    version: int
    key: tuple[str, str, str] | None
    size: int

    @property
    def claim(self) -> Hashable | None:
        """Two requests under one key are not written together: the second is the first again."""
        return self.key and self.key[:2]


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """The events of the command are stored: positions from `first` on, one time, and their leaf hashes."""

    first: int
    recorded_at: datetime
    leaf_hashes: Sequence[bytes]


class NotAppended(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing was stored now. `again`: the batch was sent before, so that it may have been then.

    conflict: the stream is at `version`. answered: the key has an answer. reused: of another request. stored: by the first call.
    """

    outcome: Literal["conflict", "answered", "reused", "stored"]
    version: int | None
    again: bool


Answer = Appended | NotAppended

Result = TypeVar("Result")


class _Lost(Exception):
    """A call had no answer. `may_be_stored`: it was on its way, so that its transaction may have been committed."""

    def __init__(self, *, may_be_stored: bool) -> None:
        super().__init__()
        self.may_be_stored = may_be_stored


async def read_again(read: Callable[[], Awaitable[Result]], *, give_up_s: float) -> Result:
    """What is known to be stored, also while the connection breaks: reads again until `give_up_s`; StoreAway."""
    began = asyncio.get_running_loop().time()
    while True:
        try:
            return await read()
        except (*BROKEN, *ROLLED_BACK) as error:
            if asyncio.get_running_loop().time() - began > give_up_s:
                raise StoreAway(why=f"{_named(error)}.", may_be_stored=True) from error
        await asyncio.sleep(RETRY_SECONDS_MIN)


class BatchAppender:
    """Sends batches to one service's store. `at_step` is told each step, for tests that end the process there."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        service: str,
        give_up_s: float = GIVE_UP_SECONDS,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._connection = KeptConnection(pool=pool, take_seconds_max=give_up_s)
        self._service = service
        self._labels = {"service": service}
        self._statement = (
            f"SELECT first, at, leaf_hashes, outcomes, versions FROM {service}.append_batch("
            "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
        )
        self._give_up_s = give_up_s
        self._at_step = at_step
        self._away_since: float | None = None

    async def send(self, batch: Sequence[AppendRequest]) -> Sequence[Answer | Exception]:
        """What became of each command, in order; raises nothing."""
        append_batch_size.record(len(batch), self._labels)
        try:
            return await self._send_until_answered(batch)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the answer of those who wait
            if len(batch) == 1 or not may_come_from_an_argument(error):
                return [error] * len(batch)
        return [(await self.send([request]))[0] for request in batch]

    async def _send_until_answered(self, batch: Sequence[AppendRequest]) -> list[Answer]:
        again, pause = False, RETRY_SECONDS_MIN
        while True:
            try:
                row = await self._send_once(batch, again)
            except _Lost as lost:
                again |= lost.may_be_stored
                _log.warning(
                    "a batch of %d commands of %s had no answer: %s", len(batch), self._service, lost.__cause__
                )
                if self._has_been_away_for(self._give_up_s):
                    raise StoreAway(why=f"{_named(lost.__cause__)}.", may_be_stored=again) from lost
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            except asyncpg.InsufficientResourcesError as error:
                raise StoreAway(why=f"{_named(error)}.", may_be_stored=again) from error
            else:
                self._away_since = None
                return _answers(batch, row, again=again)

    async def _send_once(self, batch: Sequence[AppendRequest], again: bool) -> asyncpg.Record:
        self._at_step("taking a connection")
        connection = await self._taken()
        late = asyncio.get_running_loop().call_later(ANSWER_SECONDS_MAX, self._connection.drop)
        try:
            self._at_step("before sending")
            row = await connection.fetchrow(self._statement, again, *_arguments(batch))
            self._at_step("before telling")
        except ROLLED_BACK as error:
            raise _Lost(may_be_stored=False) from error
        except BROKEN as error:
            if isinstance(error, ValueError):  # the driver's word for an argument that the database cannot hold
                raise
            self._connection.drop()
            raise _Lost(may_be_stored=True) from error
        finally:
            late.cancel()
            self._connection.rest()
        return row

    async def _taken(self) -> asyncpg.pool.PoolConnectionProxy:
        if self._pool.is_closing():
            raise StoreAway(why="The connections are closed.", may_be_stored=False)
        try:
            return await self._connection.take()
        except (*BROKEN, asyncpg.TooManyConnectionsError) as error:
            raise _Lost(may_be_stored=False) from error

    async def close(self) -> None:
        """Gives the connection back."""
        await self._connection.give_back()

    def _has_been_away_for(self, seconds: float) -> bool:
        """Since the first call without an answer; after that each batch is tried once, so that nobody waits long."""
        now = asyncio.get_running_loop().time()
        if self._away_since is None:
            self._away_since = now
        return now - self._away_since >= seconds


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Each different name with its number, from 1, in order of first sight."""
    return {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}


def _arguments(batch: Sequence[AppendRequest]) -> tuple[list[Any] | None, ...]:
    """What `append_batch` takes after p_again."""
    events = [event for request in batch for event in request.events]
    streams = _numbered(str(event.originator_id) for event in events)
    stream_systems = [system_of(stream) for stream in streams]
    systems = _numbered(system for system in stream_systems if system is not None)
    return (
        *_keys(batch),
        [len(request.events) for request in batch],
        list(systems),
        list(streams),
        [system and systems[system] for system in stream_systems],
        [streams[str(event.originator_id)] for event in events],
        [event.originator_version for event in events],
        [event.topic for event in events],
        [event.state[1:].decode() for event in events],
    )


def _keys(batch: Sequence[AppendRequest]) -> tuple[list[Any] | None, ...]:
    """Subjects, keys, fingerprints, and the record and version of the answer; nothing when no request has a key."""
    if all(request.key is None for request in batch):
        return (None,) * 5
    keys = [request.key or (None, None, None) for request in batch]
    records, versions = [request.record for request in batch], [request.version for request in batch]
    return (*map(list, zip(*keys, strict=True)), records, versions)


def _answers(batch: Sequence[AppendRequest], row: asyncpg.Record, *, again: bool) -> list[Answer]:
    first, recorded_at, leaf_hashes, outcomes, versions = row
    answers: list[Answer] = []
    told = 0
    for request, outcome, version in zip_longest(batch, outcomes or (), versions or ()):
        if outcome is not None:
            answers.append(NotAppended(outcome=outcome, version=version, again=again))
            continue
        next_told = told + len(request.events)
        answers.append(
            Appended(first=first + told, recorded_at=recorded_at, leaf_hashes=(leaf_hashes or ())[told:next_told])
        )
        told = next_told
    return answers
