"""The release gate: may this model version go to this environment? A pure function of what was read (ISO/IEC 42001, A.6.2.5).

The answer is allow, or deny with the smallest list of what is missing. The decision id is the digest of everything that entered:
rules, facts read, positions, signs of life, and the time. So whoever holds the inputs can repeat the decision, the same inputs
give the same answer, and two answers at different times have different ids even if they say the same. In doubt the gate denies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

import msgspec

from shared.event import digest_of, stream_of

from .evidence import CriterionInput, Evidence, Standing, evidence_digest, is_met

RULES_VERSION = "2026-1"
SILENCE_MAX = timedelta(seconds=30)
"""How long after its last sign of life a source is still believed."""

SOURCES = ("requirements", "verification", "drift")
"""Services whose facts the rules read; without one of them there is no allow."""

OPEN_STATUSES = ("candidate", "gated", "approved")
CHANGE_ALLOWED = ("approved", "implemented", "verified", "closed")


class SourceInput(msgspec.Struct, frozen=True, kw_only=True):
    """One source: its last position there is, ours, and its last sign of life (None for this service itself).

    `reacted` is the position of the requirements up to which verification has marked what became suspect; `unread` is the
    first position of the source whose event could not be taken into the copy, None if there is none.
    """

    service: str
    head: int
    position: int
    alive_at: datetime | None
    reacted: int | None = None
    unread: int | None = None


class ModelVersionInput(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    version: str
    withdrawn: bool


class RequirementInput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A requirement in force, with the standing of its revision for the model digest."""

    key: str
    revision: int
    criteria: tuple[CriterionInput, ...]
    standing: Standing | None


class WaiverInput(msgspec.Struct, frozen=True, kw_only=True):
    """A waiver of this release that was not revoked."""

    key: str
    kind: Literal["requirement", "segregation of duties"]
    requirement: str | None
    expires_at: datetime


