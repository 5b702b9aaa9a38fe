"""The few fields that this service reads of others' facts; whatever else they hold is not its business."""

from __future__ import annotations

import msgspec

from .domain.verification import Criterion


class DatasetRegistered(msgspec.Struct, frozen=True):
    name: str
    version: str
    digest: str
    purpose: str


class DatasetWithdrawn(msgspec.Struct, frozen=True):
    name: str
    version: str


class RequirementApproved(msgspec.Struct, frozen=True):
    key: str
    revision: int
    criteria: tuple[Criterion, ...]


class RequirementSuperseded(msgspec.Struct, frozen=True):
    key: str
    revision: int
    by_revision: int
    classification: str


class RequirementRetired(msgspec.Struct, frozen=True):
    key: str
    revision: int


class ModelVersionRegistered(msgspec.Struct, frozen=True):
    model: str
    version: str
    digest: str
    training_dataset: str | None = None
    training_dataset_version: str | None = None
    parent: str | None = None


class ModelVersionWithdrawn(msgspec.Struct, frozen=True):
    model: str
    version: str
