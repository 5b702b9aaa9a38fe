"""What the gate reads of this service's own copies: one statement, one snapshot.

Requirements and their standings are many and change one at a time, so they are kept in memory and only the rows that were written
since are read. They follow from their positions alone, so what was kept stays true.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg
import msgspec

from ..domain import gate
from ..domain.evidence import CriterionInput, Standing

KEPT_MAX = 8
"""How many model digests are kept in memory: about 2 MB each with 1,000 requirements."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the gate is asked about: a release, or a model digest in an environment."""

    system: str
    release: str | None
    model_digest: str | None
    environment: str | None


class _Small(msgspec.Struct, frozen=True, kw_only=True):
    """What is few."""

    own_head: int
    positions: dict[str, int]
    unread: dict[str, int]
    environment: str
    model_digest: str
    release: gate.ReleaseInput | None
    newest: str | None
    previous: gate.PreviousInput | None
    model_versions: tuple[gate.ModelVersionInput, ...]
    datasets: dict[str, str]
    monitoring_plans: tuple[gate.MonitoringPlanInput, ...]
    change: gate.ChangeInput | None
    waivers: tuple[gate.WaiverInput, ...]


class Copies(_Small, frozen=True, kw_only=True):
    """What the gate is told: the inputs without what the sources say of themselves."""

    requirements: tuple[gate.RequirementInput, ...]


class _RequirementRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    key: str
    revision: int
    criteria: tuple[CriterionInput, ...]
    in_force: bool


class _StandingRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    requirement: str
    revision: int
    standing: Standing


class _Read(_Small, frozen=True, kw_only=True):
    """What the statement returns: the rows that were written above the positions it was given, and which tables those are."""

    tables: int
    requirement_rows: tuple[_RequirementRow, ...]
    standing_rows: tuple[_StandingRow, ...]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The requirements and the standings of one model digest, as of the positions of their sources; `inputs` are those in force."""

    tables: int | None = None
    requirements_position: int = -1
    verification_position: int = -1
    rows: Mapping[str, _RequirementRow] = field(default_factory=dict)
    standings: Mapping[tuple[str, int], Standing] = field(default_factory=dict)
    inputs: Mapping[str, gate.RequirementInput] = field(default_factory=dict)

    def is_outdated_by(self, read: _Read) -> bool:
        """A rebuild made new tables, which may hold what was a dead letter; a restored database is behind what was read of it."""
        return (
            self.tables not in (None, read.tables)
            or self.requirements_position > read.positions["requirements"]
            or self.verification_position > read.positions["verification"]
        )

    def with_rows(self, read: _Read) -> _Kept:
        """What was kept, with the rows that were written since; `inputs` stay in order of key."""
        rows = {**self.rows, **{row.key: row for row in read.requirement_rows}}
        standings = {**self.standings, **{(row.requirement, row.revision): row.standing for row in read.standing_rows}}
        inputs = dict(self.inputs)
        for key in {row.key for row in read.requirement_rows} | {row.requirement for row in read.standing_rows}:
            row = rows.get(key)
            if row is not None and row.in_force:
                inputs[key] = _input(row, standings)
            else:
                inputs.pop(key, None)
        return _Kept(
            tables=read.tables,
            requirements_position=read.positions["requirements"],
            verification_position=read.positions["verification"],
            rows=rows,
            standings=standings,
            inputs=inputs if not read.requirement_rows else dict(sorted(inputs.items())),
        )


def _input(row: _RequirementRow, standings: Mapping[tuple[str, int], Standing]) -> gate.RequirementInput:
    return gate.RequirementInput(
        key=row.key, revision=row.revision, criteria=row.criteria, standing=standings.get((row.key, row.revision))
    )


_decoder = msgspec.json.Decoder(_Read)
_waivers_decoder = msgspec.json.Decoder(tuple[gate.WaiverInput, ...])

_SUBJECT_SQL = "SELECT model_digest, environment FROM release WHERE system = $1 AND key = $2"

_BY_RELEASE = "SELECT $6::text AS key"
_BY_DIGEST = """
    SELECT (SELECT key FROM release WHERE system = $1 AND model_digest = $2 AND environment = $3
            AND status IN ('candidate', 'gated', 'approved', 'released') ORDER BY position DESC LIMIT 1) AS key"""

_COPIES = """
WITH asked AS ({asked}),
target AS (SELECT r.* FROM release r JOIN asked ON r.system = $1 AND r.key = asked.key),
newest AS (SELECT release FROM environment WHERE system = $1 AND environment = $3),
version AS (SELECT model, version, withdrawn FROM model_version WHERE system = $1 AND digest = $2)
SELECT json_build_object(
    'tables', 'requirement'::regclass::oid::bigint,
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
    'requirement_rows', (SELECT coalesce(json_agg(json_build_array(key, revision, criteria, in_force)), '[]')
        FROM requirement WHERE system = $1 AND position > $4::bigint),
    'standing_rows', (SELECT coalesce(json_agg(json_build_array(requirement, revision, standing)), '[]')
        FROM standing WHERE system = $1 AND model_digest = $2 AND position > $5::bigint),
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


@dataclass(frozen=True, kw_only=True)
class GateCopies:
    """Reads the copies."""

    pool: asyncpg.Pool
    _kept: OrderedDict[tuple[str, str], _Kept] = field(default_factory=OrderedDict)

    async def read(self, subject: Subject) -> Copies | None:
        """All that the rules need to know of the subject; None if the release is unknown."""
        model_digest, environment = subject.model_digest, subject.environment
        if subject.release is not None:
            row = await self.pool.fetchrow(_SUBJECT_SQL, subject.system, subject.release)
            if row is None:
                return None
            model_digest, environment = row["model_digest"], row["environment"]
        assert model_digest is not None
        assert environment is not None
        kept = self._kept.get((subject.system, model_digest), _Kept())
        read = await self._fetch(subject, model_digest, environment, kept)
        if kept.is_outdated_by(read):
            kept = _Kept()
            read = await self._fetch(subject, model_digest, environment, kept)
        kept = kept.with_rows(read)
        self._keep((subject.system, model_digest), kept)
        small = {name: getattr(read, name) for name in _Small.__struct_fields__}
        return Copies(**small, requirements=tuple(kept.inputs.values()))

    async def waivers(self, *, system: str, release: str) -> tuple[gate.WaiverInput, ...]:
        """The waivers of a release, whether it is opened or not."""
        return _waivers_decoder.decode(await self.pool.fetchval(_WAIVERS_SQL, system, release))

    async def _fetch(self, subject: Subject, model_digest: str, environment: str, kept: _Kept) -> _Read:
        """The statement plans better with a digest that it is given, and that of a release never changes."""
        known = (subject.system, model_digest, environment, kept.requirements_position, kept.verification_position)
        if subject.release is None:
            return _decoder.decode(await self.pool.fetchval(_BY_DIGEST_SQL, *known))
        return _decoder.decode(await self.pool.fetchval(_BY_RELEASE_SQL, *known, subject.release))

    def _keep(self, key: tuple[str, str], kept: _Kept) -> None:
        """Of two that read at the same time the later one stays; either is true at its positions."""
        self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
