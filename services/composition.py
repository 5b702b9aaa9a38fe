"""Builds services on a runtime and puts them behind one HTTP application."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from fastapi import APIRouter, FastAPI, Request

from services.streams import stream_routers, subscriptions_of, webhook_deliveries, webhook_routers
from shared.database_roles import FEED, Logins, given_logins, separate_roles
from shared.errors import FieldError, Invalid, Unavailable
from shared.feed import Feed, FeedAway, StoreFeed
from shared.http_app import create_app
from shared.http_doors import PROBLEMS
from shared.http_pages import credentials, pages_router
from shared.identity import TokenVerifier
from shared.key_sources import JwksUrl
from shared.local_issuer import LocalIssuer
from shared.log.deployment import Logs, deployment_name
from shared.log.http_witness import HttpWitness
from shared.log.note import VerifierKey
from shared.migrations import AlteredMigration, require_applied
from shared.runtime import Runtime, Service, migrate_service, migrations_of, open_pool, utc_now
from shared.settings import Settings, make_open_folder
from shared.subscription import Subscriptions
from shared.webhooks.delivery import WebhookDelivery
from shared.workers import Workers

SERVICES = ("requirements", "verification", "releases", "drift", "traceability")

EMBEDDED_ISSUER = "urn:prooftrail:embedded-issuer"
"""The same on every port, so that a token outlives a restart elsewhere. It says that no provider vouched for the person."""

DATABASE_SECONDS_MAX = 60.0
"""How long a start waits for the database, and for its schema."""
DATABASE_POLL_SECONDS = 0.5
READY_SECONDS_MAX = 2.0
"""A database that takes longer to give a connection, or to say anything at all, counts as away."""

_log = logging.getLogger(__name__)


class UnknownService(Invalid):
    """Not one of the services of the house."""


class DatabaseOutOfReach(Unavailable):
    """The database does not answer, or does not know the login."""


class Leaving(Unavailable):
    """The process was told to end: it still answers, and nobody should come any more."""


class OthersOutOfReach(Unavailable):
    """A service was started that has never read the others, and Kafka does not answer."""


@dataclass(frozen=True, kw_only=True)
class House:
    """The services that were built, and the application in front of them. `issuer` is None with an issuer of one's own.

    `ready` raises why nobody should send requests; once `leaving` is set it always does.
    """

    app: FastAPI
    ready: Callable[[], Awaitable[None]]
    leaving: asyncio.Event
    services: dict[str, Service]
    subscriptions: dict[str, Subscriptions]
    webhooks: dict[str, WebhookDelivery]
    runtime: Runtime
    issuer: LocalIssuer | None

    def end_streams(self) -> None:
        """Subscribers are told to resume elsewhere."""
        for subscriptions in self.subscriptions.values():
            subscriptions.end()
        for webhooks in self.webhooks.values():
            webhooks.wake()


def local_issuer(settings: Settings) -> LocalIssuer:
    """The issuer of the embedded mode, in the data folder."""
    make_open_folder(settings.data)
    return LocalIssuer.open(settings.data / "issuer", issuer=EMBEDDED_ISSUER, clock=utc_now)


@contextlib.asynccontextmanager
async def open_house(*, settings: Settings, database_url: str, names: Sequence[str] = SERVICES) -> AsyncIterator[House]:
    """Migrates, builds and runs the named services until the block ends."""
    async with (
        offline_house(settings=settings, database_url=database_url, names=names) as house,
        _running(house),
    ):
        yield house


@contextlib.asynccontextmanager
async def offline_house(
    *, settings: Settings, database_url: str, names: Sequence[str] = SERVICES
) -> AsyncIterator[House]:
    """Migrates and builds the named services without running them: for work on their stored state.

    With `settings.logins` it waits until somebody else has migrated.
    """
    issuer = local_issuer(settings) if settings.issuer is None else None
    async with contextlib.AsyncExitStack() as stack:
        _require_known(names)
        if settings.logins is None:
            logins = await migrate_all(database_url)
        else:
            logins = given_logins(database_url, folder=settings.logins)
            await until_migrated(logins)
        runtime, pool = await _open_runtime(stack, settings, logins, issuer, names)
        services = await _build(stack, runtime, names)
        subscriptions = subscriptions_of(runtime, services)
        webhooks = webhook_deliveries(runtime, services, subscriptions)
        streams = [
            *stream_routers(runtime, services, subscriptions),
            *webhook_routers(runtime, services, subscriptions, webhooks),
        ]
        leaving = asyncio.Event()
        ready = partial(_require_ready, pool, leaving)
        app = _application(runtime, services, issuer, streams, ready)
        yield House(
            app=app,
            ready=ready,
            leaving=leaving,
            services=services,
            subscriptions=subscriptions,
            webhooks=webhooks,
            runtime=runtime,
            issuer=issuer,
        )


async def migrate_all(
    owner_url: str, *, folder: Path | None = None, tell: Callable[[str], object] = lambda _: None
) -> Logins:
    """Brings every schema to this version and gives every service its login, with the passwords in `folder` if there is one."""
    for name in SERVICES:
        for script in await migrate_service(owner_url, service=name, scripts=_main(name).MIGRATIONS):
            tell(f"{name}: {script}")
    return await separate_roles(owner_url, services=SERVICES, folder=folder)


async def until_reachable(address: str, *, patience_s: float = DATABASE_SECONDS_MAX) -> None:
    """Returns once the database lets in who comes with this address. DatabaseOutOfReach after `patience_s`."""

    async def connect() -> None:
        await (await _connected(address)).close()

    await _until_done(connect, patience_s)


async def until_migrated(logins: Logins, *, patience_s: float = DATABASE_SECONDS_MAX) -> None:
    """Returns once `prooftrail migrate` has brought every schema to this version. Raises why not after `patience_s`."""
    await _until_done(lambda: _require_migrated(logins), patience_s)


async def _until_done(attempt: Callable[[], Awaitable[None]], patience_s: float) -> None:
    until = time.monotonic() + patience_s
    told = False
    while True:
        try:
            return await attempt()
        except Unavailable as reason:
            if time.monotonic() > until or isinstance(reason, AlteredMigration):
                raise
            if not told:
                _log.warning("waiting for the database: %s %s", reason.what, reason.why)
            told = True
            await asyncio.sleep(DATABASE_POLL_SECONDS)


async def _connected(address: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(address)
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseOutOfReach(
            "The database does not let this process in.",
            why=f"{type(error).__name__}: {error}".rstrip(": "),
            next_step="Check DATABASE_URL and PROOFTRAIL_LOGINS; `prooftrail migrate` makes the logins.",
        ) from error


async def _require_migrated(logins: Logins) -> None:
    connection = await _connected(logins.url(FEED))
    try:
        for name in SERVICES:
            await require_applied(connection, service=name, migrations=migrations_of(_main(name).MIGRATIONS))
    finally:
        await connection.close()


async def _open_runtime(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    logins: Logins,
    issuer: LocalIssuer | None,
    names: Sequence[str],
) -> tuple[Runtime, asyncpg.Pool]:
    pool = await stack.enter_async_context(
        await open_pool(logins.url(FEED), connections_max=4, application_name="prooftrail feed")
    )
    executor = stack.enter_context(Workers())
    client = await stack.enter_async_context(httpx.AsyncClient())
    verifier = _verifier(settings, issuer, client)
    feed, readers = _feed(stack, settings, StoreFeed(pool=pool, dsn=logins.url(FEED)), issuer, names)
    runtime = Runtime(
        settings=settings,
        logins=logins,
        feed=feed,
        feed_readers=readers,
        own=tuple(names),
        far_names=_far_names(settings, names),
        verifier=verifier,
        executor=executor,
        services=SERVICES,
        logs=_logs(settings, client),
        forget=_nobody if issuer is None else issuer.forget_subject,
    )
    return runtime, pool


def _feed(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    near: StoreFeed,
    issuer: LocalIssuer | None,
    names: Sequence[str],
) -> tuple[Feed, frozenset[str]]:
    """The feed of this process, and who may read the feeds of its services whole."""
    if settings.kafka is None:
        return near, frozenset(settings.feed_readers)
    from shared.cluster import cluster_feed, feed_readers

    feed = cluster_feed(
        stack, settings=settings, kafka=settings.kafka, own=names, services=SERVICES, near=near, issuer=issuer
    )
    return feed, feed_readers(settings, issuer)


def _far_names(settings: Settings, names: Sequence[str]) -> Any:
    """The names of services that run elsewhere; None where all run here, or share their tables with us."""
    others = [name for name in SERVICES if name not in names]
    if settings.kafka is None or not others:
        return None
    from shared.people_topic import PeopleTopics

    return PeopleTopics(kafka=settings.kafka, services=others)


def _nobody(_subject: str) -> None:
    """An issuer of one's own keeps its people itself."""


