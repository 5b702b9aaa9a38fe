"""What changed: a release compared with the one before it, field by field, so that nobody has to be believed about it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .model_version import ModelVersionRegistered


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One field that is not what it was; None where there was or is none."""

    what: str
    before: str | None
    after: str | None


def differences(
    *,
    before: ModelVersionRegistered,
    after: ModelVersionRegistered,
    requirements_before: Mapping[str, int],
    requirements_after: Mapping[str, int],
) -> tuple[Difference, ...]:
    """Manifest, data, code and requirement revisions (by key) of two releases, in order of name."""
    old = _fields(before) | {
        f"requirement {key}": f"revision {revision}" for key, revision in requirements_before.items()
    }
    new = _fields(after) | {
        f"requirement {key}": f"revision {revision}" for key, revision in requirements_after.items()
    }
    return tuple(
        Difference(what=what, before=old.get(what), after=new.get(what))
        for what in sorted(set(old) | set(new))
        if old.get(what) != new.get(what)
    )


def _fields(version: ModelVersionRegistered) -> dict[str, str]:
    fields: dict[str, str | None] = {
        "model": version.model,
        "model version": version.version,
        "model digest": version.digest,
        "training dataset": _dataset(version),
        "code revision": version.code_revision,
    }
    for component in version.manifest.components:
        fields[f"{component.kind} {component.name}"] = component.digest
    if version.manifest.hosted is not None:
        fields["hosted model"] = f"{version.manifest.hosted.provider} {version.manifest.hosted.identifier}"
    return {name: value for name, value in fields.items() if value is not None}


def _dataset(version: ModelVersionRegistered) -> str | None:
    if version.training_dataset is None:
        return None
    return f"{version.training_dataset}@{version.training_dataset_version}"
