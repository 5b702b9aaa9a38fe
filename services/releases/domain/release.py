"""Release: what changed, what was tested, who signed off (ISO/IEC 42001, A.6.2.5). Facts, state, and how one follows the other.

    candidate -> gated -> approved -> released -> superseded | suspended | withdrawn | rolled back

Each status is entered by exactly one event. A gate that denies leaves the status as it is. An adopted release has a status of its
own: it runs, and nobody governed it. What may happen is decided in release_decisions.py and sign_off.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, NotFound
from shared.event import Fact, Signature, Upcaster, without_effective_at

from .difference import Difference
from .evidence import Evidence
from .gate import Missing

# `effective_at` of the facts that change what runs is since when it was so, for those told late; None: since it was recorded.

Status = Literal[
    "candidate",
    "gated",
    "approved",
    "released",
    "adopted, not governed",
    "superseded",
    "suspended",
    "withdrawn",
    "rolled back",
]
SignOffRole = Literal["reviewer", "approver", "releaser"]

RUNNING: tuple[Status, ...] = ("released", "adopted, not governed")
OPEN: tuple[Status, ...] = ("candidate", "gated", "approved")


class ReleaseMissing(NotFound):
    """There is no such release."""


class ReleaseNotInState(Conflict):
    """The verb does not fit the status of the release."""


class ReleaseCandidateOpened(Fact, frozen=True, kw_only=True):
    """`previous` is the release that the environment had; `changes` is computed against it. `verifications` and `waivers` are
    those that held when it was opened."""

    TOPIC: ClassVar[str] = "releases.release-candidate-opened"
    key: str
    author: str
    model: str
    version: str
    model_digest: str
    environment: str
    previous: str | None
    change_request: str | None
    required_roles: tuple[SignOffRole, ...]
    verifications: tuple[str, ...]
    waivers: tuple[str, ...]
    changes: tuple[Difference, ...]


class ReleaseAdopted(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.release-adopted"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    key: str
    model: str
    version: str
    model_digest: str
    environment: str
    reporter: str
    effective_at: datetime | None = None


class ReleaseGateEvaluated(Fact, frozen=True, kw_only=True):
    """An answer of the gate that differs from the one before. `waivers` are those without which it would deny."""

    TOPIC: ClassVar[str] = "releases.release-gate-evaluated"
    key: str
    allowed: bool
    decision_id: str
    rules_version: str
    decided_at: datetime
    positions: dict[str, int]
    missing: tuple[Missing, ...]
    waivers: tuple[str, ...]
    valid_until: datetime | None


class ReleaseSignedOff(Fact, frozen=True, kw_only=True):
    """The signature covers the candidate and the evidence; `waiver` is the one of the segregation of duties that it needed."""

    TOPIC: ClassVar[str] = "releases.release-signed-off"
    key: str
    role: SignOffRole
    evidence_digest: str
    waiver: str | None
    signature: Signature


class ReleaseSignOffDeclined(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.release-sign-off-declined"
    key: str
    role: SignOffRole
    evidence_digest: str
    signature: Signature


class ReleaseApproved(Fact, frozen=True, kw_only=True):
    """`evidence` is what met each requirement when it was approved."""

    TOPIC: ClassVar[str] = "releases.release-approved"
    key: str
    approved_by: str
    decision_id: str
    evidence: tuple[Evidence, ...]


class ReleaseDeployed(Fact, frozen=True, kw_only=True):
    """`observed_digest` is what the reporter found running; None when a rollback was decided before anybody looked.

    `sign_off_due` is the deadline of an emergency release; `supersedes` is the release that this one replaced.
    """

    TOPIC: ClassVar[str] = "releases.release-deployed"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    key: str
    model: str
    version: str
    model_digest: str
    environment: str
    observed_digest: str | None
    reporter: str
    emergency: bool
    supersedes: str | None
    sign_off_due: datetime | None
    effective_at: datetime | None = None


class ReleaseSuperseded(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.release-superseded"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    key: str
    environment: str
    by: str
    effective_at: datetime | None = None


class ReleaseSuspended(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.release-suspended"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    key: str
    environment: str
    model_digest: str
    by: str
    reason: str
    effective_at: datetime | None = None


class ReleaseRolledBack(Fact, frozen=True, kw_only=True):
    """`to` is the release that runs again."""

    TOPIC: ClassVar[str] = "releases.release-rolled-back"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    key: str
    environment: str
    model_digest: str
    to: str
    by: str
    reason: str
    effective_at: datetime | None = None


class ReleaseWithdrawn(Fact, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "releases.release-withdrawn"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    key: str
    environment: str
    model_digest: str
    by: str
    reason: str
    effective_at: datetime | None = None


FACTS = (
    ReleaseCandidateOpened,
    ReleaseAdopted,
    ReleaseGateEvaluated,
    ReleaseSignedOff,
    ReleaseSignOffDeclined,
    ReleaseApproved,
    ReleaseDeployed,
    ReleaseSuperseded,
    ReleaseSuspended,
    ReleaseRolledBack,
    ReleaseWithdrawn,
)


class SignOff(msgspec.Struct, frozen=True, kw_only=True):
    """The last word of one role."""

    role: SignOffRole
    subject: str
    evidence_digest: str
    declined: bool
    waiver: str | None
    signed_at: datetime


class GateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer recorded last; `missing` has code and record of each item."""

    allowed: bool
    decision_id: str
    rules_version: str
    missing: tuple[tuple[str, str], ...]
    waivers: tuple[str, ...]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The state. `opened` is None for an adopted release; `supersedes` is what it replaced when it was deployed last.

    `stopped` stays True for a release that was suspended, until it is deployed anew.
    """

    key: str
    model: str
    version: str
    model_digest: str
    environment: str
    status: Status
    opened: ReleaseCandidateOpened | None = None
    sign_offs: Mapping[str, SignOff] = {}
    gate: GateAnswer | None = None
    evidence: tuple[Evidence, ...] = ()
    supersedes: str | None = None
    superseded_by: str | None = None
    stopped: bool = False
    emergency: bool = False
    sign_off_due: datetime | None = None

    @property
    def governed(self) -> bool:
        """False for a release that was adopted."""
        return self.opened is not None

    @property
    def signed_off(self) -> bool:
        """Whether each required role has signed and none declined."""
        roles = self.opened.required_roles if self.opened is not None else ()
        return bool(roles) and all(role in self.sign_offs and not self.sign_offs[role].declined for role in roles)


def existing(release: Release | None) -> Release:
    """The state, or ReleaseMissing."""
    if release is None:
        raise ReleaseMissing(
            "There is no such release.", why="No candidate was opened under this key.", next_step="Check the key."
        )
    return release


def in_status(release: Release | None, wanted: tuple[Status, ...], *, verb: str) -> Release:
    """The state if it has one of the statuses; ReleaseNotInState otherwise."""
    release = existing(release)
    if release.status not in wanted:
        raise ReleaseNotInState(
            f"You cannot {verb} {release.key}: it is {release.status}.",
            why=f"The release would have to be {' or '.join(wanted)}.",
            next_step="Read the release; what has ended is replaced by a new candidate.",
        )
    return release


def evolve(release: Release | None, fact: Fact) -> Release:
    """The state after one more fact."""
    if isinstance(fact, ReleaseCandidateOpened | ReleaseAdopted):
        return _first(fact)
    if release is None:
        raise TypeError(f"{fact!r} cannot come first")
    replace = msgspec.structs.replace
    match fact:
        case ReleaseGateEvaluated():
            status: Status = "gated" if fact.allowed and release.status == "candidate" else release.status
            return replace(release, gate=_answer(fact), status=status)
        case ReleaseSignedOff() | ReleaseSignOffDeclined():
            return replace(release, sign_offs={**release.sign_offs, fact.role: _sign_off(fact)})
        case ReleaseApproved():
            return replace(release, status="approved", evidence=fact.evidence)
        case ReleaseDeployed():
            return _deployed(release, fact)
        case ReleaseSuperseded():
            return replace(release, status="superseded", superseded_by=fact.by)
        case ReleaseSuspended():
            return replace(release, status="suspended", stopped=True)
        case ReleaseRolledBack():
            return replace(release, status="rolled back")
        case ReleaseWithdrawn():
            return replace(release, status="withdrawn")
    raise TypeError(f"{fact!r} is no fact of a release")


def _first(fact: ReleaseCandidateOpened | ReleaseAdopted) -> Release:
    opened = fact if isinstance(fact, ReleaseCandidateOpened) else None
    return Release(
        key=fact.key,
        model=fact.model,
        version=fact.version,
        model_digest=fact.model_digest,
        environment=fact.environment,
        status="candidate" if opened is not None else "adopted, not governed",
        opened=opened,
    )


def _deployed(release: Release, fact: ReleaseDeployed) -> Release:
    """A release that runs again keeps what it once replaced, and its deadline."""
    return msgspec.structs.replace(
        release,
        status="released",
        superseded_by=None,
        stopped=False,
        supersedes=fact.supersedes or release.supersedes,
        emergency=fact.emergency or release.emergency,
        sign_off_due=fact.sign_off_due or release.sign_off_due,
    )


def _sign_off(fact: ReleaseSignedOff | ReleaseSignOffDeclined) -> SignOff:
    return SignOff(
        role=fact.role,
        subject=fact.signature.signer.subject,
        evidence_digest=fact.evidence_digest,
        declined=isinstance(fact, ReleaseSignOffDeclined),
        waiver=fact.waiver if isinstance(fact, ReleaseSignedOff) else None,
        signed_at=fact.signature.signed_at,
    )


def _answer(fact: ReleaseGateEvaluated) -> GateAnswer:
    return GateAnswer(
        allowed=fact.allowed,
        decision_id=fact.decision_id,
        rules_version=fact.rules_version,
        missing=tuple((item.code, item.record) for item in fact.missing),
        waivers=fact.waivers,
    )
