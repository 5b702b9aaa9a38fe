"""Example records of verification, for given/when/then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any, TypeVar

from services.verification.domain import evaluation_run, test_case as cases, verification
from services.verification.domain.evaluation_run import Approval, Conditions, Measurement, Subject
from services.verification.domain.test_case import Procedure, RequirementRevision
from services.verification.domain.verification import Criterion, VerificationRecorded
from shared.event import Actor, Fact, Signature, digest_of

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
AUTHOR, REVIEWER = "person-author", "person-reviewer"
State = TypeVar("State")


def folded(evolve: Callable[[State | None, Fact], State], facts: Iterable[Fact]) -> State | None:
    """The state after the facts."""
    state: State | None = reduce(evolve, facts, None)
    return state


def signed(content: bytes, *, by: str = REVIEWER, meaning: str = "approval") -> Signature:
    """A signature over the bytes."""
    return Signature(
        signer=Actor(subject=by, kind="person", issuer="https://issuer.test"),
        meaning=meaning,
        signed_at=NOW,
        digest=digest_of(content),
        covers=(digest_of(content),),
    )


SUBJECT = Subject(
    model="m", version="1", model_digest="d" * 64, dataset="flights", dataset_version="march", dataset_digest="a" * 64
)
APPROVAL = Approval(requirement="REQ-1", revision=1, position=7, leaf_hash="b" * 64)
CONDITIONS = Conditions(
    predictions_by="pipeline", source="native", code_revision="c", environment="test", seed=7, decision_threshold=0.5,
    claimed_started_at=NOW, claimed_ended_at=NOW,
)  # fmt: skip
PROCEDURE = Procedure(
    title="Score and compare",
    procedure="Score every row.",
    sample_size_rationale="enough",
    requirements=(RequirementRevision(key="REQ-1", revision=1),),
)


def recall(successes: int = 800, trials: int = 1000, *, slice_name: str = "overall") -> Measurement:
    """A recall that was counted."""
    value = successes / trials if trials else None
    return Measurement(
        metric="recall", definition_version=1, value=value, n=trials, rows=trials,
        successes=successes if trials else None, trials=trials if trials else None, slice=slice_name,
    )  # fmt: skip


def criterion(**changes: Any) -> Criterion:
    """Recall of at least 0.7 with 95 % confidence."""
    fields: dict[str, Any] = {
        "key": "C1", "metric": "recall", "comparator": ">=", "threshold": 0.7, "dataset": "flights",
        "dataset_version": "march", "slice": "overall", "decision_rule": "confidence bound", "level": 0.95,
        "minimum_sample_size": 100, "least_evidence": "recomputed",
    }  # fmt: skip
    return Criterion(**{**fields, **changes})


def recorded_run(**changes: Any) -> Sequence[Fact]:
    """The fact of a recorded run."""
    fields: dict[str, Any] = {
        "key": "RUN-1", "author": AUTHOR, "subject": SUBJECT, "approvals": (APPROVAL,), "post_hoc": False, "nonce": None,
        "grade": "recomputed", "conditions": CONDITIONS, "measurements": (recall(),), "artefacts": (),
    }  # fmt: skip
    return evaluation_run.record(changes.pop("run", None), **{**fields, **changes})


def run_fact(**changes: Any) -> evaluation_run.EvaluationRunRecorded:
    """The recorded run itself."""
    (fact,) = recorded_run(**changes)
    assert isinstance(fact, evaluation_run.EvaluationRunRecorded)
    return fact


def recorded_verification(**changes: Any) -> VerificationRecorded:
    """A verification whose verdicts were computed from the run."""
    run = changes.pop("run_fact", None) or run_fact()
    verdicts = verification.judge(criteria=changes.pop("criteria", [criterion()]), run=run)
    fields: dict[str, Any] = {
        "key": "VER-1", "author": AUTHOR, "test_case": "TC-1", "test_case_revision": 1, "requirement": "REQ-1",
        "requirement_revision": 1, "model": run.model, "version": run.version, "model_digest": run.model_digest,
        "dataset": run.dataset, "dataset_version": run.dataset_version, "dataset_digest": run.dataset_digest,
        "run": run.key, "post_hoc": run.post_hoc, "grade": run.grade, "attempt": 1, "verdicts": verdicts,
        "outcome": verification.worst(verdicts), "comparison": (),
    }  # fmt: skip
    return VerificationRecorded(**{**fields, **changes})


def defined_case(author: str = AUTHOR) -> Sequence[Fact]:
    """The fact of a defined test case."""
    return cases.define(None, key="TC-1", author=author, content=PROCEDURE)
