"""A history of one AI system as services would have recorded it: two model versions, drift, a waiver, a forgotten person."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from services.traceability.domain import evidence_pack
from services.traceability.domain.evidence_pack import PackEvent
from services.traceability.domain.trace import Trace, apply
from shared.directory import commit
from shared.event import digest_of, leaf_hash_of

BEGAN = datetime(2013, 6, 3, 8, 0, tzinfo=UTC)
SYSTEM = "flight-delay"
NAMES = {"s-ada": "Ada Nwosu", "s-ben": "Ben Okafor", "s-cleo": "Cleo Lindqvist", "s-dan": "Dan Petrov"}
FORGOTTEN_SUBJECT = "s-dan"
COMMITMENTS = {subject: commit(salt=f"salt-{subject}", name=name) for subject, name in NAMES.items()}
DATASET = {"dataset": "flights-test", "dataset_version": "1", "dataset_digest": digest_of(b"flights-test")}
SLICES = ("overall", "origin=EWR", "origin=JFK", "origin=LGA")


def iso(at: datetime) -> str:
    """As the store writes a time."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass
class History:
    """Events in order of arrival, each chained to the one before it in its service."""

    events: list[PackEvent] = field(default_factory=list)
    chains: dict[str, list[str]] = field(default_factory=dict)
    now: datetime = BEGAN

    def record(
        self,
        name: str,
        kind: str,
        named: str,
        by: str = "s-ada",
        /,
        *,
        reason: str = "",
        causation: str | None = None,
        **data: Any,
    ) -> str:
        """Appends an event half an hour later; its id."""
        self.now += timedelta(minutes=30)
        service = name.partition(".")[0]
        chain = self.chains.setdefault(service, [])
        person = by in NAMES
        content = {
            "service": service, "position": len(chain) + 1, "recorded_at": iso(self.now), "system": SYSTEM,
            "system_sequence": len(chain) + 1, "system_previous": chain[-1] if chain else None,
            "id": f"event-{len(self.events) + 1}", "stream": f"{kind}:{SYSTEM}/{named}" if named else f"{kind}:{SYSTEM}",
            "version": 1, "name": name, "schema": 1,
            "actor": {"subject": by, "kind": "person" if person else "service", "name_commitment": COMMITMENTS.get(by)},
            "reason": reason, "correlation": "c", "causation": causation, "data": data,
        }  # fmt: skip
        text = json.dumps(content)
        chain.append(leaf_hash_of(text.encode()))
        number = len(self.events) + 1
        self.events.append(
            PackEvent(ledger_position=number, service=service, position=len(chain), leaf_hash=chain[-1], event=text)
        )
        return str(content["id"])

    def signed(self, by: str, meaning: str, signed: str) -> dict[str, Any]:
        """A signature of the person over something, made now."""
        signer = {"subject": by, "kind": "person", "issuer": "local", "name_commitment": COMMITMENTS[by]}
        digest = digest_of(signed.encode())
        return {"signer": signer, "meaning": meaning, "signed_at": iso(self.now), "digest": digest, "covers": [digest]}


def pack_of(
    events: Sequence[PackEvent], *, release: str | None = None, people: Mapping[str, Mapping[str, str]] | None = None
) -> bytes:
    """The pack that the domain makes of these events; everybody is known but the forgotten one."""
    trace = Trace(system=SYSTEM)
    for one in events:
        content = json.loads(one.event)
        at = datetime.fromisoformat(content["recorded_at"])
        apply(trace, position=one.ledger_position, recorded_at=at, content=content)
    known = {
        COMMITMENTS[subject]: {"subject": subject, "salt": f"salt-{subject}", "name": name}
        for subject, name in NAMES.items()
        if subject != FORGOTTEN_SUBJECT
    }
    return evidence_pack.pack_bytes(trace, events=events, people=known if people is None else people, release=release)


def flights(*, windows: int = 30) -> History:
    """The whole story, with so many windows of production before the second release."""
    history = History()
    _system(history)
    _requirement(history, "REQ-1", "Find late flights", "recall", 0.7, "s-ben")
    _requirement(history, "REQ-2", "Say probabilities that hold", "expected-calibration-error", 0.05, "s-dan")
    _version(history, "1", parent=None)
    _verify(history, "REQ-1", "1", {"overall": 0.742, "origin=EWR": 0.751, "origin=JFK": 0.731, "origin=LGA": 0.712})
    _verify(history, "REQ-2", "1", {"overall": 0.031})
    _release(history, "R-1", "1", previous=None)
    _watch(history, windows)
    change = _triage(history)
    _version(history, "2", parent="1")
    _verify(history, "REQ-1", "2", {"overall": 0.787, "origin=EWR": 0.792, "origin=JFK": 0.775, "origin=LGA": 0.768})
    _verify(history, "REQ-2", "2", {"overall": 0.0465})
    _waive(history)
    _release(history, "R-2", "2", previous="R-1", cause=change)
    history.record(
        "releases.nonconformity-raised", "nonconformity", "NC-1", "s-cleo", key="NC-1", record="release:flight-delay/R-2",
        description="The calibration of version 2 is not decided on the test set.", author="s-cleo",
    )  # fmt: skip
    return history


