"""What takes the ground from under verifications: events of three services, and how each is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from shared.command import CommandContext
from shared.event import RecordedEvent, key_of
from shared.reaction import React

from ..consumed_events import DatasetWithdrawn, ModelVersionWithdrawn, RequirementSuperseded
from ..domain import suspicion
from .verifications import Verifications


@dataclass(frozen=True, kw_only=True)
class Suspecting:
    """The reactions of this service; each marks what depends on the record that its event names."""

    verifications: Verifications

    @property
    def handlers(self) -> Mapping[str, React]:
        """By the stored name of the event."""
        return {
            "requirements.requirement-superseded": self.requirement_superseded,
            "requirements.dataset-withdrawn": self.dataset_withdrawn,
            "releases.model-version-withdrawn": self.model_withdrawn,
            "verification.evaluation-run-voided": self.run_voided,
        }

    async def requirement_superseded(self, event: RecordedEvent, context: CommandContext) -> None:
        """Only a material revision makes suspect; an editorial one opens a gap."""
        read = msgspec.convert(event.content()["data"], RequirementSuperseded)
        if read.classification != "material":
            return
        await self.verifications.mark_suspect(
            context=context,
            event=event,
            ground=suspicion.requirement(read.key, read.revision),
            explanation=f"{read.key} was materially revised: revision {read.by_revision} is in force",
        )

    async def dataset_withdrawn(self, event: RecordedEvent, context: CommandContext) -> None:
        """Verifications on the dataset, and on models trained on it."""
        read = msgspec.convert(event.content()["data"], DatasetWithdrawn)
        await self.verifications.mark_suspect(
            context=context,
            event=event,
            ground=suspicion.dataset(read.name, read.version),
            explanation=f"the dataset {read.name} version {read.version} was withdrawn",
        )

    async def model_withdrawn(self, event: RecordedEvent, context: CommandContext) -> None:
        """Verifications of the model version, and of versions derived from it."""
        read = msgspec.convert(event.content()["data"], ModelVersionWithdrawn)
        await self.verifications.mark_suspect(
            context=context,
            event=event,
            ground=suspicion.model_version(read.model, read.version),
            explanation=f"the model {read.model} version {read.version} was withdrawn",
        )

    async def run_voided(self, event: RecordedEvent, context: CommandContext) -> None:
        """Verifications that judged the run."""
        key = key_of(event.stream)
        await self.verifications.mark_suspect(
            context=context,
            event=event,
            ground=suspicion.run(key),
            explanation=f"the evaluation run {key} was voided",
        )
