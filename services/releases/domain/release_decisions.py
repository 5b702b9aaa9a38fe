"""What may happen to a release, from its opening to its end. Suspending and rolling back ask no gate and no other service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from shared.errors import Conflict, FieldError, Invalid, Refused
from shared.event import Fact

from .derived_key import derived_key
from .gate import Answer, Decision
from .release import (
    OPEN,
    RUNNING,
    GateAnswer,
    Release,
    ReleaseAdopted,
    ReleaseApproved,
    ReleaseCandidateOpened,
    ReleaseDeployed,
    ReleaseGateEvaluated,
    ReleaseRolledBack,
    ReleaseSuperseded,
    ReleaseSuspended,
    ReleaseWithdrawn,
    existing,
    in_status,
)
from .sign_off import require_sign_offs
from .signature_rules import require_other_person

EMERGENCY_SIGN_OFF_WITHIN = timedelta(hours=72)
BASELINE = "baseline"


class ReleaseExists(Conflict):
    """The key is taken by a release with other content."""


class ReservedKey(Invalid):
    """Keys of adopted releases are derived from the environment; a candidate cannot take one."""


class AdoptedBefore(Conflict):
    """One release is adopted per AI system and environment, and only where none is governed yet."""


class GateDenies(Refused):
    """The gate answers deny; `fields` lists what is missing."""


class ObservedDigestDiffers(Conflict):
    """What runs is not the model version of the release."""


class WrongEnvironment(Conflict):
    """A release is for one environment."""


class EffectiveTooEarly(Invalid):
    """What was told late is said to be true before what had to come first."""


class EnvironmentMoved(Conflict):
    """The environment has another release by now."""


class NothingToRollBackTo(Conflict):
    """There is no earlier release in the environment that could run again."""


def open_candidate(release: Release | None, *, opened: ReleaseCandidateOpened) -> Sequence[Fact]:
    """A candidate for one environment. Its content stands still from now on; another one gets another key."""
    if opened.key.startswith(f"{BASELINE}-"):
        raise ReservedKey(
            f"{opened.key} is a key of adopted releases.",
            why=f"Keys with {BASELINE}- are derived from the environment, so that it is adopted once.",
            next_step="Choose another key.",
            fields=(FieldError(field="/key", rule=f"does not start with {BASELINE}-"),),
        )
    if release is None:
        return (opened,)
    if release.opened is not None and _asked(release.opened) == _asked(opened):
        return ()
    raise ReleaseExists(
        f"The key {opened.key} is taken.",
        why="A release never changes what it releases.",
        next_step="Choose another key.",
    )


def _asked(opened: ReleaseCandidateOpened) -> tuple[object, ...]:
    """What the request said, without what was computed when it came."""
    return (
        opened.author, opened.model, opened.version, opened.environment, opened.change_request, opened.required_roles,
    )  # fmt: skip


def baseline_key(environment: str) -> str:
    """The key of the one adopted release of an environment."""
    return derived_key(BASELINE, environment)


def adopt(release: Release | None, *, adopted: ReleaseAdopted, newest: str | None) -> Sequence[Fact]:
    """What already ran before anybody governed it becomes the baseline, once; `newest` is the environment's release."""
    if release is not None and (release.model, release.version) == (adopted.model, adopted.version):
        return ()
    if release is not None or newest is not None:
        raise AdoptedBefore(
            f"{adopted.environment} has the release {newest or adopted.key}.",
            why="A release is adopted once per AI system and environment, before any is governed.",
            next_step="Open a candidate for what shall run next.",
        )
    return (adopted,)


def record_gate(release: Release | None, *, decision: Decision) -> Sequence[Fact]:
    """Records the answer if it is another one than before."""
    release = existing(release)
    answer = decision.answer
    if release.gate is not None and _says(release.gate) == _says_answer(answer):
        return ()
    return (
        ReleaseGateEvaluated(
            key=release.key,
            allowed=answer.allowed,
            decision_id=answer.decision_id,
            rules_version=answer.rules_version,
            decided_at=answer.decided_at,
            positions=answer.positions,
            missing=answer.missing,
            waivers=answer.waivers,
            valid_until=answer.valid_until,
        ),
    )


