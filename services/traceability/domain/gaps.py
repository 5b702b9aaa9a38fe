"""Gaps: where a required link is absent, or an end of it no longer stands. The clock comes in as `at`: rules compare time.

Each gap names the record, the role that can close it and the verb to do it with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from .matrix import counting, revision_in_force
from .trace import Record, Trace

IN_PRODUCTION = ("released",)


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """One missing or broken link. `since` is the ledger position of the event that opened it, 0 when a date did."""

    code: str
    record: str
    explanation: str
    role: str
    next_verb: str
    since: int


def gaps(trace: Trace, *, at: datetime) -> list[Gap]:
    """All gaps of the AI system at the moment, in order of code and record."""
    found = [gap for rule in RULES for gap in rule(trace, at)]
    return sorted(found, key=lambda gap: (gap.code, gap.record, gap.explanation))


def uncovered_requirements(trace: Trace, _at: datetime) -> Iterator[Gap]:
    """A requirement in force that no approved test case verifies in that revision."""
    for requirement in trace.of_kind("requirement").values():
        in_force = revision_in_force(requirement)
        if in_force is None or requirement.status == "retired":
            continue
        covering = trace.test_cases_by_requirement.get(requirement.key, ())
        if not any(
            case.status == "approved" and {"key": requirement.key, "revision": in_force} in case.fields["requirements"]
            for case in covering
        ):
            yield Gap(
                code="requirement-uncovered",
                record=requirement.stream,
                explanation=f"No approved test case verifies revision {in_force} of {requirement.key}.",
                role="author",
                next_verb="define_test_case",
                since=_last(requirement),
            )


def unverified_criteria(trace: Trace, _at: datetime) -> Iterator[Gap]:
    """For the newest model version and for every one in production: a requirement in force without a verification that counts."""
    for version in _models_that_matter(trace):
        digest = version["digest"]
        for requirement in trace.of_kind("requirement").values():
            in_force = revision_in_force(requirement)
            if in_force is None or counting(trace, requirement, model_digest=digest):
                continue
            for criterion in requirement.revisions[in_force].get("criteria", ()):
                yield Gap(
                    code="criterion-unverified",
                    record=requirement.stream,
                    explanation=(
                        f"{requirement.key} revision {in_force}, criterion {criterion['key']} ({criterion['metric']} on"
                        f" {criterion['slice']}) has no approved verification that met it for {version['name']}."
                    ),
                    role="author",
                    next_verb="record_verification",
                    since=_last(requirement),
                )


def suspect_verifications(trace: Trace, _at: datetime) -> Iterator[Gap]:
    """A verification that rests on something that is no longer what it was."""
    for verification in trace.of_kind("verification").values():
        if verification.status == "suspect":
            yield Gap(
                code="verification-suspect",
                record=verification.stream,
                explanation=str(verification.fields.get("explanation", "Something it rests on has changed.")),
                role="reviewer",
                next_verb="clear_suspicion",
                since=_last(verification),
            )


def releases_without_monitoring(trace: Trace, _at: datetime) -> Iterator[Gap]:
    """A release in production whose model version no active monitoring plan watches."""
    watched = {p.fields["model_digest"] for p in trace.of_kind("monitoring-plan").values() if p.status == "active"}
    for release in _in_production(trace):
        if release.fields["model_digest"] not in watched:
            yield Gap(
                code="release-without-monitoring",
                record=release.stream,
                explanation=f"No active monitoring plan watches the model version of {release.key}.",
                role="author",
                next_verb="define_monitoring_plan",
                since=_last(release),
            )


def releases_on_doubtful_evidence(trace: Trace, _at: datetime) -> Iterator[Gap]:
    """A release that stays released although a verification of its model version is suspect, or that was never governed."""
    suspect: dict[str, list[str]] = {}
    for verification in trace.of_kind("verification").values():
        if verification.status == "suspect":
            suspect.setdefault(verification.fields["model_digest"], []).append(verification.key)
    for release in _in_production(trace):
        keys = suspect.get(release.fields["model_digest"])
        if keys:
            yield Gap(
                code="released-on-suspect-evidence",
                record=release.stream,
                explanation=f"{release.key} is in production on suspect evidence: {', '.join(keys)}.",
                role="releaser",
                next_verb="suspend_release",
                since=_last(release),
            )
        if any(name == "releases.release-adopted" for _, name in release.events):
            yield Gap(
                code="release-not-governed",
                record=release.stream,
                explanation=f"{release.key} was adopted from a past without governance.",
                role="author",
                next_verb="open_release_candidate",
                since=_last(release),
            )


def expired_waivers(trace: Trace, at: datetime) -> Iterator[Gap]:
    """A waiver whose date has passed while its release is in production."""
    in_production = {release.key for release in _in_production(trace)}
    for waiver in trace.of_kind("waiver").values():
        expires_at = _moment(waiver.fields.get("expires_at"))
        lapsed = waiver.status == "granted" and expires_at is not None and expires_at <= at
        if lapsed and waiver.fields.get("release") in in_production:
            yield Gap(
                code="waiver-expired",
                record=waiver.stream,
                explanation=f"{waiver.key} for {waiver.fields.get('release')} expired at {expires_at}.",
                role="approver",
                next_verb="grant_waiver",
                since=0,
            )


def overdue_signals(trace: Trace, at: datetime) -> Iterator[Gap]:
    """A drift signal that nobody has triaged by its date."""
    for signal in trace.of_kind("drift-signal").values():
        until = _moment(signal.fields.get("triage_until"))
        if signal.status in ("open", "acknowledged") and until is not None and until <= at:
            yield Gap(
                code="signal-overdue",
                record=signal.stream,
                explanation=f"{signal.key} had to be triaged by {until}.",
                role="reviewer",
                next_verb="escalate_drift_signal",
                since=0,
            )


def emergency_releases(trace: Trace, _at: datetime) -> Iterator[Gap]:
    """An emergency release that is not signed off yet."""
    for release in _in_production(trace):
        signed = any(name == "releases.release-signed-off" for _, name in release.events)
        if release.fields.get("emergency") and not signed:
            yield Gap(
                code="emergency-not-signed-off",
                record=release.stream,
                explanation=f"{release.key} went out as an emergency and is not signed off.",
                role="approver",
                next_verb="sign_off_release",
                since=_last(release),
            )


def open_nonconformities(trace: Trace, _at: datetime) -> Iterator[Gap]:
    """A requirement that is known not to be fulfilled, and whose corrective action has not been shown to work."""
    for nonconformity in trace.of_kind("nonconformity").values():
        if nonconformity.status in ("raised", "planned"):
            yield Gap(
                code="nonconformity-open",
                record=nonconformity.stream,
                explanation=f"{nonconformity.key}: {nonconformity.fields.get('description', 'not described')}",
                role="author" if nonconformity.status == "raised" else "approver",
                next_verb=(
                    "plan_corrective_action" if nonconformity.status == "raised" else "verify_corrective_action"
                ),
                since=_last(nonconformity),
            )


RULES: tuple[Callable[[Trace, datetime], Iterator[Gap]], ...] = (
    uncovered_requirements,
    unverified_criteria,
    suspect_verifications,
    releases_without_monitoring,
    releases_on_doubtful_evidence,
    expired_waivers,
    overdue_signals,
    emergency_releases,
    open_nonconformities,
)


def _in_production(trace: Trace) -> list[Record]:
    return [release for release in trace.of_kind("release").values() if release.status in IN_PRODUCTION]


def _models_that_matter(trace: Trace) -> list[dict[str, Any]]:
    """Name and digest of the newest model version of each model and of every one in production."""
    chosen: dict[str, str] = {}
    newest: dict[str, Record] = {}
    for record in trace.of_kind("model-version").values():
        if record.status != "withdrawn":
            newest[record.fields["model"]] = record
    for record in newest.values():
        chosen[record.fields["digest"]] = f"{record.fields['model']} {record.fields['version']}"
    for release in _in_production(trace):
        fields = release.fields
        chosen.setdefault(fields["model_digest"], f"{fields['model']} {fields['version']} (in production)")
    return [{"digest": digest, "name": name} for digest, name in chosen.items()]


def _last(record: Record) -> int:
    return record.events[-1][0] if record.events else 0


def _moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
