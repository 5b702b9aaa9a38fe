"""Events of a service that does not run in a test: appended to its store as it would append them itself."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg

from shared.event import system_of
from tests.house import TestHouse

ACTOR = {
    "subject": "person:foreign", "kind": "person", "issuer": "tests", "auth_time": None, "on_behalf_of": None,
    "name_commitment": None,
}  # fmt: skip
TOLD = ("name", "schema", "actor", "reason", "correlation", "causation", "data")
"""The fields of an event that are not stamped when it is appended, in their order."""


async def foreign(house: TestHouse, service: str, name: str, stream: str, /, **data: Any) -> int:
    """Appends `<service>.<name>` with this data to the stream; gives its position, which all clients then pass as `after`."""
    position = await append_foreign(house.house.runtime.database_url, service, name, stream, **data)
    house.seen[service] = max(position, house.seen.get(service, 0))
    return position


async def append_foreign(database_url: str, service: str, name: str, stream: str, /, **data: Any) -> int:
    """The same, where the services run in another process."""
    values = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in data.items()}
    told = {
        "stream": stream, "name": f"{service}.{name}", "schema": 1, "actor": ACTOR, "reason": "part of the test",
        "correlation": uuid4().hex, "causation": None, "data": values,
    }  # fmt: skip
    return await append_told(database_url, service, told)


async def append_told(database_url: str, service: str, told: dict[str, Any]) -> int:
    """Appends what an event tells, whatever stamps it had before; gives its position."""
    stream, name = told["stream"], told["name"]
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            version = await connection.fetchval(
                f"SELECT coalesce(max(version), 0) + 1 FROM {service}.event WHERE stream = $1", stream
            )
            told = {"id": str(uuid4()), "stream": stream, "version": version, **{key: told[key] for key in TOLD}}
            position: int = await connection.fetchval(
                f"SELECT at_position FROM {service}.append(NULL, NULL, NULL, $1, $2, $3, $4, $5, $6, $7)",
                stream,
                version,
                [stream],
                [version],
                [name],
                [system_of(stream)],
                [json.dumps(told, separators=(",", ":"))],
            )
    finally:
        await connection.close()
    return position
