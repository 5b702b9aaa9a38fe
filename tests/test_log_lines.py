"""Log lines of a real process: JSON, one object a line, with the trace of the request or event that they are about."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from services.composition import local_issuer
from shared.log_lines import JsonLines
from shared.settings import InvalidSetting, Settings, read_settings
from tests.foreign import append_foreign
from tests.house import fresh_database
from tests.serving import served

TRACE = "0af7651916cd43dd8448eb211c80319c"
SYSTEM = {"key": "loans", "name": "L", "intended_use": "tests", "risk_class": "limited", "reason": "tests"}
PATIENCE_S = 30.0


async def test_lines_carry_the_trace_of_what_they_are_about(server_url: str, tmp_path: Path) -> None:
    """A request that fails in a way nobody foresaw, and an event that nobody can read; probes leave no line."""
    output, data = tmp_path / "output", tmp_path / "data"
    token = local_issuer(Settings(data=data)).mint(name="Olga Owner")
    headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    async with fresh_database(server_url) as url, connected(url) as connection:
        with served(
            data, "requirements", "drift", database_url=url, settings={"PROOFTRAIL_LOG_FORMAT": "json"}, output=output
        ) as (address, _, _):
            async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False) as http:
                assert (await http.post("/v1/systems", json=SYSTEM)).status_code == 201
                await connection.execute("ALTER TABLE requirements_projection.role_grant RENAME TO away")
                answer = await http.get("/v1/systems")
            assert (answer.status_code, answer.json().get("trace_id")) == (500, TRACE), answer.text
            position = await append_foreign(url, "releases", "release-deployed", "release:loans/R-1", nonsense=True)
            raw = await connection.fetchval("SELECT event FROM releases.event WHERE position = $1", position)
            buried = await line_with(output, f"releases:{position} goes to the dead letters of drift")
    failed = await line_with(output, "unexpected error")
    assert failed["trace_id"] == TRACE
    assert "UndefinedTableError" in failed["exception"]
    assert buried["trace_id"] == json.loads(raw)["correlation"]
    assert buried["service"] == "prooftrail-requirements-drift"
    assert (buried["severity"], buried["logger"]) == ("ERROR", "shared.dead_letters")
    assert [line["message"] for line in lines_of(output) if "readyz" in json.dumps(line)] == []


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()]


async def line_with(output: Path, words: str) -> dict[str, Any]:
    """The first line whose message has the words, once it is there."""
    for _ in range(int(PATIENCE_S / 0.1)):
        found = [line for line in lines_of(output) if words in line["message"]]
        if found:
            return found[0]
        await asyncio.sleep(0.1)
    raise AssertionError(lines_of(output))


def test_a_message_of_several_lines_is_one_line() -> None:
    """What a collector splits at line ends stays one record, with the stack of the error in it."""
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "p", 1, "said %s", ("x\ny \ud800",), sys.exc_info())
    text = JsonLines(service="s").format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "said x\ny ?"
    assert line["exception"].endswith("ValueError: first\nsecond")
    assert set(line) == {"time", "severity", "logger", "message", "service", "exception"}


def test_a_form_that_does_not_exist_is_refused() -> None:
    """The setting is named."""
    with pytest.raises(InvalidSetting, match="PROOFTRAIL_LOG_FORMAT"):
        read_settings({"PROOFTRAIL_LOG_FORMAT": "xml"})
