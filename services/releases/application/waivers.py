"""Waivers: what an approver allows another person to release, until when, and with which control in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.command import Change, CommandContext, execute, load_state
from shared.event import Actor
from shared.event_store import Receipt
from shared.signing import Signable, signable_of

from ..domain import waiver
from ..domain.waiver import Waiver, WaiverContent
from .desk import APPROVERS, Desk, waiver_stream


async def waivers_of_release(desk: Desk, system: str, release: str) -> list[Waiver]:
    """The waivers of a release that were not revoked, in order of key."""
    rows = await desk.pool.fetch(
        "SELECT key FROM waiver WHERE system = $1 AND release = $2 AND NOT revoked ORDER BY key", system, release
    )
    states = [await desk.load(waiver_stream(system, row["key"]), waiver.evolve) for row in rows]
    return [state for state in states if state is not None and not state.revoked]


@dataclass(frozen=True, kw_only=True)
class Waivers:
    """The verbs of waivers."""

    desk: Desk

    async def preview_waiver(self, *, actor: Actor, system: str, content: WaiverContent) -> Signable:
        """What the approver would sign. Nothing is stored: the same content is sent again with its digest."""
        await self.desk.access.require_reader(system=system, actor=actor)
        stream = waiver_stream(system, content.key)
        return signable_of(
            record=stream,
            system=system,
            title=f"Waiver {content.key} of {content.requirement or content.kind} for {content.release}",
            meaning="waiver granted",
            roles=APPROVERS,
            canonical=waiver.grant_bytes(content, record=stream),
            before=None,
            version=0,
        )

    async def grant_waiver(
        self,
        *,
        context: CommandContext,
        system: str,
        content: WaiverContent,
        digest: str,
        covers: Sequence[str] = (),
    ) -> Receipt:
        """An approver signs the content whose digest they were shown."""
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        signature = context.sign(meaning="waiver granted", digest=digest, covers=covers)
        stream = waiver_stream(system, content.key)
        return await execute(
            self.desk.store,
            context,
            Change(
                stream,
                waiver.evolve,
                lambda state: waiver.grant(state, content=content, record=stream, signature=signature),
            ),
        )

    async def revoke_waiver(
        self, *, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str] = ()
    ) -> Receipt:
        await self.desk.access.require_signer(system=system, actor=context.actor, roles=APPROVERS)
        return await execute(self.desk.store, context, self.revocation(context, system, key, digest, covers))

    def revocation(
        self, context: CommandContext, system: str, key: str, digest: str, covers: Sequence[str]
    ) -> Change[Waiver]:
        """The signature that ends a waiver, to be executed alone or with others."""
        signature = context.sign(meaning="waiver revoked", digest=digest, covers=covers)
        stream = waiver_stream(system, key)
        return Change(stream, waiver.evolve, lambda state: waiver.revoke(state, record=stream, signature=signature))

    async def waiver(self, *, actor: Actor, system: str, key: str) -> tuple[Waiver, int]:
        """The waiver and its version."""
        await self.desk.access.require_reader(system=system, actor=actor)
        state, version = await load_state(self.desk.store, waiver_stream(system, key), waiver.evolve)
        return waiver.existing(state), version
