"""Closes one window: judges it and says whether it raises a signal. Hysteresis: while one stands, there is no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from .drift_signal import DriftSignal, DriftSignalRaised, SignalFeature
from .histogram import Integers
from .monitoring_plan import DriftWindowClosed, MonitoringPlan, Reference, Watch
from .panes import moment
from .reference_profile import FeatureReference
from .window_verdict import FeatureMemory, FeatureWindow, judge_feature, mean_evidence, outcome_of


@dataclass(frozen=True, kw_only=True)
class CountedWindow:
    """What was counted: by feature, in the order of the reference, the value cells and the missing values."""

    environment: str
    start: int
    rows: int
    late_rows: int
    counts: Sequence[tuple[Integers, int]]


@dataclass(frozen=True, kw_only=True)
class Closing:
    """The facts of a closed window; `raised` is None unless it raised a signal."""

    window: DriftWindowClosed
    raised: DriftSignalRaised | None


def close_window(
    plan: MonitoringPlan, *, counted: CountedWindow, last_signal: DriftSignal | None, at: datetime
) -> Closing:
    """`last_signal` is the one raised last, of use while the watch names it; `at` is when the days to triage begin."""
    watch, shape = plan.watch(counted.environment), plan.definition.shape
    feeds = shape.feeds_detector(counted.start)
    named = last_signal if last_signal is not None and last_signal.raised.key == watch.signal else None
    settled = named if feeds and named is not None and not named.stands else None
    memories = watch.memories if settled is None else _restarted(watch, settled)
    assert plan.reference is not None
    features = _judge(plan, plan.reference, counted, memories, feeds)
    evidence, threshold = mean_evidence(features), plan.definition.threshold
    standing = watch.signal if settled is None else None
    raises = feeds and standing is None and evidence >= threshold
    window = DriftWindowClosed(
        plan=plan.key,
        model_digest=plan.definition.model_digest,
        environment=counted.environment,
        reference_profile=plan.reference.digest,
        start=moment(counted.start),
        end=moment(counted.start + shape.window_s),
        rows=counted.rows,
        late_rows=counted.late_rows,
        empty_before=shape.empty_between(closed_through=watch.closed_through, start=counted.start),
        feeds_detector=feeds,
        restarted=settled is not None,
        outcome=outcome_of(features=features, threshold=threshold),
        evidence=evidence,
        threshold=threshold,
        signal=f"{plan.key}-S{plan.signals + 1}" if raises else standing,
        raised=raises,
        features=features,
    )
    return Closing(window=window, raised=_raised(plan, window, at) if raises else None)


def _judge(
    plan: MonitoringPlan,
    reference: Reference,
    counted: CountedWindow,
    memories: Mapping[str, FeatureMemory],
    feeds_detector: bool,
) -> tuple[FeatureWindow, ...]:
    def judge(feature: FeatureReference, counts: Integers, missing: int) -> FeatureWindow:
        return judge_feature(
            reference=feature,
            counts=counts,
            missing=missing,
            memory=memories.get(feature.name, FeatureMemory()),
            tolerance=plan.definition.tolerance,
            feeds_detector=feeds_detector,
        )

    return tuple(
        judge(feature, counts, missing)
        for feature, (counts, missing) in zip(reference.features, counted.counts, strict=True)
    )


def _restarted(watch: Watch, settled: DriftSignal) -> Mapping[str, FeatureMemory]:
    """Evidence begins at 0. A dismissed difference stays muted until it is gone, or every window would raise it again."""
    muted = {feature.name for feature in settled.raised.features} if settled.status == "dismissed" else set()
    return {
        name: msgspec.structs.replace(memory, evidence={}, quiet_windows=0 if name in muted else memory.quiet_windows)
        for name, memory in watch.memories.items()
    }


def _raised(plan: MonitoringPlan, window: DriftWindowClosed, at: datetime) -> DriftSignalRaised:
    definition = plan.definition
    assert window.signal is not None
    drifted = sorted(
        (feature for feature in window.features if feature.evidence >= window.threshold),
        key=lambda feature: -feature.evidence,
    )
    return DriftSignalRaised(
        key=window.signal,
        plan=plan.key,
        model=definition.model,
        version=definition.version,
        model_digest=definition.model_digest,
        environment=window.environment,
        release=plan.watch(window.environment).release,
        features=tuple(_signal_feature(feature) for feature in drifted),
        evidence=window.evidence,
        threshold=window.threshold,
        window_start=window.start,
        window_end=window.end,
        owner=definition.owner,
        triage_until=at + timedelta(days=definition.days_to_triage),
    )


def _signal_feature(feature: FeatureWindow) -> SignalFeature:
    strongest = max(feature.channel_evidence, key=lambda channel: feature.channel_evidence[channel])
    return SignalFeature(
        name=feature.name,
        psi=feature.psi,
        psi_debiased=feature.psi_debiased,
        p_value=feature.p_value,
        channel=strongest,
        channel_p_value=feature.channel_p_values[strongest],
        evidence=feature.evidence,
    )
