"""Verification through the HTTP door, with requirements and releases really running beside it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shared.event import digest_of
from tests.house import TestHouse, problem_of, running_house

AT = "/v1/systems/flights"
CRITERION = {
    "key": "C1", "metric": "recall", "comparator": ">=", "threshold": 0.7, "unit": "1", "dataset": "test",
    "dataset_version": "1", "slice": "overall", "decision_rule": "confidence bound", "level": 0.95, "method": "wilson",
    "minimum_sample_size": 50, "sample_size_rationale": "enough", "least_evidence": "recomputed",
}  # fmt: skip
SLICED = {**CRITERION, "key": "C2", "slice": "origin=EWR", "threshold": 0.6}
RANKED = {**CRITERION, "key": "C3", "metric": "auroc", "threshold": 0.8}


def predictions(*, shift: float = 2.0, rows: int = 2000) -> bytes:
    """Labels and scores that tell them apart the better, the larger the shift."""
    drawn = np.random.default_rng(7)
    labels = drawn.random(rows) < 0.4
    scores = 1 / (1 + np.exp(-(drawn.normal(size=rows) + shift * labels - shift / 2)))
    origins = drawn.choice(["EWR", "JFK"], size=rows)
    columns = zip(labels.tolist(), scores.tolist(), origins.tolist(), strict=True)
    lines = [f"{int(label)},{score!r},{origin}" for label, score, origin in columns]
    return "\n".join(["label,score,origin", *lines]).encode()


class Team:
    """The people of one AI system, with data, a requirement in force and a registered model."""

    def __init__(self, house: TestHouse) -> None:
        self.owner, self.author = house.client("Olga Owner"), house.client("Ada Author")
        self.reviewer, self.approver = house.client("Rob Reviewer"), house.client("Quinn Quality")
        self.digests: dict[str, str] = {}

    async def begin(self) -> None:
        """Roles, datasets, REQ-1 approved, model versions 1 and 2 (derived from 1)."""
        system: dict[str, Any] = {"key": "flights", "name": "Flights", "intended_use": "warn", "risk_class": "limited"}
        await self.owner.post("/v1/systems", **system)
        for person, role in ((self.author, "author"), (self.reviewer, "reviewer"), (self.approver, "approver")):
            await self.owner.post(f"{AT}:grant-role", subject=person.subject, role=role)
        for name, purpose in (("test", "test"), ("training", "training")):
            await self.author.post(
                f"{AT}/datasets", name=name, version="1", digest=digest_of(name.encode()), rows=2000,
                columns=["label"], purpose=purpose, provenance="p", licence="CC0", sequestered=True, personal_data=False,
            )  # fmt: skip
        await self.require("initial", [CRITERION, SLICED, RANKED])
        for version, parent in (("1", None), ("2", "1")):
            await self.author.post(
                f"{AT}/model-versions", model="m", version=version, training_dataset="training",
                training_dataset_version="1", code_revision="c", parent=parent, why="w",
                components=[{"kind": "weights", "name": "w", "digest": digest_of(version.encode())}],
            )  # fmt: skip
            registered = await self.author.get(f"{AT}/model-versions/m/{version}")
            self.digests[version] = registered["registered"]["digest"]

    async def require(self, classification: str, criteria: list[Any]) -> None:
        """A revision of REQ-1, drafted, submitted and approved."""
        headers = None
        if classification != "initial":
            answer = await self.author.request("GET", f"{AT}/requirements/REQ-1")
            headers = {"If-Match": answer.headers["ETag"]}
        await self.author.post(
            f"{AT}/requirements", headers=headers, key="REQ-1", classification=classification, title="t", statement="s",
            rationale="r", quality_characteristic="q", controls=[], evaluation_approach="e", criteria=criteria,
        )  # fmt: skip
        await self.author.post(f"{AT}/requirements/REQ-1:submit")
        await self.approver.sign("requirements", "requirement:flights/REQ-1")

    def run(self, key: str = "RUN-1", version: str = "1", **changes: Any) -> dict[str, Any]:
        """What is sent to record a run."""
        now = datetime.now(UTC).isoformat()
        return {
            "key": key, "model": "m", "version": version, "model_digest": self.digests[version], "dataset": "test",
            "dataset_version": "1", "dataset_digest": digest_of(b"test"), "requirements": [{"key": "REQ-1", "revision": 1}],
            "grade": "recomputed", "predictions_by": "pipeline", "source": "native", "code_revision": "c",
            "environment": "test", "seed": 7, "decision_threshold": 0.4, "claimed_started_at": now, **changes,
        }  # fmt: skip

    async def store(self, content: bytes) -> dict[str, Any]:
        """Stores the predictions; gives the fields of a run that names them."""
        digest = digest_of(content)
        await self.author.put(f"{AT}/artefacts/{digest}", content)
        artefact = {
            "name": "predictions", "digest": digest, "length": len(content), "media_type": "text/csv", "personal_data": False,
        }  # fmt: skip
        return {"predictions": digest, "artefacts": [artefact]}

    async def test_case(self) -> None:
        """TC-1 for revision 1 of REQ-1, in force."""
        await self.author.post(
            f"{AT}/test-cases", key="TC-1", title="t", procedure="p", sample_size_rationale="s",
            requirements=[{"key": "REQ-1", "revision": 1}],
        )  # fmt: skip
        await self.approver.sign("verification", "test-case:flights/TC-1")

    async def verify(self, number: int = 1, version: str = "1", **changes: Any) -> dict[str, Any]:
        """A run and its verification, approved by the reviewer; gives what was recorded."""
        stored = await self.store(predictions())
        await self.author.post(f"{AT}/evaluation-runs", **self.run(f"RUN-{number}", version, **stored))
        key = f"VER-{number}"
        verification = {"key": key, "test_case": "TC-1", "requirement": "REQ-1", "run": f"RUN-{number}", **changes}
        await self.author.post(f"{AT}/verifications", **verification)
        await self.author.post(f"{AT}/verifications/{key}:submit")
        await self.reviewer.sign("verification", f"verification:flights/{key}")
        recorded: dict[str, Any] = (await self.author.get(f"{AT}/verifications/{key}"))["recorded"]
        return recorded

    async def status(self, key: str) -> str:
        """The status of a verification, once everything that was told has been reacted to."""
        found: str = (await self.author.get(f"{AT}/verifications/{key}"))["status"]
        return found

    async def gate_codes(self) -> set[str]:
        """What the release gate misses for version 1."""
        digest = self.digests["1"]
        answer = await self.author.get(f"{AT}/gate", model_digest=digest, environment="production")
        return {missing["code"] for missing in answer["missing"]}


@pytest.fixture
async def team(house: TestHouse) -> Team:
    """A team whose requirement is in force and whose test case is approved."""
    team = Team(house)
    await team.begin()
    await team.test_case()
    return team


async def test_a_run_is_opened_measured_here_judged_and_reviewed(team: Team) -> None:
    """Every figure comes from the stored predictions; the verification counts at the gate."""
    fields = {name: value for name, value in team.run().items() if name in OPENING}
    await team.author.post(f"{AT}/evaluation-runs:open", **fields)
    opened = (await team.author.get(f"{AT}/evaluation-runs/RUN-1"))["opened"]
    stored = await team.store(predictions())
    refused = await team.author.refused(f"{AT}/evaluation-runs", **team.run(**stored))
    assert refused["reason"] == "nonce-mismatch"
    await team.author.post(f"{AT}/evaluation-runs", **team.run(**stored, nonce=opened["nonce"]))
    run = (await team.author.get(f"{AT}/evaluation-runs/RUN-1"))["recorded"]
    assert (run["opened"], run["post_hoc"], run["grade"]) == (True, False, "recomputed")
    assert {(one["metric"], one["slice"]) for one in run["measurements"]} == {
        ("recall", "overall"), ("recall", "origin=EWR"), ("auroc", "overall"),
    }  # fmt: skip
    assert "requirement-unverified" in await team.gate_codes()
    await team.author.post(f"{AT}/verifications", key="VER-1", test_case="TC-1", requirement="REQ-1", run="RUN-1")
    await team.author.post(f"{AT}/verifications/VER-1:submit")
    shown = await team.author.get("/v1/verification/signable", record="verification:flights/VER-1")
    own = await team.author.refused(f"{AT}/verifications/VER-1:approve", digest=shown["digest"])
    assert own["status"] == 403
    waiting = await team.reviewer.get("/v1/verification/awaiting-signature")
    assert [item["record"] for item in waiting["items"]] == ["verification:flights/VER-1"]
    await team.reviewer.sign("verification", "verification:flights/VER-1")
    recorded = (await team.author.get(f"{AT}/verifications/VER-1"))["recorded"]
    assert recorded["outcome"] == "met"
    assert all(verdict["bound"] is not None for verdict in recorded["verdicts"])
    assert not await team.gate_codes() & {"requirement-unverified", "verification-not-approved", "verification-suspect"}


OPENING = (
    "key", "model", "version", "model_digest", "dataset", "dataset_version", "dataset_digest", "requirements",
)  # fmt: skip


async def test_a_material_revision_makes_suspect_and_the_gate_sees_it_until_it_is_cleared(team: Team) -> None:
    """Only what was verified against the old revision, and only by a person's signature is it cleared."""
    await team.verify()
    await team.require("material", [{**CRITERION, "threshold": 0.71}, SLICED, RANKED])
    assert await team.status("VER-1") == "suspect"
    cause = (await team.author.get(f"{AT}/verifications/VER-1"))["causes"][0]
    assert cause["cause_event"] == "requirements.requirement-superseded"
    assert await team.gate_codes() & {"verification-suspect", "requirement-unverified"}
    gaps = {gap["code"] for gap in (await team.author.get(f"{AT}/gaps"))["items"]}
    assert "verification-suspect" in gaps
    await team.reviewer.sign("verification", "verification:flights/VER-1")
    assert await team.status("VER-1") == "approved"


