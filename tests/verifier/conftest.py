"""A house that seals ten times as often, so that a test need not wait a second for each checkpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from services import composition
from shared.log.deployment import Logs
from shared.log.sealer import Pace
from tests.house import TestHouse, running_house


@pytest.fixture
async def house(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestHouse]:
    """All services on a fresh database."""
    monkeypatch.setattr(composition, "Logs", partial(Logs, pace=Pace(seal_s=0.1, least_s=0.02)))
    async with running_house(server_url=server_url, folder=tmp_path / "data") as running:
        yield running
