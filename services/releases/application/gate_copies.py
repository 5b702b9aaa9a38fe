"""What the gate reads of this service's own copies: one statement, one snapshot; kept until a position moves."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import asyncpg
import msgspec

from ..domain import gate

KEPT_MAX = 8
"""How many subjects are kept in memory: about 2 MB each with 1,000 requirements."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the gate is asked about: a release, or a model digest in an environment."""

    system: str
    release: str | None
    model_digest: str | None
    environment: str | None


class Copies(msgspec.Struct, frozen=True, kw_only=True):
    """What the statement returns: the inputs without what the sources say of themselves."""

    own_head: int
    positions: dict[str, int]
    unread: dict[str, int]
    environment: str
    model_digest: str
    release: gate.ReleaseInput | None
    newest: str | None
    previous: gate.PreviousInput | None
    model_versions: tuple[gate.ModelVersionInput, ...]
    requirements: tuple[gate.RequirementInput, ...]
    datasets: dict[str, str]
    monitoring_plans: tuple[gate.MonitoringPlanInput, ...]
    change: gate.ChangeInput | None
    waivers: tuple[gate.WaiverInput, ...]


_copies_decoder = msgspec.json.Decoder(Copies)
_waivers_decoder = msgspec.json.Decoder(tuple[gate.WaiverInput, ...])

_SUBJECT_SQL = "SELECT model_digest, environment FROM release WHERE system = $1 AND key = $2"

_BY_RELEASE = "SELECT $4::text AS key"
_BY_DIGEST = """
    SELECT (SELECT key FROM release WHERE system = $1 AND model_digest = $2 AND environment = $3
            AND status IN ('candidate', 'gated', 'approved', 'released') ORDER BY position DESC LIMIT 1) AS key"""

_COPIES = """
WITH asked AS ({asked}),
target AS (SELECT r.* FROM release r JOIN asked ON r.system = $1 AND r.key = asked.key),
newest AS (SELECT release FROM environment WHERE system = $1 AND environment = $3),
version AS (SELECT model, version, withdrawn FROM model_version WHERE system = $1 AND digest = $2)
SELECT json_build_object(
    'own_head', (SELECT position FROM head),
    'positions', (SELECT json_object_agg(source, position) FROM position),
    'unread', (SELECT coalesce(json_object_agg(source, first), '{{}}') FROM (
        SELECT source, min(position) AS first FROM dead_letter WHERE reader = 'projection' GROUP BY source) letters),
    'environment', $3::text,
    'model_digest', $2::text,
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
        FROM requirement r LEFT JOIN standing s ON s.system = $1 AND s.model_digest = $2
            AND s.requirement = r.key AND s.revision = r.revision
        WHERE r.system = $1),
    'datasets', (SELECT coalesce(json_object_agg(name || '@' || version, digest), '{{}}') FROM dataset
        WHERE system = $1 AND NOT withdrawn),
    'monitoring_plans', (SELECT coalesce(json_agg(json_build_object('key', key, 'approved', approved) ORDER BY key), '[]')
        FROM monitoring_plan WHERE system = $1 AND model_digest = $2),
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
_BY_RELEASE_SQL = _COPIES.format(asked=_BY_RELEASE, waivers=_TARGET_WAIVERS)
_BY_DIGEST_SQL = _COPIES.format(asked=_BY_DIGEST, waivers=_TARGET_WAIVERS)


class _Positions(msgspec.Struct, frozen=True, kw_only=True):
    own_head: int
    positions: dict[str, int]


_positions_decoder = msgspec.json.Decoder(_Positions)

_POSITIONS_SQL = """
SELECT json_build_object('own_head', (SELECT position FROM head),
    'positions', (SELECT json_object_agg(source, position) FROM position))::text
"""


@dataclass(frozen=True, kw_only=True)
class GateCopies:
    """Reads the copies. They follow from their positions alone, so what was read is good as long as none has moved."""

    pool: asyncpg.Pool
    _kept: OrderedDict[Subject, Copies] = field(default_factory=OrderedDict)

    async def read(self, subject: Subject) -> Copies | None:
        """All that the rules need to know of the subject; None if the release is unknown."""
        kept = self._kept.get(subject)
        if kept is not None:
            now = _positions_decoder.decode(await self.pool.fetchval(_POSITIONS_SQL))
            if now.positions == kept.positions:
                self._kept.move_to_end(subject)
                return msgspec.structs.replace(kept, own_head=now.own_head)
        text = await self._fetch(subject)
        if text is None:
            return None
        copies = _copies_decoder.decode(text)
        self._keep(subject, copies)
        return copies

    async def waivers(self, *, system: str, release: str) -> tuple[gate.WaiverInput, ...]:
        """The waivers of a release, whether it is opened or not."""
        return _waivers_decoder.decode(await self.pool.fetchval(_WAIVERS_SQL, system, release))

    async def _fetch(self, subject: Subject) -> str | None:
        """The statement plans better with a digest that it is given, and that of a release never changes."""
        text: str | None = None
        if subject.release is None:
            asked = (subject.system, subject.model_digest, subject.environment)
            text = await self.pool.fetchval(_BY_DIGEST_SQL, *asked)
        elif (row := await self.pool.fetchrow(_SUBJECT_SQL, subject.system, subject.release)) is not None:
            asked = (subject.system, row["model_digest"], row["environment"])
            text = await self.pool.fetchval(_BY_RELEASE_SQL, *asked, subject.release)
        return text

    def _keep(self, subject: Subject, copies: Copies) -> None:
        self._kept[subject] = copies
        self._kept.move_to_end(subject)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
