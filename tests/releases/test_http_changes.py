"""Model versions, change plans, change requests and nonconformities through the HTTP door."""

from __future__ import annotations

from typing import Any

from tests.foreign import foreign
from tests.house import TestHouse
from tests.releases.story import (
    ROOT,
    SYSTEM,
    Team,
    codes,
    gate,
    model_version,
    names,
    prepared,
    staffed,
    until_listed,
    verification,
)

PLAN: dict[str, Any] = {
    "key": "P-1", "title": "Retrain on new months", "model": "delay", "protocol": "train, then verify",
    "modifications": [{"key": "retrain", "description": "same features, newer months"}],
    "acceptance_criteria": [{"key": "A1", "requirement": "REQ-1"}], "rollback_criteria": ["recall falls"],
}  # fmt: skip
REQUEST: dict[str, Any] = {
    "key": "CR-1", "cause": "retraining", "model": "delay", "baseline": "1", "impact_assessment": "newer months",
}  # fmt: skip


async def predetermined(team: Team) -> str:
    """An approved predetermined change, and version 2 that shall have it; gives the digest of version 2."""
    await prepared(team)
    await team.ada.post(f"{ROOT}/change-plans", **PLAN)
    await team.ben.sign("releases", f"change-plan:{SYSTEM}/P-1")
    await team.ada.post(f"{ROOT}/change-requests", **REQUEST)
    await team.rita.post(
        f"{ROOT}/change-requests/CR-1:classify", classification="predetermined", plan="P-1", modification="retrain",
        impact_assessment="as planned",
    )  # fmt: skip
    await team.ben.sign("releases", f"change-request:{SYSTEM}/CR-1")
    return await model_version(team, "2", parent="1")


async def implement(team: Team) -> Any:
    """Names version 2 as what has the change."""
    return await team.ada.post(f"{ROOT}/change-requests/CR-1:implement", model="delay", candidate="2")


async def status(team: Team) -> Any:
    """The status of the change request."""
    return (await team.ada.get(f"{ROOT}/change-requests/CR-1"))["status"]


async def test_a_predetermined_change_goes_from_submitted_to_closed(release_house: TestHouse) -> None:
    """Its criteria are looked up among the verifications, not believed."""
    team = await staffed(release_house)
    digest = await predetermined(team)
    problem = await team.ada.refused(f"{ROOT}/change-requests/CR-1:implement", model="delay", candidate="2")
    assert problem["reason"] == "criteria-undecided"
    await verification(team, "V-2", digest)
    assert names(await implement(team)) == ["change-implemented"]
    assert names(await implement(team)) == []
    verified = await team.rita.post(f"{ROOT}/change-requests/CR-1:verify", verifications=["V-2"])
    assert names(verified) == ["change-verified"]
    assert names(await team.ada.post(f"{ROOT}/change-requests/CR-1:close")) == ["change-closed"]
    shown = await team.ada.get(f"{ROOT}/change-requests/CR-1")
    assert (shown["status"], shown["end"], shown["findings"][0]["verification"]) == ("closed", "verified", "V-2")


async def test_a_failed_criterion_of_a_predetermined_change_ends_it(release_house: TestHouse) -> None:
    """It is recorded, and later success does not bring it back."""
    team = await staffed(release_house)
    digest = await predetermined(team)
    await verification(team, "V-2", digest, outcome="not met")
    assert names(await implement(team)) == ["change-rejected"]
    await verification(team, "V-3", digest)
    problem = await team.ada.refused(f"{ROOT}/change-requests/CR-1:implement", model="delay", candidate="2")
    assert (problem["reason"], await status(team)) == ("change-not-in-state", "rejected")


async def test_a_change_is_verified_only_by_evidence_of_its_candidate(release_house: TestHouse) -> None:
    """Version 1's verification, an unapproved one and an unknown one do not count."""
    team = await staffed(release_house)
    digest = await predetermined(team)
    await verification(team, "V-2", digest)
    await implement(team)
    await verification(team, "V-3", digest, until="in review")
    for key in ("V-1", "V-3", "V-9"):
        problem = await team.rita.refused(f"{ROOT}/change-requests/CR-1:verify", verifications=["V-2", key])
        assert problem["reason"] == "evidence-does-not-count"
        assert key in problem["title"]


