"""Waivers, signing and bad input through the HTTP door."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from services.releases.application.gate_keeper import GateKeeper
from services.releases.application.listings import Listings
from shared.event import Actor
from tests.house import Client, TestHouse, problem_of
from tests.releases.story import (
    ROOT,
    SYSTEM,
    Team,
    codes,
    gate,
    names,
    open_candidate,
    prepared,
    released,
    requirement,
    signed_off,
    staffed,
    verification,
)

RELEASE = f"release:{SYSTEM}/R-1"


def waiver(team: Team, **changes: Any) -> dict[str, Any]:
    """A waiver of REQ-2 for R-1, asked for by Ada, for a month."""
    return {
        "key": "W-1",
        "kind": "requirement",
        "release": "R-1",
        "requirement": "REQ-2",
        "granted_to": team.ada.subject,
        "compensating_control": "an agent checks every alarm",
        "expires_at": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
        **changes,
    }


async def shown(person: Client, content: dict[str, Any]) -> str:
    """The digest of what the person would sign."""
    answer = await person.request("POST", f"{ROOT}/waivers:preview", body=content)
    assert answer.status_code == 200, answer.text
    digest: str = answer.json()["digest"]
    return digest


async def grant(person: Client, content: dict[str, Any]) -> Any:
    """The person grants what they were shown."""
    return await person.post(f"{ROOT}/waivers", **content, digest=await shown(person, content))


async def unmet(team: Team) -> None:
    """R-1 is open, REQ-1 is met and REQ-2 is not."""
    digest = await prepared(team)
    await requirement(team, "REQ-2")
    await verification(team, "V-2", digest, requirement="REQ-2", outcome="not met")
    await open_candidate(team)


async def test_a_waiver_opens_the_gate_until_it_is_revoked(release_house: TestHouse) -> None:
    """It is listed as used; the signatures that covered it are outdated by its end."""
    team = await staffed(release_house)
    await unmet(team)
    assert codes(await gate(team))[0] == "verification-not-met"
    assert names(await grant(team.ben, waiver(team))) == ["waiver-granted"]
    await signed_off(team)
    answer = await gate(team)
    assert (answer["allowed"], answer["waivers"]) == (True, ["W-1"])
    assert [item["state"] for item in (await team.ada.get(f"{ROOT}/waivers"))["items"]] == ["in force"]
    assert names(await team.ben.sign("releases", f"waiver:{SYSTEM}/W-1")) == ["waiver-revoked"]
    assert codes(await gate(team)) == ["verification-not-met", "sign-off-outdated", "sign-off-outdated"]


async def test_a_waiver_past_its_date_is_void_without_an_event(release_house: TestHouse) -> None:
    """The rule compares time; the list shows it as expired."""
    team = await staffed(release_house)
    await unmet(team)
    await grant(team.ben, waiver(team))
    assert "waiver-expired" not in codes(await gate(team))
    application = release_house.house.services["releases"].application
    late = replace(application.gate.desk, clock=lambda: datetime.now(UTC) + timedelta(days=31))
    decision = await GateKeeper(desk=late, copies=application.gate.copies).decide(system=SYSTEM, release="R-1")
    assert "waiver-expired" in [item.code for item in decision.answer.missing]
    actor = Actor(subject=team.ada.subject, kind="person", issuer="tests")
    listed = await Listings(desk=late).waivers(actor=actor, system=SYSTEM, after="", limit=5)
    assert [item["state"] for item in listed] == ["expired"]


async def test_what_an_approver_signs_is_what_was_previewed(release_house: TestHouse) -> None:
    """Never for themselves, and never other content under the same digest."""
    team = await staffed(release_house)
    own = waiver(team, granted_to=team.ben.subject)
    problem = await team.ben.refused(f"{ROOT}/waivers", **own, digest=await shown(team.ben, own))
    assert problem["reason"] == "waiver-to-oneself"
    other = await shown(team.ben, waiver(team, compensating_control="none"))
    problem = await team.ben.refused(f"{ROOT}/waivers", **waiver(team), digest=other)
    assert problem["reason"] == "digest-mismatch"
    late = waiver(team, expires_at="2100-01-01T00:00:00Z")
    problem = await team.ben.refused(f"{ROOT}/waivers", **late, digest=await shown(team.ben, late))
    assert (problem["reason"], problem["errors"][0]["field"]) == ("invalid-waiver", "/expires_at")
    assert (await team.ada.get(f"{ROOT}/waivers"))["items"] == []


async def test_a_team_too_small_signs_under_a_recorded_waiver(release_house: TestHouse) -> None:
    """Rob opened the candidate and releases it too; Ben allows that until tomorrow."""
    team = await staffed(release_house)
    await prepared(team)
    await team.owner.post(f"{ROOT}:grant-role", subject=team.rob.subject, role="author")
    await team.rob.post(f"{ROOT}/releases", key="R-1", model="delay", version="1", environment="production")
    view = await team.rob.get("/v1/releases/signable", record=RELEASE)
    path = f"{ROOT}/releases/R-1:sign-off"
    problem = await team.rob.refused(path, role="releaser", digest=view["digest"])
    assert problem["reason"] == "author-cannot-sign-off"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    duties: dict[str, Any] = {"kind": "segregation of duties", "requirement": None, "granted_to": team.rob.subject}
    await grant(team.ben, waiver(team, **duties, expires_at=tomorrow))
    await team.rob.post(path, role="releaser", digest=view["digest"])
    await team.ben.sign("releases", RELEASE)
    answer = await gate(team)
    assert (answer["allowed"], answer["waivers"]) == (True, ["W-1"])
    assert (await team.ada.get(f"{ROOT}/releases/R-1"))["sign_offs"]["releaser"]["waiver"] == "W-1"


async def test_a_signer_sees_what_changed_and_signs_exactly_that(release_house: TestHouse) -> None:
    """Text, canonical bytes and digest are of one piece; other evidence by now refuses the signature."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await open_candidate(team)
    view = await team.ben.get("/v1/releases/signable", record=RELEASE)
    assert (view["meaning"], view["roles"]) == ("approval as approver", ["approver"])
    assert "V-1" in view["text"]
    await requirement(team, "REQ-2")
    await verification(team, "V-2", digest, requirement="REQ-2")
    item = {"record": RELEASE, "digest": view["digest"], "meaning": view["meaning"]}
    problem = await team.ben.refused("/v1/releases/signatures", decision="sign", items=[item])
    assert problem["reason"] == "digest-mismatch"


