"""A person is forgotten: directory entries and webhooks go, the events stay, and every service records that it was done.

Traceability decides and records `traceability.person-erased`. Every service, traceability among them, follows that and empties its
own directory; the others then record `<service>.person-erased`. No event holds the name.

Failure table of one service
    before the entries are deleted     nothing happened; the event is seen again
    deleted, not recorded              seen again: there is nothing to delete, and it is recorded
    recorded, position not stored      seen again under the same idempotency key: nothing more is recorded
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import msgspec

from shared.command import Change, CommandContext, execute
from shared.directory import Directory
from shared.event import Fact, RecordedEvent, stream_of
from shared.event_store import EventStore

SOURCE = "traceability"
DECIDED = f"{SOURCE}.person-erased"

Why = Literal["no-longer-needed", "consent-withdrawn", "objection", "unlawful", "legal-obligation"]
"""The grounds of GDPR, 17(1)(a) to (e). A code, so that nobody writes a name into the reason for its erasure."""

GROUNDS: tuple[Why, ...] = get_args(Why)


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
    `forget_webhooks` deletes those of the person.
    """

    service: str
    directory: Directory
    store: EventStore
    forget_webhooks: Callable[[str], Awaitable[None]]
    forget: Callable[[str], object] = lambda _subject: None

    async def erase(self, event: RecordedEvent, context: CommandContext) -> None:
        """The reaction to the decision. DirectoryBusy if it has to be tried again."""
        content = event.content()
        subject, why = content["data"]["subject"], content["data"]["why"]
        self.forget(subject)
        await self.forget_webhooks(subject)
        await self.directory.erase(subject)
        if self.service != event.service:
            fact = erasure_fact(self.service)(subject=subject, why=why)
            await execute(self.store, context, Change(person_stream(subject), erasures_after, lambda _: (fact,)))
