"""The gate's answers: one statement reads everything the rules need from this service's own copies, in one snapshot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from shared.errors import FieldError, Invalid
from shared.event import Actor
from shared.feed import Pulse

from ..domain import gate
from ..domain.evidence import Evidence
from ..domain.gate import Answer, Decision, GateInputs, Weighing
from ..domain.release import ReleaseMissing
from .desk import Desk

RETRY_SECONDS = 0.02
"""How long to wait before reading again when a source was just a moment ahead."""


class AmbiguousSubject(Invalid):
    """The gate is asked either by release, or by model digest and environment."""


class _Copies(msgspec.Struct, frozen=True, kw_only=True):
    """What the statement returns: the inputs without what the sources say of themselves."""

    own_head: int
    positions: dict[str, int]
    environment: str | None
    model_digest: str | None
    release: gate.ReleaseInput | None
    newest: str | None
    previous: gate.PreviousInput | None
    model_versions: tuple[gate.ModelVersionInput, ...]
    requirements: tuple[gate.RequirementInput, ...]
    datasets: dict[str, str]
    monitoring_plans: tuple[gate.MonitoringPlanInput, ...]
    change: gate.ChangeInput | None
    waivers: tuple[gate.WaiverInput, ...]


_copies_decoder = msgspec.json.Decoder(_Copies)
_waivers_decoder = msgspec.json.Decoder(tuple[gate.WaiverInput, ...])

_BY_RELEASE = "SELECT $2::text AS key"
_BY_DIGEST = """
    SELECT (SELECT key FROM release WHERE system = $1 AND model_digest = $2 AND environment = $3
            AND status IN ('candidate', 'gated', 'approved', 'released') ORDER BY position DESC LIMIT 1) AS key"""

_COPIES = """
WITH asked AS ({asked}),
target AS (SELECT r.* FROM release r JOIN asked ON r.system = $1 AND r.key = asked.key),
subject AS (SELECT coalesce((SELECT model_digest FROM target), {digest}) AS digest,
                   coalesce((SELECT environment FROM target), {environment}) AS environment),
