"""Prints every metric that the code registers, as Prometheus would read it. A process of its own: a provider is set only once."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeter, Observation
from opentelemetry.sdk.metrics import MeterProvider as RealProvider
from prometheus_client import generate_latest

Registration = Callable[[Meter], object]
"""Registers the same instrument with another meter, and gives it a value."""


class Register(MeterProvider, NoOpMeter):
    """Keeps what is registered, and measures nothing."""

    def __init__(self) -> None:
        NoOpMeter.__init__(self, "register")
        self.kept: list[Registration] = []

    def get_meter(self, *_: Any, **__: Any) -> Meter:
        """Always this one."""
        return self

    def create_counter(self, name: str, unit: str = "", description: str = "") -> metrics.Counter:
        """Keeps it."""
        self.kept.append(lambda meter: meter.create_counter(name, unit).add(1))
        return super().create_counter(name, unit, description)

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> metrics.UpDownCounter:
        """Keeps it."""
        self.kept.append(lambda meter: meter.create_up_down_counter(name, unit).add(1))
        return super().create_up_down_counter(name, unit, description)

    def create_histogram(
        self, name: str, unit: str = "", description: str = "", **advisory: Sequence[float] | None
    ) -> metrics.Histogram:
        """Keeps it."""
        self.kept.append(lambda meter: meter.create_histogram(name, unit).record(1))
        return super().create_histogram(name, unit, description, **advisory)

    def create_observable_gauge(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableGauge:
        """Keeps it."""
        self.kept.append(lambda meter: meter.create_observable_gauge(name, [lambda _: [Observation(1)]], unit))
        return super().create_observable_gauge(name, callbacks, unit, description)


def import_everything(package: str) -> None:
    """All modules of the package, but for those that run something."""
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


async def ask_something() -> None:
    """The web framework registers with the first request."""
    create_app = importlib.import_module("shared.http_app").create_app
    transport = httpx.ASGITransport(create_app(routers=[], ready=asyncio.Event().wait))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        await client.get("/openapi.json")


def main() -> None:
    """Registers with a real provider what registered with ours."""
    register = Register()
    metrics.set_meter_provider(register)
    for package in ("shared", "services"):
        import_everything(package)
    asyncio.run(ask_something())
    provider = RealProvider(metric_readers=[PrometheusMetricReader()])
    for registration in register.kept:
        registration(provider.get_meter("prooftrail"))
    print(generate_latest().decode())


if __name__ == "__main__":
    main()