async def test_an_editorial_revision_makes_nothing_suspect(team: Team) -> None:
    """It opens a gap: the evidence is for another revision."""
    await team.verify()
    await team.require("editorial", [{**CRITERION, "method": "Wilson"}, SLICED, RANKED])
    assert await team.status("VER-1") == "approved"
    gaps = {gap["code"] for gap in (await team.author.get(f"{AT}/gaps"))["items"]}
    assert "criterion-unverified" in gaps


async def test_withdrawn_training_data_reaches_every_version_made_from_it(team: Team) -> None:
    """Transitively, also to a version that derives from one that was trained on it."""
    await team.verify(1, "1")
    recorded = await team.verify(2, "2", compare_with_run="RUN-1")
    assert {found["metric"] for found in recorded["comparison"]} == {"recall", "auroc"}
    assert all(found["value"] == 0 for found in recorded["comparison"]), "the same predictions do not differ"
    await team.author.post(f"{AT}/datasets/training/1:withdraw")
    assert [await team.status(key) for key in ("VER-1", "VER-2")] == ["suspect", "suspect"]


async def test_a_wrong_run_is_voided_by_a_second_person_and_takes_its_verification_with_it(team: Team) -> None:
    """Every attempt stays counted."""
    await team.verify(1)
    shown = await team.author.get("/v1/verification/signable", record="run:flights/RUN-1")
    own = await team.author.refused(f"{AT}/evaluation-runs/RUN-1:void", digest=shown["digest"])
    assert own["status"] == 403
    await team.reviewer.sign("verification", "run:flights/RUN-1")
    assert await team.status("VER-1") == "suspect"
    assert (await team.verify(2))["attempt"] == 2
    listed = (await team.author.get(f"{AT}/evaluation-runs"))["items"]
    assert {item["key"]: item["status"] for item in listed} == {"RUN-1": "voided", "RUN-2": "recorded"}
    refused = await team.author.refused(
        f"{AT}/verifications", key="VER-3", test_case="TC-1", requirement="REQ-1", run="RUN-1"
    )
    assert refused["reason"] == "run-does-not-count"