newest AS (SELECT e.release FROM environment e JOIN subject s ON e.system = $1 AND e.environment = s.environment),
version AS (SELECT m.model, m.version, m.withdrawn FROM model_version m JOIN subject s ON m.system = $1 AND m.digest = s.digest)
SELECT json_build_object(
    'own_head', (SELECT position FROM head),
    'positions', (SELECT json_object_agg(source, position) FROM position),
    'environment', (SELECT environment FROM subject),
    'model_digest', (SELECT digest FROM subject),
    'release', (SELECT json_build_object(
        'key', t.key, 'status', t.status, 'previous', t.previous, 'required_roles', t.required_roles,
        'change_request', t.change_request,
        'sign_offs', (SELECT coalesce(json_agg(json_build_object('role', s.role, 'evidence_digest', s.evidence_digest,
            'declined', s.declined, 'waiver', s.waiver) ORDER BY s.role), '[]')
            FROM sign_off s WHERE s.system = $1 AND s.release = t.key)) FROM target t),
    'newest', (SELECT release FROM newest),
    'previous', (SELECT json_build_object('key', p.key, 'model_digest', p.model_digest) FROM release p WHERE p.system = $1
        AND p.key = CASE WHEN (SELECT status FROM target) NOT IN ('candidate', 'gated', 'approved')
            THEN (SELECT previous FROM target) ELSE (SELECT release FROM newest) END),
    'model_versions', (SELECT coalesce(json_agg(v ORDER BY v.model, v.version), '[]') FROM version v),
    'requirements', (SELECT coalesce(json_agg(json_build_object('key', r.key, 'revision', r.revision, 'criteria', r.criteria,
        'standing', s.standing) ORDER BY r.key), '[]')
        FROM requirement r LEFT JOIN standing s ON s.system = $1 AND s.model_digest = (SELECT digest FROM subject)
            AND s.requirement = r.key AND s.revision = r.revision
        WHERE r.system = $1),
    'datasets', (SELECT coalesce(json_object_agg(name || '@' || version, digest), '{{}}') FROM dataset
        WHERE system = $1 AND NOT withdrawn),
    'monitoring_plans', (SELECT coalesce(json_agg(json_build_object('key', key, 'approved', approved) ORDER BY key), '[]')
        FROM monitoring_plan WHERE system = $1 AND model_digest = (SELECT digest FROM subject)),
    'change', (SELECT json_build_object('key', c.key, 'status', c.status, 'model', c.model, 'candidate', c.candidate,
        'end', c.change_end) FROM change_request c WHERE c.system = $1 AND CASE WHEN EXISTS (SELECT FROM target)
            THEN c.key = (SELECT change_request FROM target)
            ELSE EXISTS (SELECT FROM version v WHERE v.version = c.candidate AND v.model = coalesce(c.model, v.model)) END
        ORDER BY c.position DESC LIMIT 1),
    'waivers', {waivers}
)::text
"""

_WAIVERS = """(SELECT coalesce(json_agg(json_build_object('key', w.key, 'kind', w.kind, 'requirement', w.requirement,
        'expires_at', w.expires_at) ORDER BY w.key), '[]')
        FROM waiver w WHERE w.system = $1 AND NOT w.revoked AND w.release = {release})"""

_TARGET_WAIVERS = _WAIVERS.format(release="(SELECT key FROM target)")
_WAIVERS_SQL = f"SELECT {_WAIVERS.format(release='$2')}::text"
_BY_RELEASE_SQL = _COPIES.format(asked=_BY_RELEASE, digest="NULL", environment="NULL", waivers=_TARGET_WAIVERS)
_BY_DIGEST_SQL = _COPIES.format(asked=_BY_DIGEST, digest="$2::text", environment="$3::text", waivers=_TARGET_WAIVERS)


@dataclass(frozen=True, kw_only=True)
class GateKeeper:
    """Answers for a release, or for a model digest and an environment before there is one."""

    desk: Desk

    async def answer(
        self, *, actor: Actor, system: str, release: str | None, model_digest: str | None, environment: str | None
    ) -> Answer:
        """What the gate says now, for whoever holds a role in the system."""
        await self.desk.access.require_reader(system=system, actor=actor)
        if (release is None) == (model_digest is None) or (model_digest is None) != (environment is None):
            raise AmbiguousSubject(
                "The gate was asked about no release, or about several.",
                why="It answers for one release, or for one model digest in one environment.",
                next_step="Send release, or model_digest together with environment.",
                fields=(FieldError(field="release", rule="this alone, or model_digest and environment"),),
            )
        decision = await self.decide(system=system, release=release, model_digest=model_digest, environment=environment)
        return decision.answer

    async def decide(
        self,
        *,
        system: str,
        release: str | None = None,
        model_digest: str | None = None,
        environment: str | None = None,
    ) -> Decision:
        """The decision. When a source was only a moment ahead, it is read again, for `wait_s` seconds at most."""
        deadline = asyncio.get_running_loop().time() + self.desk.wait_s
        while True:
            inputs = await self.inputs(
                system=system, release=release, model_digest=model_digest, environment=environment
            )
            decision = gate.decide(inputs)
            codes = {item.code for item in decision.answer.missing}
            late = asyncio.get_running_loop().time() >= deadline
            if late or "source-behind" not in codes or "source-silent" in codes:
                return decision
            await asyncio.sleep(RETRY_SECONDS)

    async def evidence(self, *, system: str, release: str) -> tuple[Evidence, ...]:
        """What meets each requirement in force, as far as it is known here now."""
        return Weighing(await self.inputs(system=system, release=release)).evidence

    async def evidence_before(
        self, *, system: str, release: str, model_digest: str, environment: str
    ) -> tuple[Evidence, ...]:
        """The evidence for a release that is not opened yet."""
        inputs = await self.inputs(system=system, model_digest=model_digest, environment=environment)
        waivers = await self.desk.pool.fetchval(_WAIVERS_SQL, system, release)
        waived = msgspec.structs.replace(inputs, waivers=_waivers_decoder.decode(waivers))
        return Weighing(waived).evidence

    async def inputs(
        self,
        *,
        system: str,
        release: str | None = None,
        model_digest: str | None = None,
        environment: str | None = None,
    ) -> GateInputs:
        """Everything the rules read; ReleaseMissing if the release is unknown here."""
        pulses = await asyncio.gather(*(self.desk.feed.pulse(service=service) for service in gate.SOURCES))
        if release is not None:
            copies = await self._copies(_BY_RELEASE_SQL, system, release)
        else:
            copies = await self._copies(_BY_DIGEST_SQL, system, model_digest, environment)
        if copies.environment is None or copies.model_digest is None:
            raise ReleaseMissing(
                f"There is no release {release} in {system}.",
                why="No candidate was opened under this key.",
                next_step="Check the key; if it was opened a moment ago, pass the position of that answer as `after`.",
            )
        return _inputs(system, copies, self.desk.clock(), dict(zip(gate.SOURCES, pulses, strict=True)))

    async def _copies(self, sql: str, *parameters: Any) -> _Copies:
        return _copies_decoder.decode(await self.desk.pool.fetchval(sql, *parameters))


def _inputs(system: str, copies: _Copies, at: datetime, pulses: dict[str, Pulse]) -> GateInputs:
    own = gate.SourceInput(
        service="releases", head=copies.own_head, position=copies.positions["releases"], alive_at=None
    )
    assert copies.environment is not None
    assert copies.model_digest is not None
    return GateInputs(
        system=system,
        environment=copies.environment,
        model_digest=copies.model_digest,
        at=at,
        sources=(own, *(_source(name, pulse, copies.positions) for name, pulse in sorted(pulses.items()))),
        model_versions=copies.model_versions,
        requirements=copies.requirements,
        datasets=copies.datasets,
        monitoring_plans=copies.monitoring_plans,
        release=copies.release,
        newest=copies.newest,
        previous=copies.previous,
        change=copies.change,
        waivers=copies.waivers,
    )


def _source(service: str, pulse: Pulse, positions: dict[str, int]) -> gate.SourceInput:
    """Only verification reacts to requirements before the gate may trust it."""
    reacted = pulse.reacted.get("requirements", 0) if service == "verification" else None
    return gate.SourceInput(
        service=service, head=pulse.head, position=positions[service], alive_at=pulse.at, reacted=reacted
    )
