"""Subscribers of one service: one reader follows its store, and all of this process are served from the tail it keeps in memory.

A subscriber gets the events above a position, those that are there and those to come, in order and without holes, as long as it
holds a role in their AI system. Roles are read from the service's own copy before new events are handed out, and again when the
last look is RIGHTS_SECONDS_MAX old: whoever lost a role sees nothing more once the copy knows of it, at most that much later.

A subscriber is only a position: nothing is queued for it. One that is slow reads older events from the store; one whose wire
takes nothing for SEND_SECONDS_MAX is cut off by the wire, and resumes at the position of the last event that it got.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from shared.access import ROLE_CHANGES, Access
from shared.errors import Conflict, FieldError, Invalid, ProoftrailError, Unauthenticated, Unavailable
from shared.event import Actor, RecordedEvent
from shared.event_tail import Pages, Tail
from shared.feed import Feed

HEARTBEAT_SECONDS = 15.0
SEND_SECONDS_MAX = 20.0
"""How long one send may make no progress before the subscriber is cut off."""
RIGHTS_SECONDS_MAX = 1.0
SUBSCRIBERS_MAX = 2_000
BATCH_EVENTS_MAX = 500
DELIVERY_BYTES_MAX = 64 << 10
"""A delivery holds one event, or several with no more bytes than this."""
REST_SECONDS_A_SUBSCRIBER = 0.00005
"""Least rest between batches, so that handing out to many leaves half of the event loop to commands."""
RETRY_SECONDS = 1.0
DATABASE_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_log = logging.getLogger(__name__)


class PositionAhead(Conflict):
    """The position is none of this store: it was restored from a backup, or the subscriber comes from another deployment."""


class TooManySubscribers(Unavailable):
    """This process serves as many as it can."""


class StreamEnds(Unavailable):
    """The service is going; the subscriber resumes elsewhere."""


class TokenEnded(Unauthenticated):
    """The token that opened the stream has expired."""


class SlowSubscriber(ProoftrailError):
    """It took nothing for too long and was cut off."""

    status = 429


class UnknownEvent(Invalid):
    """The service has no event of that name."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a subscriber wants: events above `after`; without systems or names, all that it may see.

    `lasts_s` is how long its token holds.
    """

    actor: Actor
    after: int
    systems: Collection[str]
    names: Collection[str]
    lasts_s: float


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a subscriber gets: nothing up to `position` comes again. Without events it is a heartbeat."""

    position: int
    events: Sequence[RecordedEvent]


Settled = Callable[[Mapping[str, int]], Awaitable[None]]
"""Returns when the service's copy of the roles has read up to these positions."""


