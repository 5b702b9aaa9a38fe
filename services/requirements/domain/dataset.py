"""Dataset: one version of a named set of rows, identified by the SHA-256 of its bytes (ISO/IEC 42001, A.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, NotFound
from shared.event import Fact, Upcaster, without_effective_at

Purpose = Literal["training", "tuning", "test"]


class DatasetExists(Conflict):
    """This version of the dataset is registered with other content; versions never change."""


class WithdrawnBefore(Conflict):
    """It was withdrawn, and said to be so since another time."""


class DatasetMissing(NotFound):
    """There is no such version of the dataset."""


class DatasetRegistered(Fact, frozen=True, kw_only=True):
    """`digest` is hex SHA-256 of the bytes; `sequestered` says whether developers were kept from seeing the rows."""

    TOPIC: ClassVar[str] = "requirements.dataset-registered"
    name: str
    version: str
    digest: str
    rows: int
    columns: tuple[str, ...]
    purpose: Purpose
    provenance: str
    licence: str
    sequestered: bool
    personal_data: bool


class DatasetWithdrawn(Fact, frozen=True, kw_only=True):
    """`effective_at` is since when nothing should rest on it; None: since it was recorded."""

    TOPIC: ClassVar[str] = "requirements.dataset-withdrawn"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    name: str
    version: str
    digest: str
    effective_at: datetime | None = None


FACTS = (DatasetRegistered, DatasetWithdrawn)


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what was registered, and whether it still stands."""

    registered: DatasetRegistered
    withdrawn: bool = False
    withdrawn_from: datetime | None = None


def register(dataset: Dataset | None, *, registered: DatasetRegistered) -> Sequence[Fact]:
    """A version is registered once; the same again is a repeat."""
    if dataset is None:
        return (registered,)
    if dataset.registered == registered:
        return ()
    raise DatasetExists(
        f"{registered.name} version {registered.version} is registered with other content.",
        why="A dataset version never changes: its digest names its bytes.",
        next_step="Register the new bytes under a new version.",
    )


def withdraw(dataset: Dataset | None, *, effective_at: datetime | None = None) -> Sequence[Fact]:
    """Everything that rests on a withdrawn version becomes suspect, from `effective_at` on if that was before now."""
    if dataset is None:
        raise DatasetMissing(
            "There is no such dataset version.", why="It was never registered.", next_step="Check name and version."
        )
    registered = dataset.registered
    if dataset.withdrawn and effective_at in {None, dataset.withdrawn_from}:
        return ()
    if dataset.withdrawn:
        raise WithdrawnBefore(
            f"{registered.name} version {registered.version} is withdrawn, with another effective_at or none.",
            why="What was told is not told differently later.",
            next_step="Leave effective_at out.",
        )
    return (
        DatasetWithdrawn(
            name=registered.name, version=registered.version, digest=registered.digest, effective_at=effective_at
        ),
    )


def evolve(dataset: Dataset | None, fact: Fact) -> Dataset:
    """The state after one more fact."""
    match fact:
        case DatasetRegistered():
            return Dataset(registered=fact)
        case DatasetWithdrawn() if dataset is not None:
            return msgspec.structs.replace(dataset, withdrawn=True, withdrawn_from=fact.effective_at)
    raise TypeError(f"{fact!r} cannot follow {dataset!r}")
