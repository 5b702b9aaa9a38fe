"""EvaluationRun: one measured run of one model version on one dataset version (ISO/IEC 42001, 9.1, A.6.2.4).

Opened before it is run, it binds digests and approvals and hands out a nonce that its evidence carries; recorded without
that, it is marked. Immutable once recorded. A wrong run is voided by a second person with a reason, and stays counted as an
attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, NotFound, Refused
from shared.event import Fact, Signature, canonical_bytes, digest_of

from .estimation import Estimate
from .test_case import DigestMismatch

Grade = Literal["recomputed", "attested", "claimed"]
Status = Literal["opened", "recorded", "voided"]


class RunMissing(NotFound):
    """There is no such evaluation run."""


class RunExists(Conflict):
    """The key names a run with other content; a recorded run never changes."""


class RunNotInState(Conflict):
    """The verb does not fit the status of the run."""


class NonceMismatch(Conflict):
    """The evidence does not carry the nonce that was handed out when the run was opened."""


class OpenedForOther(Conflict):
    """The run was opened for another model version or dataset version."""


class AttestationNeeded(Conflict):
    """Attested figures come with the signature of a known party, and no others do."""


class SecondPersonNeeded(Refused):
    """A run is voided by somebody else than the one who recorded it."""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the log of requirements a revision was approved: the order is provable from there."""

    requirement: str
    revision: int
    position: int
    leaf_hash: str
    service: str = "requirements"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured on what: exactly these digests."""

    model: str
    version: str
    model_digest: str
    dataset: str
    dataset_version: str
    dataset_digest: str


class Measurement(Estimate, frozen=True, kw_only=True):
    """An estimate on one slice: `overall`, or `column=value`."""

    slice: str


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """A file of evidence by its hex SHA-256 and its length in bytes."""

    name: str
    digest: str
    length: int
    media_type: str
    personal_data: bool


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """How the run was made, as its client states it; times are shown as claimed."""

    predictions_by: str
    source: str
    code_revision: str
    environment: str
    seed: int
    decision_threshold: float | None
    claimed_started_at: datetime | None
    claimed_ended_at: datetime | None


class EvaluationRunOpened(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.evaluation-run-opened"
    key: str
    author: str
    model: str
    version: str
    model_digest: str
    dataset: str
    dataset_version: str
    dataset_digest: str
    approvals: tuple[Approval, ...]
    nonce: str


class EvaluationRunRecorded(Fact, frozen=True, kw_only=True):
    """`post_hoc`: it cannot be shown that the criteria were approved before the run.

    `attestation` is the signature of the party that answers for the figures; there is one exactly with grade attested.
    """

    TOPIC: ClassVar[str] = "verification.evaluation-run-recorded"
    key: str
    author: str
    model: str
    version: str
    model_digest: str
    dataset: str
    dataset_version: str
    dataset_digest: str
    opened: bool
    nonce: str | None
    post_hoc: bool
    approvals: tuple[Approval, ...]
    predictions_by: str
    grade: Grade
    source: str
    code_revision: str
    environment: str
    seed: int
    decision_threshold: float | None
    claimed_started_at: datetime | None
    claimed_ended_at: datetime | None
    measurements: tuple[Measurement, ...]
    artefacts: tuple[Artefact, ...]
    attestation: Signature | None = None


class EvaluationRunVoided(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "verification.evaluation-run-voided"
    key: str
    model_digest: str
    signature: Signature


FACTS = (EvaluationRunOpened, EvaluationRunRecorded, EvaluationRunVoided)


class EvaluationRun(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what it was opened for, what was recorded, and whether it still stands."""

    key: str
    status: Status
    opened: EvaluationRunOpened | None
    recorded: EvaluationRunRecorded | None


def open_run(
    run: EvaluationRun | None, *, key: str, author: str, subject: Subject, approvals: tuple[Approval, ...], nonce: str
) -> Sequence[Fact]:
    """Binds the run before it is made; the same again is a repeat and keeps its nonce."""
    opened = EvaluationRunOpened(
        key=key, author=author, approvals=approvals, nonce=nonce, **msgspec.structs.asdict(subject)
    )
    if run is None:
        return (opened,)
    if run.opened is not None and msgspec.structs.replace(opened, nonce=run.opened.nonce) == run.opened:
        return ()
    raise _exists(key)


