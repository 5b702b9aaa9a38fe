"""The way of a model to its release, through the HTTP door, with the facts of verification and drift appended for them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.foreign import foreign
from tests.house import Client, TestHouse

SYSTEM = "flight-delay"
ROOT = f"/v1/systems/{SYSTEM}"
DATA_DIGEST = "e" * 64
ROLES = {"Ada": "author", "Rita": "reviewer", "Ben": "approver", "Rob": "releaser"}


@dataclass
class Team:
    """A registered AI system with one person in each role."""

    house: TestHouse
    owner: Client
    ada: Client
    rita: Client
    ben: Client
    rob: Client


async def staffed(house: TestHouse) -> Team:
    """The AI system, its people, and the other services showing signs of life."""
    owner = house.client("Olga Owner")
    await owner.post("/v1/systems", key=SYSTEM, name="Delay", intended_use="Warn passengers.", risk_class="limited")
    people = {name.lower(): house.client(name) for name in ROLES}
    for name, role in ROLES.items():
        await owner.post(f"{ROOT}:grant-role", subject=people[name.lower()].subject, role=role)
    await alive(house)
    return Team(house=house, owner=owner, **people)


async def statement(house: TestHouse, sql: str, *parameters: Any) -> None:
    """Executes one statement on the database of the house."""
    connection = await asyncpg.connect(house.house.runtime.database_url)
    try:
        await connection.execute(sql, *parameters)
    finally:
        await connection.close()


async def alive(house: TestHouse, *, reacted: int = 10_000) -> None:
    """Verification and drift give signs of life for a minute, and verification has followed the requirements so far."""
    for service in ("verification", "drift"):
        await statement(house, f"UPDATE {service}.pulse SET at = clock_timestamp() + interval '30 seconds'")
    await statement(
        house,
        "INSERT INTO verification.reaction_position VALUES ('requirements', $1)"
        " ON CONFLICT (source) DO UPDATE SET position = EXCLUDED.position",
        reacted,
    )


async def dataset(team: Team, *, version: str = "march", purpose: str = "test", digest: str = DATA_DIGEST) -> None:
    """A registered dataset version."""
    await team.ada.post(
        f"{ROOT}/datasets", name="flights", version=version, digest=digest, rows=1000, columns=["late"], purpose=purpose,
        provenance="the airport", licence="CC0", sequestered=True, personal_data=False,
    )  # fmt: skip


async def requirement(
    team: Team, key: str = "REQ-1", *, classification: str = "initial", threshold: float = 0.7
) -> None:
    """A requirement with one criterion on the flights of march, approved by Ben."""
    criterion = {
        "key": "C1", "metric": "recall", "comparator": ">=", "threshold": threshold, "unit": "1", "dataset": "flights",
        "dataset_version": "march", "decision_rule": "point", "method": "wilson", "minimum_sample_size": 100,
        "sample_size_rationale": "enough",
    }  # fmt: skip
    headers = {} if classification == "initial" else {"If-Match": '"3"'}
    await team.ada.post(
        f"{ROOT}/requirements", headers=headers, key=key, classification=classification, title=key, statement="Finds them.",
        rationale="They matter.", quality_characteristic="correctness", controls=[], evaluation_approach="measured",
        criteria=[criterion],
    )  # fmt: skip
    await team.ada.post(f"{ROOT}/requirements/{key}:submit")
    await team.ben.sign("requirements", f"requirement:{SYSTEM}/{key}")


async def model_version(team: Team, version: str = "1", *, parent: str | None = None) -> str:
    """A registered model version, trained on the flights of january; gives its digest."""
    await team.ada.post(
        f"{ROOT}/model-versions", model="delay", version=version, parent=parent, why="to warn earlier", code_revision="abc",
        components=[{"kind": "weights", "name": "booster", "digest": version.rjust(64, "0")}],
        training_dataset="flights", training_dataset_version="january",
    )  # fmt: skip
    registered = await team.ada.get(f"{ROOT}/model-versions/delay/{version}")
    digest: str = registered["registered"]["digest"]
    return digest


async def verification(
    team: Team, key: str, digest: str, *, requirement: str = "REQ-1", revision: int = 1, outcome: str = "met",
    until: str = "approved", post_hoc: bool = False,
) -> None:  # fmt: skip
    """A verification in the store of verification: recorded, submitted, approved."""
    stream = f"verification:{SYSTEM}/{key}"
    await foreign(
        team.house, "verification", "verification-recorded", stream, key=key, requirement=requirement,
        requirement_revision=revision, model="delay", version="1", model_digest=digest, dataset="flights",
        dataset_version="march", dataset_digest=DATA_DIGEST, post_hoc=post_hoc, outcome=outcome,
        verdicts=[{"criterion": "C1", "metric": "recall", "outcome": outcome}],
    )  # fmt: skip
    steps = {"recorded": (), "in review": ("submitted",), "approved": ("submitted", "approved")}[until]
    for step in steps:
        await foreign(team.house, "verification", f"verification-{step}", stream, key=key)


async def monitoring_plan(team: Team, digest: str, key: str = "MP-1") -> None:
    """An approved monitoring plan in the store of drift."""
    for step in ("defined", "approved"):
        await foreign(
            team.house,
            "drift",
            f"monitoring-plan-{step}",
            f"monitoring-plan:{SYSTEM}/{key}",
            key=key,
            model_digest=digest,
        )


async def prepared(team: Team) -> str:
    """Everything the first release needs: data, a requirement, version 1, its verification and its monitoring plan."""
    await dataset(team)
    await dataset(team, version="january", purpose="training", digest="f" * 64)
    await requirement(team)
    digest = await model_version(team)
    await verification(team, "V-1", digest)
    await monitoring_plan(team, digest)
    return digest


async def open_candidate(team: Team, key: str = "R-1", *, version: str = "1", **fields: Any) -> Any:
    """Ada's candidate for production."""
    return await team.ada.post(
        f"{ROOT}/releases", key=key, model="delay", version=version, environment="production", **fields
    )


async def signed_off(team: Team, key: str = "R-1") -> None:
    """Ben and Rob sign what they are shown."""
    for person in (team.ben, team.rob):
        await person.sign("releases", f"release:{SYSTEM}/{key}")


async def deploy(team: Team, digest: str, key: str = "R-1", **fields: Any) -> Any:
    """Rob reports the digest in production."""
    return await team.rob.post(
        f"{ROOT}/releases/{key}:deploy", environment="production", observed_digest=digest, **fields
    )


async def released(team: Team, digest: str, key: str = "R-1", *, version: str = "1", **fields: Any) -> None:
    """From candidate to released."""
    await open_candidate(team, key, version=version, **fields)
    await signed_off(team, key)
    await team.rob.post(f"{ROOT}/releases/{key}:approve")
    await deploy(team, digest, key)


async def gate(team: Team, **query: Any) -> Any:
    """The gate's answer for a release, R-1 unless told otherwise."""
    return await team.ada.get(f"{ROOT}/gate", **(query or {"release": "R-1"}))


def codes(answer: Any) -> list[str]:
    """The codes of everything missing."""
    return [item["code"] for item in answer["missing"]]


def names(receipt: Any) -> list[str]:
    """The names of the events in a receipt, without the service."""
    return [event["name"].partition(".")[2] for event in receipt["events"]]


async def until_listed(team: Team, collection: str, key: str) -> None:
    """Waits until the record that no command of ours makes is in the list; fails after a minute."""
    for _ in range(1200):
        if key in [item["key"] for item in (await team.ada.get(f"{ROOT}/{collection}"))["items"]]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{key} is not in {collection}")