async def test_what_a_client_claims_is_never_better_than_claimed(team: Team) -> None:
    """The criterion wants figures that were recomputed, so the verdict is in doubt."""
    claimed = [{"metric": "recall", "value": 0.99, "n": 5000}]
    await team.author.post(f"{AT}/evaluation-runs", **team.run(grade="claimed", measurements=claimed))
    await team.author.post(f"{AT}/verifications", key="VER-1", test_case="TC-1", requirement="REQ-1", run="RUN-1")
    recorded = (await team.author.get(f"{AT}/verifications/VER-1"))["recorded"]
    assert recorded["outcome"] == "inconclusive"
    assert "claimed" in recorded["verdicts"][0]["explanation"]


async def test_a_known_party_attests_figures_that_were_computed_elsewhere(team: Team) -> None:
    """A reviewer signs exactly the figures that were shown; an author cannot, and other figures are other bytes."""
    body = {name: value for name, value in team.run().items() if name not in ("grade", "decision_threshold")}
    body["measurements"] = [{"metric": "recall", "value": 0.9, "n": 5000}]
    shown = (await team.reviewer.post(f"{AT}/evaluation-runs:preview-attestation", **body))["digest"]
    assert (await team.author.refused(f"{AT}/evaluation-runs:attest", **body, digest=shown))["reason"] == "missing-role"
    better = {**body, "measurements": [{"metric": "recall", "value": 0.95, "n": 5000}]}
    refused = await team.reviewer.refused(f"{AT}/evaluation-runs:attest", **better, digest=shown)
    assert refused["reason"] == "digest-mismatch"
    await team.reviewer.post(f"{AT}/evaluation-runs:attest", **body, digest=shown)
    run = (await team.author.get(f"{AT}/evaluation-runs/RUN-1"))["recorded"]
    assert (run["grade"], run["attestation"]["meaning"], run["attestation"]["digest"]) == (
        "attested",
        "attestation",
        shown,
    )


