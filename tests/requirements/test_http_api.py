"""Requirements through the HTTP door, on a real PostgreSQL."""

from __future__ import annotations

from typing import Any

from tests.house import Client, TestHouse, problem_of

DATASET: dict[str, Any] = {
    "name": "flights", "version": "march", "digest": "a" * 64, "rows": 1000, "columns": ["carrier", "late"], "purpose": "test",
    "provenance": "collected by the airport", "licence": "CC0", "sequestered": True, "personal_data": False,
}  # fmt: skip
CRITERION: dict[str, Any] = {
    "key": "C1", "metric": "recall", "comparator": ">=", "threshold": 0.7, "unit": "1", "dataset": "flights",
    "dataset_version": "march", "slice": "overall", "decision_rule": "confidence bound", "level": 0.95, "method": "wilson",
    "minimum_sample_size": 500, "sample_size_rationale": "half width below 0.04",
}  # fmt: skip
REQUIREMENT: dict[str, Any] = {
    "key": "REQ-1", "classification": "initial", "title": "Finds late flights", "statement": "Recall is at least 0.70.",
    "rationale": "A missed delay costs a connection.", "quality_characteristic": "functional correctness",
    "controls": ["A.6.2.4"], "evaluation_approach": "on sequestered flights", "criteria": [CRITERION],
}  # fmt: skip


async def staffed(house: TestHouse) -> tuple[Client, Client, Client]:
    """A registered system with an owner, an author and an approver."""
    owner, author, approver = house.client("Olga Owner"), house.client("Ada Author"), house.client("Ben Approver")
    await owner.post(
        "/v1/systems", key="flight-delay", name="Flight delay", intended_use="Warn passengers.", risk_class="limited"
    )
    for person, role in ((author, "author"), (approver, "approver")):
        await owner.post("/v1/systems/flight-delay:grant-role", subject=person.subject, role=role)
    return owner, author, approver


async def in_review(author: Client, **changes: Any) -> None:
    """A dataset and a submitted requirement."""
    await author.post("/v1/systems/flight-delay/datasets", **DATASET)
    await author.post("/v1/systems/flight-delay/requirements", **{**REQUIREMENT, **changes})
    await author.post("/v1/systems/flight-delay/requirements/REQ-1:submit")


async def test_a_requirement_is_drafted_submitted_and_approved_by_another_person(house: TestHouse) -> None:
    """The signer fetches what would be signed and signs exactly that digest."""
    _, author, approver = await staffed(house)
    await in_review(author)
    waiting = await approver.get("/v1/requirements/awaiting-signature")
    assert [item["record"] for item in waiting["items"]] == ["requirement:flight-delay/REQ-1"]
    receipt = await approver.sign("requirements", "requirement:flight-delay/REQ-1")
    assert [event["name"] for event in receipt["events"]] == ["requirements.requirement-approved"]
    shown = await author.get("/v1/systems/flight-delay/requirements/REQ-1")
    assert shown["revisions"]["1"]["status"] == "approved"


async def test_the_author_cannot_approve(house: TestHouse) -> None:
    """Holding both roles does not open the way."""
    owner, author, _ = await staffed(house)
    await owner.post("/v1/systems/flight-delay:grant-role", subject=author.subject, role="approver")
    await in_review(author)
    shown = await author.get("/v1/requirements/signable", record="requirement:flight-delay/REQ-1")
    problem = await author.refused("/v1/systems/flight-delay/requirements/REQ-1:approve", digest=shown["digest"])
    assert problem["reason"] == "author-cannot-approve"


async def test_without_a_role_the_system_does_not_exist(house: TestHouse) -> None:
    """A stranger learns nothing, not even that the key is taken for reading."""
    await staffed(house)
    stranger = house.client("Sam Stranger")
    problem = problem_of(await stranger.request("GET", "/v1/systems/flight-delay/requirements"))
    assert problem["reason"] == "ai-system-not-found"
    assert (await stranger.get("/v1/systems"))["items"] == []


async def test_a_repeated_idempotency_key_finds_its_answer_even_with_a_stale_etag(house: TestHouse) -> None:
    """The key is checked before If-Match, so a retry after a lost answer is safe."""
    _, author, _ = await staffed(house)
    await in_review_draft(author)
    headers = {"Idempotency-Key": "one", "If-Match": '"1"'}
    changed = {"criterion": {**CRITERION, "threshold": 0.8}}
    path = "/v1/systems/flight-delay/requirements/REQ-1:revise-criterion"
    first = await author.post(path, headers=headers, **changed)
    assert await author.post(path, headers=headers, **changed) == first
    other = await author.refused(path, headers=headers, criterion={**CRITERION, "threshold": 0.9})
    assert other["reason"] == "idempotency-key-reused"
    stale = await author.refused(path, headers={"If-Match": '"1"'}, criterion={**CRITERION, "threshold": 0.9})
    assert (stale["status"], stale["reason"]) == (412, "stale-version")


async def in_review_draft(author: Client) -> None:
    """A dataset and a draft."""
    await author.post("/v1/systems/flight-delay/datasets", **DATASET)
    await author.post("/v1/systems/flight-delay/requirements", **REQUIREMENT)
