"""Drift through the HTTP door, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from services.drift.main import Drift
from tests.drift.traffic import (
    DIGEST,
    PLAN,
    PLANS,
    SIGNALS,
    SYSTEM,
    Staff,
    defined,
    deployed,
    reacted,
    rows,
    staffed,
    watching,
)
from tests.foreign import foreign
from tests.house import Client, TestHouse, problem_of

RECORD = f"monitoring-plan:{SYSTEM}/MP-1"


async def signalled(house: TestHouse, **changes: Any) -> Staff:
    """A plan whose first day raised a signal."""
    staff = await watching(house, **changes)
    answer = await staff.producer.post(
        f"{PLANS}/MP-1:ingest", batch="1", **rows(np.random.default_rng(7), hours=24, shift=1.0)
    )
    assert answer["signals"] == ["MP-1-S1"]
    return staff


async def test_rows_become_windows_and_a_shift_becomes_a_signal(drift_house: TestHouse) -> None:
    """Two quiet days raise nothing; half a standard deviation does within hours, and names the right feature."""
    staff = await watching(drift_house)
    generator = np.random.default_rng(7)
    quiet = await staff.producer.post(f"{PLANS}/MP-1:ingest", batch="1", **rows(generator, hours=48))
    assert (quiet["accepted"], quiet["late"], quiet["signals"], quiet["windows_closed"]) == (48 * 60, 0, [], 47)
    shifted = await staff.producer.post(
        f"{PLANS}/MP-1:ingest", batch="2", **rows(generator, hours=12, first_hour=48, shift=0.5)
    )
    assert shifted["signals"] == ["MP-1-S1"]
    signal = await staff.reviewer.get(f"{SIGNALS}/MP-1-S1")
    assert [feature["name"] for feature in signal["raised"]["features"]] == ["x"]
    assert signal["raised"]["window_start"] > "2013-04-03T00:00:00Z"
    (listed,) = (await staff.reviewer.get(SIGNALS, status="open"))["items"]
    assert (listed["key"], listed["plan"], listed["environment"]) == ("MP-1-S1", "MP-1", "production")


async def test_a_plan_is_signed_with_its_reference_by_another_person(drift_house: TestHouse) -> None:
    """The signer sees the definition and the digest of the reference; nothing waits before there is one."""
    staff = await staffed(drift_house)
    await staff.author.post(PLANS, **{**PLAN, "owner": staff.owner.subject})
    assert (await staff.approver.get("/v1/drift/awaiting-signature"))["items"] == []
    early = problem_of(await staff.approver.request("GET", "/v1/drift/signable", record=RECORD))
    assert early["reason"] == "reference-profile-missing"
    await staff.author.post(f"{PLANS}/MP-1:set-reference", **rows(np.random.default_rng(1), hours=50))
    (waiting,) = (await staff.approver.get("/v1/drift/awaiting-signature"))["items"]
    assert (waiting["record"], waiting["meaning"]) == (RECORD, "approval")
    assert "tolerance: 0.01" in waiting["text"]
    receipt = await staff.approver.sign("drift", RECORD)
    assert [event["name"] for event in receipt["events"]] == ["drift.monitoring-plan-approved"]
    plan = await staff.author.get(f"{PLANS}/MP-1")
    assert (plan["status"], plan["reference"]["rows"]) == ("approved", 3000)
    assert (await staff.approver.get("/v1/drift/awaiting-signature"))["items"] == []


async def test_a_declined_plan_goes_back_to_its_author(drift_house: TestHouse) -> None:
    """It waits for nobody until it is defined anew, which needs If-Match."""
    staff = await staffed(drift_house)
    await defined(staff)
    await staff.approver.sign("drift", RECORD, decision="decline")
    assert (await staff.author.get(PLANS))["items"][0]["status"] == "declined"
    assert (await staff.approver.get("/v1/drift/awaiting-signature"))["items"] == []
    body = {**PLAN, "owner": staff.owner.subject, "tolerance": 0.02}
    assert (await staff.author.refused(PLANS, **body))["status"] == 428
    version = (await staff.author.request("GET", f"{PLANS}/MP-1")).headers["ETag"]
    await staff.author.post(PLANS, headers={"If-Match": version}, **body)
    plan = await staff.author.get(f"{PLANS}/MP-1")
    assert (plan["status"], plan["reference"], plan["definition"]["tolerance"]) == ("draft", None, 0.02)


async def test_the_author_cannot_approve(drift_house: TestHouse) -> None:
    """Holding both roles does not open the way."""
    staff = await staffed(drift_house)
    await staff.owner.post(f"/v1/systems/{SYSTEM}:grant-role", subject=staff.author.subject, role="approver")
    await defined(staff)
    shown = await staff.author.get("/v1/drift/signable", record=RECORD)
    problem = await staff.author.refused(f"{PLANS}/MP-1:approve", digest=shown["digest"])
    assert (problem["status"], problem["reason"]) == (403, "author-cannot-approve")
    await staff.approver.post(f"{PLANS}/MP-1:approve", digest=shown["digest"])


async def test_a_plan_is_for_a_registered_model_version_and_a_known_owner(drift_house: TestHouse) -> None:
    """Another digest, an unknown or withdrawn version, a stranger as owner: each is refused by name."""
    staff = await staffed(drift_house)
    body = {**PLAN, "owner": staff.owner.subject}
    for change in ({"model_digest": "e" * 64}, {"version": "2"}):
        problem = await staff.author.refused(PLANS, **{**body, **change})
        assert problem["reason"] == "model-version-not-registered"
    assert (await staff.author.refused(PLANS, **{**body, "owner": "nobody"}))["reason"] == "owner-without-role"
    await defined(staff)
    stream = f"model-version:{SYSTEM}/delay@1"
    await foreign(drift_house, "releases", "model-version-withdrawn", stream, model="delay", version="1", digest=DIGEST)
    shown = await staff.approver.get("/v1/drift/signable", record=RECORD)
    problem = await staff.approver.refused(f"{PLANS}/MP-1:approve", digest=shown["digest"])
    assert problem["reason"] == "model-version-not-registered"


async def test_bad_definitions_are_refused(drift_house: TestHouse) -> None:
    """Field and rule are named."""
    staff = await staffed(drift_house)
    body = {**PLAN, "owner": staff.owner.subject}
    broken: list[tuple[dict[str, Any], str]] = [
        ({"key": "K" * 41}, "/key"),
        ({"window_s": 0}, "/window_s"),
        ({"slide_s": 7}, "/slide_s"),
        ({"tolerance": 0}, "/tolerance"),
        ({"false_alarms_per_week": 200}, "/false_alarms_per_week"),
        ({"features": []}, "/features"),
        ({"features": [{"name": "x", "kind": "text"}]}, "/features/0/kind"),
        ({"days_to_triage": -1}, "/days_to_triage"),
        ({"colour": "red"}, "/colour"),
    ]
    for change, field in broken:
        problem = await staff.author.refused(PLANS, **{**body, **change})
        assert (problem["status"], field in [error["field"] for error in problem["errors"]]) == (422, True), change
    await staff.author.post(PLANS, **body)
    reference = rows(np.random.default_rng(1), hours=2)
    reference["features"]["x"] = [None] * 120
    problem = await staff.author.refused(f"{PLANS}/MP-1:set-reference", **reference)
    assert (problem["reason"], problem["errors"][0]["field"]) == ("unusable-reference", "/features/x")


async def test_roles_open_the_verbs(drift_house: TestHouse) -> None:
    """What is not given is denied, and a stranger learns nothing."""
    staff = await signalled(drift_house)
    batch = rows(np.random.default_rng(1), hours=1, first_hour=24)
    assert (await staff.reviewer.refused(f"{PLANS}/MP-1:ingest", batch="2", **batch))["reason"] == "missing-role"
    assert (await staff.reviewer.refused(PLANS, **{**PLAN, "owner": "x"}))["reason"] == "missing-role"
    assert (await staff.producer.refused(f"{SIGNALS}/MP-1-S1:dismiss"))["reason"] == "missing-role"
    stranger = drift_house.client("Sam Stranger")
    for path in (PLANS, f"{PLANS}/MP-1", f"{PLANS}/MP-1/windows", f"{PLANS}/MP-1/reference-profile", SIGNALS):
        assert problem_of(await stranger.request("GET", path))["reason"] == "ai-system-not-found"
    assert (await stranger.refused(f"{SIGNALS}/MP-1-S1:escalate", to="change request"))["status"] == 404


async def test_a_service_with_a_role_still_cannot_triage(drift_house: TestHouse) -> None:
    """Acknowledging, dismissing and escalating need a person."""
    staff = await signalled(drift_house)
    await staff.owner.post(f"/v1/systems/{SYSTEM}:grant-role", subject=staff.producer.subject, role="reviewer")
    verbs: list[tuple[str, dict[str, Any]]] = [
        ("acknowledge", {}),
        ("dismiss", {}),
        ("escalate", {"to": "nonconformity"}),
    ]
    for verb, body in verbs:
        problem = await staff.producer.refused(f"{SIGNALS}/MP-1-S1:{verb}", **body)
        assert (problem["status"], problem["reason"]) == (403, "only-persons-triage")


async def test_triage_needs_a_reason(drift_house: TestHouse) -> None:
    """The reason stands in the envelope of the event."""
    staff = await signalled(drift_house)
    for verb in ("acknowledge", "dismiss"):
        assert (await staff.reviewer.refused(f"{SIGNALS}/MP-1-S1:{verb}", reason=""))["errors"][0]["field"] == "/reason"
    await staff.reviewer.post(f"{SIGNALS}/MP-1-S1:dismiss", reason="the airport was closed for snow")
    events = (await staff.reviewer.get("/v1/drift/events", page_size=200))["events"]
    assert "the airport was closed for snow" in events[-1]["event"]
    assert (await staff.reviewer.refused(f"{SIGNALS}/MP-1-S1:acknowledge"))["reason"] == "signal-not-in-state"


async def test_a_signal_that_nobody_decides_escalates_by_its_deadline(drift_house: TestHouse) -> None:
    """Acknowledging does not stop the clock; the service acts, and says that it was the deadline."""
    staff = await signalled(drift_house, days_to_triage=0.00002)
    await until(staff.reviewer, "escalated")
    signal = await staff.reviewer.get(f"{SIGNALS}/MP-1-S1")
    assert (signal["escalated_to"], signal["by_deadline"]) == ("change request", True)
    assert (await staff.reviewer.get(SIGNALS, overdue=True))["items"] == []


async def until(client: Client, status: str) -> None:
    """Returns when the signal has the status."""
    for _ in range(1200):
        if (await client.get(f"{SIGNALS}/MP-1-S1"))["status"] == status:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the signal did not become {status}")


async def test_overdue_signals_are_listed_until_they_are_decided(drift_house: TestHouse) -> None:
    """Those whose deadline has passed, by the clock of the door."""
    staff = await signalled(drift_house)
    assert (await staff.reviewer.get(SIGNALS, overdue=True))["items"] == []
    drift = drift_house.house.services["drift"].application
    assert isinstance(drift, Drift)
    await drift.triage.pool.execute("UPDATE drift_signal SET triage_until = 'yesterday'")
    (overdue,) = (await staff.reviewer.get(SIGNALS, overdue=True))["items"]
    assert overdue["key"] == "MP-1-S1"


async def test_a_closed_change_resolves_the_signal_that_led_to_it(drift_house: TestHouse) -> None:
    """The loop ends where it began; a change for another reason resolves nothing."""
    staff = await signalled(drift_house)
    await staff.reviewer.post(f"{SIGNALS}/MP-1-S1:escalate", to="change request")
    stream = f"change-request:{SYSTEM}/CR-MP-1-S1"
    await foreign(
        drift_house, "releases", "change-closed", f"{stream}-other", key="CR-2", signal=None, outcome="verified"
    )
    position = await foreign(
        drift_house, "releases", "change-closed", stream, key="CR-MP-1-S1", signal="MP-1-S1", outcome="verified"
    )
    await reacted(drift_house, "releases", position)
    signal = await staff.reviewer.get(f"{SIGNALS}/MP-1-S1")
    assert (signal["status"], signal["resolved_by"]) == ("resolved", "CR-MP-1-S1")


async def test_a_verified_corrective_action_resolves_the_signal(drift_house: TestHouse) -> None:
    """If the signal became a nonconformity; the one of another record does not matter."""
    staff = await signalled(drift_house)
    await staff.reviewer.post(f"{SIGNALS}/MP-1-S1:escalate", to="nonconformity")
    for key, record in (("NC-1", f"release:{SYSTEM}/R-1"), ("NC-2", f"drift-signal:{SYSTEM}/MP-1-S1")):
        stream = f"nonconformity:{SYSTEM}/{key}"
        await foreign(drift_house, "releases", "nonconformity-raised", stream, key=key, record=record, description="d")
        assert (await staff.reviewer.get(f"{SIGNALS}/MP-1-S1"))["status"] == "escalated"
        position = await foreign(drift_house, "releases", "corrective-action-verified", stream, key=key)
        await reacted(drift_house, "releases", position)
    signal = await staff.reviewer.get(f"{SIGNALS}/MP-1-S1")
    assert (signal["status"], signal["resolved_by"]) == ("resolved", "NC-2")


async def test_a_plan_approved_after_the_deployment_watches_at_once(drift_house: TestHouse) -> None:
    """An emergency release may come before its plan is signed."""
    staff = await staffed(drift_house)
    await deployed(drift_house)
    await defined(staff)
    receipt = await staff.approver.sign("drift", RECORD)
    await reacted(drift_house, "drift", receipt["events"][0]["position"])
    plan = await staff.author.get(f"{PLANS}/MP-1")
    assert plan["watches"]["production"]["release"] == "R-1"
    assert (await staff.author.get(PLANS))["items"][0]["environments"] == ["production"]


async def test_no_category_and_no_row_is_in_an_event(drift_house: TestHouse) -> None:
    """Levels are named in the reference profile of the service, for those who hold a role, and in no event."""
    staff = await signalled(drift_house)
    profile = await staff.reviewer.get(f"{PLANS}/MP-1/reference-profile")
    assert profile["level_names"] == {"carrier": ["AA", "B6", "DL", "UA"]}
    page = await staff.reviewer.get("/v1/drift/events", page_size=200)
    names = [event["event"] for event in page["events"]]
    assert any("drift.drift-window-closed" in event for event in names)
    assert not any(f'"{level}"' in event for event in names for level in ("AA", "B6", "DL", "UA"))


async def test_a_rebuild_gives_the_same_state(drift_house: TestHouse) -> None:
    """The read models are the events folded, and nothing else."""
    staff = await signalled(drift_house)
    await staff.reviewer.post(f"{SIGNALS}/MP-1-S1:escalate", to="change request")
    await staff.reviewer.get(SIGNALS)
    projection = drift_house.house.services["drift"].foundation.projection
    before = await projection.state_digest()
    await projection.rebuild()
    assert await projection.state_digest() == before
