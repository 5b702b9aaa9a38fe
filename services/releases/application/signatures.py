"""Signing: what waits for a person, what they would sign, and one act that signs or declines all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.access import Role
from shared.command import Change, CommandContext, execute, load_state
from shared.errors import Conflict, FieldError
from shared.event import Actor, key_of, stream_of, system_of
from shared.event_store import Receipt
from shared.signing import Decision, NothingToSign, Signable, SignItem, signable_of

from ..domain import change_plan, change_request, release, sign_off, waiver
from ..domain.evidence import evidence_digest
from ..domain.release import Release, SignOffRole
from .change_control import ChangeControl
from .desk import APPROVERS, Desk, release_stream
from .gate_keeper import GateKeeper
from .release_control import ROLES, ReleaseControl
from .waivers import Waivers

AWAITING_MAX = 200

_AWAITING = """
SELECT 'change-plan' AS kind, c.system, c.key FROM change_plan c
    JOIN role_grant g ON g.system = c.system AND g.subject = $1 AND g.role = 'approver' WHERE c.status = 'draft'
UNION
SELECT 'change-request', c.system, c.key FROM change_request c
    JOIN role_grant g ON g.system = c.system AND g.subject = $1 AND g.role = 'approver' WHERE c.status = 'assessed'
UNION
SELECT 'release', r.system, r.key FROM release r
    JOIN role_grant g ON g.system = r.system AND g.subject = $1 AND r.required_roles::jsonb ? g.role
    WHERE r.status IN ('candidate', 'gated', 'approved') OR (r.status IN ('released', 'suspended', 'superseded') AND r.emergency)