def _says(gate: GateAnswer) -> tuple[object, ...]:
    return gate.allowed, gate.rules_version, gate.missing, gate.waivers


def _says_answer(answer: Answer) -> tuple[object, ...]:
    missing = tuple((item.code, item.record) for item in answer.missing)
    return answer.allowed, answer.rules_version, missing, answer.waivers


def approve(release: Release | None, *, decision: Decision, by: str) -> Sequence[Fact]:
    """The gate allows it and every required role has signed what there is now."""
    release = in_status(release, OPEN, verb="approve")
    if release.status == "approved":
        return ()
    author = release.opened.author if release.opened is not None else ""
    require_other_person(subject=by, authors={author}, what=release.key, verb="approve")
    require_allowed(decision)
    require_sign_offs(release, evidence_digest=decision.evidence_digest)
    approved = ReleaseApproved(
        key=release.key, approved_by=by, decision_id=decision.answer.decision_id, evidence=decision.evidence
    )
    return (*record_gate(release, decision=decision), approved)


def require_allowed(decision: Decision) -> None:
    """GateDenies with what is missing."""
    missing = decision.answer.missing
    if missing:
        raise GateDenies(
            f"The gate denies: {len(missing)} missing, first {missing[0].code} ({missing[0].explanation})",
            why="A release needs every requirement met or waived, monitoring, its change approved and its sign-offs.",
            next_step=f"{missing[0].role}: {missing[0].next_verb}. GET gate lists everything that is missing.",
            fields=tuple(FieldError(field=item.record, rule=f"{item.code}: {item.explanation}") for item in missing),
        )


def deploy(
    release: Release | None,
    *,
    decision: Decision,
    environment: str,
    observed_digest: str,
    reporter: str,
    newest: str | None,
    effective_at: datetime | None = None,
) -> Sequence[Fact]:
    """An approved release runs: the gate still allows it, and what was seen running is it."""
    if _runs_already(release, observed_digest):
        return ()
    release = in_status(release, ("approved",), verb="deploy")
    _require_observed(release, environment=environment, observed_digest=observed_digest)
    signed_at = max((one.signed_at for one in release.sign_offs.values()), default=None)
    require_in_order(effective_at, since=signed_at, what=f"the last sign-off of {release.key}")
    require_allowed(decision)
    deployed = _deployed(
        release, observed_digest=observed_digest, reporter=reporter, supersedes=newest, effective_at=effective_at
    )
    return (*record_gate(release, decision=decision), deployed)


def deploy_in_emergency(
    release: Release | None,
    *,
    environment: str,
    observed_digest: str,
    reporter: str,
    newest: str | None,
    at: datetime,
    effective_at: datetime | None = None,
) -> Sequence[Fact]:
    """A candidate runs before gate and sign-offs; it needs its sign-offs afterwards, within EMERGENCY_SIGN_OFF_WITHIN."""
    if _runs_already(release, observed_digest):
        return ()
    release = in_status(release, OPEN, verb="deploy")
    _require_observed(release, environment=environment, observed_digest=observed_digest)
    deployed = _deployed(
        release, observed_digest=observed_digest, reporter=reporter, supersedes=newest, effective_at=effective_at
    )
    return (msgspec.structs.replace(deployed, emergency=True, sign_off_due=at + EMERGENCY_SIGN_OFF_WITHIN),)


def supersede(release: Release | None, *, by: str, effective_at: datetime | None = None) -> Sequence[Fact]:
    """The release gives way to the one that was deployed; the same command deploys that one."""
    release = existing(release)
    if release.status not in (*RUNNING, "suspended"):
        raise EnvironmentMoved(
            f"{release.key} is {release.status} by now.",
            why="Somebody else changed the environment in the same moment.",
            next_step="Send the request again.",
        )
    return (ReleaseSuperseded(key=release.key, environment=release.environment, by=by, effective_at=effective_at),)


def suspend(release: Release | None, *, by: str, reason: str, effective_at: datetime | None = None) -> Sequence[Fact]:
    """One releaser and a reason are enough to stop a release."""
    if existing(release).status == "suspended":
        return ()
    release = in_status(release, RUNNING, verb="suspend")
    return (
        ReleaseSuspended(
            key=release.key,
            environment=release.environment,
            model_digest=release.model_digest,
            by=by,
            reason=reason,
            effective_at=effective_at,
        ),
    )