async def test_a_plan_is_replaced_with_if_match_until_it_is_approved(release_house: TestHouse) -> None:
    """Two people do not overwrite each other unseen."""
    team = await staffed(release_house)
    await team.ada.post(f"{ROOT}/change-plans", **PLAN)
    changed = {**PLAN, "title": "Retrain on any month"}
    assert (await team.ada.refused(f"{ROOT}/change-plans", **changed))["status"] == 428
    stale = await team.ada.refused(f"{ROOT}/change-plans", headers={"If-Match": '"7"'}, **changed)
    assert stale["status"] == 412
    await team.ada.post(f"{ROOT}/change-plans", headers={"If-Match": '"1"'}, **changed)
    waiting = await team.ben.get("/v1/releases/awaiting-signature")
    assert [item["record"] for item in waiting["items"]] == [f"change-plan:{SYSTEM}/P-1"]
    declined: dict[str, Any] = {
        "decision": "decline",
        "items": [{key: waiting["items"][0][key] for key in ("record", "digest", "meaning")}],
    }
    assert (await team.ben.refused("/v1/releases/signatures", **declined))["reason"] == "cannot-be-declined"
    await team.ben.sign("releases", f"change-plan:{SYSTEM}/P-1")
    again = await team.ada.refused(f"{ROOT}/change-plans", headers={"If-Match": '"3"'}, **PLAN)
    assert again["reason"] == "change-plan-in-force"


async def test_a_declined_change_request_is_rejected_and_closed(release_house: TestHouse) -> None:
    """So that what caused it does not end nowhere."""
    team = await staffed(release_house)
    await team.ada.post(f"{ROOT}/change-requests", **REQUEST)
    await team.rita.post(
        f"{ROOT}/change-requests/CR-1:classify", classification="substantial", impact_assessment="too large"
    )
    receipt = await team.ben.sign("releases", f"change-request:{SYSTEM}/CR-1", decision="decline")
    assert names(receipt) == ["change-rejected"]
    assert names(await team.rob.post(f"{ROOT}/change-requests/CR-1:close")) == ["change-closed"]


async def escalate(team: Team, signal: str, to: str) -> None:
    """The escalation of a drift signal, in the store of drift."""
    await foreign(
        team.house, "drift", "drift-signal-escalated", f"drift-signal:{SYSTEM}/{signal}", key=signal, plan="MP-1",
        model="delay", version="1", model_digest="d" * 64, environment="production", to=to, by=None, by_deadline=False,
    )  # fmt: skip


async def test_an_escalated_drift_signal_opens_one_change_request(release_house: TestHouse) -> None:
    """Seen twice it opens one; people classify and approve it, and its end names the signal."""
    team = await staffed(release_house)
    await escalate(team, "S-1", "change request")
    await escalate(team, "S-1", "change request")
    await escalate(team, "S-2", "nonconformity")
    await until_listed(team, "nonconformities", "NC-S-2")
    items = (await team.ada.get(f"{ROOT}/change-requests"))["items"]
    assert [(item["key"], item["signal"], item["baseline"]) for item in items] == [("CR-S-1", "S-1", "1")]
    shown = await team.ada.get(f"{ROOT}/change-requests/CR-S-1")
    assert (shown["status"], shown["authors"]) == ("submitted", ["service:releases"])
    own = await team.ada.refused(
        f"{ROOT}/change-requests", **{**REQUEST, "key": "CR-2", "cause": "drift signal", "signal": "S-1"}
    )
    assert own["reason"] == "only-escalation-opens"
    assert (await team.ada.get(f"{ROOT}/nonconformities/NC-S-2"))["raised"]["record"] == f"drift-signal:{SYSTEM}/S-2"


