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


async def foreign(house: TestHouse, service: str, name: str, stream: str, **data: Any) -> int:
    """Appends `<service>.<name>` with this data to the stream; gives its position, which all clients then pass as `after`."""
    position = await append_foreign(house.house.runtime.database_url, service, name, stream, **data)
    house.seen[service] = max(position, house.seen.get(service, 0))
    return position


async def append_foreign(database_url: str, service: str, name: str, stream: str, **data: Any) -> int:
    """The same, where the services run in another process."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            version = await connection.fetchval(
                f"SELECT coalesce(max(version), 0) + 1 FROM {service}.event WHERE stream = $1", stream
            )
            record = json.dumps(_record(f"{service}.{name}", stream, version, data), separators=(",", ":"))
            position: int = await connection.fetchval(
                f"SELECT at_position FROM {service}.append(NULL, NULL, NULL, $1, $2, $3, $4, $5, $6, $7)",
                stream,
                version,
                [stream],
                [version],
                [f"{service}.{name}"],
                [system_of(stream)],
                [record],
            )
    finally:
        await connection.close()
    return position


def _record(name: str, stream: str, version: int, data: dict[str, Any]) -> dict[str, Any]:
    values = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in data.items()}
    return {
        "id": str(uuid4()), "stream": stream, "version": version, "name": name, "schema": 1, "actor": ACTOR,
        "reason": "part of the test", "correlation": uuid4().hex, "causation": None, "data": values,
    }  # fmt: skip
