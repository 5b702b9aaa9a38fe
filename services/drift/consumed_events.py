"""The few fields that this service reads of the facts of releases; anything else in them is ignored."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from shared.event import RecordedEvent

SOURCE = "releases"

MODEL_VERSION_REGISTERED = "releases.model-version-registered"
MODEL_VERSION_WITHDRAWN = "releases.model-version-withdrawn"
RELEASE_DEPLOYED = "releases.release-deployed"
CHANGE_CLOSED = "releases.change-closed"
NONCONFORMITY_RAISED = "releases.nonconformity-raised"
CORRECTIVE_ACTION_VERIFIED = "releases.corrective-action-verified"


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Of a registration and of a withdrawal."""

    model: str
    version: str
    digest: str


class ReleaseDeployed(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    model: str
    model_digest: str
    environment: str


class ChangeClosed(msgspec.Struct, frozen=True, kw_only=True):
    """`signal` is the key of the drift signal that caused the change, None if another reason did."""

    key: str
    signal: str | None = None


class NonconformityRaised(msgspec.Struct, frozen=True, kw_only=True):
    """`record` names the stream of what does not conform."""

    key: str
    record: str


class CorrectiveActionVerified(msgspec.Struct, frozen=True, kw_only=True):
    key: str


FieldsType = TypeVar("FieldsType")


def fields_of(event: RecordedEvent, fields: type[FieldsType]) -> FieldsType:
    """The fields of the event's data. ValueError if one is absent or of another type."""
    return msgspec.convert(event.content()["data"], fields)
