"""Requests to one service while its pods are replaced: each on a connection of its own, as a load balancer sees most clients."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from tests.kubernetes.overlay import NODE_PORTS

if TYPE_CHECKING:
    from tests.kubernetes.__main__ import Rollout

CLIENTS = 4
REQUEST_SECONDS_MAX = 30.0


@dataclass
class Load:
    """How many requests were answered as they should, and what became of the others."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)


async def under_load(rollout: Rollout, service: str) -> Load:
    """Rolls the service while clients read and, where it registers systems, write."""
    load = Load()
    done = asyncio.Event()
    token = rollout.identities.token("Olga Owner", person=True)
    address = f"http://{rollout.address}:{NODE_PORTS[service]}"
    async with httpx.AsyncClient(
        base_url=address,
        headers={"Authorization": f"Bearer {token}", "Connection": "close"},
        timeout=REQUEST_SECONDS_MAX,
        limits=httpx.Limits(max_keepalive_connections=0),
        trust_env=False,
    ) as http:
        clients = [asyncio.create_task(_client(http, load, done, service, number)) for number in range(CLIENTS)]
        await asyncio.to_thread(rollout.roll, service)
        done.set()
        await asyncio.gather(*clients)
    return load


async def _client(http: httpx.AsyncClient, load: Load, done: asyncio.Event, service: str, number: int) -> None:
    turn = 0
    while not done.is_set():
        turn += 1
        try:
            if service == "requirements" and number % 2:
                key = f"load-{number}-{turn}"
                body = {
                    "key": key,
                    "name": key,
                    "intended_use": "to be rolled",
                    "risk_class": "limited",
                    "reason": "under load",
                }
                answer = await http.post("/v1/systems", json=body)
            else:
                answer = await http.get("/v1/info")
        except httpx.HTTPError as error:
            load.failed.append(f"{type(error).__name__}: {error}")
            continue
        if answer.is_success:
            load.answered += 1
        else:
            load.failed.append(f"{answer.status_code}: {answer.text[:200]}")
        await asyncio.sleep(0.01)
