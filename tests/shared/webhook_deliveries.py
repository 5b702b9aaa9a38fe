"""The deliveries of one service that counts, over its stores, for tests and for a process that kills itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import asyncpg
import httpx

from shared.access import TABLES_SQL, Access
from shared.event import Actor
from shared.feed import StoreFeed
from shared.subscription import Subscriptions
from shared.webhooks.addresses import AllowedNetworks
from shared.webhooks.book import Patience
from shared.webhooks.delivery import WebhookDelivery
from shared.webhooks.registry import Webhooks
from tests.webhook_receiver import LOOPBACK

SERVICE = "requirements"
OWNER = Actor(subject="person-2", kind="person", issuer="tests")
NAMES = ("requirements.counted", "requirements.ignored", "requirements.poisoned")
SECRET = b"s" * 32


async def prepare_roles(pool: asyncpg.Pool) -> None:
    """The owner of the webhooks holds a role in the system that is counted in."""
    await pool.execute(f"CREATE SCHEMA {SERVICE}_projection; SET search_path = {SERVICE}_projection; {TABLES_SQL}")
    await pool.execute(f"INSERT INTO {SERVICE}_projection.role_grant VALUES ('s', $1, 'auditor')", OWNER.subject)


async def _settled(_after: object) -> None:
    """Roles do not change by events here."""


@contextlib.asynccontextmanager
async def delivering(
    url: str, pool: asyncpg.Pool, *, patience: Patience | None = None, at_step: Callable[[str], None] = lambda _: None
) -> AsyncIterator[WebhookDelivery]:
    """One replica at work. Its failures are tried again within a fraction of a second unless `patience` says otherwise."""
    feed = StoreFeed(pool=pool, dsn=url)
    subscriptions = Subscriptions(
        service=SERVICE, names=NAMES, feed=feed, access=Access(pool=pool, service=SERVICE), settled=_settled,
        heartbeat_s=0.2,
    )  # fmt: skip
    delivery = WebhookDelivery(
        service=SERVICE,
        dsn=url,
        pool=pool,
        subscriptions=subscriptions,
        networks=AllowedNetworks.parse([LOOPBACK]),
        trusted=httpx.create_ssl_context,
        clock=lambda: datetime.now(UTC),
        chance=lambda: 0.5,
        patience=patience or Patience(first=0.02, longest=0.1),
        at_step=at_step,
    )
    tasks = [asyncio.create_task(work) for work in (feed.listen(), subscriptions.run(), delivery.run())]
    try:
        yield delivery
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def registry(url: str, pool: asyncpg.Pool, changed: Callable[[], None] = lambda: None) -> Webhooks:
    """The webhooks of the service; every secret is SECRET."""
    return Webhooks(
        pool=pool, service=SERVICE, feed=StoreFeed(pool=pool, dsn=url), new_secret=lambda: SECRET, changed=changed
    )
