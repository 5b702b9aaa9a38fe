"""The house of releases: itself and requirements run; what verification and drift do is appended to their stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services import composition
from shared.runtime import migrate_service
from shared.settings import Settings
from tests.house import TestHouse, fresh_database

RUNNING = ("requirements", "releases")


@pytest.fixture
async def release_house(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestHouse]:
    """Requirements and releases on a fresh database, with checks of deadlines that come soon."""
    monkeypatch.setattr(composition, "SERVICES", RUNNING)
    async with fresh_database(server_url) as database_url:
        for service in ("verification", "drift"):
            await migrate_service(database_url, service=service)
        settings = Settings(
            data=tmp_path / "data", database_url=database_url, deadline_check_s=0.1, after_timeout_s=2.0
        )
        async with (
            composition.open_house(settings=settings, database_url=database_url, names=RUNNING) as house,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=house.app, raise_app_exceptions=False), base_url="http://house"
            ) as http,
        ):
            assert house.issuer is not None
            yield TestHouse(house=house, http=http, issuer=house.issuer)
