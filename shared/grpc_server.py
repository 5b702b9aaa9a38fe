"""The gRPC server beside HTTP: every verb and query, subscriptions, health (grpc.health.v1) and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from shared import tracing
from shared.artefacts import ARTEFACT_BYTES_MAX
from shared.errors import ProoftrailError, Unavailable
from shared.grpc_calls import Binding, CallFailed, carry_out, status_of
from shared.grpc_streams import metadata_of
from shared.proto_schema import call_of, service_name_of
from shared.subscription import SEND_SECONDS_MAX, SlowSubscriber
from shared.telemetry import measured_call

DESCRIPTORS = Path(__file__).parent.parent / "proto" / "prooftrail.binpb"
DEADLINE_MAX_SECONDS = 60.0
"""A call without a deadline of its own, or with a later one, ends here."""
STREAMS_MAX = 1_000
"""Concurrent calls of one connection."""
KEEPALIVE_SECONDS_MIN = 10
KEEPALIVE_SECONDS = 30
"""How often a silent connection is asked whether anybody is there, and how long it may take to answer."""
HEALTH_SECONDS = 1.0
"""How often grpc.health.v1 learns whether the process is ready."""


_OPTIONS = [
    ("grpc.max_receive_message_length", ARTEFACT_BYTES_MAX + (1 << 16)),
    ("grpc.max_send_message_length", ARTEFACT_BYTES_MAX + (1 << 16)),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS_MIN * 1000),
    ("grpc.so_reuseport", 0),
]


class PortTaken(Unavailable):
    """The server cannot have its port."""


class DeadlineExceeded(ProoftrailError):
    """The call was not answered in the time that it has."""

    status = 504


_log = logging.getLogger(__name__)

Context = Any
"""grpc.aio.ServicerContext: the library carries no types."""
Handler = Any
"""grpc.RpcMethodHandler."""
Streams = Mapping[str, Callable[[Any, Context], Any]]
"""Calls that are streams, by full name: what serves them."""


def message_type(name: str) -> type[Message]:
    """The class of a message of our protos by its full name."""
    _load()
    found: type[Message] = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    return found


def _load() -> None:
    pool = descriptor_pool.Default()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        if not file.name.startswith("google/protobuf/"):
            pool.AddSerializedFile(file.SerializeToString())


async def _always() -> None:
    return


@contextlib.asynccontextmanager
async def grpc_serving(
    app: FastAPI,
    *,
    host: str,
    port: int,
    services: Sequence[str],
    streams: Streams,
    drain_s: float,
    ready: Callable[[], Awaitable[None]] = _always,
    leaving: asyncio.Event | None = None,
    ending: Callable[[], None] = lambda: None,
    send_s_max: float = SEND_SECONDS_MAX,
) -> AsyncIterator[int]:
    """Serves the calls of the named services until the block ends; gives the port.

    It says NOT_SERVING while `ready` raises, as /readyz does, and for good once `leaving` is set, at the end at the latest; then
    `ending` makes the streams end, so that subscribers resume elsewhere. A subscriber that takes nothing for `send_s_max` is cut
    off.
    """
    server = grpc.aio.server(options=_OPTIONS)
    calls = _Calls(app, services=services, streams=streams, send_s_max=send_s_max)
    alive = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    reflection.enable_server_reflection([*calls.service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    server.add_generic_rpc_handlers((calls,))
    try:
        bound: int = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise PortTaken(
            f"gRPC cannot listen on {host}:{port}.",
            why="Another process has the port, or it needs more rights.",
            next_step="Set PROOFTRAIL_GRPC_PORT to another port, or 0 for any free one.",
        ) from error
    await server.start()
    names = ("", *calls.service_names)
    await _tell_health(alive, names, ready)
    telling = [
        asyncio.create_task(_keep_health(alive, names, ready), name="health of gRPC"),
        asyncio.create_task(_tell_leaving(alive, leaving or asyncio.Event()), name="leaving of gRPC"),
    ]
    try:
        yield bound
    finally:
        for task in telling:
            task.cancel()
        await alive.enter_graceful_shutdown()
        ending()
        await server.stop(drain_s)


async def _keep_health(
    alive: health.aio.HealthServicer, names: Sequence[str], ready: Callable[[], Awaitable[None]]
) -> None:
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        await _tell_health(alive, names, ready)


async def _tell_health(
    alive: health.aio.HealthServicer, names: Sequence[str], ready: Callable[[], Awaitable[None]]
) -> None:
    try:
        await ready()
        status = health_pb2.HealthCheckResponse.SERVING
    except Exception:  # noqa: BLE001 -- whatever it is, /readyz is no success either
        status = health_pb2.HealthCheckResponse.NOT_SERVING
    for name in names:
        await alive.set(name, status)


async def _tell_leaving(alive: health.aio.HealthServicer, leaving: asyncio.Event) -> None:
    await leaving.wait()
    await alive.enter_graceful_shutdown()


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call by its full name."""

    def __init__(self, app: FastAPI, *, services: Sequence[str], streams: Streams, send_s_max: float) -> None:
        _load()
        self._send_s_max = send_s_max
        self._app = app
        self._handlers: dict[str, Handler] = {}
        self.service_names = []
        bindings = bindings_of(app)
        for service in services:
            package = f"prooftrail.{service}.v1"
            descriptor = descriptor_pool.Default().FindServiceByName(f"{package}.{service_name_of(service)}")
            self.service_names.append(descriptor.full_name)
            for method in descriptor.methods:
                name = f"/{descriptor.full_name}/{method.name}"
                if name in streams:
                    self._handlers[name] = self._stream(method, streams[name])
                elif method.name in bindings:
                    self._handlers[name] = self._unary(method, bindings[method.name])

    def service(self, handler_call_details: Any) -> Handler | None:
        return self._handlers.get(handler_call_details.method)

    def _unary(self, method: Any, binding: Binding) -> Handler:
        name = f"{method.containing_service.full_name}/{method.name}"
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)

        async def handle(request: Message, context: Context) -> Message:
            async with _answering(name, context), asyncio.timeout(_seconds_left(context)):
                return await carry_out(self._app, binding, request, response_type, metadata=metadata_of(context))
            raise AssertionError("the call was aborted")

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=request_type.FromString, response_serializer=response_type.SerializeToString
        )

    def _stream(self, method: Any, serve: Callable[[Any, Context], Any]) -> Handler:
        name = f"{method.containing_service.full_name}/{method.name}"
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)
        serializers = {
            "request_deserializer": request_type.FromString, "response_serializer": response_type.SerializeToString,
        }  # fmt: skip
        if method.client_streaming:

            async def collect(requests: AsyncIterator[Message], context: Context) -> Message:
                async with _answering(name, context):
                    response: Message = await serve(requests, context)
                    return response
                raise AssertionError("the call was aborted")

            return grpc.stream_unary_rpc_method_handler(collect, **serializers)

        async def stream(request: Message, context: Context) -> None:
            async with (
                _answering(name, context, traced=False),
                contextlib.aclosing(serve(request, context)) as responses,
            ):
                async for response in responses:
                    await self._write(context, response)

        return grpc.unary_stream_rpc_method_handler(stream, **serializers)

    async def _write(self, context: Context, response: Message) -> None:
        """What the client has got by then it reads before it is told."""
        try:
            async with asyncio.timeout(self._send_s_max):
                await context.write(response)
        except TimeoutError:
            raise SlowSubscriber(
                f"You read nothing for {self._send_s_max:g} s.",
                why="Nothing is kept for a subscriber that does not read.",
                next_step="Resume at the position of the last response that you got.",
            ) from None


