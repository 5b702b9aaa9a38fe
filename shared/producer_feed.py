"""Asks a service for events by its own feed over HTTP: what its topic lacks. It blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import msgspec

from shared.cloud_event import NotTheEvent, recorded_event
from shared.event import RecordedEvent
from shared.feed import FeedAway

PAGE_EVENTS_MAX = 200
TIMEOUT_SECONDS = 10.0


class ProducerAway(FeedAway):
    """The service does not answer, refuses us, or does not show us everything."""


class _Event(msgspec.Struct, frozen=True):
    position: int
    leaf_hash: str
    event: str


class _Page(msgspec.Struct, frozen=True):
    events: list[_Event]
    next_position: int


class ProducerFeed:
    """Feeds of the services at their addresses (empty: unknown), with the token that `token` gives each time."""

    def __init__(self, *, address: Callable[[str], str], token: Callable[[], str]) -> None:
        self._address = address
        self._token = token
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS)

    def read(self, service: str, after: int, limit: int) -> Sequence[RecordedEvent]:
        """Up to `limit` events above `after`, in order and without holes. Raises ProducerAway."""
        address = f"{self._address(service)}/v1/{service}/events"
        try:
            answer = self._client.get(
                address,
                params={"from_position": after, "page_size": min(limit, PAGE_EVENTS_MAX)},
                headers={"Authorization": f"Bearer {self._token()}"},
            )
            answer.raise_for_status()
            page = msgspec.json.decode(answer.content, type=_Page)
            events = [
                recorded_event(one.event.encode(), service=service, position=one.position, leaf_hash=one.leaf_hash)
                for one in page.events
            ]
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, NotTheEvent, OSError) as error:
            raise ProducerAway(f"the feed of {service} at {address}: {error}") from error
        # A page without events may have passed some over too.
        passed = range(after + 1, page.next_position + 1)
        if [event.position for event in events] != list(passed):
            raise ProducerAway(f"the feed of {service} does not show everything to our token")
        return events

    def close(self) -> None:
        """Gives the connections back."""
        self._client.close()


def token_in(file: Path) -> Callable[[], str]:
    """Reads the file each time: a projected token is replaced while we run."""
    return lambda: file.read_text().strip()
