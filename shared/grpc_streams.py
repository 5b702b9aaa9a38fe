"""The calls of gRPC that are streams: subscribing to a service's events, and ingesting batch after batch."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import FastAPI
from google.protobuf.message import Message

from shared.errors import FieldError, Invalid, Unavailable
from shared.event import Actor
from shared.grpc_calls import Binding, CallFailed, carry_out, in_batch
from shared.http_doors import SYSTEM_PATTERN
from shared.identity import TokenVerifier
from shared.subscription import Delivery, Subscriptions, Wish

FILTERS_MAX = 100
BATCHES_MAX = 10_000
"""Batches of one stream: every one of them has its answer at the end."""
BATCH_SECONDS_MAX = 60.0

Context = Any
"""grpc.aio.ServicerContext: the library carries no types."""


class InvalidRequest(Invalid):
    """A field of the request breaks its rule."""


class StreamTooLong(Invalid):
    """More batches than one stream takes."""


class IngestEnds(Unavailable):
    """The service is going in the middle of a stream of batches."""


def metadata_of(context: Context) -> dict[str, str]:
    """The metadata of the call as text, names in lower case."""
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}


@dataclass(frozen=True, kw_only=True)
class SubscribeCall:
    """`Subscribe` of one service: a response for each event, and one without an event when nothing happens."""

    subscriptions: Subscriptions
    verifier: TokenVerifier
    clock: Callable[[], datetime]
    response_type: type[Message]

    async def __call__(self, request: Any, context: Context) -> AsyncGenerator[Message, None]:
        caller = await self.verifier.verify(metadata_of(context).get("authorization"))
        _require_valid(request)
        wish = Wish(
            actor=Actor(subject=caller.subject, kind=caller.kind, issuer=caller.issuer),
            after=request.from_position,
            systems=frozenset(request.systems),
            names=frozenset(request.names),
            lasts_s=(caller.expires_at - self.clock()).total_seconds(),
        )
        async with contextlib.aclosing(await self.subscriptions.open(wish)) as deliveries:
            async for delivery in deliveries:
                for response in self._responses(delivery):
                    yield response

    def _responses(self, delivery: Delivery) -> list[Message]:
        if not delivery.events:
            return [self.response_type(position=delivery.position)]
        return [
            self.response_type(position=event.position, event=event.raw, leaf_hash=event.leaf_hash)
            for event in delivery.events
        ]


def _require_valid(request: Any) -> None:
    broken = []
    if request.from_position < 0:
        broken.append(FieldError(field="from_position", rule="0 or more"))
    if len(request.systems) > FILTERS_MAX or not all(re.fullmatch(SYSTEM_PATTERN, one) for one in request.systems):
        broken.append(FieldError(field="systems", rule=f"at most {FILTERS_MAX} keys of AI systems: {SYSTEM_PATTERN}"))
    if len(request.names) > FILTERS_MAX:
        broken.append(FieldError(field="names", rule=f"at most {FILTERS_MAX}"))
    if broken:
        raise InvalidRequest(
            f"The request breaks a rule at {', '.join(one.field for one in broken)}.",
            why="Every field is checked before the stream begins.",
            next_step="Mend these fields and subscribe again.",
            fields=tuple(broken),
        )


@dataclass(frozen=True, kw_only=True)
class BatchesCall:
    """A stream of requests of a unary call, which are carried out one after the other; its response gathers their answers.

    The request of the stream holds the request of the call in its one field, the response its answers in its one field.
    """

    app: FastAPI
    binding: Binding
    answer_type: type[Message]
    response_type: type[Message]
    ending: asyncio.Event

    async def __call__(self, requests: AsyncIterator[Message], context: Context) -> Message:
        response = self.response_type()
        answers = getattr(response, response.DESCRIPTOR.fields[0].name)
        async for request in self._until_ending(requests):
            if len(answers) == BATCHES_MAX:
                raise _too_long()
            try:
                async with asyncio.timeout(BATCH_SECONDS_MAX):
                    answer = await self._carry_out(request, context)
            except CallFailed as failed:
                raise in_batch(failed, len(answers) + 1) from failed
            answers.add().CopyFrom(getattr(answer, answer.DESCRIPTOR.fields[0].name))
        return response

    async def _carry_out(self, request: Message, context: Context) -> Message:
        batch = getattr(request, request.DESCRIPTOR.fields[0].name)
        return await carry_out(self.app, self.binding, batch, self.answer_type, metadata=metadata_of(context))

    async def _until_ending(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        end = asyncio.ensure_future(self.ending.wait())
        try:
            while True:
                following = asyncio.ensure_future(_following(requests))
                await asyncio.wait({end, following}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                    raise IngestEnds(
                        "The service is going.",
                        why="It was told to end; the batches before this one are stored.",
                        next_step="Send the batches again under the same names: those that are there are not taken twice.",
                    )
                request = following.result()
                if request is None:
                    return
                yield request
        finally:
            end.cancel()


async def _following(requests: AsyncIterator[Message]) -> Message | None:
    return await anext(requests, None)


def _too_long() -> StreamTooLong:
    return StreamTooLong(
        f"One stream takes {BATCHES_MAX} batches.",
        why="Every batch has its answer at the end of the stream; the batches so far are stored.",
        next_step="End the stream and open another one for the rest.",
        fields=(FieldError(field="rows", rule=f"at most {BATCHES_MAX} a stream"),),
    )
