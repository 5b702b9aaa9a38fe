"""Releases and their gate through the HTTP door, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.foreign import foreign
from tests.house import TestHouse, problem_of
from tests.releases.story import (
    ROOT,
    SYSTEM,
    alive,
    codes,
    deploy,
    gate,
    model_version,
    monitoring_plan,
    names,
    open_candidate,
    prepared,
    released,
    requirement,
    signed_off,
    staffed,
    statement,
    until_listed,
    verification,
)


async def test_a_first_release_goes_from_candidate_to_released(release_house: TestHouse) -> None:
    """Each step records its event, and the gate is asked before approving and before deploying."""
    team = await staffed(release_house)
    digest = await prepared(team)
    assert names(await open_candidate(team)) == ["release-candidate-opened"]
    assert codes(await gate(team)) == ["sign-off-missing", "sign-off-missing"]
    await signed_off(team)
    assert names(await team.ada.post(f"{ROOT}/releases/R-1:evaluate-gate")) == ["release-gate-evaluated"]
    assert (await team.ada.post(f"{ROOT}/releases/R-1:evaluate-gate"))["events"] == []
    assert names(await team.rob.post(f"{ROOT}/releases/R-1:approve")) == ["release-approved"]
    assert names(await deploy(team, digest)) == ["release-deployed"]
    shown = await team.ada.get(f"{ROOT}/releases/R-1")
    assert shown["status"] == "released"
    assert shown["opened"]["verifications"] == ["V-1"]
    assert [item["status"] for item in (await team.ada.get(f"{ROOT}/releases"))["items"]] == ["released"]


async def test_the_gate_says_what_is_missing_with_record_role_and_verb(release_house: TestHouse) -> None:
    """And at which positions it looked."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await requirement(team, "REQ-2")
    await open_candidate(team)
    answer = await gate(team)
    assert answer["missing"][0] | {"explanation": ""} == {
        "code": "requirement-unverified", "record": f"requirement:{SYSTEM}/REQ-2", "role": "author",
        "next_verb": "record_verification", "explanation": "",
    }  # fmt: skip
    assert answer["positions"]["requirements"] == release_house.seen["requirements"]
    assert len(answer["decision_id"]) == 64
    await verification(team, "V-2", digest, requirement="REQ-2")
    assert codes(await gate(team)) == ["sign-off-missing", "sign-off-missing"]


async def test_the_gate_answers_by_digest_before_a_candidate_exists(release_house: TestHouse) -> None:
    """Afterwards the same question is answered for the candidate."""
    team = await staffed(release_house)
    digest = await prepared(team)
    asked: dict[str, Any] = {"model_digest": digest, "environment": "production"}
    assert codes(await gate(team, **asked)) == ["release-candidate-missing"]
    assert codes(await gate(team, model_digest="0" * 64, environment="production")) == [
        "release-candidate-missing", "model-version-unknown",
    ]  # fmt: skip
    await open_candidate(team)
    assert (await gate(team, **asked))["release"] == "R-1"
    ambiguous: tuple[dict[str, Any], ...] = ({}, {"release": "R-1", **asked}, {"model_digest": digest})
    for query in ambiguous:
        answer = await team.ada.request("GET", f"{ROOT}/gate", **query)
        assert problem_of(answer)["reason"] == "ambiguous-subject"
    missing = await team.ada.request("GET", f"{ROOT}/gate", release="R-9")
    assert problem_of(missing)["reason"] == "release-missing"


async def test_what_the_gate_denies_is_not_approved(release_house: TestHouse) -> None:
    """The refusal lists what is missing and changes nothing."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team)
    problem = await team.rob.refused(f"{ROOT}/releases/R-1:approve")
    assert (problem["status"], problem["reason"], len(problem["errors"])) == (403, "gate-denies", 2)
    assert (await team.ada.get(f"{ROOT}/releases/R-1"))["status"] == "candidate"


async def test_suspicion_reaches_the_gate_and_outdates_nothing_once_cleared(release_house: TestHouse) -> None:
    """The same evidence again is what was signed."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team)
    await signed_off(team)
    assert (await gate(team))["allowed"]
    stream = f"verification:{SYSTEM}/V-1"
    await foreign(team.house, "verification", "verification-marked-suspect", stream, key="V-1", explanation="data")
    assert codes(await gate(team)) == ["verification-suspect", "sign-off-outdated", "sign-off-outdated"]
    await foreign(team.house, "verification", "suspicion-cleared", stream, key="V-1")
    assert (await gate(team))["allowed"]


