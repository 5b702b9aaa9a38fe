"""The gate's answers: what the copies here say, what the sources say of themselves, and the rules of the domain."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

import msgspec

from shared.errors import FieldError, Invalid
from shared.event import Actor
from shared.feed import Pulse

from ..domain import gate
from ..domain.evidence import Evidence
from ..domain.gate import Answer, Decision, GateInputs, Weighing
from ..domain.release import ReleaseMissing
from .desk import Desk
from .gate_copies import Copies, GateCopies, Subject

RETRY_SECONDS = 0.02
"""How long to wait before reading again when a source was just a moment ahead."""


class AmbiguousSubject(Invalid):
    """The gate is asked either by release, or by model digest and environment."""


@dataclass(frozen=True, kw_only=True)
class GateKeeper:
    """Answers for a release, or for a model digest and an environment before there is one."""

    desk: Desk
    copies: GateCopies

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
        waivers = await self.copies.waivers(system=system, release=release)
        return Weighing(msgspec.structs.replace(inputs, waivers=waivers)).evidence

    async def inputs(
        self,
        *,
        system: str,
        release: str | None = None,
        model_digest: str | None = None,
        environment: str | None = None,
    ) -> GateInputs:
        """Everything the rules read; ReleaseMissing if the release is unknown here."""
        subject = Subject(system=system, release=release, model_digest=model_digest, environment=environment)
        copies, pulses = await asyncio.gather(self.copies.read(subject), self._pulses())
        if copies is None:
            raise ReleaseMissing(
                f"There is no release {release} in {system}.",
                why="No candidate was opened under this key.",
                next_step="Check the key; if it was opened a moment ago, pass the position of that answer as `after`.",
            )
        return _inputs(system, copies, self.desk.clock(), pulses)

    async def _pulses(self) -> dict[str, Pulse]:
        pulses = await asyncio.gather(*(self.desk.feed.pulse(service=service) for service in gate.SOURCES))
        return dict(zip(gate.SOURCES, pulses, strict=True))


def _inputs(system: str, copies: Copies, at: datetime, pulses: dict[str, Pulse]) -> GateInputs:
    own = gate.SourceInput(
        service="releases",
        head=copies.own_head,
        position=copies.positions["releases"],
        alive_at=None,
        unread=copies.unread.get("releases"),
    )
    return GateInputs(
        system=system,
        environment=copies.environment,
        model_digest=copies.model_digest,
        at=at,
        sources=(own, *(_source(name, pulse, copies) for name, pulse in sorted(pulses.items()))),
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


def _source(service: str, pulse: Pulse, copies: Copies) -> gate.SourceInput:
    """Only verification reacts to requirements before the gate may trust it."""
    reacted = pulse.reacted.get("requirements", 0) if service == "verification" else None
    return gate.SourceInput(
        service=service,
        head=pulse.head,
        position=copies.positions[service],
        alive_at=pulse.at,
        reacted=reacted,
        unread=copies.unread.get(service),
    )
