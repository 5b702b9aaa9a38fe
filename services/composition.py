"""Builds services on a runtime and puts them behind one HTTP application."""

# No postponed annotations here: the routes are closures, and FastAPI reads their annotations where they are made.

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import asyncpg
import httpx
from fastapi import APIRouter, FastAPI, Request

from shared.errors import FieldError, Invalid, Unavailable
from shared.feed import Feed, StoreFeed
from shared.http_app import create_app
from shared.http_doors import PROBLEMS
from shared.http_pages import credentials, pages_router
from shared.identity import TokenVerifier
from shared.key_sources import JwksUrl
from shared.local_issuer import LocalIssuer
from shared.runtime import Runtime, Service, migrate_service, open_pool, utc_now
from shared.settings import Settings, make_open_folder
from shared.workers import Workers

SERVICES = ("requirements", "verification", "releases", "drift", "traceability")

EMBEDDED_ISSUER = "urn:prooftrail:embedded-issuer"
"""The same on every port, so that a token outlives a restart elsewhere. It says that no provider vouched for the person."""

_log = logging.getLogger(__name__)


class UnknownService(Invalid):
    """Not one of the services of the house."""


@dataclass(frozen=True, kw_only=True)
class House:
    """The services that were built, and the application in front of them. `issuer` is None with an issuer of one's own."""

    app: FastAPI
    services: dict[str, Service]
    runtime: Runtime
    issuer: LocalIssuer | None


def local_issuer(settings: Settings) -> LocalIssuer:
    """The issuer of the embedded mode, in the data folder."""
    make_open_folder(settings.data)
    return LocalIssuer.open(settings.data / "issuer", issuer=EMBEDDED_ISSUER, clock=utc_now)


@contextlib.asynccontextmanager
async def open_house(*, settings: Settings, database_url: str, names: Sequence[str] = SERVICES) -> AsyncIterator[House]:
    """Migrates, builds and runs the named services until the block ends."""
    async with (
        offline_house(settings=settings, database_url=database_url, names=names) as house,
        _running(house.runtime.feed, house.services),
    ):
        yield house


@contextlib.asynccontextmanager
async def offline_house(
    *, settings: Settings, database_url: str, names: Sequence[str] = SERVICES
) -> AsyncIterator[House]:
    """Migrates and builds the named services without running them: for work on their stored state."""
    issuer = local_issuer(settings) if settings.issuer is None else None
    async with contextlib.AsyncExitStack() as stack:
        runtime, pool = await _open_runtime(stack, settings, database_url, issuer)
        services = await _build(stack, runtime, names)
        app = _application(settings, services, issuer, runtime.verifier, pool)
        yield House(app=app, services=services, runtime=runtime, issuer=issuer)


async def _open_runtime(
    stack: contextlib.AsyncExitStack, settings: Settings, database_url: str, issuer: LocalIssuer | None
) -> tuple[Runtime, asyncpg.Pool]:
    pool = await stack.enter_async_context(
        await open_pool(database_url, connections_max=4, application_name="prooftrail feed")
    )
    executor = stack.enter_context(Workers())
    verifier = _verifier(settings, issuer, await stack.enter_async_context(httpx.AsyncClient()))
    feed = StoreFeed(pool=pool, dsn=database_url)
    runtime = Runtime(
        settings=settings,
        database_url=database_url,
        feed=feed,
        verifier=verifier,
        executor=executor,
        services=SERVICES,
    )
    return runtime, pool


async def _build(stack: contextlib.AsyncExitStack, runtime: Runtime, names: Sequence[str]) -> dict[str, Service]:
    _require_known(names)
    for name in SERVICES:
        await migrate_service(runtime.database_url, service=name, scripts=_main(name).MIGRATIONS)
    services = {}
    for name in names:
        services[name] = await _main(name).build(runtime)
        stack.push_async_callback(services[name].close)
    return services


@contextlib.asynccontextmanager
async def _running(feed: Feed, services: dict[str, Service]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(feed.listen(), name="feed")]
    tasks += [asyncio.create_task(service.run(), name=name) for name, service in services.items()]
    for task in tasks:
        task.add_done_callback(_tell_if_it_died)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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


def _application(
    settings: Settings,
    services: dict[str, Service],
    issuer: LocalIssuer | None,
    verifier: TokenVerifier,
    pool: asyncpg.Pool,
) -> FastAPI:
    async def ready() -> None:
        try:
            await pool.fetchval("SELECT 1")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(
                "The database does not answer.", why=str(error), next_step="Try again in a moment."
            ) from error

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
            "settings": settings.printable(),
        }

    routers = [
        pages_router(verifier=verifier),
        operation,
        *(router for service in services.values() for router in service.routers),
    ]
    return create_app(routers=routers, ready=ready)