def _system(history: History) -> None:
    history.record(
        "requirements.ai-system-registered", "ai-system", "", key=SYSTEM, name="Flight delay warning", risk_class="limited",
        intended_use="Warns ground staff in New York of departures that will leave an hour late or more.", owner="s-ada",
    )  # fmt: skip
    for subject, role in (("s-ada", "author"), ("s-ben", "approver"), ("s-cleo", "releaser"), ("s-dan", "approver")):
        history.record("requirements.role-granted", "ai-system", "", subject=subject, role=role)
    for name, purpose in (("flights-train", "training"), ("flights-test", "test")):
        history.record(
            "requirements.dataset-registered", "dataset", f"{name}@1", name=name, version="1", purpose=purpose, rows=48_210,
            digest=digest_of(name.encode()), columns=["origin"], provenance="Bureau of Transportation Statistics, 2013",
            licence="CC0-1.0", sequestered=purpose == "test", personal_data=False,
        )  # fmt: skip


def _requirement(history: History, key: str, title: str, metric: str, threshold: float, approver: str) -> None:
    comparator = ">=" if threshold > 0.5 else "<="
    criteria = [
        {
            "key": f"C{number}", "metric": metric, "comparator": comparator, "threshold": threshold, "unit": "1",
            **{name: DATASET[name] for name in ("dataset", "dataset_version")}, "slice": part, "level": 0.95,
            "decision_rule": "confidence bound", "method": "exact", "minimum_sample_size": 1000,
            "sample_size_rationale": "Power 0.9 at 0.03 above the threshold.", "least_evidence": "recomputed",
        }
        for number, part in enumerate(SLICES if comparator == ">=" else SLICES[:1], start=1)
    ]  # fmt: skip
    content = {
        "title": title, "statement": f"The model shall reach {metric} {comparator} {threshold} wherever it is used.",
        "rationale": "Staff act on a warning only if few are missed.", "quality_characteristic": "functional correctness",
        "controls": ["A.6.2.4"], "evaluation_approach": "held-out test set", "criteria": criteria,
    }  # fmt: skip
    drafted: dict[str, Any] = {
        "key": key,
        "revision": 1,
        "classification": "material",
        "author": "s-ada",
        "content": content,
    }
    history.record("requirements.requirement-drafted", "requirement", key, **drafted)
    history.record(
        "requirements.requirement-approved", "requirement", key, approver, reason="Agreed with ground operations.", key=key,
        revision=1, title=title, criteria=criteria, signature=history.signed(approver, "approval", key),
    )  # fmt: skip
    case, covers = f"TC-{key[-1]}", [{"key": key, "revision": 1}]
    history.record(
        "verification.test-case-defined", "test-case", case, key=case, revision=1, title=f"Measure {metric}", author="s-ada",
        procedure="Score the held-out flights once.", sample_size_rationale="All departures of 2013.", requirements=covers,
    )  # fmt: skip
    signature = history.signed(approver, "approval", case)
    history.record(
        "verification.test-case-approved", "test-case", case, approver, key=case, revision=1, requirements=covers,
        signature=signature,
    )  # fmt: skip


def _version(history: History, version: str, *, parent: str | None) -> None:
    history.record(
        "releases.model-version-registered", "model-version", f"late@{version}", model="late", version=version,
        digest=digest_of(f"late-{version}".encode()), manifest_digest_verifiable=True, training_dataset="flights-train",
        training_dataset_version="1", code_revision=f"9f3c{version}", parent=parent, author="s-ada",
        why="First version." if parent is None else "Retrained with the summer months, in which delays are frequent.",
    )  # fmt: skip


def _model(version: str) -> dict[str, Any]:
    return {"model": "late", "version": version, "model_digest": digest_of(f"late-{version}".encode())}


