"""Rules that need more than one record: roles that were taken back, datasets that were withdrawn, signatures over several."""

from __future__ import annotations

from typing import Any

import msgspec

from services.requirements.domain.requirement import RequirementApproved, RequirementRejected
from shared.event import EventMapper, Signature
from tests.house import Client, TestHouse, problem_of
from tests.requirements.test_http_api import CRITERION, DATASET, REQUIREMENT, in_review, in_review_draft, staffed

SYSTEM = "/v1/systems/flight-delay"
REQUIREMENTS = f"{SYSTEM}/requirements"
RECORD = "requirement:flight-delay/REQ-1"


async def withdraw(author: Client) -> None:
    """Withdraws the dataset that the criterion names."""
    await author.post(f"{SYSTEM}/datasets/flights/march:withdraw")


async def signatures(house: TestHouse) -> list[Signature]:
    """All signatures that were recorded, in order."""
    store = house.house.services["requirements"].foundation.store
    mapper = EventMapper([RequirementApproved, RequirementRejected])
    names = {fact_type.TOPIC: fact_type for fact_type in mapper.fact_types}
    return [
        msgspec.convert(event.content()["data"]["signature"], Signature)
        for event in await store.read(after=0, limit=1000)
        if event.name in names
    ]


async def test_a_role_that_was_revoked_is_gone(house: TestHouse) -> None:
    """The next command is refused, and with the last role the AI system is out of sight."""
    owner, author, _ = await staffed(house)
    await owner.post(f"{SYSTEM}:grant-role", subject=author.subject, role="auditor")
    await owner.post(f"{SYSTEM}:revoke-role", subject=author.subject, role="author")
    problem = await author.refused(f"{SYSTEM}/datasets", **DATASET)
    assert (problem["status"], problem["reason"]) == (403, "missing-role")
    assert await author.get(SYSTEM)
    await owner.post(f"{SYSTEM}:revoke-role", subject=author.subject, role="auditor")
    for path in (SYSTEM, REQUIREMENTS):
        assert problem_of(await author.request("GET", path))["status"] == 404
    assert (await author.get("/v1/systems"))["items"] == []
    assert (await author.get("/v1/requirements/events"))["events"] == []


async def test_a_role_that_was_revoked_signs_nothing(house: TestHouse) -> None:
    """What waited for the approver waits for somebody else now."""
    owner, author, approver = await staffed(house)
    await in_review(author)
    shown = await approver.get("/v1/requirements/signable", record=RECORD)
    await owner.post(f"{SYSTEM}:revoke-role", subject=approver.subject, role="approver")
    assert (await approver.get("/v1/requirements/awaiting-signature"))["items"] == []
    item = {"record": RECORD, "digest": shown["digest"], "meaning": shown["meaning"]}
    problem = await approver.refused("/v1/requirements/signatures", decision="sign", items=[item])
    assert problem["status"] == 404


async def test_a_draft_on_a_withdrawn_dataset_does_not_go_to_review(house: TestHouse) -> None:
    """The dataset stood when the draft was written; that is not enough."""
    _, author, _ = await staffed(house)
    await in_review_draft(author)
    await withdraw(author)
    problem = await author.refused(f"{REQUIREMENTS}/REQ-1:submit")
    assert (problem["status"], problem["reason"]) == (409, "dataset-gone")


async def test_a_revision_on_a_withdrawn_dataset_does_not_come_into_force(house: TestHouse) -> None:
    """By either door; rejecting it is the way out."""
    _, author, approver = await staffed(house)
    await in_review(author)
    await withdraw(author)
    shown = await approver.get("/v1/requirements/signable", record=RECORD)
    problem = await approver.refused(f"{REQUIREMENTS}/REQ-1:approve", digest=shown["digest"])
    assert problem["reason"] == "dataset-gone"
    item = {"record": RECORD, "digest": shown["digest"], "meaning": shown["meaning"]}
    problem = await approver.refused("/v1/requirements/signatures", decision="sign", items=[item])
    assert problem["reason"] == "dataset-gone"
    await approver.sign("requirements", RECORD, decision="decline")
    assert (await author.get(f"{REQUIREMENTS}/REQ-1"))["revisions"]["1"]["status"] == "draft"


