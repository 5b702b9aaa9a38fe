"""One staffed AI system for all tests that change nothing in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.house import Client, TestHouse, problem_of, running_house
from tests.requirements.test_http_api import DATASET, REQUIREMENT, staffed

# What a program says when it did not foresee something. None of it is for a client.
INSIDES = (
    "Traceback",
    'File "',
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "asyncpg",
    "pydantic",
    "sqlstate",
    "Error:",
    "Exception",
)


@dataclass(frozen=True)
class Scene:
    """A registered system with a draft, a test dataset and a training dataset, and its people."""

    house: TestHouse
    owner: Client
    author: Client
    approver: Client

    async def heads(self) -> list[int]:
        """How much every service has recorded."""
        return [await service.foundation.store.head() for service in self.house.house.services.values()]

    async def refused(
        self, method: str, path: str, *, status: int, reason: str, field: str | None = None, **request: Any
    ) -> tuple[httpx.Response, Any]:
        """Sends the request; it must be refused with a whole problem, change nothing and show no insides."""
        headers = {"Authorization": f"Bearer {self.author.token}", **request.pop("headers", {})}
        before = await self.heads()
        answer = await self.house.http.request(method, path, headers=headers, **request)
        problem = problem_of(answer)
        assert (answer.status_code, problem["reason"]) == (status, reason), answer.text[:2000]
        assert problem["type"] == f"urn:prooftrail:problem:{reason}"
        if field is not None:
            assert field in [error["field"] for error in problem["errors"]], answer.text[:2000]
            assert all(error["rule"] for error in problem["errors"])
        assert [word for word in INSIDES if word in answer.text] == []
        assert headers["Authorization"].rpartition(" ")[2] not in answer.text
        assert len(answer.content) < 20_000
        assert await self.heads() == before
        return answer, problem


@pytest.fixture
async def house(server_url: str, tmp_path: Path) -> AsyncIterator[TestHouse]:
    """This service alone on a fresh database."""
    async with running_house(server_url=server_url, folder=tmp_path / "data", names=("requirements",)) as running:
        yield running


@pytest.fixture(scope="module")
async def scene(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """A running house that waits only a moment for `after`, with a draft in it."""
    folder = tmp_path_factory.mktemp("scene") / "data"
    async with running_house(
        server_url=server_url, folder=folder, names=("requirements",), after_timeout_s=2.0
    ) as house:
        owner, author, approver = await staffed(house)
        await author.post("/v1/systems/flight-delay/datasets", **DATASET)
        await author.post("/v1/systems/flight-delay/datasets", **{**DATASET, "version": "train", "purpose": "training"})
        await author.post("/v1/systems/flight-delay/datasets", **{**DATASET, "version": "old"})
        await author.post("/v1/systems/flight-delay/datasets/flights/old:withdraw")
        await author.post("/v1/systems/flight-delay/requirements", **REQUIREMENT)
        await author.get("/v1/systems/flight-delay/requirements")
        yield Scene(house=house, owner=owner, author=author, approver=approver)
