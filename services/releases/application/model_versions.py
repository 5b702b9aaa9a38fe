"""Model versions: registering and withdrawing what may be released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from shared.access import Role
from shared.command import Change, CommandContext, execute, load_state
from shared.errors import FieldError, NotFound
from shared.event import Actor, require_not_future
from shared.event_store import Receipt

from ..domain import model_version
from ..domain.model_version import Component, HostedModel, ModelVersion, ModelVersionRegistered
from .desk import AUTHORS, Desk, model_version_stream


class TrainingDatasetUnknown(NotFound):
    """The training dataset is not registered, or is withdrawn."""


class ParentUnknown(NotFound):
    """The parent is not a registered version of the same model."""


@dataclass(frozen=True, kw_only=True)
class ModelVersions:
    """The verbs of model versions."""

    desk: Desk

    async def register_model_version(
        self,
        *,
        context: CommandContext,
        system: str,
        model: str,
        version: str,
        components: Sequence[Component],
        hosted: HostedModel | None,
        digest: str | None,
        training_dataset: str | None,
        training_dataset_version: str | None,
        code_revision: str,
        parent: str | None,
        why: str,
    ) -> Receipt:
        """An author names an artefact by its manifest; `digest`, if given, must be that of the manifest."""
        await self.desk.access.require(system=system, actor=context.actor, roles=AUTHORS)
        if (answered := await self.desk.answered(context)) is not None:
            return answered
        manifest = model_version.manifest_of(components=components, hosted=hosted)
        model_version.require_stated_digest(manifest=manifest, stated=digest)
        await self._require_training_dataset(system, training_dataset, training_dataset_version, hosted)
        if parent is not None:
            await self._require_parent(system, model, version, parent)
        registered = ModelVersionRegistered(
            model=model,
            version=version,
            digest=model_version.manifest_digest(manifest),
            manifest_digest_verifiable=hosted is None,
            manifest=manifest,
            training_dataset=training_dataset,
            training_dataset_version=training_dataset_version,
            code_revision=code_revision,
            parent=parent,
            author=context.actor.subject,
            why=why,
        )
        return await execute(
            self.desk.store,
            context,
            Change(
                model_version_stream(system, model, version),
                model_version.evolve,
                lambda state: model_version.register(state, registered=registered),
            ),
        )

    async def withdraw_model_version(
        self, *, context: CommandContext, system: str, model: str, version: str, effective_at: datetime | None = None
    ) -> Receipt:
        """An author or approver takes a version out of use; releases of it stay as they are, as a gap."""
        await self.desk.access.require(system=system, actor=context.actor, roles=(Role.AUTHOR, Role.APPROVER))
        require_not_future(effective_at, at=context.at)
        stream = model_version_stream(system, model, version)
        withdraw = partial(model_version.withdraw, effective_at=effective_at)
        return await execute(self.desk.store, context, Change(stream, model_version.evolve, withdraw))

    async def model_version(self, *, actor: Actor, system: str, model: str, version: str) -> tuple[ModelVersion, int]:
        """The model version, and the version of its stream."""
        await self.desk.access.require_reader(system=system, actor=actor)
        stream = model_version_stream(system, model, version)
        state, stream_version = await load_state(self.desk.store, stream, model_version.evolve)
        return model_version.existing(state), stream_version

    async def _require_parent(self, system: str, model: str, version: str, parent: str) -> None:
        found = await self.desk.load(model_version_stream(system, model, parent), model_version.evolve)
        if found is None or parent == version:
            raise ParentUnknown(
                f"{model} has no version {parent} that this one could come from.",
                why="A parent is an earlier registered version of the same model.",
                next_step="Register the parent first, or leave it out.",
                fields=(FieldError(field="/parent", rule="a registered version of the same model"),),
            )

    async def _require_training_dataset(
        self, system: str, name: str | None, version: str | None, hosted: HostedModel | None
    ) -> None:
        """Whoever trained the model knows on what; for a hosted model nobody here does."""
        if name is None and version is None and hosted is not None:
            return
        if await self._stands(system, name, version):
            return
        await self.desk.read_all_of("requirements")
        if not await self._stands(system, name, version):
            raise TrainingDatasetUnknown(
                f"{name or 'No dataset'} version {version or 'none'} is not a registered dataset that stands.",
                why="A model version names the dataset version that it was trained on, unless it is hosted.",
                next_step="Register the dataset in requirements; if that was a moment ago, pass its position as `after`.",
                fields=(FieldError(field="/training_dataset", rule="a registered dataset, not withdrawn"),),
            )

    async def _stands(self, system: str, name: str | None, version: str | None) -> bool:
        found: bool = await self.desk.pool.fetchval(
            "SELECT EXISTS (SELECT FROM dataset WHERE system = $1 AND name = $2 AND version = $3 AND NOT withdrawn)",
            system,
            name,
            version,
        )
        return found
