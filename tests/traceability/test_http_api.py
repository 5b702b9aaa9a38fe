"""Traceability through the HTTP door: the ledger, the state as of any position, and packs that come out the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from shared.event import digest_of, leaf_hash_of
from tests.house import TestHouse, problem_of
from tests.requirements.test_http_api import in_review, staffed

SYSTEM = "/v1/systems/flight-delay"


async def test_the_ledger_holds_the_exact_bytes_of_every_event_once(house: TestHouse) -> None:
    """A reader can check each leaf hash against the text it received."""
    _, author, approver = await staffed(house)
    await in_review(author)
    await approver.sign("requirements", "requirement:flight-delay/REQ-1")
    page = await author.get(f"{SYSTEM}/ledger")
    assert [leaf_hash_of(event["event"].encode()) for event in page["events"]] == [
        event["leaf_hash"] for event in page["events"]
    ]
    names = [json.loads(event["event"])["name"] for event in page["events"]]
    assert names[0] == "requirements.ai-system-registered"
    assert names[-1] == "requirements.requirement-approved"
    assert len({event["position"] for event in page["events"]}) == len(page["events"])


async def test_the_state_of_a_past_position_does_not_change_when_more_happens(house: TestHouse) -> None:
    """As of a position is the fold up to it, and the state of then has the digest of then."""
    _, author, approver = await staffed(house)
    await in_review(author)
    before = await author.get(f"{SYSTEM}/state")
    await approver.sign("requirements", "requirement:flight-delay/REQ-1")
    now = await author.get(f"{SYSTEM}/state")
    then = await author.get(f"{SYSTEM}/state", ledger_position=before["ledger_position"])
    assert then == before
    assert now["state_digest"] != then["state_digest"]
    assert (then["records"]["requirement"], now["records"]["requirement"]) == (
        {"REQ-1": "in review"},
        {"REQ-1": "approved"},
    )
    known = await author.get(f"{SYSTEM}/state", known_at=before["recorded_at"])
    assert known == before


async def test_the_same_ledger_position_gives_the_same_bytes_of_a_pack(house: TestHouse) -> None:
    """An issued pack can be made again, and its recorded digest is that of its bytes."""
    owner, author, approver = await staffed(house)
    await in_review(author)
    receipt = await owner.post(f"{SYSTEM}/evidence-packs", key="P-1")
    first = (await author.request("GET", f"{SYSTEM}/evidence-packs/P-1")).content
    await approver.sign("requirements", "requirement:flight-delay/REQ-1")
    assert (await approver.request("GET", f"{SYSTEM}/evidence-packs/P-1")).content == first
    record = await author.get(f"{SYSTEM}/record", stream="pack:flight-delay/P-1")
    assert record["fields"]["digest"] == digest_of(first)
    assert receipt["record"] == "pack:flight-delay/P-1"
    names = {person["name"] for person in json.loads(first)["people"].values()}
    assert names == {"Olga Owner", "Ada Author"}


async def test_an_approved_requirement_without_a_test_case_is_a_gap(house: TestHouse) -> None:
    """The gap names the record, the role and the verb that closes it."""
    _, author, approver = await staffed(house)
    await in_review(author)
    assert (await author.get(f"{SYSTEM}/gaps"))["items"] == []
    await approver.sign("requirements", "requirement:flight-delay/REQ-1")
    (gap,) = (await author.get(f"{SYSTEM}/gaps"))["items"]
    assert (gap["code"], gap["record"], gap["next_verb"]) == (
        "requirement-uncovered",
        "requirement:flight-delay/REQ-1",
        "define_test_case",
    )


async def test_a_stranger_reads_nothing_of_the_ledger_and_gets_no_pack(house: TestHouse) -> None:
    """Reading is by role per AI system, in the ledger and in packs too."""
    await staffed(house)
    stranger = house.client("Sam Stranger")
    for path in ("ledger", "timeline", "matrix", "gaps", "state", "evidence-pack", "evidence-pack.html"):
        problem = problem_of(await stranger.request("GET", f"{SYSTEM}/{path}"))
        assert problem["reason"] == "ai-system-not-found"


async def test_an_auditor_signs_what_they_looked_at(house: TestHouse) -> None:
    """A review covers position, state digest and findings; another digest is refused, and so is a person who is no auditor."""
    owner, author, _ = await staffed(house)
    auditor = house.client("Alma Auditor")
    await owner.post(f"{SYSTEM}:grant-role", subject=auditor.subject, role="auditor")
    shown = await auditor.get(f"{SYSTEM}/audit-trail-review", findings="nothing to complain")
    body = {"key": "AR-1", "findings": "nothing to complain", "ledger_position": shown["ledger_position"]}
    assert (await author.refused(f"{SYSTEM}/audit-trail-reviews", **body, digest=shown["digest"]))["status"] == 403
    other = await auditor.refused(f"{SYSTEM}/audit-trail-reviews", **body, digest="0" * 64)
    assert other["reason"] == "review-mismatch"
    receipt = await auditor.post(f"{SYSTEM}/audit-trail-reviews", **body, digest=shown["digest"])
    assert receipt["events"][0]["name"] == "traceability.audit-trail-reviewed"


async def test_a_sign_in_that_is_too_old_cannot_sign(house: TestHouse) -> None:
    """The answer says so in the words of RFC 9470, so that a client can sign the person in again."""
    owner, _, _ = await staffed(house)
    auditor = house.client("Alma Auditor", auth_time=datetime.now(UTC) - timedelta(hours=1))
    await owner.post(f"{SYSTEM}:grant-role", subject=auditor.subject, role="auditor")
    shown = await auditor.get(f"{SYSTEM}/audit-trail-review", findings="none")
    answer = await auditor.request(
        "POST",
        f"{SYSTEM}/audit-trail-reviews",
        body={
            "reason": "quarterly review",
            "key": "AR-1",
            "findings": "none",
            "ledger_position": shown["ledger_position"],
            "digest": shown["digest"],
        },
    )
    assert problem_of(answer)["status"] == 401
    assert "insufficient_user_authentication" in answer.headers["WWW-Authenticate"]


async def test_a_position_beyond_the_ledger_is_refused(house: TestHouse) -> None:
    """The state can be told only of what was recorded."""
    _, author, _ = await staffed(house)
    problem = problem_of(await author.request("GET", f"{SYSTEM}/state", ledger_position=10_000))
    assert problem["reason"] == "beyond-the-ledger"
