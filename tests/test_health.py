"""What probes are told while the database is away: alive, not ready, and over gRPC the same as over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services import composition
from services.composition import open_house
from shared.grpc_server import grpc_serving
from shared.settings import Settings
from tests.house import fresh_database
from tests.shared.cuttable import CuttableLine, cuttable

PATIENCE_S = 60.0
NAMES = ("", "prooftrail.requirements.v1.RequirementsService")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Probes:
    """Who asks a process how it is, over both wires."""

    http: httpx.AsyncClient
    health: Any

    async def told(self) -> tuple[int, int, set[int]]:
        """Status of /healthz and of /readyz, and what grpc.health.v1 says of the whole and of the service."""
        asked = [self.health.Check(health_pb2.HealthCheckRequest(service=name)) for name in NAMES]
        statuses = {(await one).status for one in asked}
        alive, ready = [(await self.http.get(path)).status_code for path in ("/healthz", "/readyz")]
        return alive, ready, statuses

    async def until_told(self, alive: int, ready: int, status: int) -> None:
        """Until all of them say so at once."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.told() != (alive, ready, {status}):  # noqa: ASYNC110 -- asked
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def probed(line: CuttableLine, folder: Path) -> AsyncIterator[Probes]:
    """Requirements on the database behind the line."""
    settings = Settings(data=folder, database_url=line.url)
    async with (
        open_house(settings=settings, database_url=line.url, names=("requirements",)) as house,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=house.app), base_url="http://house") as http,
        grpc_serving(
            house.app, host="127.0.0.1", port=0, services=("requirements",), streams={}, drain_s=1.0, ready=house.ready
        ) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Probes(http, health_pb2_grpc.HealthStub(channel))


async def test_a_process_without_its_database_lives_and_is_not_ready(server_url: str, tmp_path: Path) -> None:
    """A restart would not mend it, and requests would fail; once the database is back it is ready by itself."""
    async with fresh_database(server_url) as url, cuttable(url) as line, probed(line, tmp_path) as probes:
        await probes.until_told(200, 200, SERVING)
        line.refuses = True
        line.cut()
        await probes.until_told(200, 503, NOT_SERVING)
        line.refuses = False
        await probes.until_told(200, 200, SERVING)


async def test_a_database_that_says_nothing_is_away_too(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe has its answer all the same, before whoever probes gives up."""
    async with fresh_database(server_url) as url, cuttable(url) as line, probed(line, tmp_path) as probes:
        await probes.until_told(200, 200, SERVING)
        monkeypatch.setattr(composition, "READY_SECONDS_MAX", 0.2)
        line.flowing.clear()
        await probes.until_told(200, 503, NOT_SERVING)
        monkeypatch.undo()
        line.flowing.set()
        await probes.until_told(200, 200, SERVING)
