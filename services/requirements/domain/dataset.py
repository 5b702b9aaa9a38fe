"""Dataset: one version of a named set of rows, identified by the SHA-256 of its bytes (ISO/IEC 42001, A.7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, NotFound
from shared.event import Fact

Purpose = Literal["training", "tuning", "test"]


class DatasetExists(Conflict):
    """This version of the dataset is registered with other content; versions never change."""


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
    TOPIC: ClassVar[str] = "requirements.dataset-withdrawn"
    name: str
    version: str
    digest: str


FACTS = (DatasetRegistered, DatasetWithdrawn)


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what was registered, and whether it still stands."""

    registered: DatasetRegistered
    withdrawn: bool = False


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


def withdraw(dataset: Dataset | None) -> Sequence[Fact]:
    """Everything that rests on a withdrawn version becomes suspect."""
    if dataset is None:
        raise DatasetMissing(
            "There is no such dataset version.", why="It was never registered.", next_step="Check name and version."
        )
    if dataset.withdrawn:
        return ()
    registered = dataset.registered
    return (DatasetWithdrawn(name=registered.name, version=registered.version, digest=registered.digest),)


def evolve(dataset: Dataset | None, fact: Fact) -> Dataset:
    """The state after one more fact."""
    match fact:
        case DatasetRegistered():
            return Dataset(registered=fact)
        case DatasetWithdrawn() if dataset is not None:
            return msgspec.structs.replace(dataset, withdrawn=True)
    raise TypeError(f"{fact!r} cannot follow {dataset!r}")
