"""What a process adds that shares its deployment with others over Kafka: relays of its own services, and a feed of the others.

Services it runs itself it reads from their stores; nothing that happens here depends on Kafka, except what it learns of others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from shared.database_roles import Logins
from shared.feed import Feed
from shared.kafka_feed import KafkaFeed, no_fill
from shared.kafka_settings import KafkaSettings
from shared.local_issuer import LocalIssuer
from shared.people_topic import PeopleRelay
from shared.producer_feed import ProducerFeed, token_in
from shared.relay import Relay
from shared.settings import Settings
from shared.split_feed import SplitFeed
from shared.topic_cursor import Fill

FEED_READER = "Prooftrail feed"
"""The name under which processes of the embedded mode read each other's feeds."""


def cluster_feed(
    stack: contextlib.AsyncExitStack,
    *,
    settings: Settings,
    kafka: KafkaSettings,
    own: Sequence[str],
    services: Sequence[str],
    near: Feed,
    issuer: LocalIssuer | None,
) -> Feed:
    """`near` for the services in `own`, Kafka for the others; closed with the stack."""
    others = [service for service in services if service not in own]
    if not others:
        return near
    far = KafkaFeed(kafka=kafka, services=others, fill=_fill(stack, settings, issuer))
    stack.push_async_callback(far.close)
    return SplitFeed(own=own, near=near, far=far)


def _fill(stack: contextlib.AsyncExitStack, settings: Settings, issuer: LocalIssuer | None) -> Fill:
    token = _token(settings, issuer)
    if not settings.feed_urls or token is None:
        return no_fill
    urls = dict(settings.feed_urls)
    producer = ProducerFeed(address=lambda service: feed_address(urls, service), token=token)
    stack.callback(producer.close)
    return producer.read


def feed_address(urls: Mapping[str, str], service: str) -> str:
    """Where the service serves HTTP: its own entry, or that of all, in which {service} stands for its name."""
    return urls.get(service, urls.get("*", "")).replace("{service}", service)


def _token(settings: Settings, issuer: LocalIssuer | None) -> Callable[[], str] | None:
    if settings.service_token is not None:
        return token_in(settings.service_token)
    if issuer is not None:
        return lambda: issuer.mint(name=FEED_READER, kind="service")
    return None


def feed_readers(settings: Settings, issuer: LocalIssuer | None) -> frozenset[str]:
    """The subjects that may read whole feeds: those that were named, and in embedded mode our own processes."""
    own = set() if issuer is None else {issuer.subject(name=FEED_READER, kind="service")}
    return frozenset(settings.feed_readers) | own


def relays_of(
    *, kafka: KafkaSettings, logins: Logins, feed: Feed, services: Sequence[str]
) -> list[Relay | PeopleRelay]:
    """What sends the events and the names of the services that this process runs."""
    events = [Relay(service=service, dsn=logins.url(service), feed=feed, kafka=kafka) for service in services]
    return [*events, *(PeopleRelay(service=service, dsn=logins.url(service), kafka=kafka) for service in services)]