class MonitoringPlanInput(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    approved: bool


class ChangeInput(msgspec.Struct, frozen=True, kw_only=True):
    """The change request behind the release; `end` is how it was decided, if it was."""

    key: str
    status: str
    model: str | None
    candidate: str | None
    end: str | None


class SignOffInput(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    evidence_digest: str
    declined: bool
    waiver: str | None


class ReleaseInput(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate; `previous` is the release before it as it was when the candidate was opened."""

    key: str
    status: str
    previous: str | None
    required_roles: tuple[str, ...]
    change_request: str | None
    sign_offs: tuple[SignOffInput, ...]


class PreviousInput(msgspec.Struct, frozen=True, kw_only=True):
    """The release before it in the environment."""

    key: str
    model_digest: str


class GateInputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the rules read. `datasets` maps `name@version` to the digest of each dataset that was not withdrawn.

    `newest` is the key of the release that the environment has now; `release` is None before a candidate exists.
    """

    system: str
    environment: str
    model_digest: str
    at: datetime
    sources: tuple[SourceInput, ...]
    model_versions: tuple[ModelVersionInput, ...]
    requirements: tuple[RequirementInput, ...]
    datasets: dict[str, str]
    monitoring_plans: tuple[MonitoringPlanInput, ...]
    release: ReleaseInput | None
    newest: str | None
    previous: PreviousInput | None
    change: ChangeInput | None
    waivers: tuple[WaiverInput, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """One thing between this release and allow: which record, and who can do what about it."""

    code: str
    record: str
    role: str
    next_verb: str
    explanation: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`valid_until` is the moment from which time alone would turn an allow into a deny; None for a deny.

    `waivers` are those without which it would deny.
    """

    allowed: bool
    decision_id: str
    rules_version: str
    system: str
    environment: str
    model_digest: str
    release: str | None
    decided_at: datetime
    positions: dict[str, int]
    missing: tuple[Missing, ...]
    waivers: tuple[str, ...]
    valid_until: datetime | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and the evidence that it stands on."""

    answer: Answer
    evidence: tuple[Evidence, ...]
    evidence_digest: str


def decide(inputs: GateInputs) -> Decision:
    """Allow or deny. Nothing but `inputs` enters."""
    weighing = Weighing(inputs)
    missing = tuple(item for rule in RULES for item in rule(weighing))
    answer = Answer(
        allowed=not missing,
        decision_id=decision_id(inputs),
        rules_version=RULES_VERSION,
        system=inputs.system,
        environment=inputs.environment,
        model_digest=inputs.model_digest,
        release=inputs.release.key if inputs.release is not None else None,
        decided_at=inputs.at,
        positions={source.service: source.position for source in inputs.sources},
        missing=missing,
        waivers=tuple(sorted(weighing.waivers_used)),
        valid_until=None if missing else _valid_until(weighing),
    )
    return Decision(answer=answer, evidence=weighing.evidence, evidence_digest=weighing.evidence_digest)


def decision_id(inputs: GateInputs) -> str:
    """Hex SHA-256 of the rules' version and all inputs, as JSON with sorted keys and no spaces."""
    return digest_of(msgspec.json.encode({"inputs": inputs, "rules": RULES_VERSION}, order="sorted"))


@dataclass(frozen=True)
class Weighing:
    """The inputs with what several rules derive from them, each once."""

    inputs: GateInputs

    @cached_property
    def outcomes(self) -> tuple[tuple[Evidence, Missing | None], ...]:
        """For each requirement what meets it, or what is missing."""
        return tuple(_weigh_requirement(self.inputs, requirement) for requirement in self.inputs.requirements)

    @cached_property
    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(evidence for evidence, _ in self.outcomes)

    @cached_property
    def evidence_digest(self) -> str:
        return evidence_digest(self.evidence)

    @cached_property
    def waivers_used(self) -> frozenset[str]:
        """The waivers in place of a verification, and those under which somebody signed off."""
        signed = self.inputs.release.sign_offs if self.inputs.release is not None else ()
        used = {evidence.waiver for evidence in self.evidence} | {sign_off.waiver for sign_off in signed}
        return frozenset(key for key in used if key is not None)

    def record(self, kind: str, key: str) -> str:
        return stream_of(kind=kind, system=self.inputs.system, key=key)


def _sources(weighing: Weighing) -> Iterator[Missing]:
    """A source that is silent may have changed its mind; one that is ahead of us has said more than we know."""
    heard = {source.service: source for source in weighing.inputs.sources}
    requirements = heard["requirements"].position if "requirements" in heard else 0
    for service in sorted(set(SOURCES) - set(heard)):
        yield _doubt("source-silent", service, f"{service} was never heard.")
    for source in weighing.inputs.sources:
        if source.alive_at is not None and weighing.inputs.at - source.alive_at > SILENCE_MAX:
            yield _doubt(
                "source-silent", source.service, f"{source.service} has given no sign of life since {source.alive_at}."
            )
        elif source.unread is not None:
            why = f"{source.service}:{source.unread} could not be read here; it lies with the dead letters."
            yield _doubt("source-unreadable", source.service, why)
        elif source.head > source.position:
            known = f"{source.service} is at position {source.head}, known here up to {source.position}."
            yield _doubt("source-behind", source.service, known)
        elif source.reacted is not None and source.reacted < requirements:
            why = (
                f"{source.service} has followed the requirements to {source.reacted}, known here up to {requirements}."
            )
            yield _doubt("source-behind", source.service, why)


def _doubt(code: str, service: str, explanation: str) -> Missing:
    record = stream_of(kind="log", system=None, key=service)
    return Missing(code=code, record=record, role="service", next_verb="evaluate_gate", explanation=explanation)


def _release(weighing: Weighing) -> Iterator[Missing]:
    """There is a candidate, it is not at its end, and the difference that was signed is that to the release before it."""
    inputs, release = weighing.inputs, weighing.inputs.release
    if release is None:
        yield Missing(
            code="release-candidate-missing",
            record=weighing.record("model-version", inputs.model_digest),
            role="author",
            next_verb="open_release_candidate",
            explanation=f"No release of this model version is open or released in {inputs.environment}.",
        )
    elif release.status not in (*OPEN_STATUSES, "released"):
        yield _reopen(weighing, release, "release-not-open", f"{release.key} is {release.status}.")
    elif release.status in OPEN_STATUSES and inputs.newest != release.previous:
        since = (
            f"{inputs.environment} has {inputs.newest} since, not {release.previous} as when {release.key} was opened."
        )
        yield _reopen(weighing, release, "previous-release-changed", since)


def _reopen(weighing: Weighing, release: ReleaseInput, code: str, explanation: str) -> Missing:
    return Missing(
        code=code,
        record=weighing.record("release", release.key),
        role="author",
        next_verb="open_release_candidate",
        explanation=explanation,
    )


def _model_version(weighing: Weighing) -> Iterator[Missing]:
    inputs = weighing.inputs
    if not inputs.model_versions:
        yield Missing(
            code="model-version-unknown",
            record=weighing.record("model-version", inputs.model_digest),
            role="author",
            next_verb="register_model_version",
            explanation=f"No model version with digest {inputs.model_digest} is registered.",
        )
    for version in inputs.model_versions:
        if version.withdrawn:
            yield Missing(
                code="model-version-withdrawn",
                record=weighing.record("model-version", f"{version.model}@{version.version}"),
                role="author",
                next_verb="register_model_version",
                explanation=f"{version.model} version {version.version} was withdrawn.",
            )


def _requirements(weighing: Weighing) -> Iterator[Missing]:
    """Every requirement in force is met by a verification that counts, or waived for this release."""
    if not weighing.inputs.requirements:
        yield Missing(
            code="no-requirements",
            record=stream_of(kind="ai-system", system=weighing.inputs.system),
            role="author",
            next_verb="draft_requirement",
            explanation="No requirement is in force, so nothing says what the model must achieve.",
        )
    if weighing.inputs.model_versions:
        yield from (missing for _, missing in weighing.outcomes if missing is not None)


def _weigh_requirement(inputs: GateInputs, requirement: RequirementInput) -> tuple[Evidence, Missing | None]:
    standing = requirement.standing or Standing()
    if is_met(criteria=requirement.criteria, standing=standing, datasets=inputs.datasets):
        return _evidence(requirement, verifications=standing.used), None
    waivers = [one for one in inputs.waivers if one.requirement == requirement.key]
    waiver = max(waivers, key=lambda one: (one.expires_at, one.key), default=None)
    if waiver is not None and inputs.at < waiver.expires_at:
        return _evidence(requirement, waiver=waiver.key), None
    return _evidence(requirement), _missing_of(inputs, requirement, standing, waiver)


def _evidence(
    requirement: RequirementInput, *, verifications: tuple[str, ...] = (), waiver: str | None = None
) -> Evidence:
    return Evidence(
        requirement=requirement.key, revision=requirement.revision, verifications=verifications, waiver=waiver
    )


def _missing_of(
    inputs: GateInputs, requirement: RequirementInput, standing: Standing, expired: WaiverInput | None
) -> Missing:
    """The one thing that is nearest to meeting the requirement."""
    name = f"{requirement.key} revision {requirement.revision}"
    gone = next((one.dataset for one in requirement.criteria if one.dataset not in inputs.datasets), None)
    if expired is not None:
        why = f"The waiver {expired.key} of {name} ended at {expired.expires_at}."
        return _item(inputs, "waiver-expired", "waiver", expired.key, "approver", "grant_waiver", why)
    if gone is not None:
        why = f"{name} has a criterion on the dataset {gone}, which is withdrawn or unknown."
        return _item(inputs, "dataset-not-standing", "requirement", requirement.key, "author", "draft_requirement", why)
    for code, key, role, verb, why in _records(standing):
        if key is not None:
            return _item(inputs, code, "verification", key, role, verb, f"{key} of {name} {why}.")
    why = f"No approved verification shows that exactly this model version meets {name}."
    return _item(inputs, "requirement-unverified", "requirement", requirement.key, "author", "record_verification", why)


def _records(standing: Standing) -> tuple[tuple[str, str | None, str, str, str], ...]:
    """Code, record, role, next verb and explanation of what stands in the way, the nearest to a verdict first."""
    return (
        ("verification-not-met", standing.not_met, "approver", "grant_waiver", "shows that it is not met"),
        ("verification-suspect", standing.suspect, "reviewer", "clear_suspicion", "is suspect"),
        ("verification-not-approved", standing.in_review, "reviewer", "approve_verification", "is not approved yet"),
        ("verification-not-approved", standing.recorded, "author", "submit_verification", "is not submitted yet"),
        ("verification-inconclusive", standing.inconclusive, "author", "record_evaluation_run", "needs more rows"),
        ("verification-post-hoc", standing.post_hoc, "author", "open_evaluation_run", "was run before its criterion was approved"),
    )  # fmt: skip


def _item(inputs: GateInputs, code: str, kind: str, key: str, role: str, next_verb: str, explanation: str) -> Missing:
    record = stream_of(kind=kind, system=inputs.system, key=key)
    return Missing(code=code, record=record, role=role, next_verb=next_verb, explanation=explanation)


def _monitoring(weighing: Weighing) -> Iterator[Missing]:
    inputs = weighing.inputs
    if not inputs.model_versions or any(plan.approved for plan in inputs.monitoring_plans):
        return
    drafted = inputs.monitoring_plans[0].key if inputs.monitoring_plans else None
    yield Missing(
        code="monitoring-plan-missing",
        record=weighing.record("monitoring-plan", drafted) if drafted else _version_record(weighing),
        role="approver" if drafted else "author",
        next_verb="approve_monitoring_plan" if drafted else "define_monitoring_plan",
        explanation="No approved monitoring plan watches exactly this model version.",
    )


def _version_record(weighing: Weighing) -> str:
    version = weighing.inputs.model_versions[0]
    return weighing.record("model-version", f"{version.model}@{version.version}")


def _change(weighing: Weighing) -> Iterator[Missing]:
    """Another model than the one before it is a change; the first release of an environment is none."""
    inputs, change = weighing.inputs, weighing.inputs.change
    if not inputs.model_versions or inputs.previous is None or inputs.previous.model_digest == inputs.model_digest:
        return
    if change is None:
        yield Missing(
            code="change-request-missing",
            record=weighing.record("release", inputs.release.key) if inputs.release else _version_record(weighing),
            role="author",
            next_verb="submit_change_request",
            explanation=f"It replaces {inputs.previous.key}, and no change request says why.",
        )
        return
    record = weighing.record("change-request", change.key)
    if change.status not in CHANGE_ALLOWED or change.end == "rejected":
        role, verb = _CHANGE_NEXT.get(change.status, ("author", "submit_change_request"))
        why = f"{change.key} is {change.end if change.end == 'rejected' else change.status}, not approved."
        yield Missing(code="change-request-not-approved", record=record, role=role, next_verb=verb, explanation=why)
    elif not any(_names(change, version) for version in inputs.model_versions):
        verb = "implement_change" if change.status == "approved" else "submit_change_request"
        why = f"{change.key} names {change.candidate or 'no model version'} as its candidate, not this one."
        yield Missing(
            code="change-request-not-of-this-version", record=record, role="author", next_verb=verb, explanation=why
        )


_CHANGE_NEXT = {"submitted": ("author", "classify_change"), "assessed": ("approver", "approve_change")}


def _names(change: ChangeInput, version: ModelVersionInput) -> bool:
    return change.candidate == version.version and change.model in (None, version.model)


def _sign_offs(weighing: Weighing) -> Iterator[Missing]:
    """Each required role has signed exactly the evidence there is now, and whatever waiver let them sign still holds."""
    release = weighing.inputs.release
    if release is None or release.status not in (*OPEN_STATUSES, "released"):
        return
    signed = {sign_off.role: sign_off for sign_off in release.sign_offs}
    waivers = {waiver.key: waiver for waiver in weighing.inputs.waivers}
    for role in release.required_roles:
        found = _sign_off_missing(weighing, role, signed.get(role), waivers)
        if found is not None:
            code, why = found
            yield Missing(
                code=code,
                record=weighing.record("release", release.key),
                role=role,
                next_verb="sign_off_release",
                explanation=why,
            )


def _sign_off_missing(
    weighing: Weighing, role: str, sign_off: SignOffInput | None, waivers: dict[str, WaiverInput]
) -> tuple[str, str] | None:
    if sign_off is None:
        return "sign-off-missing", f"Nobody has signed off as {role}."
    if sign_off.declined:
        return "sign-off-declined", f"Whoever decided as {role} declined."
    if sign_off.evidence_digest != weighing.evidence_digest:
        return "sign-off-outdated", f"The evidence is no longer what was signed as {role}."
    waiver = waivers.get(sign_off.waiver) if sign_off.waiver is not None else None
    if sign_off.waiver is not None and (waiver is None or weighing.inputs.at >= waiver.expires_at):
        return "waiver-expired", f"The sign-off as {role} stood on the waiver {sign_off.waiver}, which has ended."
    return None


def _valid_until(weighing: Weighing) -> datetime:
    silent = [one.alive_at + SILENCE_MAX for one in weighing.inputs.sources if one.alive_at is not None]
    ends = [one.expires_at for one in weighing.inputs.waivers if one.key in weighing.waivers_used]
    return min(silent + ends, default=weighing.inputs.at)


RULES: tuple[Callable[[Weighing], Iterator[Missing]], ...] = (
    _sources,
    _release,
    _model_version,
    _requirements,
    _monitoring,
    _change,
    _sign_offs,
)