def _verify(history: History, requirement: str, version: str, values: Mapping[str, float]) -> None:
    number = f"{requirement[-1]}-{version}"
    verdicts = [_verdict(f"C{n}", part, value) for n, (part, value) in enumerate(values.items(), start=1)]
    outcomes = {verdict["outcome"] for verdict in verdicts}
    worst = next(outcome for outcome in ("not met", "inconclusive", "met") if outcome in outcomes)
    run: dict[str, Any] = {
        "key": f"RUN-{number}",
        **_model(version),
        **DATASET,
        "post_hoc": False,
        "grade": "recomputed",
    }
    history.record("verification.evaluation-run-recorded", "run", f"RUN-{number}", opened=True, seed=7, **run)
    recorded: dict[str, Any] = {
        **run, "key": f"VER-{number}", "author": "s-ada", "run": f"RUN-{number}", "test_case": f"TC-{requirement[-1]}",
        "test_case_revision": 1, "requirement": requirement, "requirement_revision": 1, "attempt": 1, "verdicts": verdicts,
        "outcome": worst, "comparison": [] if version == "1" or requirement == "REQ-2" else [
            {"metric": "recall", "slice": "overall", "value": 0.045, "lower": 0.031, "upper": 0.059, "other_run": "RUN-1-1",
             "other_version": "1"}],
    }  # fmt: skip
    stream = "verification", f"VER-{number}"
    history.record("verification.verification-recorded", *stream, **recorded)
    signature = history.signed("s-dan", "approval", f"VER-{number}")
    approved: dict[str, Any] = {"key": f"VER-{number}", "outcome": worst, "signature": signature}
    history.record("verification.verification-approved", *stream, "s-dan", **approved)


def _verdict(criterion: str, part: str, value: float) -> dict[str, Any]:
    higher, n = value > 0.5, 9_641 if part == "overall" else 3_120
    threshold, room = (0.7, 0.9 / math.sqrt(n)) if higher else (0.05, 0.004)
    bound = value - room if higher else value + room
    outcome = "met" if (bound >= threshold if higher else bound <= threshold) else "inconclusive"
    return {
        "criterion": criterion, "metric": "recall" if higher else "expected-calibration-error", "slice": part,
        "comparator": ">=" if higher else "<=", "threshold": threshold, "decision_rule": "confidence bound", "level": 0.95,
        "outcome": outcome, "value": value, "bound": bound, "n": n, "n_needed": None if outcome == "met" else 4 * n,
        "explanation": f"The one-sided 95 % bound is {bound:.4f}.",
    }  # fmt: skip


def _release(history: History, key: str, version: str, *, previous: str | None, cause: str | None = None) -> None:
    model: dict[str, Any] = {"key": key, **_model(version), "environment": "production"}
    changes = [
        {"what": "training dataset", "before": "flights-train 1", "after": "flights-train 1 with summer"},
        {"what": "code revision", "before": "9f3c1", "after": "9f3c2"},
    ]  # fmt: skip
    history.record(
        "releases.release-candidate-opened", "release", key, **model, author="s-ada", previous=previous,
        change_request="CR-S-1" if previous else None, verifications=[f"VER-1-{version}", f"VER-2-{version}"],
        waivers=["W-1"] if previous else [], changes=changes if previous else [], required_roles=["approver", "releaser"],
    )  # fmt: skip
    missing = {
        "code": "sign-off-missing", "record": f"release:{SYSTEM}/{key}", "role": "approver", "next_verb": "sign_off_release",
        "explanation": "The approver has not signed off.",
    }  # fmt: skip
    gate: dict[str, Any] = {
        "key": key,
        "decision_id": f"gate-{key}",
        "rules_version": "1",
        "positions": {},
        "valid_until": None,
    }
    history.record("releases.release-gate-evaluated", "release", key, **gate, allowed=False, missing=[missing])
    for by, role in (("s-ben", "approver"), ("s-cleo", "releaser")):
        signature = history.signed(by, f"release as {role}", key)
        history.record("releases.release-signed-off", "release", key, by, key=key, role=role, signature=signature)
    history.record("releases.release-gate-evaluated", "release", key, **gate, allowed=True, missing=[])
    history.record("releases.release-approved", "release", key, "s-cleo", key=key)
    deployed: dict[str, Any] = {
        **model,
        "observed_digest": model["model_digest"],
        "reporter": "pipeline",
        "emergency": False,
    }
    history.record("releases.release-deployed", "release", key, "pipeline", causation=cause, **deployed)
    if previous:
        history.record("releases.release-superseded", "release", previous, "releases", key=previous, by=key)


