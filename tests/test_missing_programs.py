"""What a machine without Java, Maven or Node does: install once where it may, and otherwise say loudly what was not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import fresh_database
from tests.serving import bare_environment, served


async def test_a_test_never_joins_the_deployment_of_the_shell(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes see neither its database, nor its Kafka, nor where its traces go; each of these would end one here."""
    for name, value in (
        ("KAFKA_BOOTSTRAP", "no address"),
        ("PROOFTRAIL_LOG_FORMAT", "no format"),
        ("DATABASE_URL", server_url),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
    ):
        monkeypatch.setenv(name, value)
        assert name not in bare_environment()
    async with fresh_database(server_url) as url:
        with served(tmp_path / "data", "requirements", database_url=url):
            pass
