"""A house that seals ten times as often, so that a test need not wait a second for each checkpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.house import TestHouse, running_house
from tests.verifier.sealed_house import quick_seals


@pytest.fixture
async def house(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestHouse]:
    """All services on a fresh database."""
    quick_seals(monkeypatch)
    async with running_house(server_url=server_url, folder=tmp_path / "data") as running:
        yield running
