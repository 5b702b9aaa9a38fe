"""A person is forgotten: directory entries and webhooks go, the events stay, and every service records that it was done.

Traceability decides and records `traceability.person-erased`. Every service, traceability among them, follows that and empties its
own directory; the others then record `<service>.person-erased`. No event holds the name.

Failure table of one service
    before it is kept                  nothing happened; the event is seen again
    kept, not or partly deleted        seen again; and whoever starts deletes at once what is kept and not recorded
    deleted, not recorded              seen again: there is nothing to delete, and it is recorded
    recorded, position not stored      seen again under the same idempotency key: nothing more is recorded
    database restored from before      what is kept and not recorded is deleted before anything is served; traceability records
                                       its decision again, and every service follows it as the first time

Steps, told to `at_step` (a test may end the process there): `kept`, `issuer forgot`, `webhooks deleted`, `names deleted`,
`recorded`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, get_args
from uuid import uuid4

import asyncpg
import msgspec

from shared.command import Change, CommandContext, TooMuchContention, execute
from shared.directory import Directory, DirectoryBusy
from shared.errors import Unavailable
from shared.event import Actor, Fact, RecordedEvent, stream_of
from shared.event_store import EventStore
from shared.kept_erasures import Erased, KeptErasure, KeptErasures

SOURCE = "traceability"
DECIDED = f"{SOURCE}.person-erased"

Why = Literal["no-longer-needed", "consent-withdrawn", "objection", "unlawful", "legal-obligation"]
"""The grounds of GDPR, 17(1)(a) to (e). A code, so that nobody writes a name into the reason for its erasure."""

GROUNDS: tuple[Why, ...] = get_args(Why)
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Erasure(Fact, frozen=True, kw_only=True):
    """The printed names and salts of the opaque subject were deleted from the directory of the service."""

    subject: str
    why: Why


Erasures = tuple[Erasure, ...]


@cache
def erasure_fact(service: str) -> type[Erasure]:
    """The fact under the stored name of one service."""
    fact: Any = msgspec.defstruct(
        "PersonErased",
        [],
        bases=(Erasure,),
        namespace={"TOPIC": f"{service}.person-erased"},
        frozen=True,
        kw_only=True,
        module=__name__,
    )
    named: type[Erasure] = fact
    return named


def person_stream(subject: str) -> str:
    """The stream of a person's erasures: `person::person-1f2e`."""
    return stream_of(kind="person", system=None, key=subject)


def erasures_after(erasures: Erasures | None, fact: Fact) -> Erasures:
    """All erasures of the person so far: who acts again after one has entries again."""
    assert isinstance(fact, Erasure)
    return (*(erasures or ()), fact)


@dataclass(frozen=True, kw_only=True)
class Eraser:
    """Carries out, in one service, what was decided. `forget` is what else knows the name there, the embedded issuer;
    `forget_webhooks` deletes those of the person; `kept` outlives the database.
    """

    service: str
    directory: Directory
    store: EventStore
    pool: asyncpg.Pool
    kept: KeptErasures
    forget_webhooks: Callable[[str], Awaitable[None]]
    clock: Callable[[], datetime]
    forget: Callable[[str], object] = lambda _subject: None
    at_step: Callable[[str], None] = lambda _: None

    async def erase(self, event: RecordedEvent, context: CommandContext) -> None:
        """The reaction to the decision. DirectoryBusy, FolderInUse if it has to be tried again."""
        content = event.content()
        subject, why = content["data"]["subject"], content["data"]["why"]
        erasure = KeptErasure(times=content["version"], why=why)
        await asyncio.to_thread(self.kept.remember, {subject: erasure})
        self.at_step("kept")
        await self._delete(subject)
        if self.service != event.service:
            fact = erasure_fact(self.service)(subject=subject, why=why)
            await execute(self.store, context, Change(person_stream(subject), erasures_after, lambda _: (fact,)))
            self.at_step("recorded")

    async def erase_again(self) -> None:
        """Before anything is served: deletes again what a database from before the erasure has brought back.

        A list that is new, or lost, is made of what the store has recorded.
        """
        await asyncio.to_thread(self.kept.remember, await self._recorded())
        for subject in await self._unrecorded():
            _log.warning("%s erases %s again: the database is from before the erasure", self.service, subject)
            try:
                await self._delete(subject)
            except DirectoryBusy as busy:
                _log.warning("%s %s", busy.what, busy.why)  # deleted, and wiped when the recorded decision is followed

    async def record_again(self) -> None:
        """Makes traceability tell again what a database from before has forgotten, so that every service follows."""
        while self.service == SOURCE:
            try:
                for subject, erasure in (await self._unrecorded()).items():
                    await self._record_again(subject, erasure)
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable, TooMuchContention) as error:
                _log.warning("%s cannot record erasures again now: %s", self.service, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _delete(self, subject: str) -> None:
        self.forget(subject)
        self.at_step("issuer forgot")
        await self.forget_webhooks(subject)
        self.at_step("webhooks deleted")
        await self.directory.erase(subject)
        self.at_step("names deleted")

    async def _record_again(self, subject: str, erasure: KeptErasure) -> None:
        fact = msgspec.convert({"subject": subject, "why": erasure.why}, erasure_fact(self.service))
        context = CommandContext(
            actor=Actor(subject=f"service:{self.service}", kind="service", issuer="prooftrail"),
            reason="recorded again: the database was restored from before the erasure",
            at=self.clock(),
            correlation=uuid4().hex,
        )
        await execute(
            self.store,
            context,
            Change(person_stream(subject), erasures_after, lambda told: (fact,) * (erasure.times - len(told or ()))),
        )

    async def _unrecorded(self) -> Erased:
        """The erasures that are kept, of which the store has not recorded as many."""
        known, recorded = await asyncio.to_thread(self.kept.known), await self._recorded()
        return {
            subject: one
            for subject, one in known.items()
            if subject not in recorded or recorded[subject].times < one.times
        }

    async def _recorded(self) -> Erased:
        rows = await self.pool.fetch(
            f"SELECT event FROM {self.service}.event WHERE system IS NULL AND name = $1 ORDER BY position",
            f"{self.service}.person-erased",
        )
        recorded: dict[str, KeptErasure] = {}
        for row in rows:
            told = msgspec.json.decode(row["event"])["data"]
            before = recorded.get(told["subject"])
            recorded[told["subject"]] = KeptErasure(times=1 + (before.times if before else 0), why=told["why"])
        return recorded
