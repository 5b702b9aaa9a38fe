"""Metrics on a port of their own, in the Prometheus text format: requests by route, and how each log is doing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
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


@dataclass(frozen=True, kw_only=True)
class LogFigures:
    """How the log of a service is doing: events sealed, seconds that the oldest unsealed one waits, 1 when nothing can be sealed,
    and how often a witness spoke of a fork.
    """

    size: int
    age_s: float
    refused: int
    forks: int


_logs: dict[str, Callable[[], LogFigures]] = {}


def watch_log(service: str, figures: Callable[[], LogFigures]) -> None:
    """Shows the figures of the service's log among the metrics."""
    _logs[service] = figures


def forget_log(service: str) -> None:
    """The log is not served any more."""
    _logs.pop(service, None)


def _observed(choose: Callable[[LogFigures], float]) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _: [Observation(choose(figures()), {"service": service}) for service, figures in _logs.items()]


for _name, _unit, _description, _choose in (
    ("prooftrail.log.size", "{event}", "Events that the last checkpoint covers", lambda log: log.size),
    ("prooftrail.log.age", "s", "How long the oldest event without a checkpoint has waited", lambda log: log.age_s),
    ("prooftrail.log.refused", "1", "1 while nothing is sealed because something speaks against it", lambda log: log.refused),
    ("prooftrail.log.forks", "1", "How often a witness spoke of a fork or of another history", lambda log: log.forks),
):  # fmt: skip
    metrics.get_meter("prooftrail").create_observable_gauge(
        _name, callbacks=[_observed(_choose)], unit=_unit, description=_description
    )
