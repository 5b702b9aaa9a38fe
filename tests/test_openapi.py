"""The committed OpenAPI document is that of the code, and the running services keep every promise in it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def test_every_box_for_free_text_says_that_it_is_kept_for_ever() -> None:
    """Names are erased from directories, not from what somebody wrote: so it is said beside the box."""
    document = json.loads(DOCUMENT.read_text())
    schemas = document["components"]["schemas"]
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]
        for verbs in document["paths"].values()
        for operation in verbs.values()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]
    boxes = {box: told for body in bodies for box, told in _boxes(schemas, body, "")}
    assert len(boxes) > 20
    assert [box for box, told in boxes.items() if "no personal data" not in told] == []


def _boxes(schemas: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Every string of a request that may be anything, and what is said of it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from _boxes(schemas, schemas[name], name) if f"{name}." not in path else ()
        return
    if schema.get("type") == "string" and schema.get("maxLength", 0) >= 200 and not schema.keys() & {"pattern", "enum"}:
        yield path, schema.get("description", "")
    for name, inner in schema.get("properties", {}).items():
        yield from _boxes(schemas, inner, f"{path}.{name}")
    for inner in (
        *schema.get("anyOf", ()),
        *schema.get("oneOf", ()),
        schema.get("items"),
        schema.get("additionalProperties"),
    ):
        if isinstance(inner, dict):
            yield from _boxes(
                schemas, {**inner, "description": inner.get("description", schema.get("description", ""))}, path
            )


async def test_schemathesis_finds_no_failure(server_url: str, tmp_path: Path) -> None:
    """Generated requests, valid and not, against the real process: no 5xx, all as documented, nothing accepted wrongly."""
    async with fresh_database(server_url) as url:
        settings = Settings(data=tmp_path)
        token = local_issuer(settings).mint(name="Sally Schema", lifetime_s=3600)
        # Generated webhooks go nowhere.
        with served(tmp_path, database_url=url, settings={"PROOFTRAIL_WEBHOOK_NETWORKS": ""}) as (address, _, _):
            ended = await asyncio.to_thread(
                subprocess.run,
                [
                    sys.executable, "-m", "schemathesis.cli", "run", str(DOCUMENT), "--url", address,
                    "--header", f"Authorization: Bearer {token}", "--phases", "examples,coverage,fuzzing",
                    "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-color",
                    "--exclude-checks", ",".join(NOT_CHECKED), "--exclude-path-regex", "/events/stream$",
                ],
                capture_output=True, text=True, check=False, cwd=tmp_path,
            )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-12_000:] + ended.stderr[-3_000:]