async def test_a_service_does_not_classify(release_house: TestHouse) -> None:
    """A person assesses what a change touches."""
    team = await staffed(release_house)
    pipeline = release_house.client("pipeline", kind="service")
    await team.owner.post(f"{ROOT}:grant-role", subject=pipeline.subject, role="author")
    await pipeline.post(f"{ROOT}/change-requests", **REQUEST)
    problem = await pipeline.refused(
        f"{ROOT}/change-requests/CR-1:classify", classification="substantial", impact_assessment="none"
    )
    assert problem["reason"] == "only-persons-sign"


async def test_a_model_version_names_what_it_is_made_of(release_house: TestHouse) -> None:
    """Its digest, its training data and its parent must be what it says."""
    team = await staffed(release_house)
    await prepared(team)
    body: dict[str, Any] = {
        "model": "delay", "version": "2", "code_revision": "abc", "why": "to warn earlier", "training_dataset": "flights",
        "training_dataset_version": "january", "components": [{"kind": "weights", "name": "booster", "digest": "a" * 64}],
    }  # fmt: skip
    path = f"{ROOT}/model-versions"
    for changes, reason, field in (
        ({"digest": "0" * 64}, "manifest-digest-mismatch", "/digest"),
        ({"training_dataset_version": "june"}, "training-dataset-unknown", "/training_dataset"),
        ({"training_dataset": None}, "training-dataset-unknown", "/training_dataset"),
        ({"parent": "0"}, "parent-unknown", "/parent"),
        ({"parent": "2"}, "parent-unknown", "/parent"),
        ({"components": []}, "invalid-manifest", "/components"),
    ):
        problem = await team.ada.refused(path, **{**body, **changes})
        assert (problem["reason"], problem["errors"][0]["field"]) == (reason, field)
    hosted = {"provider": "acme", "identifier": "large-2026-01"}
    nothing: dict[str, Any] = {"training_dataset": None, "training_dataset_version": None, "components": []}
    await team.ada.post(path, **{**body, **nothing, "hosted": hosted, "version": "hosted"})
    shown = await team.ada.get(f"{path}/delay/hosted")
    assert shown["registered"]["manifest_digest_verifiable"] is False
    listed = (await team.ada.get(path, page_size=1))["items"]
    assert [item["version"] for item in listed] == ["1"]


async def test_a_withdrawn_model_version_passes_no_gate(release_house: TestHouse) -> None:
    """And no new candidate is opened for it."""
    team = await staffed(release_house)
    digest = await prepared(team)
    assert names(await team.ben.post(f"{ROOT}/model-versions/delay/1:withdraw")) == ["model-version-withdrawn"]
    assert "model-version-withdrawn" in codes(await gate(team, model_digest=digest, environment="production"))
    problem = await team.ada.refused(
        f"{ROOT}/releases", key="R-1", model="delay", version="1", environment="production"
    )
    assert problem["reason"] == "model-version-is-withdrawn"


async def test_a_nonconformity_is_worked_off_by_different_people(release_house: TestHouse) -> None:
    """Whoever planned the action does not find that it works."""
    team = await staffed(release_house)
    raised: dict[str, Any] = {"key": "NC-1", "record": f"release:{SYSTEM}/R-1", "description": "alarms at night"}
    assert names(await team.rob.post(f"{ROOT}/nonconformities", **raised)) == ["nonconformity-raised"]
    path = f"{ROOT}/nonconformities/NC-1"
    plan: dict[str, Any] = {
        "action": "check at night",
        "responsible": team.rob.subject,
        "due_at": "2100-01-01T00:00:00Z",
    }
    past = await team.ben.refused(f"{path}:plan-corrective-action", **{**plan, "due_at": "2020-01-01T00:00:00Z"})
    assert past["reason"] == "deadline-in-the-past"
    await team.ben.post(f"{path}:plan-corrective-action", **plan)
    own = await team.ben.refused(f"{path}:verify-corrective-action", effectiveness="quiet for a week")
    assert own["reason"] == "author-cannot-approve"
    await team.rita.post(f"{path}:verify-corrective-action", effectiveness="quiet for a week")
    assert (await team.ada.get(path))["status"] == "closed"
