"""How a use case runs: find the stored answer, load, decide, save; a lost race is loaded and decided again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Generic, TypeVar
from uuid import uuid4

from shared.errors import Conflict, FieldError, Invalid, StalePrecondition
from shared.event import Actor, Event, Fact, Signature
from shared.event_store import AnsweredBefore, EventStore, IdempotencyKey, Receipt, VersionConflict

StateType = TypeVar("StateType")

DECISIONS_MAX = 8
"""How often a command that lost a race is decided again before it gives up."""


@dataclass(frozen=True, kw_only=True)
class CommandContext:
    """Everything a use case needs from the edge: who, why, when, and what the request said about versions and repeats.

    `expected_version` is If-Match (None: not given). `correlation` groups what one story caused; `causation` is the id of the
    event that made a service act, None when a person did.
    """

    actor: Actor
    reason: str
    at: datetime
    correlation: str
    causation: str | None = None
    idempotency: IdempotencyKey | None = None
    expected_version: int | None = None
    new_id: Callable[[], str] = lambda: str(uuid4())

    def sign(self, *, meaning: str, digest: str, covers: Sequence[str] = ()) -> Signature:
        """The signature of the acting person over the digest, with all digests signed in the same act."""
        covered = tuple(covers) or (digest,)
        if digest not in covered:
            raise SignatureLeavesOutItsRecord(
                "The list of what was signed leaves out the record that is signed.",
                why="A signature covers at least the digest of its record.",
                next_step="Add the digest to covers, or leave covers out.",
                fields=(FieldError(field="/covers", rule="holds the digest"),),
            )
        return Signature(signer=self.actor, meaning=meaning, signed_at=self.at, digest=digest, covers=covered)


class SignatureLeavesOutItsRecord(Invalid):
    """`covers` lists all digests of one act of signing, so it holds that of the record."""


class StaleVersion(StalePrecondition):
    """If-Match named another version than the record has now."""


class IfMatchRequired(StalePrecondition):
    """The command replaces content, so it must name the version that it replaces."""

    status = 428


class TooMuchContention(Conflict):
    """Others changed the record each time this command was decided."""


@dataclass(frozen=True)
class Change(Generic[StateType]):
    """One stream a command decides on: from its state (None when it does not exist) to facts.

    `evolve` folds facts into state; `decide` is pure and may be called again after a lost race. `folds` is for streams that
    grow long: it remembers what they folded to.
    """

    stream: str
    evolve: Callable[[StateType | None, Fact], StateType]
    decide: Callable[[StateType | None], Sequence[Fact]]
    folds: Folds[StateType] | None = None


class Folds(Generic[StateType]):
    """Remembers the state and version of streams, so that only newer events are read. Events never change, so it stays true."""

    def __init__(self, *, evolve: Callable[[StateType | None, Fact], StateType], streams_max: int = 256) -> None:
        self._evolve = evolve
        self._streams_max = streams_max
        self._known: OrderedDict[str, tuple[StateType | None, int]] = OrderedDict()

    async def load(self, store: EventStore, stream: str) -> tuple[StateType | None, int]:
        """As `load_state`."""
        state, version = self._known.get(stream, (None, 0))
        for event in await store.load(stream, after=version):
            state, version = self._evolve(state, event.data), event.version
        if version:
            self._known[stream] = (state, version)
            self._known.move_to_end(stream)
        if len(self._known) > self._streams_max:
            self._known.popitem(last=False)
        return state, version


def require_expected_version(context: CommandContext) -> None:
    """For verbs that replace content: two people must not overwrite each other unseen."""
    if context.expected_version is None:
        raise IfMatchRequired(
            "This request needs If-Match.",
            why="It replaces content, so it must name the version that it replaces.",
            next_step="Read the record and send its ETag as If-Match.",
        )


async def load_state(
    store: EventStore, stream: str, evolve: Callable[[StateType | None, Fact], StateType]
) -> tuple[StateType | None, int]:
    """The state of the stream and its version; (None, 0) when it does not exist."""
    events = await store.load(stream)
    state: StateType | None = reduce(evolve, (event.data for event in events), None)
    return state, len(events)


async def execute(
    store: EventStore,
    context: CommandContext,
    *changes: Change,  # type: ignore[type-arg]
    check: Callable[[], Awaitable[None]] | None = None,
) -> Receipt:
    """Carries the command out in one transaction over all its streams; the receipt names the first one.

    A request that was answered before gets its stored answer, even if If-Match or `check`, which may read other records and
    refuse, would no longer hold.
    """
    if context.idempotency is not None:
        answered = await store.answer(context.idempotency)
        if answered is not None:
            return answered
    if check is not None:
        await check()
    for _ in range(DECISIONS_MAX):
        try:
            return await _decide_and_append(store, context, changes)
        except AnsweredBefore as answered_before:
            return answered_before.receipt
        except VersionConflict:
            continue
    raise TooMuchContention(
        f"{changes[0].stream} is being changed by others.",
        why=f"The command was decided {DECISIONS_MAX} times and somebody was faster each time.",
        next_step="Send the request again.",
    )


async def _decide_and_append(
    store: EventStore,
    context: CommandContext,
    changes: Sequence[Change],  # type: ignore[type-arg]
) -> Receipt:
    events: list[Event] = []
    first_version = 0
    for index, change in enumerate(changes):
        if change.folds is not None:
            state, version = await change.folds.load(store, change.stream)
        else:
            state, version = await load_state(store, change.stream, change.evolve)
        if index == 0 and context.expected_version is not None and context.expected_version != version:
            raise StaleVersion(
                f"{change.stream} is at version {version}, not {context.expected_version}.",
                why="If-Match must name the current version.",
                next_step="Read the record again and repeat the request with its ETag.",
            )
        facts = change.decide(state)
        events += [
            _envelope(context, stream=change.stream, version=version + number, fact=fact)
            for number, fact in enumerate(facts, start=1)
        ]
        if index == 0:
            first_version = version + len(facts)
    return await store.append(events, record=changes[0].stream, version=first_version, key=context.idempotency)


def _envelope(context: CommandContext, *, stream: str, version: int, fact: Fact) -> Event:
    return Event(
        id=context.new_id(),
        stream=stream,
        version=version,
        name=fact.TOPIC,
        schema=fact.SCHEMA,
        actor=context.actor,
        reason=context.reason,
        correlation=context.correlation,
        causation=context.causation,
        data=fact,
    )
