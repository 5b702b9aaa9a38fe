"""Metrics on a port of their own, in the Prometheus text format: requests, calls, appends, and how each log is doing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

FAILED_CODES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that are a server's fault, after the semantic conventions."""

BEHIND_GRPC = "prooftrail.behind_grpc"
"""Extension of the scope of a request that stands for a call of gRPC, which is measured as that."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds of the buckets, as the semantic conventions advise them."""
COMMANDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_meter = metrics.get_meter("prooftrail")
_call_duration = _meter.create_histogram(
    "rpc.server.call.duration",
    unit="s",
    description="Duration of calls of gRPC by method and status",
    explicit_bucket_boundaries_advisory=SECONDS,
)
append_batch_size = _meter.create_histogram(
    "prooftrail.store.batch.size",
    unit="{command}",
    description="Commands that were written to the store together",
    explicit_bucket_boundaries_advisory=COMMANDS,
)
feature_records = _meter.create_counter(
    "prooftrail.features.records",
    unit="{record}",
    description="Records with rows of production that arrived by Kafka, by what became of them",
)
store_conflicts = _meter.create_counter(
    "prooftrail.store.conflicts",
    unit="{command}",
    description="Commands that lost the race for a stream and were decided again",
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


@dataclass
class Call:
    """A call of gRPC that is being answered, and the code that it ends with: OK unless somebody says otherwise."""

    code: str = "OK"


@contextlib.contextmanager
def measured_call(method: str) -> Iterator[Call]:
    """Measures the call of `package.Service/Method` that the block answers."""
    call, started = Call(), time.perf_counter()
    try:
        yield call
    except asyncio.CancelledError:
        call.code = "CANCELLED"
        raise
    except BaseException:
        if call.code == "OK":
            call.code = "UNKNOWN"
        raise
    finally:
        labels = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": call.code}
        if call.code in FAILED_CODES:
            labels["error.type"] = call.code
        _call_duration.record(time.perf_counter() - started, labels)


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
