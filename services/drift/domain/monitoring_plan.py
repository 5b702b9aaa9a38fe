"""MonitoringPlan: how one released model version is watched in production (ISO/IEC 42001, A.6.2.6; EU AI Act, 72).

Its author never approves it. What is approved is the definition together with the digest of the reference profile. A deployment
activates it in an environment; from then on every window of rows closes exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound, Refused
from shared.event import Fact, Signature, canonical_bytes, digest_of

from .detector import SECONDS_A_WEEK, alarm_threshold
from .panes import WindowShape
from .reference_profile import FeatureKind, FeatureReference
from .window_verdict import FeatureMemory, FeatureWindow, WindowOutcome, remember

Status: TypeAlias = Literal["draft", "declined", "approved"]

WINDOWS_SHARING_A_ROW_MAX = 168


class MonitoringPlanMissing(NotFound):
    """There is no such monitoring plan."""


class PlanNotInState(Conflict):
    """The verb does not fit the status of the plan."""


class InvalidMonitoringPlan(Invalid):
    """A plan breaks a rule; the field and the rule are named."""


class ReferenceProfileMissing(Conflict):
    """Without a reference profile there is nothing to compare production with."""


class ReferenceOfOtherFeatures(Invalid):
    """The reference profile must have exactly the features of the plan."""


class AuthorCannotApprove(Refused):
    """The author of a record never approves it."""


class DigestMismatch(Conflict):
    """What would be signed is not what the signer saw."""


class NotWatchedThere(Conflict):
    """The plan is not active in this environment."""


class WatchedFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature or output of the model that production rows carry."""

    name: str
    kind: FeatureKind


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan says. `tolerance` is the PSI up to which nothing is wrong; `false_alarms_per_week` is the budget."""

    model: str
    version: str
    model_digest: str
    features: tuple[WatchedFeature, ...]
    window_s: int
    slide_s: int
    lateness_s: int
    tolerance: float
    false_alarms_per_week: float
    owner: str
    days_to_triage: float

    @property
    def shape(self) -> WindowShape:
        """The windows of the plan."""
        return WindowShape(window_s=self.window_s, slide_s=self.slide_s, lateness_s=self.lateness_s)

    @property
    def threshold(self) -> float:
        """The evidence at which a signal is raised."""
        return alarm_threshold(window_s=self.window_s, false_alarms_per_week=self.false_alarms_per_week)


class MonitoringPlanDefined(Fact, frozen=True, kw_only=True):
    """A new plan, or other content of one that is not approved; its reference profile has to be set (again)."""

    TOPIC: ClassVar[str] = "drift.monitoring-plan-defined"
    key: str
    author: str
    model: str
    version: str
    model_digest: str
    features: tuple[WatchedFeature, ...]
    window_s: int
    slide_s: int
    lateness_s: int
    tolerance: float
    false_alarms_per_week: float
    owner: str
    days_to_triage: float


class ReferenceProfileSet(Fact, frozen=True, kw_only=True):
    """`digest` names the artefact that also has the names of category levels; here a level is only an index."""

    TOPIC: ClassVar[str] = "drift.reference-profile-set"
    key: str
    author: str
    model_digest: str
    digest: str
    rows: int
    chunks: int
    features: tuple[FeatureReference, ...]


class MonitoringPlanApproved(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "drift.monitoring-plan-approved"
    key: str
    model: str
    version: str
    model_digest: str
    reference_profile: str
    signature: Signature


class MonitoringPlanDeclined(Fact, frozen=True, kw_only=True):
    """An approver refused to sign; the author defines the plan anew or sets another reference."""

    TOPIC: ClassVar[str] = "drift.monitoring-plan-declined"
    key: str
    model_digest: str
    signature: Signature


class MonitoringPlanActivated(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "drift.monitoring-plan-activated"
    key: str
    model_digest: str
    environment: str
    release: str


class DriftWindowClosed(Fact, frozen=True, kw_only=True):
    """One window of production, counted and judged. `start` and `end` are event times.

    `late_rows` are all rows so far that came after their window had closed; `empty_before` counts windows without rows since
    the last one; `signal` is the one that stands after this window, `raised` whether this window raised it.
    `feeds_detector` is False for a window that shares rows with one that does. `restarted` says that the evidence began at 0,
    because the signal before was dismissed or resolved.
    """

    TOPIC: ClassVar[str] = "drift.drift-window-closed"
    plan: str
    model_digest: str
    environment: str
    reference_profile: str
    start: datetime
    end: datetime
    rows: int
    late_rows: int
    empty_before: int
    feeds_detector: bool
    restarted: bool
    outcome: WindowOutcome
    evidence: float
    threshold: float
    signal: str | None
    raised: bool
    features: tuple[FeatureWindow, ...]


FACTS = (
    MonitoringPlanDefined,
    ReferenceProfileSet,
    MonitoringPlanApproved,
    MonitoringPlanDeclined,
    MonitoringPlanActivated,
    DriftWindowClosed,
)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The reference profile as far as events know it."""

    digest: str
    rows: int
    features: tuple[FeatureReference, ...]


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """The plan at work in one environment. `closed_through` is the end of the last closed window, seconds since 1970."""

    release: str
    closed_through: int | None = None
    memories: Mapping[str, FeatureMemory] = {}
    signal: str | None = None


class MonitoringPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The state. `authors` are all who wrote in it since it was last new; `signals` counts those it has raised."""

    key: str
    definition: Definition
    authors: frozenset[str]
    status: Status
    reference: Reference | None = None
    watches: Mapping[str, Watch] = {}
    signals: int = 0

    def watch(self, environment: str) -> Watch:
        """The watch in the environment. NotWatchedThere if the plan is not active there."""
        if environment not in self.watches:
            raise NotWatchedThere(
                f"Plan {self.key} is not active in {environment!r}.",
                why="A plan becomes active when its model version is deployed there.",
                next_step="Active in: " + (", ".join(sorted(self.watches)) or "no environment yet") + ".",
            )
        return self.watches[environment]


def define(plan: MonitoringPlan | None, *, key: str, author: str, definition: Definition) -> Sequence[Fact]:
    """A new plan, or other content for one that is not approved."""
    check_definition(definition)
    if plan is not None and plan.definition == definition and plan.status == "draft":
        return ()
    if plan is not None and plan.status == "approved":
        raise _not_in_state(plan, wanted="draft or declined", verb="define")
    return (MonitoringPlanDefined(key=key, author=author, **msgspec.structs.asdict(definition)),)


def check_definition(definition: Definition) -> None:
    """Raises InvalidMonitoringPlan with all broken rules."""
    names = [feature.name for feature in definition.features]
    weekly = SECONDS_A_WEEK / definition.window_s
    rules = (
        ("features", "at least one, each name once", bool(names) and len(set(names)) == len(names)),
        ("slide_s", "divides window_s", definition.window_s % definition.slide_s == 0),
        (
            "slide_s",
            f"at least window_s / {WINDOWS_SHARING_A_ROW_MAX}",
            definition.window_s <= definition.slide_s * WINDOWS_SHARING_A_ROW_MAX,
        ),
        (
            "false_alarms_per_week",
            f"above 0, at most the windows of a week ({weekly:g})",
            0 < definition.false_alarms_per_week <= weekly,
        ),
        ("tolerance", "above 0, at most 1", 0 < definition.tolerance <= 1),
    )
    broken = tuple(FieldError(field=f"/{field}", rule=rule) for field, rule, holds in rules if not holds)
    if broken:
        raise InvalidMonitoringPlan(
            "The plan breaks a rule: " + "; ".join(f"{error.field}: {error.rule}" for error in broken),
            why="What the plan promises must be possible.",
            next_step="Mend the fields in `errors`.",
            fields=broken,
        )


def set_reference(
    plan: MonitoringPlan | None,
    *,
    author: str,
    digest: str,
    rows: int,
    chunks: int,
    features: tuple[FeatureReference, ...],
) -> Sequence[Fact]:
    """Sets or replaces the reference profile of a plan that is not approved."""
    plan = existing(plan)
    if plan.reference is not None and plan.reference.digest == digest and plan.status != "declined":
        return ()
    if plan.status == "approved":
        raise _not_in_state(plan, wanted="draft or declined", verb="set the reference of")
    wanted = {feature.name: feature.kind for feature in plan.definition.features}
    if {feature.name: feature.kind for feature in features} != wanted:
        raise ReferenceOfOtherFeatures(
            "The reference has other features than the plan.",
            why="Every watched feature needs a reference of its own.",
            next_step="Send a column for each of: " + ", ".join(wanted) + ".",
            fields=(FieldError(field="/features", rule="exactly the features of the plan"),),
        )
    return (
        ReferenceProfileSet(
            key=plan.key,
            author=author,
            model_digest=plan.definition.model_digest,
            digest=digest,
            rows=rows,
            chunks=chunks,
            features=features,
        ),
    )


def approve(plan: MonitoringPlan | None, *, signature: Signature) -> Sequence[Fact]:
    """The plan may be activated from now on, and no longer changes."""
    plan, reference = _signable_plan(plan, signature, verb="approve")
    if plan.status == "approved":
        return ()
    if plan.status == "declined":
        raise _not_in_state(plan, wanted="draft", verb="approve")
    return (
        MonitoringPlanApproved(
            key=plan.key,
            model=plan.definition.model,
            version=plan.definition.version,
            model_digest=plan.definition.model_digest,
            reference_profile=reference.digest,
            signature=signature,
        ),
    )


def decline(plan: MonitoringPlan | None, *, signature: Signature) -> Sequence[Fact]:
    """The plan goes back to its authors."""
    plan, _ = _signable_plan(plan, signature, verb="decline")
    if plan.status != "draft":
        raise _not_in_state(plan, wanted="draft", verb="decline")
    return (MonitoringPlanDeclined(key=plan.key, model_digest=plan.definition.model_digest, signature=signature),)


def activate(plan: MonitoringPlan | None, *, environment: str, release: str) -> Sequence[Fact]:
    """Puts the approved plan to work where its model version was deployed."""
    plan = existing(plan)
    if plan.status != "approved":
        raise _not_in_state(plan, wanted="approved", verb="activate")
    if environment in plan.watches and plan.watches[environment].release == release:
        return ()
    return (
        MonitoringPlanActivated(
            key=plan.key, model_digest=plan.definition.model_digest, environment=environment, release=release
        ),
    )


def signable_bytes(plan: MonitoringPlan) -> bytes:
    """The canonical bytes that a signature over the plan covers. ReferenceProfileMissing before there is a reference."""
    return canonical_bytes(
        {
            "record": "monitoring-plan",
            "key": plan.key,
            "definition": plan.definition,
            "reference_profile": reference_of(plan).digest,
            "reference_rows": reference_of(plan).rows,
        }
    )


def _signable_plan(plan: MonitoringPlan | None, signature: Signature, *, verb: str) -> tuple[MonitoringPlan, Reference]:
    plan = existing(plan)
    reference = reference_of(plan)
    if signature.digest != digest_of(signable_bytes(plan)):
        raise DigestMismatch(
            f"The digest is not that of plan {plan.key} as it is now.",
            why="A signature covers exactly the bytes that the signer was shown.",
            next_step="Fetch what would be signed again, read it, and sign its digest.",
        )
    if signature.signer.subject in plan.authors:
        raise AuthorCannotApprove(
            f"You wrote plan {plan.key}, so you cannot {verb} it.",
            why="The author of a record never approves it.",
            next_step="Ask another person with the role approver.",
        )
    return plan, reference


def reference_of(plan: MonitoringPlan) -> Reference:
    """The reference of the plan, or ReferenceProfileMissing."""
    if plan.reference is None:
        raise ReferenceProfileMissing(
            f"Plan {plan.key} has no reference profile.",
            why="What is approved is the plan together with the reference that production is compared with.",
            next_step="Set the reference from the training or tuning data first.",
        )
    return plan.reference


def existing(plan: MonitoringPlan | None) -> MonitoringPlan:
    """The plan, or MonitoringPlanMissing."""
    if plan is None:
        raise MonitoringPlanMissing(
            "There is no such monitoring plan.", why="It was never defined.", next_step="Check the key, or define it."
        )
    return plan


def _not_in_state(plan: MonitoringPlan, *, wanted: str, verb: str) -> PlanNotInState:
    return PlanNotInState(
        f"You cannot {verb} plan {plan.key}: it is {plan.status}.",
        why=f"The plan would have to be {wanted}; an approved plan never changes.",
        next_step="Read the plan; other content for an approved one is a new plan.",
    )


def evolve(plan: MonitoringPlan | None, fact: Fact) -> MonitoringPlan:
    """The state after one more fact."""
    if isinstance(fact, MonitoringPlanDefined):
        return _evolve_defined(plan, fact)
    if plan is None:
        raise TypeError(f"{fact!r} cannot come first")
    match fact:
        case ReferenceProfileSet():
            reference = Reference(digest=fact.digest, rows=fact.rows, features=fact.features)
            return msgspec.structs.replace(
                plan, reference=reference, authors=plan.authors | {fact.author}, status="draft"
            )
        case MonitoringPlanApproved():
            return msgspec.structs.replace(plan, status="approved")
        case MonitoringPlanDeclined():
            return msgspec.structs.replace(plan, status="declined")
        case MonitoringPlanActivated():
            before = plan.watches.get(fact.environment)
            watch = Watch(release=fact.release)
            if before is not None:
                watch = msgspec.structs.replace(before, release=fact.release)
            return msgspec.structs.replace(plan, watches={**plan.watches, fact.environment: watch})
        case DriftWindowClosed():
            return _evolve_closed(plan, fact)
    raise TypeError(f"{fact!r} is no fact of a monitoring plan")


def _evolve_defined(plan: MonitoringPlan | None, fact: MonitoringPlanDefined) -> MonitoringPlan:
    fields = {name: getattr(fact, name) for name in Definition.__struct_fields__}
    return MonitoringPlan(
        key=fact.key,
        definition=Definition(**fields),
        authors=(plan.authors if plan is not None else frozenset()) | {fact.author},
        status="draft",
    )


def _evolve_closed(plan: MonitoringPlan, fact: DriftWindowClosed) -> MonitoringPlan:
    watch = plan.watches[fact.environment]
    closed = msgspec.structs.replace(
        watch,
        closed_through=int(fact.end.timestamp()),
        signal=fact.signal,
        memories={
            feature.name: remember(
                memory=watch.memories.get(feature.name, FeatureMemory()),
                window=feature,
                feeds_detector=fact.feeds_detector,
            )
            for feature in fact.features
        },
    )
    return msgspec.structs.replace(
        plan, watches={**plan.watches, fact.environment: closed}, signals=plan.signals + fact.raised
    )