def _watch(history: History, windows: int) -> None:
    features = ("departure hour", "carrier", "distance", "score")
    history.record(
        "drift.monitoring-plan-defined", "monitoring-plan", "PLAN-1", key="PLAN-1", author="s-ada", **_model("1"),
        features=[{"name": name, "kind": "numeric"} for name in features], window_s=604_800, slide_s=604_800, lateness_s=0,
        tolerance=0.05, false_alarms_per_week=0.02, owner="s-cleo", days_to_triage=7,
    )  # fmt: skip
    signature = history.signed("s-ben", "approval", "PLAN-1")
    plan: dict[str, Any] = {"key": "PLAN-1", "model_digest": _model("1")["model_digest"]}
    history.record("drift.monitoring-plan-approved", "monitoring-plan", "PLAN-1", "s-ben", **plan, signature=signature)
    history.record(
        "drift.monitoring-plan-activated", "monitoring-plan", "PLAN-1", "drift", causation=f"event-{len(history.events)}",
        **plan, environment="production", release="R-1",
    )  # fmt: skip
    for number in range(windows):
        history.now = BEGAN + timedelta(days=7 * (number + 1))
        history.record(
            "drift.drift-window-closed", "monitoring-plan", "PLAN-1", "drift", **_window(number, windows, features)
        )


def _window(number: int, windows: int, features: Sequence[str]) -> dict[str, Any]:
    start, last = BEGAN + timedelta(days=7 * number), number == windows - 1
    rise = max(0.0, number / windows - 0.6)
    shown = [
        {
            "name": name, "n": 6_300, "missing": 4, "tolerance": 0.057,
            "psi": round(0.012 + 0.006 * math.sin(number * (1 + index)) + rise * (0.3, 0.12, 0.02, 0.22)[index], 5),
            "psi_debiased": round(0.008 + 0.006 * math.sin(number * (1 + index)) + rise * (0.3, 0.12, 0.02, 0.22)[index], 5),
        }
        for index, name in enumerate(features)
    ]  # fmt: skip
    return {
        "plan": "PLAN-1", "model_digest": _model("1")["model_digest"], "environment": "production", "start": iso(start),
        "end": iso(start + timedelta(days=7)), "rows": 6_304, "outcome": "beyond tolerance" if last else "within tolerance",
        "signal": "S-1" if last else None, "raised": last, "features": shown,
    }  # fmt: skip


def _triage(history: History) -> str:
    last = json.loads(history.events[-1].event)
    window, signal = last["data"], ("drift-signal", "S-1")
    raised = history.record(
        "drift.drift-signal-raised", *signal, "drift", causation=last["id"], key="S-1", plan="PLAN-1", **_model("1"),
        environment="production", release="R-1", window_start=window["start"], window_end=window["end"], owner="s-cleo",
        evidence=64.0, threshold=50.0, triage_until=iso(history.now + timedelta(days=7)), features=[
            {"name": "departure hour", "psi": 0.124, "psi_debiased": 0.12, "p_value": 0.00002, "channel": "values"}],
    )  # fmt: skip
    history.record(
        "drift.drift-signal-acknowledged", *signal, "s-cleo", reason="Looking at it.", key="S-1", by="s-cleo"
    )
    escalated = history.record(
        "drift.drift-signal-escalated", *signal, "s-cleo", reason="Summer schedules: departures moved to the evening.",
        causation=raised, key="S-1", plan="PLAN-1", **_model("1"), to="change request", by="s-cleo", by_deadline=False,
    )  # fmt: skip
    change: dict[str, Any] = {
        "key": "CR-S-1",
        "signal": "S-1",
        "cause": "drift signal",
        "baseline": "1",
        "candidate": "2",
    }
    submitted = history.record(
        "releases.change-request-submitted", "change-request", "CR-S-1", "releases", causation=escalated, author="releases",
        impact_assessment="Late departures in the evening are missed more often.", model="late", **change,
    )  # fmt: skip
    history.record(
        "releases.change-classified",
        "change-request",
        "CR-S-1",
        key="CR-S-1",
        classification="predetermined",
        author="s-ada",
    )
    signature = history.signed("s-ben", "approval", "CR-S-1")
    history.record("releases.change-approved", "change-request", "CR-S-1", "s-ben", key="CR-S-1", signature=signature)
    return submitted


def _waive(history: History) -> None:
    history.record(
        "releases.waiver-granted", "waiver", "W-1", "s-ben", key="W-1", kind="requirement", release="R-2",
        requirement="REQ-2", granted_to="s-ada", expires_at=iso(history.now + timedelta(days=30)),
        compensating_control="Staff see a range, not a probability, until calibration is decided.",
        signature=history.signed("s-ben", "waiver", "W-1"),
    )  # fmt: skip