async def test_a_new_revision_in_force_leaves_the_old_verification_behind(release_house: TestHouse) -> None:
    """A verification counts only for exactly that requirement revision."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await requirement(team, classification="material", threshold=0.8)
    await open_candidate(team)
    assert codes(await gate(team))[0] == "requirement-unverified"
    await verification(team, "V-2", digest, revision=2)
    assert "requirement-unverified" not in codes(await gate(team))


async def test_a_verification_counts_only_for_exactly_that_model_digest(release_house: TestHouse) -> None:
    """And not if its criterion was approved after the run."""
    team = await staffed(release_house)
    await prepared(team)
    digest = await model_version(team, "2", parent="1")
    asked: dict[str, Any] = {"model_digest": digest, "environment": "production"}
    assert "requirement-unverified" in codes(await gate(team, **asked))
    await verification(team, "V-2", digest, post_hoc=True)
    assert "verification-post-hoc" in codes(await gate(team, **asked))
    await verification(team, "V-3", digest, until="in review")
    assert "verification-not-approved" in codes(await gate(team, **asked))


async def test_the_gate_denies_while_verification_has_not_followed_the_requirements(release_house: TestHouse) -> None:
    """A suspicion could be on its way; once verification has followed, the gate allows."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team)
    await signed_off(team)
    seen = release_house.seen["requirements"]
    await alive(release_house, reacted=seen - 1)
    assert codes(await gate(team)) == ["source-behind"]
    answering = asyncio.create_task(gate(team))
    await asyncio.sleep(0.1)
    await alive(release_house, reacted=seen)
    assert (await answering)["allowed"]


