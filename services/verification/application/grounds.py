"""What verifications rest on, from the read copies: datasets, model versions, requirement revisions.

A fact of another service that has not arrived yet is waited for, for a bounded time; then the error says what to pass as `after`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound

from ..domain import suspicion
from ..domain.evaluation_run import Approval, EvaluationRunRecorded
from ..domain.test_case import RequirementRevision
from ..domain.verification import Criterion

LOOK_AGAIN_SECONDS = 0.05


class GroundUnknown(NotFound):
    """A record of another service that is named here has not been seen."""


class GroundWithdrawn(Conflict):
    """A dataset or model version that was withdrawn cannot be measured."""


class DigestDiffers(Invalid):
    """The digest is not the one that was registered."""


@dataclass(frozen=True, kw_only=True)
class Revision:
    """An approved requirement revision: its criteria, and where in the log its approval stands."""

    approval: Approval
    approved_at: Any
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """Questions to the read copies of one service."""

    pool: asyncpg.Pool
    timeout_s: float

    async def require_dataset(self, *, system: str, name: str, version: str, digest: str) -> None:
        """The dataset version is registered, stands, and has this digest."""
        row = await self._seen(
            lambda: self.pool.fetchrow(
                "SELECT digest, withdrawn FROM dataset WHERE system = $1 AND name = $2 AND version = $3",
                system,
                name,
                version,
            ),
            f"dataset {name} version {version}",
        )
        _require_standing(row, f"The dataset {name} version {version}", digest, "/dataset_digest")

    async def require_model(self, *, system: str, model: str, version: str, digest: str) -> None:
        """The model version is registered, stands, and has this digest."""
        row = await self._seen(
            lambda: self.pool.fetchrow(
                "SELECT digest, withdrawn FROM model_version WHERE system = $1 AND model = $2 AND version = $3",
                system,
                model,
                version,
            ),
            f"model {model} version {version}",
        )
        _require_standing(row, f"The model {model} version {version}", digest, "/model_digest")

    async def revision(self, *, system: str, key: str, revision: int) -> Revision:
        """The approved requirement revision; GroundUnknown if its approval has not arrived."""
        row = await self._seen(
            lambda: self.pool.fetchrow(
                "SELECT criteria, position, leaf_hash, approved_at FROM requirement_revision"
                " WHERE system = $1 AND key = $2 AND revision = $3",
                system,
                key,
                revision,
            ),
            f"approved revision {revision} of the requirement {key}",
        )
        return Revision(
            approval=Approval(requirement=key, revision=revision, position=row["position"], leaf_hash=row["leaf_hash"]),
            approved_at=row["approved_at"],
            criteria=msgspec.json.decode(row["criteria"], type=tuple[Criterion, ...]),
        )

    async def revisions(self, *, system: str, named: Sequence[RequirementRevision]) -> list[Revision]:
        """Several approved revisions, in the order they are named."""
        return [await self.revision(system=system, key=one.key, revision=one.revision) for one in named]

    async def attempts(self, *, system: str, run: EvaluationRunRecorded) -> int:
        """How many runs of this model version on this dataset version were recorded so far, voided ones too."""
        count: int = await self.pool.fetchval(
            "SELECT count(*) FROM evaluation_run WHERE system = $1 AND model_digest = $2 AND dataset_digest = $3"
            " AND status <> 'opened' AND key <> $4",
            system,
            run.model_digest,
            run.dataset_digest,
            run.key,
        )
        return count + 1

    async def broken(self, *, system: str, rests: suspicion.RestsOn) -> str | None:
        """What no longer stands under the verification, in words; None if everything does."""
        row = await self.pool.fetchrow(
            "SELECT d.withdrawn AS dataset_gone, m.withdrawn AS model_gone, t.withdrawn AS training_gone,"
            " r.status = 'voided' AS run_gone"
            " FROM (SELECT 1) one"
            " LEFT JOIN dataset d ON d.system = $1 AND d.name = $2 AND d.version = $3"
            " LEFT JOIN model_version m ON m.system = $1 AND m.model = $4 AND m.version = $5"
            " LEFT JOIN dataset t ON t.system = $1 AND t.name = m.training_dataset AND t.version = m.training_dataset_version"
            " LEFT JOIN evaluation_run r ON r.system = $1 AND r.key = $6",
            system,
            rests.dataset,
            rests.dataset_version,
            rests.model,
            rests.version,
            rests.run,
        )
        gone = {
            "dataset_gone": f"the dataset {rests.dataset} version {rests.dataset_version} was withdrawn",
            "model_gone": f"the model {rests.model} version {rests.version} was withdrawn",
            "training_gone": "the dataset that the model was trained on was withdrawn",
            "run_gone": f"the run {rests.run} was voided",
        }
        return next((words for column, words in gone.items() if row[column]), None)

    async def graph(self, *, system: str) -> suspicion.Graph:
        """The trace graph of the AI system, as far as suspicion travels along it."""
        models = await self.pool.fetch(
            "SELECT model, version, training_dataset, training_dataset_version, parent FROM model_version WHERE system = $1",
            system,
        )
        verifications = await self.pool.fetch(
            "SELECT key, requirement, requirement_revision, model, version, dataset, dataset_version, run"
            " FROM verification WHERE system = $1 AND status IN ('approved', 'suspect')",
            system,
        )
        return suspicion.graph(
            (suspicion.TrainedOn(**row) for row in models), (suspicion.RestsOn(**row) for row in verifications)
        )

    async def _seen(self, look: Callable[[], Awaitable[Any]], what: str) -> Any:
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        while (row := await look()) is None:
            if asyncio.get_running_loop().time() >= deadline:
                raise GroundUnknown(
                    f"The {what} has not been seen here.",
                    why="It belongs to another service, and its event has not arrived.",
                    next_step="Check the name; if it was recorded a moment ago, pass its position as `after`.",
                )
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        return row


def _require_standing(row: Any, what: str, digest: str, field: str) -> None:
    if row["withdrawn"]:
        raise GroundWithdrawn(
            f"{what} was withdrawn.",
            why="What was withdrawn is no ground for new evidence.",
            next_step="Name a version that stands.",
        )
    if row["digest"] != digest:
        raise DigestDiffers(
            f"{what} has another digest.",
            why="A run counts only for exactly the bytes that were registered.",
            next_step=f"Send {row['digest']}, or register what you measured as a version of its own.",
            fields=(FieldError(field=field, rule=f"the registered digest {row['digest']}"),),
        )