def record(
    run: EvaluationRun | None,
    *,
    key: str,
    author: str,
    subject: Subject,
    approvals: tuple[Approval, ...],
    post_hoc: bool,
    nonce: str | None,
    grade: Grade,
    conditions: Conditions,
    measurements: tuple[Measurement, ...],
    artefacts: tuple[Artefact, ...],
    attestation: Signature | None = None,
) -> Sequence[Fact]:
    """The run with its measurements. An opened run keeps the approvals of its opening and is never post hoc."""
    _require_attested(key, subject=subject, grade=grade, measurements=measurements, attestation=attestation)
    opened = run.opened if run is not None else None
    if opened is not None:
        _require_bound(opened, subject=subject, nonce=nonce)
    recorded = EvaluationRunRecorded(
        key=key,
        author=author,
        opened=opened is not None,
        nonce=nonce,
        post_hoc=post_hoc and opened is None,
        approvals=opened.approvals if opened is not None else approvals,
        grade=grade,
        measurements=measurements,
        artefacts=artefacts,
        attestation=attestation,
        **msgspec.structs.asdict(subject),
        **msgspec.structs.asdict(conditions),
    )
    if run is None or run.status == "opened":
        return (recorded,)
    if run.recorded == recorded:
        return ()
    raise _exists(key)


def void(run: EvaluationRun | None, *, signature: Signature) -> Sequence[Fact]:
    """Whatever was verified with the run becomes suspect; the run itself stays visible."""
    if run is None or run.recorded is None:
        raise RunMissing(
            "There is no such recorded run.", why="Only a recorded run can be voided.", next_step="Check the key."
        )
    if run.status == "voided":
        return ()
    if signature.digest != digest_of(signable_bytes(run)):
        raise DigestMismatch(
            f"The digest is not that of the run {run.key}.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Fetch what would be signed again, read it, and sign its digest.",
        )
    if signature.signer.subject == run.recorded.author:
        raise SecondPersonNeeded(
            f"You recorded {run.key}, so somebody else must void it.",
            why="A wrong fact is voided with a reason and a second person.",
            next_step="Ask a reviewer or approver.",
        )
    return (EvaluationRunVoided(key=run.key, model_digest=run.recorded.model_digest, signature=signature),)


def attestable_bytes(*, key: str, subject: Subject, measurements: tuple[Measurement, ...]) -> bytes:
    """The canonical bytes that an attestation covers: exactly these figures of exactly this model on exactly these rows."""
    return canonical_bytes(
        {"record": "attestation of evaluation run", "key": key, "subject": subject, "measurements": measurements}
    )


def signable_bytes(run: EvaluationRun) -> bytes:
    """The canonical bytes that the signature of a void covers."""
    return canonical_bytes({"record": "void of evaluation run", "key": run.key, "recorded": run.recorded})


def _require_attested(
    key: str,
    *,
    subject: Subject,
    grade: Grade,
    measurements: tuple[Measurement, ...],
    attestation: Signature | None,
) -> None:
    if (grade == "attested") != (attestation is not None):
        raise AttestationNeeded(
            f"The grade of {key} is {grade}, {'with' if attestation is not None else 'without'} an attestation.",
            why="Attested figures are signed by the party that answers for them, and only those.",
            next_step="Attest the figures with their digest, or record them as claimed.",
        )
    covered = attestable_bytes(key=key, subject=subject, measurements=measurements)
    if attestation is not None and attestation.digest != digest_of(covered):
        raise DigestMismatch(
            f"The digest is not that of the figures of {key}.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Preview the attestation again, read it, and sign its digest.",
        )


def _require_bound(opened: EvaluationRunOpened, *, subject: Subject, nonce: str | None) -> None:
    bound = {name: getattr(opened, name) for name in Subject.__struct_fields__}
    if bound != msgspec.structs.asdict(subject):
        raise OpenedForOther(
            f"{opened.key} was opened for another model or dataset version.",
            why="Opening a run binds it to digests.",
            next_step="Open another run for these digests.",
        )
    if nonce != opened.nonce:
        raise NonceMismatch(
            f"The nonce is not the one that {opened.key} was opened with.",
            why="The evidence of an opened run carries the nonce that was handed out before it was made.",
            next_step="Send the nonce of the opening; a run made without it is recorded under a key of its own.",
        )


def _exists(key: str) -> RunExists:
    return RunExists(
        f"The run {key} exists with other content.",
        why="A run never changes; a wrong one is voided and stays visible.",
        next_step="Record this run under a new key.",
    )


def evolve(run: EvaluationRun | None, fact: Fact) -> EvaluationRun:
    """The state after one more fact."""
    match fact:
        case EvaluationRunOpened():
            return EvaluationRun(key=fact.key, status="opened", opened=fact, recorded=None)
        case EvaluationRunRecorded():
            return EvaluationRun(
                key=fact.key, status="recorded", opened=run.opened if run is not None else None, recorded=fact
            )
        case EvaluationRunVoided() if run is not None:
            return msgspec.structs.replace(run, status="voided")
    raise TypeError(f"{fact!r} cannot follow {run!r}")
