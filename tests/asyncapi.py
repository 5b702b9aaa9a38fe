"""What docs/asyncapi.json says of a message, to hold real ones to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator

DOCUMENT = json.loads((Path(__file__).parent.parent / "docs" / "asyncapi.json").read_text())


def require_headers(headers: Mapping[str, str], *, trait: str, prefixes: tuple[str, ...] = ("",)) -> None:
    """Raises unless these headers keep the schema of the trait, and those that begin with a prefix are all described."""
    schema = DOCUMENT["components"]["messageTraits"][trait]["headers"]
    _validate(schema, headers)
    named = {name for name in headers if name.startswith(prefixes)}
    assert named <= schema["properties"].keys(), named - schema["properties"].keys()


def require_message(headers: Mapping[str, str], payload: Any, *, channel: str, message: str) -> None:
    """Raises unless headers and payload keep the schemas of the channel's message."""
    told = DOCUMENT["channels"][channel]["messages"][message]
    _validate(told["headers"], headers)
    assert headers.keys() <= told["headers"].get("properties", {}).keys()
    _validate(told["payload"], payload)


def _validate(schema: Mapping[str, Any], value: Any) -> None:
    whole = {**schema, "components": {"schemas": DOCUMENT["components"]["schemas"]}}
    Draft202012Validator(whole, validate_formats=True).validate(value)
