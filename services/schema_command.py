"""`prooftrail schemas`: the JSON Schemas of all events and the AsyncAPI document, from the types in the code."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from services.composition import SERVICES
from services.drift.feature_records import FeatureRecord, InferenceRequest
from shared.errors import Conflict
from shared.event import Fact
from shared.event_schema import asyncapi_document, event_schema, schema_name
from shared.settings import Settings

VERSION = "1.0.0"


class SchemaMissing(Conflict):
    """An older version of an event has no schema any more."""


def add_commands(commands: Any) -> None:
    """Adds `schemas` to the subcommands of `prooftrail`."""
    schemas = commands.add_parser("schemas", help="write the AsyncAPI document and the JSON Schemas of all events")
    schemas.add_argument("folder", type=Path, help="where asyncapi.json and schemas/ are")
    schemas.set_defaults(run=_schemas)


def published_facts() -> dict[str, tuple[type[Fact], ...]]:
    """Every fact type by the service that publishes it."""
    return {name: import_module(f"services.{name}.published_events").FACTS for name in SERVICES}


def documents() -> dict[str, str]:
    """What is generated, by path below the folder: the AsyncAPI document and the schema of each event's current version."""
    facts = published_facts()
    (inference,), schemas = msgspec.json.schema_components(
        [InferenceRequest], ref_template="#/components/schemas/{name}"
    )
    rows = {"rows": FeatureRecord.model_json_schema(), "inferenceRequest": inference}
    files = {"asyncapi.json": _text(asyncapi_document(facts, version=VERSION, rows=rows, schemas=schemas))}
    for service, types in facts.items():
        for fact in types:
            files[f"schemas/{schema_name(fact.TOPIC, fact.SCHEMA)}"] = _text(event_schema(service, fact))
    return files


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _schemas(parsed: argparse.Namespace, _settings: Settings) -> int:
    for path, text in documents().items():
        file = parsed.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    _require_older(parsed.folder)
    print(f"wrote {parsed.folder}/asyncapi.json and {parsed.folder}/schemas")
    return 0


def _require_older(folder: Path) -> None:
    """Older versions cannot be generated: their types are gone, and they never change."""
    missing = [
        schema_name(fact.TOPIC, schema)
        for types in published_facts().values()
        for fact in types
        for schema in range(1, fact.SCHEMA)
        if not (folder / "schemas" / schema_name(fact.TOPIC, schema)).exists()
    ]
    if missing:
        raise SchemaMissing(
            f"There is no schema of {', '.join(missing)}.",
            why="Old versions stay in the stores for ever, and their types are not in the code any more.",
            next_step="Get the file back from the version of Prooftrail that wrote it first.",
        )