class Subscriptions:
    """The fan-out of one service in this process. It follows the store only while somebody listens."""

    def __init__(
        self,
        *,
        service: str,
        names: Collection[str],
        feed: Feed,
        access: Access,
        settled: Settled,
        heartbeat_s: float = HEARTBEAT_SECONDS,
        send_s_max: float = SEND_SECONDS_MAX,
        tail: Tail | None = None,
    ) -> None:
        self.service = service
        self.heartbeat_s = heartbeat_s
        self.send_s_max = send_s_max
        self._names = frozenset(names)
        self._feed = feed
        self._access = access
        self._settled = settled
        self._rights = _Rights(access)
        self._tail = tail or Tail()
        self._pages = Pages(self._read_page)
        self._following = False
        self._wanted = asyncio.Event()
        self._moved = asyncio.Event()
        self.ending = asyncio.Event()

    @property
    def subscribers(self) -> int:
        """How many streams are open now."""
        return self._rights.holders

    async def open(self, wish: Wish) -> AsyncGenerator[Delivery, None]:
        """The deliveries of a new subscriber. Raises Invalid, NotFound, PositionAhead or Unavailable before the first of them."""
        self._require_room()
        await self.require_allowed(wish)
        return self._deliveries(wish)

    async def require_allowed(self, wish: Wish) -> None:
        """Raises Invalid, NotFound or PositionAhead unless the wish can be met."""
        self._require_names(wish.names)
        for system in wish.systems:
            await self._access.require_reader(system=system, actor=wish.actor)
        if wish.after > await self._feed.head(service=self.service):
            raise PositionAhead(
                f"{self.service} has no position {wish.after} yet.",
                why="Whoever resumes there would wait for ever, or miss events if it was another store that gave the position out.",
                next_step="Resume at a position that this deployment gave out, or at 0 for everything.",
            )

    def follow(self, wish: Wish) -> AsyncGenerator[Delivery, None]:
        """The deliveries of a subscriber whose wish was allowed before: what it may not see any more is left out. Unavailable."""
        self._require_room()
        return self._deliveries(wish)

    async def still_shows(self, wish: Wish, event: RecordedEvent) -> bool:
        """Whether an event that was handed out a while ago may still be seen; for one whose deliveries are open."""
        await self._rights.renew(age_s_max=RIGHTS_SECONDS_MAX)
        return bool(self._shown(wish, (event,)))

    async def run(self) -> None:
        """Runs for ever: keeps the tail at the store's end while somebody listens."""
        while True:
            await self._wanted.wait()
            try:
                await self._follow()
            except (*DATABASE_AWAY, Unavailable) as error:
                _log.warning("subscribers of %s wait: %s", self.service, error)
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                self._following = False

    def end(self) -> None:
        """All streams end with StreamEnds, now."""
        self.ending.set()
        self._wake()

    async def _follow(self) -> None:
        """Until the last subscriber has gone."""
        self._tail.restart(at=await self._feed.head(service=self.service))
        self._following = True
        self._wake()
        while self.subscribers:
            events = await self._feed.read(service=self.service, after=self._tail.end, limit=BATCH_EVENTS_MAX)
            if not events:
                await self._feed.changed(service=self.service, after=self._tail.end)
                continue
            await self._settle(events)
            await self._rights.reload()
            self._tail.extend(events)
            await self._hand_out()
        self._wanted.clear()

    async def _hand_out(self) -> None:
        """Wakes everybody, and then rests for as long as that took."""
        now = asyncio.get_running_loop().time
        began = now()
        self._wake()
        await asyncio.sleep(0)  # whoever waited has sent it by now, or waits for its wire
        await asyncio.sleep(max(now() - began, self.subscribers * REST_SECONDS_A_SUBSCRIBER))

    async def _settle(self, events: Sequence[RecordedEvent]) -> None:
        """A role that these events give or take is in the copy before they are handed out."""
        changes = [event.position for event in events if event.name in ROLE_CHANGES]
        if changes:
            await self._settled({self.service: changes[-1]})

    async def _read_page(self, after: int, limit: int) -> Sequence[RecordedEvent]:
        events = await self._feed.read(service=self.service, after=after, limit=limit)
        await self._settle(events)
        return events

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _deliveries(self, wish: Wish) -> AsyncGenerator[Delivery, None]:
        now = asyncio.get_running_loop().time
        position, ends = wish.after, now() + wish.lasts_s
        beat, caught_up = now(), False  # the first heartbeat says: that was everything there is
        with self._enrolled(wish.actor.subject):
            await self._rights.reload()
            while True:
                moved = self._moved
                events = await self._next(position)
                self._require_open(ends)
                shown = self._shown(wish, events)
                position = events[-1].position if events else position
                if shown or now() >= beat:
                    yield Delivery(position=position, events=shown)
                    caught_up = caught_up or not events
                    beat = now() + self.heartbeat_s if caught_up else beat
                elif not events:
                    await _wait(moved, until=min(beat, ends))

    @contextlib.contextmanager
    def _enrolled(self, subject: str) -> Iterator[None]:
        self._require_room()
        self._rights.add(subject)
        self._wanted.set()
        try:
            yield
        finally:
            self._rights.remove(subject)

    async def _next(self, position: int) -> Sequence[RecordedEvent]:
        try:
            return await self._after(position)
        except DATABASE_AWAY as error:
            raise StreamEnds(
                "The database does not answer.", why=str(error), next_step="Resume at the last position in a moment."
            ) from error

    async def _after(self, position: int) -> Sequence[RecordedEvent]:
        """The next events above the position, at most one delivery of them; empty at the end."""
        events = self._tail.after(position, limit=BATCH_EVENTS_MAX) if self._following else None
        if events is None:
            events = await self._pages.after(position)
            await self._rights.reload()
        elif events:
            await self._rights.renew(age_s_max=RIGHTS_SECONDS_MAX)
        return events[: _count_within(events, DELIVERY_BYTES_MAX)]

    def _shown(self, wish: Wish, events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
        held = self._rights.of(wish.actor.subject)
        return [
            event
            for event in events
            if (event.system is None or event.system in held)
            and (not wish.systems or event.system in wish.systems)
            and (not wish.names or event.name in wish.names)
        ]

    def _require_open(self, ends: float) -> None:
        if self.ending.is_set():
            raise StreamEnds(
                "This process is going.",
                why="It was told to end, and streams end first.",
                next_step="Resume at the last position: another process takes over, or this one when it is back.",
            )
        if asyncio.get_running_loop().time() >= ends:
            raise TokenEnded(
                "The token of this stream has expired.",
                why="Nobody sees more with a token than it allows.",
                next_step="Get a new token and resume at the last position.",
            )

    def _require_room(self) -> None:
        self._require_open(float("inf"))
        if self.subscribers >= SUBSCRIBERS_MAX:
            raise TooManySubscribers(
                f"{self.service} has {SUBSCRIBERS_MAX} subscribers in this process already.",
                why="Every stream costs memory and time of the process.",
                next_step="Try another replica, or close streams that nobody reads.",
            )

    def _require_names(self, names: Collection[str]) -> None:
        unknown = sorted(set(names) - self._names)
        if unknown:
            raise UnknownEvent(
                f"{self.service} has no event {unknown[0]!r}.",
                why="A filter on a name that does not exist would stay silent for ever.",
                next_step="Take the names from docs/asyncapi.json.",
                fields=(FieldError(field="name", rule=f"an event of {self.service}"),),
            )


class _Rights:
    """The AI systems of everybody who listens, read together."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._subjects: Counter[str] = Counter()
        self._systems: Mapping[str, frozenset[str]] = {}
        self._asked = self._answered = 0
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    @property
    def holders(self) -> int:
        return self._subjects.total()

    def add(self, subject: str) -> None:
        self._subjects[subject] += 1

    def remove(self, subject: str) -> None:
        self._subjects[subject] -= 1
        if not self._subjects[subject]:
            del self._subjects[subject]

    def of(self, subject: str) -> frozenset[str]:
        return self._systems.get(subject, frozenset())

    async def renew(self, *, age_s_max: float) -> None:
        if asyncio.get_running_loop().time() - self._read_at > age_s_max:
            await self.reload()

    async def reload(self) -> None:
        """Returns with what the copy says at some moment after the call; those who ask meanwhile share the next answer."""
        self._asked += 1
        mine = self._asked
        async with self._reading:
            if self._answered < mine:
                covered, read_at = self._asked, asyncio.get_running_loop().time()
                self._systems = await self._access.systems_of(subjects=list(self._subjects))
                self._answered, self._read_at = covered, read_at


async def _wait(moved: asyncio.Event, *, until: float) -> None:
    try:
        async with asyncio.timeout_at(until):
            await moved.wait()
    except TimeoutError:
        return


def _count_within(events: Sequence[RecordedEvent], bytes_max: int) -> int:
    size = 0
    for count, event in enumerate(events):
        size += len(event.raw)
        if size > bytes_max:
            return max(1, count)
    return len(events)