def roll_back(
    release: Release | None, *, to: str | None, by: str, reason: str, effective_at: datetime | None = None
) -> Sequence[Fact]:
    """Back to `to`, the release before: one releaser and a reason are enough. The same command lets `to` run again."""
    release = in_status(release, (*RUNNING, "suspended"), verb="roll back")
    if to is None:
        raise NothingToRollBackTo(
            f"{release.environment} had no release before {release.key}.",
            why="Rolling back lets the release before it run again.",
            next_step="Suspend the release instead.",
        )
    return (
        ReleaseRolledBack(
            key=release.key,
            environment=release.environment,
            model_digest=release.model_digest,
            to=to,
            by=by,
            reason=reason,
            effective_at=effective_at,
        ),
    )


def run_again(
    release: Release | None,
    *,
    environment: str,
    observed_digest: str | None,
    reporter: str,
    effective_at: datetime | None = None,
) -> Sequence[Fact]:
    """The release to which another one was rolled back."""
    release = in_status(release, ("superseded",), verb="roll back to")
    if release.stopped:
        raise NothingToRollBackTo(
            f"{release.key} was suspended before it was superseded.",
            why="What was stopped for a reason does not run again by a rollback.",
            next_step="Name another release of the environment as `to`, or suspend this one.",
        )
    _require_observed(release, environment=environment, observed_digest=observed_digest)
    return (
        _deployed(
            release, observed_digest=observed_digest, reporter=reporter, supersedes=None, effective_at=effective_at
        ),
    )


def withdraw(release: Release | None, *, by: str, reason: str, effective_at: datetime | None = None) -> Sequence[Fact]:
    """A candidate that is not pursued, or a release that must never run again."""
    if existing(release).status == "withdrawn":
        return ()
    release = in_status(release, (*OPEN, *RUNNING, "suspended", "superseded"), verb="withdraw")
    return (
        ReleaseWithdrawn(
            key=release.key,
            environment=release.environment,
            model_digest=release.model_digest,
            by=by,
            reason=reason,
            effective_at=effective_at,
        ),
    )


def require_in_order(effective_at: datetime | None, *, since: datetime | None, what: str) -> None:
    """What is told late cannot lie before what had to come first; `since` is when that was, None if there is nothing."""
    if effective_at is not None and since is not None and effective_at < since:
        raise EffectiveTooEarly(
            f"effective_at lies before {what}.",
            why=f"That was at {since.isoformat()}, and what runs in an environment has one order.",
            next_step="Send the time at which it happened; what ran without approval is a nonconformity.",
            fields=(FieldError(field="/effective_at", rule=f"at least {since.isoformat()}"),),
        )


def _runs_already(release: Release | None, observed_digest: str) -> bool:
    return release is not None and release.status == "released" and release.model_digest == observed_digest


def _deployed(
    release: Release,
    *,
    observed_digest: str | None,
    reporter: str,
    supersedes: str | None,
    effective_at: datetime | None,
) -> ReleaseDeployed:
    return ReleaseDeployed(
        key=release.key,
        model=release.model,
        version=release.version,
        model_digest=release.model_digest,
        environment=release.environment,
        observed_digest=observed_digest,
        reporter=reporter,
        emergency=False,
        supersedes=supersedes,
        sign_off_due=None,
        effective_at=effective_at,
    )


def _require_observed(release: Release, *, environment: str, observed_digest: str | None) -> None:
    if environment != release.environment:
        raise WrongEnvironment(
            f"{release.key} is for {release.environment}, not for {environment}.",
            why="What was tested and signed holds for one environment.",
            next_step=f"Open a candidate for {environment}.",
        )
    if observed_digest is not None and observed_digest != release.model_digest:
        raise ObservedDigestDiffers(
            f"What was seen running is not {release.model} version {release.version}.",
            why="A release says that exactly its model version runs; its digest must be the one observed.",
            next_step="Deploy the right artefact; report what runs instead, so that it is recorded as a nonconformity.",
            fields=(FieldError(field="/observed_digest", rule=f"equals {release.model_digest}"),),
        )
