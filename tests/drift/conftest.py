"""The house of drift: itself and requirements run; what releases does is appended to its store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.house import TestHouse, running_house


@pytest.fixture
async def drift_house(server_url: str, tmp_path: Path) -> AsyncIterator[TestHouse]:
    """Requirements and drift on a fresh database, with checks of deadlines that come soon."""
    async with running_house(
        server_url=server_url, folder=tmp_path / "data", names=("requirements", "drift"), deadline_check_s=0.2
    ) as running:
        yield running
