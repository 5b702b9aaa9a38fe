"""When a signer or an owner may be forgotten: not while something stands on the name, nor for the time of keeping after it ended.

A signature without a name is no signature that an inspector accepts (21 CFR 11.50), and a duty to keep records goes before a wish
to be forgotten (GDPR, 17(3)(b)); 18(1) of the EU AI Act has ten years. What ends a signature:

    requirement        its revision is superseded or retired, and no release that is in use was verified against it
    test case          retired, or a later revision is approved
    run                voided, or every verification that rests on it has ended
    verification       rejected; or, with no release of its model version in use: that version is withdrawn, every release of it
                       has ended, or the requirement revision has
    release            superseded, rolled back or withdrawn
    change plan        the model has releases, and all have ended
    change request     closed or rejected
    waiver             revoked, or past its date
    monitoring plan    the model version has releases, and all have ended
    review of a trail  when it is signed: it tells of one moment
    AI system          its owners, as if they had signed: the ownership is handed over; or it rests, which is when it had
                       releases, all have ended, and since the last change of status of any of its records

A kind of record that is not here stands: in doubt a name is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from .trace import STATUS_AFTER

RELEASE_ENDS = frozenset({"superseded", "rolled back", "withdrawn"})
OWNER = "owner"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A record that needs the signer's name, and why."""

    record: str
    because: str


class _Life(msgspec.Struct):
    """A record or a revision of one: all that its events said, what it is now, and since when."""

    data: dict[str, Any]
    status: str = "unknown"
    since: datetime | None = None


class _Signature(msgspec.Struct, frozen=True):
    stream: str
    revision: int | None
    at: datetime


class _Records:
    """The fold of the events of one AI system, as far as it matters here. `owned_until` is when the subject handed it over."""

    def __init__(self) -> None:
        self.owned_until: datetime | None = None
        self.lives: dict[str, _Life] = {}
        self.revisions: dict[tuple[str, int], _Life] = {}
        self.signatures: list[_Signature] = []

    def add(self, content: Mapping[str, Any], subject: str) -> None:
        stream, data = content["stream"], content["data"]
        at = datetime.fromisoformat(content["recorded_at"])
        revision = data.get("revision")
        lives = [self.lives.setdefault(stream, _Life({}))]
        if isinstance(revision, int):
            lives.append(self.revisions.setdefault((stream, revision), _Life({})))
        for life in lives:
            life.data.update(data)
            if content["name"] in STATUS_AFTER:
                life.status, life.since = STATUS_AFTER[content["name"]], at
        self._add_owner(content, subject, at)
        if subject in _signers(data) or _becomes_owner(content, subject):
            self.signatures.append(_Signature(stream, revision if isinstance(revision, int) else None, at))

    def _add_owner(self, content: Mapping[str, Any], subject: str, at: datetime) -> None:
        if _becomes_owner(content, subject):
            self.owned_until = None
        elif content["name"] == "requirements.role-revoked" and _names_owner(content["data"], subject):
            self.owned_until = at

    def of_kind(self, kind: str, **fields: object) -> list[_Life]:
        """The records of the kind whose data has these fields."""
        return [
            life
            for stream, life in self.lives.items()
            if stream.partition(":")[0] == kind and all(life.data.get(name) == value for name, value in fields.items())
        ]


def held(events: Iterable[Mapping[str, Any]], *, subject: str, at: datetime, keeping: timedelta) -> Sequence[Held]:
    """The records of one AI system that still need the name of the subject at that moment; `events` are all of it, in order."""
    records = _Records()
    for content in events:
        records.add(content, subject)
    found: dict[str, Held] = {}
    for signature in records.signatures:
        because = _because(records, signature, at, keeping)
        if because is not None:
            found[signature.stream] = Held(record=signature.stream, because=because)
    return [found[stream] for stream in sorted(found)]


def _because(records: _Records, signature: _Signature, at: datetime, keeping: timedelta) -> str | None:
    ended_at = _ENDS.get(signature.stream.partition(":")[0], _never)(records, signature, at)
    if ended_at is None:
        status = records.lives[signature.stream].status
        return f"a signature in it still counts, or its owner still answers for it (status: {status})"
    # A signature that was given after the end, of a void for instance, is kept from then on.
    until = max(ended_at, signature.at) + keeping
    return f"it has to be kept until {until.date().isoformat()}" if at < until else None


def _signers(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("signer"), dict):
            yield value["signer"].get("subject", "")
        for child in value.values():
            yield from _signers(child)
    elif isinstance(value, list):
        for child in value:
            yield from _signers(child)


def _becomes_owner(content: Mapping[str, Any], subject: str) -> bool:
    if content["name"] == "requirements.ai-system-registered":
        return bool(content["data"]["owner"] == subject)
    return content["name"] == "requirements.role-granted" and _names_owner(content["data"], subject)


def _names_owner(data: Mapping[str, Any], subject: str) -> bool:
    return (data["subject"], data["role"]) == (subject, OWNER)


