"""What streams: the subscribers' doors of the services, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from fastapi import APIRouter

from shared.http_stream import stream_router
from shared.runtime import Runtime, Service
from shared.subscription import Subscriptions


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