def _logs(settings: Settings, client: httpx.AsyncClient) -> Logs:
    """Signers and the deployment's name live in the data folder, whatever database is used."""
    make_open_folder(settings.data)
    folder = settings.data / "log"
    return Logs(
        deployment=deployment_name(folder, configured=settings.deployment),
        folder=folder,
        clock=utc_now,
        outside=tuple(
            HttpWitness(address, key=VerifierKey.parse(key), client=client) for key, address in settings.witnesses
        ),
        pinned=tuple(VerifierKey.parse(key) for key in settings.log_keys),
    )


async def _build(stack: contextlib.AsyncExitStack, runtime: Runtime, names: Sequence[str]) -> dict[str, Service]:
    services = {}
    for name in names:
        try:
            services[name] = await _main(name).build(runtime)
        except FeedAway as error:
            raise OthersOutOfReach(
                f"{name} cannot read what it needs of other services.",
                why=f"Its copies have to be built before it can serve: {error}",
                next_step="Check KAFKA_BOOTSTRAP and the other KAFKA_ variables, start Kafka, and start this again.",
            ) from error
        stack.push_async_callback(services[name].close)
    return services


@contextlib.asynccontextmanager
async def _running(house: House) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(house.runtime.feed.listen(), name="feed")]
    tasks += [asyncio.create_task(service.run(), name=name) for name, service in house.services.items()]
    tasks += [asyncio.create_task(one.run(), name=f"{name} streams") for name, one in house.subscriptions.items()]
    tasks += [asyncio.create_task(one.run(), name=f"{name} webhooks") for name, one in house.webhooks.items()]
    tasks += [asyncio.create_task(relay.run(), name="relay") for relay in _relays(house)]
    if house.runtime.far_names is not None:
        tasks.append(asyncio.create_task(house.runtime.far_names.run(), name="names"))
    for task in tasks:
        task.add_done_callback(_tell_if_it_died)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _relays(house: House) -> Sequence[Any]:
    """Without Kafka there are none, and its library is not loaded."""
    kafka, runtime = house.runtime.settings.kafka, house.runtime
    if kafka is None:
        return ()
    from shared.cluster import relays_of

    return relays_of(kafka=kafka, logins=runtime.logins, feed=runtime.feed, services=tuple(house.services))