async def test_the_gate_denies_while_a_source_is_silent(release_house: TestHouse) -> None:
    """It cannot know what it does not hear."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team)
    await signed_off(team)
    await statement(release_house, "UPDATE drift.pulse SET at = clock_timestamp() - interval '31 seconds'")
    assert codes(await gate(team)) == ["source-silent"]


async def test_the_gate_denies_when_an_event_could_not_be_read(release_house: TestHouse) -> None:
    """It goes to the dead letters, and what it said is unknown here."""
    team = await staffed(release_house)
    await prepared(team)
    await open_candidate(team)
    await signed_off(team)
    stream = f"verification:{SYSTEM}/V-9"
    position = await foreign(team.house, "verification", "verification-recorded", stream, key="V-9")
    answer = await gate(team)
    assert codes(answer) == ["source-unreadable"]
    assert f"verification:{position}" in answer["missing"][0]["explanation"]


async def second_version(team: Any, **change: Any) -> str:
    """Version 2, retrained, verified and monitored, with its change request implemented; gives its digest."""
    await team.ada.post(
        f"{ROOT}/change-requests", key="CR-1", cause="retraining", model="delay", baseline="1", impact_assessment="newer months",
    )  # fmt: skip
    await team.rita.post(
        f"{ROOT}/change-requests/CR-1:classify", classification="substantial", impact_assessment="all", **change
    )
    await team.ben.sign("releases", f"change-request:{SYSTEM}/CR-1")
    digest = await model_version(team, "2", parent="1")
    await team.ada.post(f"{ROOT}/change-requests/CR-1:implement", model="delay", candidate="2")
    await verification(team, "V-2", digest)
    await monitoring_plan(team, digest, "MP-2")
    return digest


async def test_a_second_release_says_what_changed_and_supersedes_the_first(release_house: TestHouse) -> None:
    """The difference is computed and shown to the signer; one command deploys the one and supersedes the other."""
    team = await staffed(release_house)
    await released(team, await prepared(team))
    digest = await second_version(team)
    await open_candidate(team, "R-2", version="2")
    assert codes(await gate(team, release="R-2"))[0] == "change-request-missing"
    await open_candidate(team, "R-2b", version="2", change_request="CR-1")
    opened = (await team.ada.get(f"{ROOT}/releases/R-2b"))["opened"]
    assert [one["what"] for one in opened["changes"]] == ["model digest", "model version", "weights booster"]
    shown = await team.ben.get("/v1/releases/signable", record=f"release:{SYSTEM}/R-2b")
    assert any(line.startswith("+") and "R-2b" in line for line in shown["difference"])
    await signed_off(team, "R-2b")
    await team.rob.post(f"{ROOT}/releases/R-2b:approve")
    assert names(await deploy(team, digest, "R-2b")) == ["release-deployed", "release-superseded"]
    assert (await team.ada.get(f"{ROOT}/releases/R-1"))["superseded_by"] == "R-2b"


async def test_a_rollback_needs_one_releaser_and_no_other_service(release_house: TestHouse) -> None:
    """With everybody else silent, the release before it runs again."""
    team = await staffed(release_house)
    await released(team, await prepared(team))
    await released(team, await second_version(team), "R-2", version="2", change_request="CR-1")
    for service in ("requirements", "verification", "drift"):
        await statement(release_house, f"UPDATE {service}.pulse SET at = '-infinity'")
    problem = await team.ben.refused(f"{ROOT}/releases/R-2:roll-back")
    assert problem["reason"] == "missing-role"
    receipt = await team.rob.post(f"{ROOT}/releases/R-2:roll-back")
    assert names(receipt) == ["release-rolled-back", "release-deployed"]
    statuses = {item["key"]: item["status"] for item in (await team.ada.get(f"{ROOT}/releases"))["items"]}
    assert statuses == {"R-1": "released", "R-2": "rolled back"}
    assert names(await team.rob.post(f"{ROOT}/releases/R-1:suspend")) == ["release-suspended"]
    assert (await team.rob.refused(f"{ROOT}/releases/R-1:roll-back"))["reason"] == "nothing-to-roll-back-to"


async def test_what_runs_must_be_what_was_released(release_house: TestHouse) -> None:
    """A wrong digest is refused; reported as seen it becomes one nonconformity, the right one none."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await released(team, digest)
    await open_candidate(team, "R-2")
    await signed_off(team, "R-2")
    await team.rob.post(f"{ROOT}/releases/R-2:approve")
    problem = await team.rob.refused(f"{ROOT}/releases/R-2:deploy", environment="production", observed_digest="0" * 64)
    assert problem["reason"] == "observed-digest-differs"
    for observed, expected in ((digest, []), ("0" * 64, ["nonconformity-raised"]), ("0" * 64, [])):
        receipt = await team.rob.post(f"{ROOT}/observed-digests", environment="production", observed_digest=observed)
        assert names(receipt) == expected
    found = (await team.ada.get(f"{ROOT}/nonconformities"))["items"]
    assert [item["record"] for item in found] == [f"release:{SYSTEM}/R-1"]