_Ends = Callable[[_Records, _Signature, datetime], datetime | None]


def _never(_records: _Records, _signature: _Signature, _at: datetime) -> datetime | None:
    return None


def _at_once(_records: _Records, signature: _Signature, _at: datetime) -> datetime | None:
    return signature.at


def _with_status(*statuses: str) -> _Ends:
    def ends(records: _Records, signature: _Signature, _at: datetime) -> datetime | None:
        life = records.lives[signature.stream]
        return life.since if life.status in statuses else None

    return ends


def _waiver(records: _Records, signature: _Signature, at: datetime) -> datetime | None:
    life = records.lives[signature.stream]
    if life.status == "revoked":
        return life.since
    expires_at = datetime.fromisoformat(life.data["expires_at"])
    return expires_at if expires_at <= at else None


def _ownership(records: _Records, _signature: _Signature, _at: datetime) -> datetime | None:
    ends = [end for end in (records.owned_until, _rests_since(records)) if end is not None]
    return min(ends, default=None)


def _rests_since(records: _Records) -> datetime | None:
    if _last_of(_releases_ended(records)) is None:
        return None
    return _last_of([life.since for life in records.lives.values() if life.since is not None])


def _requirement(records: _Records, signature: _Signature, _at: datetime) -> datetime | None:
    if any(_in_use(records, model_digest) for model_digest in _verified_with(records, signature)):
        return None
    return _revision_ended(records, signature.stream, signature.revision)


def _verified_with(records: _Records, signature: _Signature) -> set[str]:
    """The model versions that were verified against the revision."""
    key = signature.stream.partition("/")[2]
    verifications = records.of_kind("verification", requirement=key, requirement_revision=signature.revision)
    return {life.data["model_digest"] for life in verifications if life.status != "rejected"}


def _revision_ended(records: _Records, stream: str, revision: int | None) -> datetime | None:
    record = records.lives.get(stream)
    if record is not None and record.status == "retired":
        return record.since
    life = records.revisions.get((stream, revision or 0))
    return life.since if life is not None and life.status == "superseded" else None


def _test_case(records: _Records, signature: _Signature, _at: datetime) -> datetime | None:
    record = records.lives[signature.stream]
    if record.status == "retired":
        return record.since
    later = [
        life.since
        for (stream, revision), life in records.revisions.items()
        if stream == signature.stream and revision > (signature.revision or 0) and life.status == "approved"
    ]
    return min((since for since in later if since is not None), default=None)


def _run(records: _Records, signature: _Signature, at: datetime) -> datetime | None:
    run = records.lives[signature.stream]
    if run.status == "voided":
        return run.since
    system = signature.stream.partition(":")[2].partition("/")[0]
    resting = [
        _verification(records, _Signature(f"verification:{system}/{life.data['key']}", None, signature.at), at)
        for life in records.of_kind("verification", run=run.data.get("key"))
    ]
    return _last_of(resting)


def _verification(records: _Records, signature: _Signature, _at: datetime) -> datetime | None:
    life = records.lives[signature.stream]
    if life.status == "rejected":
        return life.since
    digest = life.data["model_digest"]
    if _in_use(records, digest):
        return None
    system = signature.stream.partition(":")[2].partition("/")[0]
    withdrawn = [one.since for one in records.of_kind("model-version", digest=digest) if one.status == "withdrawn"]
    requirement = _revision_ended(
        records, f"requirement:{system}/{life.data['requirement']}", life.data["requirement_revision"]
    )
    ends = [*withdrawn, _last_of(_releases_ended(records, model_digest=digest)), requirement]
    return min((end for end in ends if end is not None), default=None)


def _plan(field: str, within: str | None = None) -> _Ends:
    """A plan for a model, or for one version of it, ends with the last of its releases."""

    def ends(records: _Records, signature: _Signature, _at: datetime) -> datetime | None:
        data = records.lives[signature.stream].data
        value = (data if within is None else data[within])[field]
        return _last_of(_releases_ended(records, **{field: value}))

    return ends


def _in_use(records: _Records, model_digest: str) -> bool:
    return None in _releases_ended(records, model_digest=model_digest)


def _releases_ended(records: _Records, **fields: object) -> list[datetime | None]:
    """When each release ended, None for one that has not."""
    return [life.since if life.status in RELEASE_ENDS else None for life in records.of_kind("release", **fields)]


def _last_of(ends: Sequence[datetime | None]) -> datetime | None:
    """When the last one ended; None if one has not, or there is none."""
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


_ENDS: Mapping[str, _Ends] = {
    "ai-system": _ownership,
    "requirement": _requirement,
    "test-case": _test_case,
    "run": _run,
    "verification": _verification,
    "release": _with_status(*RELEASE_ENDS),
    "change-plan": _plan("model", within="content"),
    "change-request": _with_status("closed", "rejected"),
    "waiver": _waiver,
    "monitoring-plan": _plan("model_digest"),
    "pack": _at_once,
}