def _tell_if_it_died(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("the background work of %s died", task.get_name(), exc_info=task.exception())


def _main(name: str) -> Any:
    return import_module(f"services.{name}.main")


def _require_known(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in SERVICES]
    if unknown:
        raise UnknownService(
            f"There is no service {', '.join(unknown)}.",
            why="The services are " + ", ".join(SERVICES) + ".",
            next_step="Name one of these, or none for all.",
            fields=(FieldError(field="service", rule="one of " + ", ".join(SERVICES)),),
        )


def _verifier(settings: Settings, issuer: LocalIssuer | None, client: httpx.AsyncClient) -> TokenVerifier:
    if issuer is not None:
        return TokenVerifier(issuer=issuer.issuer, audience=settings.audience, keys=issuer, clock=utc_now)
    assert settings.issuer is not None
    return TokenVerifier(
        issuer=settings.issuer,
        audience=settings.audience,
        keys=JwksUrl(issuer=settings.issuer, client=client, clock=time.monotonic),
        clock=utc_now,
    )


async def _require_ready(pool: asyncpg.Pool, leaving: asyncio.Event) -> None:
    if leaving.is_set():
        raise Leaving(
            "This process is about to end.", why="It was told to.", next_step="Send requests to another replica."
        )
    try:
        # Its own time-outs: one around both would wait until the driver could tell the database to stop.
        async with pool.acquire(timeout=READY_SECONDS_MAX) as connection:
            await connection.fetchval("SELECT 1", timeout=READY_SECONDS_MAX)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(
            "The database does not answer.",
            why=str(error) or f"It said nothing for {READY_SECONDS_MAX:g} s.",
            next_step="Try again in a moment.",
        ) from error


def _application(
    runtime: Runtime,
    services: dict[str, Service],
    issuer: LocalIssuer | None,
    streams: Sequence[APIRouter],
    ready: Callable[[], Awaitable[None]],
) -> FastAPI:
    settings, verifier = runtime.settings, runtime.verifier

    operation = APIRouter(tags=["operation"], responses=PROBLEMS)
    if issuer is not None:

        @operation.get("/issuer/jwks", operation_id="get_issuer_keys", summary="The embedded issuer's public keys")
        async def get_issuer_keys() -> dict[str, Any]:
            return issuer.jwks()

    @operation.get("/v1/info", operation_id="get_info", summary="Which mode, which services, which settings")
    async def get_info(request: Request) -> dict[str, Any]:
        await verifier.verify(credentials(request))
        return {
            "mode": settings.mode,
            "services": list(services),
            "signing": [name for name, service in services.items() if service.signs],
            "database_roles": runtime.logins.described(),
            "settings": settings.printable(),
        }

    routers = [
        pages_router(verifier=verifier),
        operation,
        *(router for service in services.values() for router in service.routers),
        *streams,
    ]
    return create_app(routers=routers, ready=ready)
