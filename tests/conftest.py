"""Profiles of hypothesis: `settled` tries the same examples everywhere; HYPOTHESIS_PROFILE=night searches long."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.house import TestHouse, running_house

# A machine under load is no finding, hence no deadline.
settings.register_profile(
    "settled",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("night", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "settled"))


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL for the whole run: that of DATABASE_URL if it is set, otherwise an embedded one."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    from shared.embedded_postgres import EmbeddedPostgres

    folder = reachable_folder(tmp_path_factory)
    with EmbeddedPostgres.start(folder) as server:
        yield server.dsn


def reachable_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that an unprivileged PostgreSQL can reach, also when the tests run as root."""
    if os.geteuid() != 0:
        return tmp_path_factory.mktemp("postgres") / "server"
    import tempfile

    parent = Path(tempfile.mkdtemp(prefix="prooftrail-test-"))
    parent.chmod(0o755)
    return parent / "server"


@pytest.fixture
async def house(server_url: str, tmp_path: Path) -> AsyncIterator[TestHouse]:
    """All services on a fresh database."""
    async with running_house(server_url=server_url, folder=tmp_path / "data") as running:
        yield running
