"""The committed OpenAPI document is that of the code, and the running services keep every promise in it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from services.command import openapi_text
from services.composition import local_issuer
from shared.settings import Settings
from tests.house import TestHouse, fresh_database
from tests.serving import served

CHECKOUT = Path(__file__).parent.parent
DOCUMENT = CHECKOUT / "docs" / "openapi.json"
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "3"))
"""Generated requests an operation and phase; set it higher for a long search."""

NOT_CHECKED = ("positive_data_acceptance", "missing_required_header", "use_after_free", "ensure_resource_availability")
"""Checks that cannot hold: valid data may name a record that does not exist, and nothing is ever deleted."""


async def test_the_committed_document_is_that_of_the_code(house: TestHouse) -> None:
    """A change of the API shows in the commit; `make openapi` writes the document."""
    assert DOCUMENT.read_text() == openapi_text(house.house.app.openapi()), "run `make openapi` and commit the document"


def test_every_operation_is_described_like_the_others() -> None:
    """OpenAPI 3.1, one name a verb, every command with its problems, every operation but the open ones with its token."""
    document = json.loads(DOCUMENT.read_text())
    assert document["openapi"].startswith("3.1")
    operations = [
        (path, verb, operation) for path, verbs in document["paths"].items() for verb, operation in verbs.items()
    ]
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(names) == len(set(names))
    for path, verb, operation in operations:
        if path in ("/healthz", "/readyz", "/issuer/jwks"):
            continue
        assert {"401", "403", "404", "422", "503"} <= set(operation["responses"]), (verb, path)


async def test_schemathesis_finds_no_failure(server_url: str, tmp_path: Path) -> None:
    """Generated requests, valid and not, against the real process: no 5xx, all as documented, nothing accepted wrongly."""
    async with fresh_database(server_url) as url:
        settings = Settings(data=tmp_path)
        token = local_issuer(settings).mint(name="Sally Schema", lifetime_s=3600)
        with served(tmp_path, database_url=url) as (address, _, _):
            ended = await asyncio.to_thread(
                subprocess.run,
                [
                    sys.executable, "-m", "schemathesis.cli", "run", str(DOCUMENT), "--url", address,
                    "--header", f"Authorization: Bearer {token}", "--phases", "examples,coverage,fuzzing",
                    "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-color",
                    "--exclude-checks", ",".join(NOT_CHECKED),
                ],
                capture_output=True, text=True, check=False, cwd=tmp_path,
            )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-12_000:] + ended.stderr[-3_000:]
