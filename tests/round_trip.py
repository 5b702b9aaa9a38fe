"""What a domain decided, as it comes back from the bytes that a store keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.event import Actor, Event, EventMapper, Fact

ACTOR = Actor(subject="person-1", kind="person", issuer="https://issuer.test")


def envelope(fact: Fact, *, stream: str, version: int) -> Event:
    """The fact as the event of its stream."""
    return Event(
        id=f"{stream} {version}",
        stream=stream,
        version=version,
        name=fact.TOPIC,
        schema=fact.SCHEMA,
        actor=ACTOR,
        reason="lived in a test",
        correlation="c",
        causation=None,
        data=fact,
    )


def replayed(facts: Iterable[Fact], *, fact_types: Iterable[type[Fact]], stream: str = "kind:s/key") -> Sequence[Fact]:
    """The same facts, written as bytes by the mapper and read again."""
    mapper = EventMapper(fact_types)
    return [
        mapper.to_domain_event(mapper.to_stored_event(envelope(fact, stream=stream, version=version))).data
        for version, fact in enumerate(facts, start=1)
    ]
