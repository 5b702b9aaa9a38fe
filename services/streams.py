"""What streams: the subscribers' doors of the services, over HTTP and gRPC, and what is sent to their webhooks."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI

from shared.grpc_server import Streams, bindings_of, message_type
from shared.grpc_streams import BatchesCall, SubscribeCall
from shared.http_stream import stream_router
from shared.http_webhooks import webhook_router
from shared.proto_schema import service_name_of
from shared.runtime import Runtime, Service
from shared.subscription import Subscriptions
from shared.webhooks.addresses import AllowedNetworks
from shared.webhooks.delivery import WebhookDelivery
from shared.webhooks.registry import Webhooks
from shared.webhooks.signature import SECRET_BYTES


def subscriptions_of(runtime: Runtime, services: Mapping[str, Service]) -> dict[str, Subscriptions]:
    """The fan-out of each service."""
    return {name: _subscriptions(runtime, service) for name, service in services.items()}


def _subscriptions(runtime: Runtime, service: Service) -> Subscriptions:
    foundation = service.foundation
    facts = import_module(f"services.{service.name}.published_events").FACTS
    return Subscriptions(
        service=service.name,
        names=[fact.TOPIC for fact in facts],
        feed=runtime.feed,
        access=foundation.access,
        settled=runtime.doors(foundation).wait,
    )


def stream_routers(
    runtime: Runtime, services: Mapping[str, Service], subscriptions: Mapping[str, Subscriptions]
) -> list[APIRouter]:
    """The server-sent events of each service."""
    return [
        stream_router(doors=runtime.doors(service.foundation), subscriptions=subscriptions[name])
        for name, service in services.items()
    ]


def webhook_deliveries(
    runtime: Runtime, services: Mapping[str, Service], subscriptions: Mapping[str, Subscriptions]
) -> dict[str, WebhookDelivery]:
    """What sends the events of each service to its webhooks."""
    chance = random.SystemRandom()
    return {
        name: WebhookDelivery(
            service=name,
            dsn=runtime.logins.url(name),
            pool=service.foundation.pool,
            subscriptions=subscriptions[name],
            networks=AllowedNetworks.parse(runtime.settings.webhook_networks),
            trusted=httpx.create_ssl_context,
            clock=runtime.clock,
            chance=chance.random,
        )
        for name, service in services.items()
    }


def webhook_routers(
    runtime: Runtime,
    services: Mapping[str, Service],
    subscriptions: Mapping[str, Subscriptions],
    deliveries: Mapping[str, WebhookDelivery],
) -> list[APIRouter]:
    """Where the webhooks of each service are registered."""
    return [
        webhook_router(
            doors=runtime.doors(service.foundation),
            subscriptions=subscriptions[name],
            webhooks=Webhooks(
                pool=service.foundation.pool,
                service=name,
                feed=runtime.feed,
                new_secret=partial(secrets.token_bytes, SECRET_BYTES),
                changed=deliveries[name].wake,
            ),
            feed=runtime.feed,
            networks=AllowedNetworks.parse(runtime.settings.webhook_networks),
        )
        for name, service in services.items()
    ]


def stream_calls(runtime: Runtime, app: FastAPI, subscriptions: Mapping[str, Subscriptions]) -> Streams:
    """The calls of gRPC that are streams, by full name."""
    calls: dict[str, Any] = {
        f"/prooftrail.{name}.v1.{service_name_of(name)}/Subscribe": SubscribeCall(
            subscriptions=one,
            verifier=runtime.verifier,
            clock=runtime.clock,
            response_type=message_type(f"prooftrail.{name}.v1.SubscribeResponse"),
        )
        for name, one in subscriptions.items()
    }
    if "drift" in subscriptions:
        calls["/prooftrail.drift.v1.DriftService/IngestRowsStream"] = BatchesCall(
            app=app,
            binding=bindings_of(app)["IngestRows"],
            answer_type=message_type("prooftrail.drift.v1.IngestRowsResponse"),
            response_type=message_type("prooftrail.drift.v1.IngestRowsStreamResponse"),
            ending=subscriptions["drift"].ending,
        )
    return calls