async def test_bad_input_names_field_and_rule_and_changes_nothing(team: Team) -> None:
    """Each refusal is typed; no event is stored."""
    stored = await team.store(predictions())
    before = (await team.author.get("/v1/verification/events", page_size=200))["next_position"]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    broken = await team.store(b"label,score\n1,0.5\n0,high\n")
    unsliced = await team.store(b"label,score\n1,0.5\n0,0.25\n")
    cases: list[tuple[dict[str, Any], str]] = [
        (team.run(**stored, dataset_digest="0" * 64), "digest-differs"),
        (team.run(**stored, model_digest="0" * 64), "digest-differs"),
        (team.run(**stored, claimed_ended_at=tomorrow), "time-in-the-future"),
        (team.run(**{**stored, "predictions": "0" * 64}), "artefact-missing"),
        (team.run(), "no-predictions"),
        (team.run(**{**stored, "artefacts": []}), "no-predictions"),
        (team.run(**broken), "unreadable-predictions"),
        (team.run(**unsliced), "unreadable-predictions"),
        (team.run(grade="claimed", measurements=[{"metric": "recal", "value": 0.9, "n": 5}]), "unknown-metric"),
        (team.run(**stored, decision_threshold="high"), "invalid-request"),
        (team.run(**stored, unheard_of=1), "invalid-request"),
        (team.run(**stored, seed=-1), "invalid-request"),
    ]
    for body, reason in cases:
        problem = await team.author.refused(f"{AT}/evaluation-runs", **body)
        assert problem["reason"] == reason, problem
    wrong = await team.author.request("PUT", f"{AT}/artefacts/{'0' * 64}", content=b"bytes")
    assert problem_of(wrong)["reason"] == "artefact-digest-mismatch"
    assert (await team.author.get("/v1/verification/events", page_size=200))["next_position"] == before


async def test_evidence_is_kept_to_the_ai_system_and_checked_when_it_is_read(team: Team, house: TestHouse) -> None:
    """A stranger gets none of it; bytes that were damaged on disk are not handed out."""
    content = predictions()
    digest = (await team.store(content))["predictions"]
    answer = await team.reviewer.request("GET", f"{AT}/artefacts/{digest}")
    assert answer.content == content
    stranger = house.client("Sam Stranger")
    for path in (f"{AT}/artefacts/{digest}", f"{AT}/evaluation-runs", f"{AT}/verifications/VER-1"):
        assert problem_of(await stranger.request("GET", path))["reason"] == "ai-system-not-found"
    stored = house.house.runtime.settings.data / "artefacts" / "flights" / digest[:2] / digest
    await asyncio.to_thread(stored.write_bytes, content[:-1])
    damaged = await team.reviewer.request("GET", f"{AT}/artefacts/{digest}")
    assert problem_of(damaged)["reason"] == "artefact-damaged"


async def test_a_fact_that_does_not_arrive_is_waited_for_a_bounded_time(server_url: str, tmp_path: Path) -> None:
    """Then the error names the record and what to pass on."""
    async with running_house(server_url=server_url, folder=tmp_path / "data", after_timeout_s=2.0) as house:
        team = Team(house)
        await team.begin()
        problem = await team.author.refused(
            f"{AT}/test-cases", key="TC-9", title="t", procedure="p", sample_size_rationale="s",
            requirements=[{"key": "REQ-9", "revision": 1}],
        )  # fmt: skip
        assert (problem["reason"], problem["status"]) == ("ground-unknown", httpx.codes.NOT_FOUND)
        assert "after" in problem["next_step"]
