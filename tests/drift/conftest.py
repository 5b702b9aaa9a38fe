"""The house of drift: itself and requirements run; what releases does is appended to its store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services import composition
from shared.runtime import migrate_service
from shared.settings import Settings
from tests.house import TestHouse, fresh_database


@pytest.fixture
async def drift_house(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestHouse]:
    """Requirements and drift on a fresh database, with checks of deadlines that come soon."""
    monkeypatch.setattr(composition, "SERVICES", ("requirements", "drift"))
    async with fresh_database(server_url) as database_url:
        await migrate_service(database_url, service="releases")
        settings = Settings(data=tmp_path / "data", database_url=database_url, deadline_check_s=0.2)
        async with (
            composition.open_house(
                settings=settings, database_url=database_url, names=("requirements", "drift")
            ) as house,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=house.app, raise_app_exceptions=False), base_url="http://house"
            ) as http,
        ):
            assert house.issuer is not None
            yield TestHouse(house=house, http=http, issuer=house.issuer)
