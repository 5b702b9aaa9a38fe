"""The store port in memory: for unit tests of use cases. It passes the same contract tests as the PostgreSQL one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from eventsourcing.persistence import StoredEvent

from shared.event import Event, EventMapper, RecordedEvent, leaf_hash_of, system_of
from shared.event_store import (
    AnsweredBefore,
    EventReceipt,
    IdempotencyKey,
    IdempotencyKeyReused,
    Receipt,
    VersionConflict,
)


class MemoryEventStore:
    """Keeps recorded events in a list; `clock` gives the recording time."""

    def __init__(self, *, service: str, mapper: EventMapper, clock: Callable[[], datetime]) -> None:
        self.service = service
        self._mapper = mapper
        self._clock = clock
        self._recorded: list[RecordedEvent] = []
        self._streams: dict[str, list[StoredEvent]] = {}
        self._answers: dict[tuple[str, str], tuple[str, Receipt]] = {}
        self._systems: dict[str, tuple[int, str]] = {}

    async def load(self, stream: str, *, after: int = 0) -> Sequence[Event]:
        return [self._mapper.to_domain_event(stored) for stored in self._streams.get(stream, [])[after:]]

    async def answer(self, key: IdempotencyKey) -> Receipt | None:
        found = self._answers.get((key.subject, key.key))
        if found is None:
            return None
        if found[0] != key.fingerprint:
            raise IdempotencyKeyReused(f"The Idempotency-Key {key.key!r} was used for another request.")
        return found[1]

    async def append(
        self, events: Sequence[Event], *, record: str, version: int, key: IdempotencyKey | None
    ) -> Receipt:
        if key is not None:
            answered = await self.answer(key)
            if answered is not None:
                raise AnsweredBefore(answered)
        expected: dict[str, int] = {}
        for event in events:
            current = expected.get(event.stream, len(self._streams.get(event.stream, [])))
            if event.version != current + 1:
                raise VersionConflict(f"{event.stream} is at version {current}.")
            expected[event.stream] = event.version
        receipts = tuple([self._record(event) for event in events])
        receipt = Receipt(
            record=record, version=version, position=f"{self.service}:{len(self._recorded)}", events=receipts
        )
        if key is not None:
            self._answers[(key.subject, key.key)] = (key.fingerprint, receipt)
        return receipt

    def _record(self, event: Event) -> EventReceipt:
        stored = self._mapper.to_stored_event(event)
        system = system_of(event.stream)
        sequence, previous = self._systems.get(system or "", (0, None))
        now = max([self._clock(), *(recorded.recorded_at for recorded in self._recorded[-1:])])
        stamp = {
            "service": self.service,
            "position": len(self._recorded) + 1,
            "recorded_at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "system": system,
            "system_sequence": sequence + 1 if system else None,
            "system_previous": previous,
        }
        raw = msgspec.json.encode(stamp)[:-1] + b"," + stored.state[1:]
        leaf_hash = leaf_hash_of(raw)
        if system:
            self._systems[system] = (sequence + 1, leaf_hash)
        self._streams.setdefault(event.stream, []).append(
            StoredEvent(originator_id=event.stream, originator_version=event.version, topic=event.name, state=raw)
        )
        position = len(self._recorded) + 1
        self._recorded.append(
            RecordedEvent(
                service=self.service,
                position=position,
                stream=event.stream,
                version=event.version,
                name=event.name,
                system=system,
                recorded_at=now,
                leaf_hash=leaf_hash,
                raw=raw,
            )
        )
        return EventReceipt(name=event.name, position=position, leaf_hash=leaf_hash, recorded_at=now)

    async def read(self, *, after: int, limit: int) -> Sequence[RecordedEvent]:
        return self._recorded[after : after + limit]

    async def head(self) -> int:
        return len(self._recorded)
