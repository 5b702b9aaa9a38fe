"""What was true at t and what we knew at another t, through the HTTP door, with facts that real services were told late."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.event import digest_of
from tests.house import problem_of
from tests.verification.test_http_api import AT, Team, team

__all__ = ["team"]


async def timeline(team: Team, **when: Any) -> list[dict[str, Any]]:
    """All lines."""
    page = await team.author.get(f"{AT}/timeline", page_size=100, **when)
    items: list[dict[str, Any]] = page["items"]
    return items


async def recorded_at(team: Team, name: str, record: str = "") -> str:
    """When the last event of the name was recorded."""
    return str(
        [line for line in await timeline(team) if line["name"] == name and record in line["record"]][-1]["recorded_at"]
    )


async def outlook(team: Team, **when: Any) -> tuple[str | None, str | None, bool | None, set[str]]:
    """Status of the test data and of VER-1, whether VER-1 counts in the matrix, and the codes of the gaps."""
    records = (await team.author.get(f"{AT}/state", **when))["records"]
    (row,) = (await team.author.get(f"{AT}/matrix", **when))["items"]
    gaps = (await team.author.get(f"{AT}/gaps", **when))["items"]
    counts = row["cells"][0]["counts"] if row["cells"] else None
    return (
        records["dataset"].get("test@1"),
        records.get("verification", {}).get("VER-1"),
        counts,
        {gap["code"] for gap in gaps},
    )


async def test_a_dataset_withdrawn_late_was_wrong_before_anybody_knew(team: Team) -> None:
    """The withdrawal holds since a moment at which everything looked well; so does the suspicion that it caused."""
    await team.verify()
    verified = await recorded_at(team, "verification.verification-approved")
    await team.author.post(f"{AT}/test-cases", key="TC-2", title="t", procedure="p", sample_size_rationale="s",
                           requirements=[{"key": "REQ-1", "revision": 1}])  # fmt: skip
    between = await recorded_at(team, "verification.test-case-defined")
    well = ("registered", "approved", True)
    assert (await outlook(team))[:3] == well
    known_before = await team.author.get(f"{AT}/state")
    await team.author.post(f"{AT}/datasets/test/1:withdraw", effective_at=verified)
    assert await team.status("VER-1") == "suspect"

    bad = ("withdrawn", "suspect", False)
    now = await outlook(team)
    assert now[:3] == bad
    assert "verification-suspect" in now[3]
    # True at `between`, as known now, then, and at the ledger position of then.
    assert (await outlook(team, as_of=between))[:3] == bad
    then = await outlook(team, as_of=between, known_at=between)
    assert then[:3] == well
    assert "verification-suspect" not in then[3]
    position = known_before["ledger_position"]
    assert (await outlook(team, as_of=between, ledger_position=position))[:3] == well
    assert await team.author.get(f"{AT}/state", known_at=known_before["known_at"]) == known_before
    # Before the verification was approved nothing was wrong with it, whenever it is asked.
    earlier = (datetime.fromisoformat(verified) - timedelta(microseconds=1)).isoformat()
    assert (await outlook(team, as_of=earlier))[:3] == ("registered", "in review", False)


async def test_a_voided_run_never_was_evidence(team: Team) -> None:
    """As known now its verification was suspect from its approval on; as known then it counted."""
    await team.verify()
    approved = await recorded_at(team, "verification.verification-approved")
    await team.reviewer.sign("verification", "run:flights/RUN-1")
    assert await team.status("VER-1") == "suspect"
    state = await team.author.get(f"{AT}/state", as_of=approved)
    assert (state["records"]["run"]["RUN-1"], state["records"]["verification"]["VER-1"]) == ("voided", "suspect")
    before = await team.author.get(f"{AT}/state", as_of=approved, known_at=approved)
    assert (before["records"]["run"]["RUN-1"], before["records"]["verification"]["VER-1"]) == ("recorded", "approved")


async def test_what_ran_before_it_was_told_is_in_production_since_it_ran(team: Team) -> None:
    """An adopted release is a gap from the moment at which it ran."""
    registered = await recorded_at(team, "releases.model-version-registered", "m@2")
    await team.owner.post(
        f"{AT}/releases:adopt", model="m", version="1", environment="production", effective_at=registered
    )
    codes = {gap["code"] for gap in (await team.author.get(f"{AT}/gaps", as_of=registered))["items"]}
    assert "release-not-governed" in codes
    known_then = (await team.author.get(f"{AT}/gaps", as_of=registered, known_at=registered))["items"]
    assert "release-not-governed" not in {gap["code"] for gap in known_then}
    record = await team.author.get(f"{AT}/record", stream="release:flights/baseline-production", as_of=registered)
    assert record["status"] == "released"
    unknown = await team.author.request(
        "GET", f"{AT}/record", stream="release:flights/baseline-production", known_at=registered
    )
    assert problem_of(unknown)["reason"] == "record-not-found"


async def test_the_answers_say_from_where_they_look(team: Team) -> None:
    """Both moments and the ledger position; without any the time of the last event, and for dates of rules now."""
    registered = await recorded_at(team, "releases.model-version-registered")
    head = (await timeline(team))[-1]
    for path in ("state", "matrix", "gaps"):
        answer = await team.author.get(f"{AT}/{path}", as_of=registered, known_at=head["recorded_at"])
        shown = (answer["as_of"], answer["known_at"], answer["ledger_position"])
        assert shown == (registered, head["recorded_at"], head["ledger_position"])
        plain = await team.author.get(f"{AT}/{path}")
        assert (plain["known_at"], plain["ledger_position"]) == (head["recorded_at"], head["ledger_position"])
        assert plain["as_of"] >= head["recorded_at"]


async def test_the_timeline_leaves_out_what_was_not_true_yet(team: Team) -> None:
    """It shows since when each event is true, apart from when it was recorded."""
    registered = await recorded_at(team, "requirements.dataset-registered")
    await team.author.post(f"{AT}/datasets/test/1:withdraw", effective_at=registered)
    everything = await timeline(team)
    assert everything[-1]["name"] == "requirements.dataset-withdrawn"
    assert everything[-1]["effective_at"] == registered < everything[-1]["recorded_at"]
    assert everything[0]["effective_at"] is None
    lines = await timeline(team, as_of=registered)
    assert lines[-1]["name"] == "requirements.dataset-withdrawn"
    assert all(line["effective_at"] <= registered for line in lines)
    assert 0 < len(lines) < len(everything)
    known_then = await timeline(team, as_of=registered, known_at=registered)
    assert [line["name"] for line in known_then] == [line["name"] for line in lines[:-1]]
    pages, position = [], 0
    while True:
        page = await team.author.get(f"{AT}/timeline", page_size=3, from_position=position, as_of=registered)
        pages += page["items"]
        if page["next_position"] == position:
            break
        position = page["next_position"]
    assert pages == lines


async def test_an_evidence_pack_of_a_moment_shows_what_was_true_and_proves_all_that_is_known(team: Team) -> None:
    """The same moments give the same bytes; without a moment the pack is what it always was."""
    registered = await recorded_at(team, "requirements.dataset-registered", "test@1")
    await team.author.post(f"{AT}/datasets/test/1:withdraw", effective_at=registered)
    position = (await timeline(team))[-1]["ledger_position"]
    plain = (await team.author.request("GET", f"{AT}/evidence-pack")).content
    of_then = {"as_of": registered, "ledger_position": position}
    first = (await team.author.request("GET", f"{AT}/evidence-pack", **of_then)).content
    await team.author.post(f"{AT}/datasets/training/1:withdraw")
    again = (await team.author.request("GET", f"{AT}/evidence-pack", **of_then)).content
    assert digest_of(first) == digest_of(again)
    assert (await team.author.request("GET", f"{AT}/evidence-pack", ledger_position=position)).content == plain
    then, now = json.loads(first), json.loads(plain)
    assert "known_at" not in now
    assert then["known_at"] == now["as_of"] > then["as_of"] == registered
    assert then["events"] == now["events"]
    assert then["matrix"] == []
    assert {record["key"]: record["status"] for record in then["records"]["dataset"]}["test@1"] == "withdrawn"
    page = (await team.author.request("GET", f"{AT}/evidence-pack.html", **of_then)).text
    assert "as known at ledger position" in page
    assert "as known at ledger position" not in (await team.author.request("GET", f"{AT}/evidence-pack.html")).text


@pytest.mark.parametrize(
    "path", ["state", "matrix", "gaps", "timeline", "evidence-pack", "evidence-pack.html", "record"]
)
async def test_nothing_is_told_of_what_is_not_known(team: Team, path: str) -> None:
    """A moment that has not come, more than was known then, or two answers to what was known."""
    last = (await timeline(team))[-1]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    refusals: list[tuple[dict[str, Any], str, str]] = [
        ({"known_at": tomorrow}, "beyond-the-ledger", "known_at"),
        ({"ledger_position": 10_000}, "beyond-the-ledger", "known_at"),
        ({"as_of": tomorrow}, "as-of-beyond-known", "as_of"),
        ({"as_of": datetime.now(UTC).isoformat(), "known_at": last["recorded_at"]}, "as-of-beyond-known", "as_of"),
        (
            {"as_of": datetime.now(UTC).isoformat(), "ledger_position": last["ledger_position"] - 1},
            "as-of-beyond-known",
            "as_of",
        ),
        ({"known_at": last["recorded_at"], "ledger_position": 1}, "two-moments-known", "known_at"),
        ({"as_of": "2026-01-01T00:00:00"}, "invalid-request", "as_of"),
    ]
    for when, reason, field in refusals:
        answer = await team.author.request("GET", f"{AT}/{path}", **{"stream": "ai-system:flights", **when})
        problem = problem_of(answer)
        assert (problem["status"], problem["reason"]) == (422, reason), when
        assert field in problem["errors"][0]["field"]


async def test_a_fact_cannot_be_told_before_it_happens(team: Team) -> None:
    """Wherever something may be told late; and a withdrawal is not told again with another date."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    adoption: dict[str, Any] = {"model": "m", "version": "1", "environment": "production"}
    for refused in (
        await team.author.refused(f"{AT}/datasets/test/1:withdraw", effective_at=tomorrow),
        await team.author.refused(f"{AT}/model-versions/m/1:withdraw", effective_at=tomorrow),
        await team.owner.refused(f"{AT}/releases:adopt", **adoption, effective_at=tomorrow),
    ):
        assert (refused["reason"], refused["errors"][0]["field"]) == ("effective-in-the-future", "/effective_at")
    since = await recorded_at(team, "requirements.dataset-registered", "test@1")
    for path in ("datasets/test/1:withdraw", "model-versions/m/1:withdraw"):
        await team.author.post(f"{AT}/{path}", effective_at=since)
        assert (await team.author.post(f"{AT}/{path}", effective_at=since))["events"] == []
        assert (await team.author.post(f"{AT}/{path}"))["events"] == []
        other = (datetime.fromisoformat(since) - timedelta(days=1)).isoformat()
        assert (await team.author.refused(f"{AT}/{path}", effective_at=other))["reason"] == "withdrawn-before"
    assert (await team.author.get(f"{AT}/datasets/test/1"))["withdrawn_from"] == since