ORDER BY kind, system, key LIMIT $2
"""


class CannotBeDeclined(Conflict):
    """There is no word against this record; leaving it unsigned says the same."""


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """The signing protocol of this service: change plans, change requests, releases, and waivers to revoke."""

    desk: Desk
    gate: GateKeeper
    changes: ChangeControl
    releases: ReleaseControl
    waivers: Waivers

    async def awaiting_signature(self, *, actor: Actor) -> Sequence[Signable]:
        """What this person may sign now, in order of record."""
        rows = await self.desk.pool.fetch(_AWAITING, actor.subject, AWAITING_MAX)
        found = [await self._awaited(actor, row["kind"], row["system"], row["key"]) for row in rows]
        return [one for one in found if one is not None]

    async def _awaited(self, actor: Actor, kind: str, system: str, key: str) -> Signable | None:
        if kind == "release":
            state, version = await self.releases.release(actor=actor, system=system, key=key)
            return await self._release_signable(actor, system, state, version, own=True)
        record = stream_of(kind=kind, system=system, key=key)
        if kind == "change-plan":
            plan, _ = await self.changes.change_plan(actor=actor, system=system, key=key)
            waits = plan.status == "draft" and actor.subject not in plan.authors
        else:
            request, _ = await self.changes.change_request(actor=actor, system=system, key=key)
            waits = request.status == "assessed" and actor.subject not in request.authors
        return await self.signable(actor=actor, record=record) if waits else None

    async def signable(self, *, actor: Actor, record: str) -> Signable:
        kind, system, key = _parts(record)
        match kind:
            case "change-plan":
                return await self._plan_signable(actor, system, key)
            case "change-request":
                return await self._change_signable(actor, system, key)
            case "waiver":
                return await self._waiver_signable(actor, system, key)
        state, version = await self.releases.release(actor=actor, system=system, key=key)
        signable = await self._release_signable(actor, system, state, version, own=False)
        if signable is None:
            raise _nothing_to_sign(record)
        return signable

    async def _plan_signable(self, actor: Actor, system: str, key: str) -> Signable:
        plan, version = await self.changes.change_plan(actor=actor, system=system, key=key)
        record = stream_of(kind="change-plan", system=system, key=key)
        return signable_of(
            record=record,
            system=system,
            title=f"Change plan {key}: {plan.content.title}",
            meaning="approval",
            roles=APPROVERS,
            canonical=change_plan.signable_bytes(plan, record=record),
            before=None,
            version=version,
        )

    async def _change_signable(self, actor: Actor, system: str, key: str) -> Signable:
        request, version = await self.changes.change_request(actor=actor, system=system, key=key)
        record = stream_of(kind="change-request", system=system, key=key)
        classification = request.classified.classification if request.classified is not None else "not classified yet"
        return signable_of(
            record=record,
            system=system,
            title=f"Change request {key}: {request.submitted.cause}, {classification}",
            meaning="approval",
            roles=APPROVERS,
            canonical=change_request.signable_bytes(request, record=record),
            before=None,
            version=version,
        )

    async def _waiver_signable(self, actor: Actor, system: str, key: str) -> Signable:
        """A waiver is granted with its content (see preview_waiver); what can be signed of it later is its revocation."""
        found, version = await self.waivers.waiver(actor=actor, system=system, key=key)
        record = stream_of(kind="waiver", system=system, key=key)
        return signable_of(
            record=record,
            system=system,
            title=f"Revocation of waiver {key} for {found.content.release}",
            meaning="waiver revoked",
            roles=APPROVERS,
            canonical=waiver.revocation_bytes(found, record=record),
            before=waiver.grant_bytes(found.content, record=record),
            version=version,
        )

    async def _release_signable(
        self, actor: Actor, system: str, state: Release, version: int, *, own: bool
    ) -> Signable | None:
        """In the first role that is outstanding and that the actor holds; any outstanding one for others, unless `own`."""
        evidence = await self.gate.evidence(system=system, release=state.key)
        outstanding = sign_off.outstanding(state, digest=evidence_digest(evidence))
        held = await self.desk.access.roles(system=system, subject=actor.subject)
        mine = [role for role in outstanding if ROLES[role] in held and not (own and _excluded(state, role, actor))]
        role = next(iter(mine if own else (*mine, *outstanding)), None)
        if role is None:
            return None
        record = release_stream(system, state.key)
        return signable_of(
            record=record,
            system=system,
            title=f"Release {state.key}: {state.model} version {state.version} to {state.environment}",
            meaning=sign_off.MEANINGS[role],
            roles=(ROLES[role],),
            canonical=sign_off.signable_bytes(state, role=role, evidence=evidence, record=record),
            before=await self._signed_before(system, state, role),
            version=version,
        )

    async def _signed_before(self, system: str, state: Release, role: SignOffRole) -> bytes | None:
        """The same text of the release before it."""
        previous = state.opened.previous if state.opened is not None else None
        if previous is None:
            return None
        record = release_stream(system, previous)
        before, _ = await load_state(self.desk.store, record, release.evolve)
        if before is None:
            return None
        return sign_off.signable_bytes(before, role=role, evidence=before.evidence, record=record)

    async def sign(self, *, context: CommandContext, decision: Decision, items: Sequence[SignItem]) -> Receipt:
        """All items in one transaction."""
        covers = [item.digest for item in items]
        changes = [await self._change(context, decision, item, covers) for item in items]
        return await execute(self.desk.store, context, *changes)

    async def _change(
        self, context: CommandContext, decision: Decision, item: SignItem, covers: Sequence[str]
    ) -> Change[Any]:
        kind, system, key = _parts(item.record)
        if kind == "release":
            role = sign_off.role_of(item.meaning)
            build = self.releases.sign_off_change if decision == "sign" else self.releases.decline_change
            return await build(context, system, key, role, item.digest, covers)
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=(Role.APPROVER,))
        if kind == "change-request":
            judge = self.changes.change_approval if decision == "sign" else self.changes.change_rejection
            return judge(context, system, key, item.digest, covers)
        if decision == "decline":
            raise CannotBeDeclined(
                f"{item.record} cannot be declined.",
                why="A draft that nobody approves and a waiver that nobody revokes stay as they are.",
                next_step="Leave it unsigned, and tell its author why.",
            )
        if kind == "change-plan":
            return self.changes.plan_approval(context, system, key, item.digest, covers)
        return self.waivers.revocation(context, system, key, item.digest, covers)


def _excluded(state: Release, role: SignOffRole, actor: Actor) -> bool:
    """Whether duties are segregated from this person; a waiver would still open the way, by fetching the record itself."""
    author = state.opened is not None and state.opened.author == actor.subject
    return author or any(one.subject == actor.subject and one.role != role for one in state.sign_offs.values())


def _parts(record: str) -> tuple[str, str, str]:
    kind = record.partition(":")[0]
    system, key = system_of(record), key_of(record)
    known = kind in ("change-plan", "change-request", "release", "waiver")
    if system is None or not known or record != stream_of(kind=kind, system=system, key=key):
        raise _nothing_to_sign(record)
    return kind, system, key


def _nothing_to_sign(record: str) -> NothingToSign:
    return NothingToSign(
        f"Nothing of {record!r} waits for a signature here.",
        why="Change plans, change requests, releases and the revocation of waivers are signed here.",
        next_step="GET awaiting-signature lists what waits for you.",
        fields=(FieldError(field="record", rule="change-plan|change-request|release|waiver:<system>/<key>"),),
    )
