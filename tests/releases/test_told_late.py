"""What happened to a release may be told late, in the order in which it happened, and never before it happened."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from tests.house import TestHouse
from tests.releases.story import ROOT, Team, deploy, open_candidate, prepared, signed_off, staffed
from tests.releases.test_http_releases import second_version


async def facts(team: Team, name: str) -> list[Mapping[str, Any]]:
    """The data of all events of the name, in order."""
    connection = await asyncpg.connect(team.house.house.runtime.database_url)
    try:
        rows = await connection.fetch(
            "SELECT event FROM releases.event WHERE name = $1 ORDER BY position", f"releases.{name}"
        )
    finally:
        await connection.close()
    return [msgspec.json.decode(row["event"])["data"] for row in rows]


async def approved(team: Team, key: str = "R-1", **fields: Any) -> None:
    """From candidate to approved."""
    await open_candidate(team, key, **fields)
    await signed_off(team, key)
    await team.rob.post(f"{ROOT}/releases/{key}:approve")


async def signed_at(team: Team, key: str = "R-1") -> datetime:
    """The time of the last sign-off."""
    signatures = (await team.ada.get(f"{ROOT}/releases/{key}"))["sign_offs"].values()
    return max(datetime.fromisoformat(one["signed_at"]) for one in signatures)


def written(moment: datetime) -> str:
    """As an event has it."""
    return moment.isoformat().replace("+00:00", "Z")


async def test_a_deployment_is_told_late_and_supersedes_from_the_same_moment(release_house: TestHouse) -> None:
    """It cannot lie before the sign-offs, nor before what the environment got last, nor in the future."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await approved(team)
    running: dict[str, Any] = {"environment": "production", "observed_digest": digest}
    first = await signed_at(team)
    for moment, reason in (
        (first - timedelta(microseconds=1), "effective-too-early"),
        (datetime.now(UTC) + timedelta(hours=1), "effective-in-the-future"),
    ):
        refused = await team.rob.refused(f"{ROOT}/releases/R-1:deploy", **running, effective_at=written(moment))
        assert (refused["reason"], refused["errors"][0]["field"]) == (reason, "/effective_at")
    await deploy(team, digest, effective_at=written(first))
    assert [fact["effective_at"] for fact in await facts(team, "release-deployed")] == [written(first)]

    second = await second_version(team)
    await approved(team, "R-2", version="2", change_request="CR-1")
    late = await signed_at(team, "R-2")
    await deploy(team, second, "R-2", effective_at=written(late))
    assert (await facts(team, "release-deployed"))[-1]["effective_at"] == written(late)
    assert (await facts(team, "release-superseded"))[-1]["effective_at"] == written(late)
    early = await team.rob.refused(
        f"{ROOT}/releases/R-2:suspend", effective_at=written(late - timedelta(microseconds=1))
    )
    assert early["reason"] == "effective-too-early"
    assert "the last deployment in production" in early["title"]
    await team.rob.post(f"{ROOT}/releases/R-2:roll-back", effective_at=written(late))
    assert (await facts(team, "release-rolled-back"))[-1]["effective_at"] == written(late)
    assert (await facts(team, "release-deployed"))[-1]["effective_at"] == written(late)


async def test_what_is_told_at_once_bounds_what_is_told_late(release_house: TestHouse) -> None:
    """A deployment without a time of its own happened when it was recorded."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await approved(team)
    before = datetime.now(UTC)
    await deploy(team, digest)
    assert [fact["effective_at"] for fact in await facts(team, "release-deployed")] == [None]
    for verb in ("suspend", "withdraw", "roll-back"):
        refused = await team.rob.refused(f"{ROOT}/releases/R-1:{verb}", effective_at=written(before))
        assert refused["reason"] == "effective-too-early"
    after = written(datetime.now(UTC))
    await team.rob.post(f"{ROOT}/releases/R-1:suspend", effective_at=after)
    assert [fact["effective_at"] for fact in await facts(team, "release-suspended")] == [after]
    assert (await team.ada.get(f"{ROOT}/releases/R-1"))["status"] == "suspended"
