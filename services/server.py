"""`make run`: PostgreSQL (embedded unless DATABASE_URL is set), the services, and HTTP on loopback, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.composition import SERVICES, House, open_house
from services.streams import stream_calls
from shared.embedded_postgres import EmbeddedPostgres
from shared.errors import ProoftrailError
from shared.grpc_server import grpc_serving
from shared.http_stream import CUT, WRITE
from shared.log_lines import set_up_logging
from shared.moving import require_not_moved
from shared.proto_schema import DEPLOYMENT
from shared.settings import Settings, read_settings
from shared.telemetry import serving_metrics
from shared.tracing import tracing

GRACEFUL_SHUTDOWN_SECONDS = 10
CLOSE = (b"connection", b"close")

_log = logging.getLogger(__name__)


def serve(names: Sequence[str]) -> int:
    """Serves the named services, or all; returns the exit code of the process."""
    try:
        settings = read_settings()
        set_up_logging(form=settings.log_format, service=service_name(names))
        with tracing(service=service_name(names)), database(settings) as url:
            uvloop.run(_serve(settings, url, names or SERVICES))
    except ProoftrailError as error:
        print(explain(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of the user's own PostgreSQL, or of an embedded one that lives as long as the block."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    require_not_moved(settings.data / "postgres")
    with EmbeddedPostgres.start(settings.data / "postgres") as server:
        yield server.dsn


@contextlib.contextmanager
def database_at_work(settings: Settings) -> Iterator[str]:
    """The URL of the database, also while `make run` owns the embedded one."""
    running = None if settings.database_url else EmbeddedPostgres.running_dsn(settings.data / "postgres")
    if running is not None:
        yield running
        return
    with database(settings) as url:
        yield url


def explain(error: ProoftrailError) -> str:
    """What happened, why, and what to do, for a person at a terminal."""
    return "\n".join(line for line in (error.what, f"  why:  {error.why}", f"  next: {error.next_step}") if line)


async def _serve(settings: Settings, database_url: str, names: Sequence[str]) -> None:
    with serving_metrics(host=settings.host, port=settings.metrics_port):
        async with (
            open_house(settings=settings, database_url=database_url, names=names) as house,
            uvicorn_serving(house.app, settings, leaving=house.leaving, ending=house.end_streams) as server,
            grpc_serving(
                house.app,
                host=settings.host,
                port=settings.grpc_port,
                services=(*house.services, DEPLOYMENT),
                streams=stream_calls(house.runtime, house.app, house.subscriptions),
                drain_s=GRACEFUL_SHUTDOWN_SECONDS,
                ready=house.ready,
                leaving=house.leaving,
                ending=house.end_streams,
            ) as grpc_port,
        ):
            _spare_the_collector()
            _tell(settings, banner(settings, house, grpc_port))
            await server


def _spare_the_collector() -> None:
    """What start-up made stays for good; looking at all of it again would stop everybody for a tenth of a second each time."""
    gc.collect()
    gc.freeze()


def service_name(names: Sequence[str]) -> str:
    """What traces and log lines call this process: OTEL_SERVICE_NAME, else after the services that it was started with."""
    return os.environ.get("OTEL_SERVICE_NAME") or "-".join(("prooftrail", *names))


def _tell(settings: Settings, text: str) -> None:
    if settings.log_format == "json":
        _log.info(text.partition("\n")[0])
    else:
        print(text, flush=True)


class _Protocol(HttpToolsProtocol):
    """Lets a response break its connection off, and write at once what the peer takes at once."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CUT: self.transport.abort, WRITE: self._write}  # type: ignore[dict-item]

    def _write(self, chunk: bytes) -> bool:
        """False if it has to wait, or if it is not this response's turn: then it goes the whole way."""
        if self.flow.write_paused or not self.cycle.chunked_encoding or self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True


class _Server(uvicorn.Server):
    """Ends gracefully on SIGINT and SIGTERM, and leaves the rest of the process to end in order too.

    At once it says that it is not ready; for `drain_s` it still answers, and each answer closes its connection, so that clients
    go elsewhere; then streams end, and what is under way is waited for. A second signal cuts the first wait short.
    """

    def __init__(
        self, config: uvicorn.Config, *, leaving: asyncio.Event, ending: Callable[[], None], drain_s: float
    ) -> None:
        super().__init__(config)
        self._leaving = leaving
        self._ending = ending
        self._drain_s = drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._leaving.is_set():
            super().handle_exit(sig, frame)
            return
        self._leaving.set()
        # Written anew every second from what the configuration holds.
        self.config.encoded_headers.append(CLOSE)
        self.server_state.default_headers.append(CLOSE)
        asyncio.get_running_loop().call_later(self._drain_s, super().handle_exit, sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def uvicorn_serving(
    app: FastAPI,
    settings: Settings,
    *,
    leaving: asyncio.Event | None = None,
    ending: Callable[[], None] = lambda: None,
) -> AsyncIterator[asyncio.Task[None]]:
    """A task that serves the application; the block is entered once it accepts requests. `leaving` is set when it is told to end,
    and `ending` is called before it waits for the requests that are open.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            host=settings.host,
            port=settings.port,
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
        ),
        leaving=leaving or asyncio.Event(),
        ending=ending,
        drain_s=settings.drain_s,
    )
    task = asyncio.create_task(server.serve(), name="http")
    while not server.started and not task.done():  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield task
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


def banner(settings: Settings, house: House, grpc_port: int) -> str:
    """What a person sees when everything is up."""
    address = f"http://{settings.host}:{settings.port}"
    lines = [
        f"Prooftrail is up in {settings.mode} mode: {', '.join(house.services)}",
        f"  HTTP      {address}   (API: {address}/openapi.json)",
        f"  gRPC      {settings.host}:{grpc_port}   (protos: proto/, reflection is on)",
        f"  metrics   http://{settings.host}:{settings.metrics_port}/metrics",
        f"  data      {settings.data}"
        if settings.database_url is None
        else "  data      the PostgreSQL of DATABASE_URL",
        f"  roles     {house.runtime.logins.described()}",
    ]
    if house.issuer is not None:
        lines.append('  token     ./prooftrail token "Your Name"     pages: ./prooftrail pages "Your Name"')
        lines.append("  This mode mints its own tokens: for one machine and for trying out, not for a team.")
    return "\n".join(lines)
