"""Who owns an AI system is forgotten like others: once it is handed over, or rests, and the time of keeping has passed."""

from __future__ import annotations

import json

import pytest

from services.data_command import follow_erasures
from shared.erasure import SOURCE
from shared.errors import ProoftrailError
from tests.house import TestHouse
from tests.test_erasure import MODEL, NAME, SYSTEM, WHY, erase, feed_of, house, operator, owner_of, pack, places_of

__all__ = ["house"]


async def test_an_owner_is_forgotten_once_the_ai_system_is_handed_over(house: TestHouse) -> None:
    """First the role is held; then somebody else answers for the AI system, and takes it on without interruption."""
    first, heir = house.client(NAME), house.client("Hanna Heir")
    await first.post("/v1/systems", key=SYSTEM, name="Delay", intended_use="Warn passengers.", risk_class="limited")
    alone = await first.refused(f"/v1/systems/{SYSTEM}:revoke-role", subject=first.subject, role="owner")
    assert alone["reason"] == "last-owner"
    await first.post(f"/v1/systems/{SYSTEM}:grant-role", subject=heir.subject, role="owner")
    kept = await heir.refused("/v1/people:erase", subject=first.subject, reason=WHY)
    assert (kept["reason"], [error["field"] for error in kept["errors"]]) == (
        "roles-still-held",
        [f"owner of {SYSTEM}"],
    )
    await first.post(f"/v1/systems/{SYSTEM}:revoke-role", subject=first.subject, role="owner")
    assert (await first.refused(f"/v1/systems/{SYSTEM}:grant-role", subject="x", role="author"))["status"] == 404
    system = await heir.get(f"/v1/systems/{SYSTEM}")
    assert (system["owner"], system["owners"]) == (heir.subject, [heir.subject])
    assert (await erase(heir, first))["pending"] == []
    async with owner_of(house.house.runtime.database_url) as connection:
        assert await places_of(connection, NAME) == set()
    assert NAME not in json.dumps(await pack(heir))


async def test_an_ai_system_whose_owners_are_gone_is_handed_over_by_the_operator(house: TestHouse) -> None:
    """Recorded as done by the operator; again it changes nothing."""
    first, heir = house.client(NAME), house.client("Hanna Heir")
    await first.post("/v1/systems", key=SYSTEM, name="Delay", intended_use="Warn passengers.", risk_class="limited")
    requirements = house.house.services["requirements"].application
    handed_over = await requirements.hand_over_as_operator(context=operator(), system=SYSTEM, subject=heir.subject)
    assert len(handed_over.events) == 2
    again = await requirements.hand_over_as_operator(context=operator(), system=SYSTEM, subject=heir.subject)
    assert again.events == ()
    heir.seen["requirements"] = handed_over.events[-1].position
    told = (await feed_of(heir, "requirements"))[-2:]
    assert [(event["name"], event["actor"]["subject"]) for event in told] == [
        ("requirements.role-granted", "operator"),
        ("requirements.role-revoked", "operator"),
    ]
    assert (await erase(heir, first))["pending"] == []


async def test_the_owner_of_an_ai_system_that_rests_may_be_forgotten_by_the_operator(house: TestHouse) -> None:
    """There is nobody to hand it over to, and nothing that runs to answer for; while a release runs it is refused."""
    owner, releaser = house.client(NAME), house.client("Rob Releaser")
    await owner.post("/v1/systems", key=SYSTEM, name="Delay", intended_use="Warn passengers.", risk_class="limited")
    for role in ("author", "releaser"):
        await owner.post(f"/v1/systems/{SYSTEM}:grant-role", subject=releaser.subject, role=role)
    await releaser.post(f"/v1/systems/{SYSTEM}/model-versions", **MODEL)
    adopted = await owner.post(
        f"/v1/systems/{SYSTEM}/releases:adopt", model="late", version="1", environment="production"
    )
    erasure = house.house.services[SOURCE].application.erasure
    with pytest.raises(ProoftrailError) as held:
        await erasure.erase_as_operator(context=operator(), subject=owner.subject, why=WHY)
    assert (held.value.reason, [error.field for error in held.value.fields]) == (
        "roles-still-held",
        [f"owner of {SYSTEM}"],
    )
    release = adopted["record"].rpartition("/")[2]
    await releaser.post(f"/v1/systems/{SYSTEM}/releases/{release}:withdraw")
    await erasure.erase_as_operator(context=operator(), subject=owner.subject, why=WHY)
    await follow_erasures(house.house)
    async with owner_of(house.house.runtime.database_url) as connection:
        assert await places_of(connection, NAME) == set()
