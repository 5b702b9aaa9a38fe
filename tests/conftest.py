"""Profiles of hypothesis: `settled` tries the same examples everywhere; HYPOTHESIS_PROFILE=night searches long."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shared.embedded_postgres import EmbeddedPostgres
from tests.house import TestHouse, running_house
from tests.kafka_broker.fixtures import broker, kafka, kafka_of_the_run
from tests.npm_packages import NOT_TESTED

__all__ = ["broker", "house", "kafka", "kafka_of_the_run", "server_url"]

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says once, in red, what a missing program left untested, also where workers ran the tests."""
    reasons = {
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and NOT_TESTED in report.longrepr[2]
    }
    for reason in sorted(reasons):
        terminalreporter.write_line(reason, red=True, bold=True)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A PostgreSQL for the whole run: that of DATABASE_URL if it is set, otherwise an embedded one."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    # As root the server runs under another account, which must be able to enter the folder.
    with tempfile.TemporaryDirectory(prefix="prooftrail-test-") as parent:
        Path(parent).chmod(0o755)
        with EmbeddedPostgres.start(Path(parent) / "server") as server:
            yield server.dsn


@pytest.fixture
async def house(server_url: str, tmp_path: Path) -> AsyncIterator[TestHouse]:
    """All services on a fresh database."""
    async with running_house(server_url=server_url, folder=tmp_path / "data") as running:
        yield running
