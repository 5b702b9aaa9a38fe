"""Metrics on a port of their own, in the Prometheus text format: requests by route, and how far each service has read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER_METHOD = "_OTHER"
"""How the semantic conventions of OpenTelemetry name any other method, so that a client cannot make labels up."""

_duration = metrics.get_meter("prooftrail").create_histogram(
    "http.server.request.duration", unit="s", description="Duration of HTTP requests by method, route and status"
)


@contextlib.contextmanager
def serving_metrics(*, host: str, port: int) -> Iterator[int]:
    """Serves /metrics until the block ends; gives the port (of use when it was 0)."""
    provider = MeterProvider(metric_readers=[PrometheusMetricReader()])
    metrics.set_meter_provider(provider)
    server, _ = start_http_server(port, addr=host)
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        provider.shutdown()


class RequestMetrics:
    """Measures every request. Its labels are the route's template, never the ids in the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            _duration.record(time.perf_counter() - started, _labels(scope, status))


def _labels(scope: Scope, status: int) -> dict[str, Any]:
    return {
        "http.request.method": scope["method"] if scope["method"] in METHODS else OTHER_METHOD,
        "http.route": getattr(scope.get("route"), "path", UNMATCHED),
        "http.response.status_code": status,
    }
