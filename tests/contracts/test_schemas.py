"""What is published of the events is what the code writes: schemas, the AsyncAPI document, and who reads what."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from services.composition import SERVICES
from services.schema_command import documents
from shared.effects import Effects
from shared.event import Fact, RecordedEvent, leaf_hash_of
from tests.contracts.samples import facts
from tests.contracts.test_golden_events import GOLDEN, golden_file

DOCS = Path(__file__).parents[2] / "docs"
SCHEMAS = DOCS / "schemas"
VERSIONS = [(fact, version) for _, fact in facts() for version in range(1, fact.SCHEMA + 1)]
NAMES = [f"{fact.TOPIC}.{version}" for fact, version in VERSIONS]

READ_AS = {
    "ModelVersion": ("releases.model-version-registered", "releases.model-version-withdrawn"),
    "MonitoringPlan": ("drift.monitoring-plan-defined", "drift.monitoring-plan-approved"),
    "VerificationMoved": (
        "verification.verification-submitted", "verification.verification-approved", "verification.verification-rejected",
        "verification.verification-marked-suspect", "verification.suspicion-cleared",
    ),
}  # fmt: skip
"""The events that a consumer reads in one way under a name of its own."""


def _schema(name: str, version: int) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}.{version}.json").read_text())
    return schema


def test_the_committed_documents_are_those_of_the_code() -> None:
    """A change of an event shows in the commit; `make schemas` writes them."""
    changed = [path for path, text in documents().items() if (DOCS / path).read_text() != text]
    assert changed == [], "run `make schemas` and commit docs/"


def test_every_version_has_its_schema_and_no_schema_is_without_its_event() -> None:
    """A schema stays for as long as a store may hold the event: for ever."""
    assert {file.name for file in SCHEMAS.iterdir()} == {f"{name}.json" for name in NAMES}


@pytest.mark.parametrize(("fact", "version"), VERSIONS, ids=NAMES)
def test_the_golden_event_keeps_its_schema(fact: type[Fact], version: int) -> None:
    """Formats too; and an event of another name, or without a field, does not."""
    schema = _schema(fact.TOPIC, version)
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    event = json.loads(golden_file(fact, version).read_bytes())
    validator.validate(event)
    assert not validator.is_valid({**event, "name": "another"})
    assert not validator.is_valid({**event, "recorded_at": "yesterday"})
    for field in event:
        assert not validator.is_valid({name: value for name, value in event.items() if name != field}), field


def test_whoever_reads_an_old_version_can_read_the_new_one() -> None:
    """Nothing was taken away or renamed: but for its number, the new event keeps the old schema."""
    upgraded = [(fact, version) for fact, version in VERSIONS if version < fact.SCHEMA]
    assert upgraded
    for fact, version in upgraded:
        schema = _schema(fact.TOPIC, version)
        del schema["properties"]["schema"]
        jsonschema_rs.Draft202012Validator(schema).validate(json.loads(golden_file(fact, fact.SCHEMA).read_bytes()))


def _recorded(file: Path) -> RecordedEvent:
    raw = file.read_bytes()
    told = json.loads(raw)
    fields = {
        name: told[name] for name in ("service", "position", "stream", "version", "name", "system", "recorded_at")
    }
    return msgspec.convert({**fields, "leaf_hash": leaf_hash_of(raw), "raw": raw}, RecordedEvent)


@pytest.mark.parametrize("service", SERVICES)
async def test_every_projection_takes_every_version_of_every_event(service: str) -> None:
    """None ends among the dead letters because of how it is written."""
    module = import_module(f"services.{service}.projections")
    (projection,) = [
        kind()
        for name, kind in vars(module).items()
        if name.endswith("Projection") and kind.__module__ == module.__name__
    ]
    effects = Effects(None)
    for event in map(_recorded, sorted(GOLDEN.iterdir())):
        if event.service in projection.sources:
            await projection.apply(effects, event)


def _consumers() -> list[tuple[str, type[msgspec.Struct]]]:
    modules: dict[str, ModuleType] = {
        service: import_module(f"services.{service}.consumed_events")
        for service in SERVICES
        if (Path(__file__).parents[2] / "services" / service / "consumed_events.py").exists()
    }
    return [
        (service, kind)
        for service, module in modules.items()
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
        if not name.startswith("_")
    ]


def _events_read_as(kind: type[msgspec.Struct]) -> list[tuple[type[Fact], int]]:
    words = re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()
    return [
        (fact, version)
        for fact, version in VERSIONS
        if fact.TOPIC.partition(".")[2] == words or fact.TOPIC in READ_AS.get(kind.__name__, ())
    ]


@pytest.mark.parametrize(
    ("service", "kind"), [pytest.param(*one, id=f"{one[0]}-{one[1].__name__}") for one in _consumers()]
)
def test_every_consumer_reads_every_version(service: str, kind: type[msgspec.Struct]) -> None:
    """The few fields that it needs are in each version, under the same name and of the same type."""
    events = _events_read_as(kind)
    if not events:
        assert kind in _parts(service), f"{kind.__name__} reads no event: name it in READ_AS"
    for fact, version in events:
        msgspec.convert(json.loads(golden_file(fact, version).read_bytes())["data"], kind)


def _parts(service: str) -> set[type]:
    """Structs that are fields of others."""
    kinds = [kind for name, kind in _consumers() if name == service]
    return {
        nested.cls
        for kind in kinds
        for field in msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
        for nested in (getattr(field.type, "item_type", field.type),)
        if isinstance(nested, msgspec.inspect.StructType)
    }