async def test_an_emergency_release_without_its_sign_offs_becomes_a_nonconformity(release_house: TestHouse) -> None:
    """It runs at once; when the deadline has passed, the clock of the rule tells it, once."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await open_candidate(team)
    service = release_house.client("pipeline", kind="service")
    await team.owner.post(f"{ROOT}:grant-role", subject=service.subject, role="service")
    refused = await service.refused(
        f"{ROOT}/releases/R-1:deploy", environment="production", observed_digest=digest, emergency=True
    )
    assert refused["reason"] == "only-persons-sign"
    await deploy(team, digest, emergency=True)
    shown = await team.ada.get(f"{ROOT}/releases/R-1")
    assert (shown["status"], shown["emergency"], shown["gate"]) == ("released", True, None)
    assert (await team.ada.get(f"{ROOT}/nonconformities"))["items"] == []
    await statement(release_house, "UPDATE releases_projection.release SET sign_off_due = '2020-01-01T00:00:00Z'")
    await until_listed(team, "nonconformities", "NC-R-1-sign-off")
    assert [item["record"] for item in (await team.ben.get("/v1/releases/awaiting-signature"))["items"]] == [
        f"release:{SYSTEM}/R-1"
    ]
    await signed_off(team)
    assert (await team.ben.get("/v1/releases/awaiting-signature"))["items"] == []


async def test_a_release_is_adopted_once_and_replaced_by_a_governed_one(release_house: TestHouse) -> None:
    """It is marked as adopted and not governed."""
    team = await staffed(release_house)
    await prepared(team)
    adopt: dict[str, Any] = {"model": "delay", "version": "1", "environment": "production"}
    assert names(await team.owner.post(f"{ROOT}/releases:adopt", **adopt)) == ["release-adopted"]
    assert (await team.owner.post(f"{ROOT}/releases:adopt", **adopt))["events"] == []
    digest = await second_version(team)
    problem = await team.owner.refused(f"{ROOT}/releases:adopt", **{**adopt, "version": "2"})
    assert problem["reason"] == "adopted-before"
    await released(team, digest, "R-2", version="2", change_request="CR-1")
    shown = await team.ada.get(f"{ROOT}/releases/baseline-production")
    assert (shown["status"], shown["opened"], shown["superseded_by"]) == ("superseded", None, "R-2")


async def test_a_candidate_that_was_overtaken_is_opened_anew(release_house: TestHouse) -> None:
    """What was signed was the difference to a release that runs no longer."""
    team = await staffed(release_house)
    digest = await prepared(team)
    await open_candidate(team, "R-0")
    await released(team, digest)
    assert "previous-release-changed" in codes(await gate(team, release="R-0"))
    assert names(await team.ada.post(f"{ROOT}/releases/R-0:withdraw")) == ["release-withdrawn"]
    assert (await team.ada.refused(f"{ROOT}/releases/R-1:withdraw"))["reason"] == "missing-role"


async def test_two_deployments_at_once_leave_one_release_running(release_house: TestHouse) -> None:
    """Whichever is second supersedes the first, or is denied because the environment moved."""
    team = await staffed(release_house)
    digest = await prepared(team)
    for key in ("R-1", "R-2"):
        await open_candidate(team, key)
        await signed_off(team, key)
        await team.rob.post(f"{ROOT}/releases/{key}:approve")
    body = {"reason": "race", "environment": "production", "observed_digest": digest}
    answers = await asyncio.gather(
        *(team.rob.request("POST", f"{ROOT}/releases/{key}:deploy", body=body) for key in ("R-1", "R-2"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 403]
    statuses = [item["status"] for item in (await team.ada.get(f"{ROOT}/releases"))["items"]]
    assert sorted(statuses) == ["approved", "released"]


async def test_rebuilding_the_copies_gives_the_same_state(release_house: TestHouse) -> None:
    """The order between sources does not matter."""
    team = await staffed(release_house)
    await released(team, await prepared(team))
    service = release_house.house.services["releases"]
    await service.foundation.projection.wait(release_house.seen, timeout_s=60)
    before = await service.foundation.projection.state_digest()
    await service.foundation.projection.rebuild()
    assert await service.foundation.projection.state_digest() == before
    assert await service.foundation.pool.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_a_repeated_request_finds_its_answer_whatever_happened_since(release_house: TestHouse) -> None:
    """Also when what it rested on no longer stands."""
    team = await staffed(release_house)
    digest = await prepared(team)
    again = {"Idempotency-Key": "one"}
    body: dict[str, Any] = {"key": "R-1", "model": "delay", "version": "1", "environment": "production"}
    opened = await team.ada.post(f"{ROOT}/releases", headers=again, **body)
    await signed_off(team)
    await team.rob.post(f"{ROOT}/releases/R-1:approve")
    running: dict[str, Any] = {"environment": "production", "observed_digest": digest}
    deployed = await team.rob.post(f"{ROOT}/releases/R-1:deploy", headers=again, **running)
    await team.rob.post(f"{ROOT}/releases/R-1:suspend")
    await team.ben.post(f"{ROOT}/model-versions/delay/1:withdraw")
    assert await team.ada.post(f"{ROOT}/releases", headers=again, **body) == opened
    assert await team.rob.post(f"{ROOT}/releases/R-1:deploy", headers=again, **running) == deployed
    reused = await team.rob.refused(f"{ROOT}/releases/R-1:suspend", headers=again)
    assert reused["reason"] == "idempotency-key-reused"
