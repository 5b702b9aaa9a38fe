"""The few fields that releases reads of other services' facts. Fields it does not know are passed over."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from shared.event import RecordedEvent

DataType = TypeVar("DataType")


class Criterion(msgspec.Struct, frozen=True):
    key: str
    dataset: str
    dataset_version: str


class RequirementApproved(msgspec.Struct, frozen=True):
    key: str
    revision: int
    criteria: tuple[Criterion, ...]


class RequirementRetired(msgspec.Struct, frozen=True):
    key: str
    revision: int


class DatasetRegistered(msgspec.Struct, frozen=True):
    name: str
    version: str
    digest: str
    purpose: str


class DatasetWithdrawn(msgspec.Struct, frozen=True):
    name: str
    version: str


class Verdict(msgspec.Struct, frozen=True):
    criterion: str
    outcome: Literal["met", "not met", "inconclusive"]


class VerificationRecorded(msgspec.Struct, frozen=True):
    key: str
    requirement: str
    requirement_revision: int
    model_digest: str
    dataset: str
    dataset_version: str
    dataset_digest: str
    post_hoc: bool
    verdicts: tuple[Verdict, ...]


class VerificationMoved(msgspec.Struct, frozen=True):
    """Submitted, approved, rejected, suspect or cleared: the event's name says which."""

    key: str


class MonitoringPlan(msgspec.Struct, frozen=True):
    """Defined or approved."""

    key: str
    model_digest: str


class DriftSignalEscalated(msgspec.Struct, frozen=True):
    key: str
    to: Literal["change request", "nonconformity"]
    plan: str
    model: str
    version: str


class _Envelope(msgspec.Struct, Generic[DataType]):
    data: DataType


def read(event: RecordedEvent, data_type: type[DataType]) -> DataType:
    """The data of the event; ValueError if a field that is read here is missing or of another type."""
    wanted: Any = _Envelope[data_type]  # type: ignore[valid-type]
    try:
        envelope: _Envelope[DataType] = msgspec.json.decode(event.raw, type=wanted)
    except msgspec.DecodeError as error:
        raise ValueError(f"{event.name} at {event.service}:{event.position}: {error}") from error
    return envelope.data
