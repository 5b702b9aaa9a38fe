"""The house behind a real gRPC server, and its calls that are streams, for tests and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2

from services.streams import stream_calls
from shared.grpc_calls import fill
from shared.grpc_server import grpc_serving, message_type
from shared.proto_schema import DEPLOYMENT
from tests.house import Client, TestHouse
from tests.test_grpc_calls import Refused

INGEST = "/prooftrail.drift.v1.DriftService/IngestRowsStream"


@dataclass(frozen=True)
class StreamWire:
    """A channel to the server, and what stops the server."""

    channel: Any
    house: TestHouse
    server: contextlib.AsyncExitStack

    def subscribe(self, who: Client | None, *, service: str = "requirements", **fields: Any) -> Any:
        """The open stream of responses."""
        package = f"prooftrail.{service}.v1"
        subscribe = self.channel.unary_stream(
            f"/{package}.{service.capitalize()}Service/Subscribe",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_type(f"{package}.SubscribeResponse").FromString,
        )
        request = message_type(f"{package}.SubscribeRequest")(**fields)
        return subscribe(request, metadata=_metadata(who))

    async def ingest(
        self, who: Client, batches: Iterable[dict[str, Any]], *, open_until: asyncio.Event | None = None
    ) -> list[Any]:
        """The answers. Refused if the stream is. After the batches the stream stays open until the event is set."""
        stream = self.channel.stream_unary(
            INGEST,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_type("prooftrail.drift.v1.IngestRowsStreamResponse").FromString,
        )
        try:
            return list((await stream(_requests(batches, open_until), metadata=_metadata(who), timeout=60)).ingested)
        except grpc.aio.AioRpcError as error:
            raise Refused(error) from error


def _metadata(who: Client | None) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {who.token}")] if who is not None else []


async def _requests(batches: Iterable[dict[str, Any]], open_until: asyncio.Event | None) -> AsyncIterator[Any]:
    for batch in batches:
        request = message_type("prooftrail.drift.v1.IngestRowsStreamRequest")()
        fill(request.rows, batch)
        yield request
    if open_until is not None:
        await open_until.wait()


@contextlib.asynccontextmanager
async def streams_serving(house: TestHouse, **settings: Any) -> AsyncIterator[StreamWire]:
    """The running house with its gRPC server."""
    serving = grpc_serving(
        house.house.app, host="127.0.0.1", port=0, services=(*house.house.services, DEPLOYMENT), drain_s=2.0,
        ending=house.house.end_streams,
        streams=stream_calls(house.house.runtime, house.house.app, house.house.subscriptions), **settings,
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as server:
        port = await server.enter_async_context(serving)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield StreamWire(channel, house, server)


async def take(stream: Any, count: int) -> list[Any]:
    """The next `count` responses with an event."""
    events: list[Any] = []
    while len(events) < count:
        response = await stream.read()
        assert response is not grpc.aio.EOF
        if response.event:
            events.append(response)
    return events


async def refusal(stream: Any, positions: list[int] | None = None) -> Refused:
    """How the stream ends; the positions of what came before are added."""
    try:
        while (response := await stream.read()) is not grpc.aio.EOF:
            if positions is not None:
                positions.append(response.position)
    except grpc.aio.AioRpcError as error:
        return Refused(error)
    raise AssertionError("the stream ended well")


def reason_of(refused: Refused) -> str:
    info: Any = refused.details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    return str(info.reason)
