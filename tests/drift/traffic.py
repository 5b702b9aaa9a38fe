"""People, plans and rows for the tests of drift: normal features and a carrier, from a seeded generator."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.foreign import foreign
from tests.house import Client, TestHouse

SYSTEM = "flight-delay"
DIGEST = "d" * 64
HOUR = 3600
BEGIN = 1_364_774_400
"""2013-04-01T00:00:00Z."""

PLAN: dict[str, Any] = {
    "key": "MP-1", "model": "delay", "version": "1", "model_digest": DIGEST,
    "features": [{"name": "x", "kind": "numeric"}, {"name": "y", "kind": "numeric"}, {"name": "carrier", "kind": "categorical"}],
    "window_s": HOUR, "slide_s": HOUR, "lateness_s": 0, "tolerance": 0.01, "false_alarms_per_week": 1.0, "days_to_triage": 2.0,
}  # fmt: skip
PLANS = f"/v1/systems/{SYSTEM}/monitoring-plans"
SIGNALS = f"/v1/systems/{SYSTEM}/drift-signals"
CARRIERS = np.array(["AA", "B6", "DL", "UA"])


@dataclass(frozen=True, kw_only=True)
class Staff:
    """Who does what in these tests."""

    owner: Client
    author: Client
    approver: Client
    reviewer: Client
    producer: Client


async def staffed(house: TestHouse) -> Staff:
    """A registered system with everybody, and a registered model version."""
    staff = Staff(
        owner=house.client("Olga Owner"),
        author=house.client("Ada Author"),
        approver=house.client("Ben Approver"),
        reviewer=house.client("Rita Reviewer"),
        producer=house.client("scoring", kind="service"),
    )
    await staff.owner.post(
        "/v1/systems", key=SYSTEM, name="Flight delay", intended_use="Warn passengers.", risk_class="limited"
    )
    roles = (
        (staff.author, "author"),
        (staff.approver, "approver"),
        (staff.reviewer, "reviewer"),
        (staff.producer, "service"),
    )
    for client, role in roles:
        await staff.owner.post(f"/v1/systems/{SYSTEM}:grant-role", subject=client.subject, role=role)
    await foreign(
        house, "releases", "model-version-registered", f"model-version:{SYSTEM}/delay@1", model="delay", version="1", digest=DIGEST
    )  # fmt: skip
    return staff


def rows(
    generator: np.random.Generator, *, hours: int = 1, per_hour: int = 60, first_hour: int = 0, shift: float = 0.0
) -> dict[str, Any]:
    """Columns of so many hours of traffic; `shift` moves the mean of x by as many standard deviations."""
    count = hours * per_hour
    times = BEGIN + HOUR * first_hour + np.sort(generator.uniform(0, HOUR * hours, count))
    return {
        "rows": count,
        "event_time": times.tolist(),
        "features": {
            "x": (generator.normal(0, 1, count) + shift).tolist(),
            "y": generator.normal(5, 2, count).tolist(),
            "carrier": CARRIERS[generator.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])].tolist(),
        },
    }


async def defined(staff: Staff, **changes: Any) -> None:
    """A plan with a reference of 20,000 rows, not approved."""
    await staff.author.post(PLANS, **{**PLAN, "owner": staff.owner.subject, **changes})
    reference = rows(np.random.default_rng(1), hours=200, per_hour=100, first_hour=-300)
    await staff.author.post(f"{PLANS}/MP-1:set-reference", **reference)


async def watching(house: TestHouse, **changes: Any) -> Staff:
    """An approved plan that is active in production."""
    staff = await staffed(house)
    await defined(staff, **changes)
    await staff.approver.sign("drift", f"monitoring-plan:{SYSTEM}/MP-1")
    await deployed(house)
    return staff


async def deployed(house: TestHouse, environment: str = "production") -> None:
    """A deployment of the model version, and drift has reacted to it."""
    position = await foreign(
        house, "releases", "release-deployed", f"release:{SYSTEM}/R-1", key="R-1", model="delay", version="1",
        model_digest=DIGEST, environment=environment, observed_digest=DIGEST, reporter="person:foreign", emergency=False,
    )  # fmt: skip
    await reacted(house, "releases", position)


async def reacted(house: TestHouse, source: str, position: int) -> None:
    """Returns when drift has reacted to the source up to the position, and its own copies know it."""
    foundation = house.house.services["drift"].foundation
    for _ in range(3000):
        reached = await foundation.pool.fetchval("SELECT position FROM reaction_position WHERE source = $1", source)
        if (reached or 0) >= position:
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError(f"drift did not react to {source}:{position}")
    house.seen["drift"] = await foundation.store.head()