async def test_a_repeat_finds_its_answer_after_the_dataset_was_withdrawn(house: TestHouse) -> None:
    """What was carried out was carried out: a retry after a lost answer is told so."""
    _, author, approver = await staffed(house)
    await author.post(f"{SYSTEM}/datasets", **DATASET)
    requests: list[tuple[Client, str, dict[str, Any]]] = [
        (author, REQUIREMENTS, REQUIREMENT),
        (author, f"{REQUIREMENTS}/REQ-1:submit", {}),
    ]
    first = [await client.post(path, headers={"Idempotency-Key": path}, **body) for client, path, body in requests]
    shown = await approver.get("/v1/requirements/signable", record=RECORD)
    requests.append((approver, f"{REQUIREMENTS}/REQ-1:approve", {"digest": shown["digest"]}))
    first.append(await approver.post(requests[2][1], headers={"Idempotency-Key": requests[2][1]}, **requests[2][2]))
    await withdraw(author)
    again = [await client.post(path, headers={"Idempotency-Key": path}, **body) for client, path, body in requests]
    assert again == first


async def test_one_act_signs_several_records_or_none(house: TestHouse) -> None:
    """Every signature of the act lists the digests of all; one wrong digest and nothing is signed."""
    _, author, approver = await staffed(house)
    await in_review(author)
    await author.post(REQUIREMENTS, **{**REQUIREMENT, "key": "REQ-2", "criteria": [{**CRITERION, "threshold": 0.8}]})
    await author.post(f"{REQUIREMENTS}/REQ-2:submit")
    waiting = (await approver.get("/v1/requirements/awaiting-signature"))["items"]
    items = [{name: one[name] for name in ("record", "digest", "meaning")} for one in waiting]
    wrong = [items[0], {**items[1], "digest": items[0]["digest"]}]
    problem = await approver.refused("/v1/requirements/signatures", decision="sign", items=wrong)
    assert problem["reason"] == "digest-mismatch"
    assert await signatures(house) == []
    await approver.post("/v1/requirements/signatures", decision="sign", items=items)
    signed = await signatures(house)
    assert [one.digest for one in signed] == [one["digest"] for one in items]
    assert {one.covers for one in signed} == {tuple(one["digest"] for one in items)}
    assert {(one.signer.subject, one.meaning) for one in signed} == {(approver.subject, "approval")}


async def test_declining_is_signed_as_a_rejection(house: TestHouse) -> None:
    """With its own meaning, over the same digest."""
    _, author, approver = await staffed(house)
    await in_review(author)
    shown = await approver.get("/v1/requirements/signable", record=RECORD)
    await approver.sign("requirements", RECORD, decision="decline")
    assert [(one.meaning, one.digest) for one in await signatures(house)] == [("rejection", shown["digest"])]


async def test_what_one_wrote_does_not_wait_for_one(house: TestHouse) -> None:
    """An author with the role of an approver is not asked to approve the own work."""
    owner, author, approver = await staffed(house)
    await owner.post(f"{SYSTEM}:grant-role", subject=author.subject, role="approver")
    await in_review(author)
    assert (await author.get("/v1/requirements/awaiting-signature"))["items"] == []
    assert len((await approver.get("/v1/requirements/awaiting-signature"))["items"]) == 1


async def test_the_signer_sees_what_changed_since_the_last_signature(house: TestHouse) -> None:
    """The difference is that against the revision in force."""
    _, author, approver = await staffed(house)
    await in_review(author)
    await approver.sign("requirements", RECORD)
    changed = {**REQUIREMENT, "classification": "material", "criteria": [{**CRITERION, "threshold": 0.8}]}
    await author.post(REQUIREMENTS, headers={"If-Match": '"3"'}, **changed)
    await author.post(f"{REQUIREMENTS}/REQ-1:submit")
    shown = await approver.get("/v1/requirements/signable", record=RECORD)
    difference = [line for line in shown["difference"] if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert difference == ["-classification: initial", "+classification: material", "-      threshold: 0.7",
                          "+      threshold: 0.8", "-revision: 1", "+revision: 2"]  # fmt: skip