def bindings_of(app: FastAPI) -> dict[str, Binding]:
    """The HTTP request of each call of the application, by the call's name."""
    bindings = {}
    for route in iter_route_contexts(app.routes):
        operation = getattr(route, "operation_id", None)
        if operation is not None and route.path is not None:
            bindings[call_of(operation)] = Binding(
                method=next(iter(route.methods or {"GET"})), path=route.path,
                answering=getattr(route.original_route, "answering", None),
            )  # fmt: skip
    return bindings


def _seconds_left(context: Context) -> float:
    left = context.time_remaining()
    return DEADLINE_MAX_SECONDS if left is None else min(left, DEADLINE_MAX_SECONDS)


@contextlib.asynccontextmanager
async def _answering(method: str, context: Context, *, traced: bool = True) -> AsyncIterator[None]:
    """Measures the call, and ends it with the status of what the block raises. A stream is no part of anybody's trace."""
    span = tracing.answering(method, metadata_of(context)) if traced else contextlib.nullcontext()
    with measured_call(method) as call, span:
        try:
            yield
        except (CallFailed, ProoftrailError, TimeoutError) as error:
            status = _status_of(error)
            call.code = code_pb2.Code.Name(status.code)
            tracing.failed(call.code)
            await _abort(context, status)


def _status_of(error: CallFailed | ProoftrailError | TimeoutError) -> status_pb2.Status:
    if isinstance(error, CallFailed):
        return error.status
    if isinstance(error, ProoftrailError):
        return status_of(error, trace_id=uuid4().hex)
    return status_of(_too_late(), trace_id=uuid4().hex)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The call was not answered in time.",
        why=f"It has until its own deadline, and {DEADLINE_MAX_SECONDS:g} s at most. What it asked for may have been done.",
        next_step="Send it again with the same idempotency_key: what was done is answered, and not done twice.",
    )


async def _abort(context: Context, status: status_pb2.Status) -> None:
    """A client that takes nothing is not waited for: it finds the status behind what it has not read."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SEND_SECONDS_MAX):
            await context.abort_with_status(rpc_status.to_status(status))