async def test_one_act_signs_all_or_none(release_house: TestHouse) -> None:
    """A signature covers the digests of the whole act; one that does not fit takes the others with it."""
    team = await staffed(release_house)
    await prepared(team)
    for key in ("R-1", "R-2"):
        await open_candidate(team, key)
    waiting = (await team.ben.get("/v1/releases/awaiting-signature"))["items"]
    items = [{key: item[key] for key in ("record", "digest", "meaning")} for item in waiting]
    broken = [items[0], {**items[1], "digest": "0" * 64}]
    assert (await team.ben.refused("/v1/releases/signatures", decision="sign", items=broken))["status"] == 409
    assert (await team.ada.get(f"{ROOT}/releases/R-1"))["sign_offs"] == {}
    receipt = await team.ben.post("/v1/releases/signatures", decision="sign", items=items)
    assert names(receipt) == ["release-signed-off", "release-signed-off"]


async def test_a_declined_sign_off_keeps_the_gate_shut(release_house: TestHouse) -> None:
    """The role's word is no until the role signs."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team)
    assert names(await team.ben.sign("releases", RELEASE, decision="decline")) == ["release-sign-off-declined"]
    assert codes(await gate(team)) == ["sign-off-declined", "sign-off-missing"]
    await signed_off(team)
    assert (await gate(team))["allowed"]


async def test_a_role_too_small_signs_nothing(release_house: TestHouse) -> None:
    """A reviewer was not asked, and a releaser is no approver."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team)
    view = await team.rita.get("/v1/releases/signable", record=RELEASE)
    for person in (team.rita, team.rob):
        item = {"record": RELEASE, "digest": view["digest"], "meaning": "approval as approver"}
        problem = await person.refused("/v1/releases/signatures", decision="sign", items=[item])
        assert problem["reason"] == "missing-role"
    assert (await team.rita.get("/v1/releases/awaiting-signature"))["items"] == []


async def test_a_reviewer_signs_where_the_candidate_asks_for_one(release_house: TestHouse) -> None:
    """The role is required from then on."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team, also_required=["reviewer"])
    await signed_off(team)
    assert codes(await gate(team)) == ["sign-off-missing"]
    await team.rita.sign("releases", RELEASE)
    assert (await gate(team))["allowed"]


async def test_what_is_not_signed_here_is_told(release_house: TestHouse) -> None:
    """The refusal says which records are."""
    team = await staffed(release_house)
    for record in ("requirement:flight-delay/REQ-1", "release:flight-delay"):
        answer = await team.ben.request("GET", "/v1/releases/signable", record=record)
        assert problem_of(answer)["reason"] == "nothing-to-sign"


async def test_a_stranger_sees_nothing_of_all_this(release_house: TestHouse) -> None:
    """Not even that the AI system exists."""
    team = await staffed(release_house)
    await released(team, await prepared(team))
    stranger = release_house.client("Sam Stranger")
    for path in (
        "releases", "releases/R-1", "model-versions", "model-versions/delay/1", "change-plans", "change-requests",
        "waivers", "nonconformities", "gate",
    ):  # fmt: skip
        query: dict[str, Any] = {"release": "R-1"} if path == "gate" else {}
        problem = problem_of(await stranger.request("GET", f"{ROOT}/{path}", **query))
        assert problem["reason"] == "ai-system-not-found"
    assert (await stranger.get("/v1/releases/events"))["events"] == []


async def test_bad_input_names_field_and_rule(release_house: TestHouse) -> None:
    """Unknown fields, wrong types, absurd sizes and impossible moments change nothing."""
    team = await staffed(release_house)
    for path, body, field in (
        ("releases", {"key": "R-1", "model": "delay", "version": "1", "environment": "a b"}, "/environment"),
        (
            "releases",
            {"key": "R-1", "model": "delay", "version": "1", "environment": "p", "status": "released"},
            "/status",
        ),
        ("change-requests", {"key": "C", "cause": "whim", "impact_assessment": "none"}, "/cause"),
        ("waivers", {**waiver(team, expires_at="tomorrow"), "digest": "0" * 64}, "/expires_at"),
        ("waivers", {**waiver(team, expires_at="2026-12-01T00:00:00"), "digest": "0" * 64}, "/expires_at"),
        ("nonconformities", {"key": "N", "record": "not a record", "description": "x"}, "/record"),
        ("observed-digests", {"environment": "production", "observed_digest": "short"}, "/observed_digest"),
    ):
        problem = await team.ben.refused(f"{ROOT}/{path}", **body)
        assert (problem["status"], [error["field"] for error in problem["errors"]]) == (422, [field]), path
    page = await team.ben.get("/v1/releases/events")
    assert page["events"] == []
