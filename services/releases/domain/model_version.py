"""ModelVersion: one immutable trained artefact, named by the digest of a manifest of everything that decides its output.

A hosted model is known by its provider's identifier alone: its digest is over that name, so it is marked unverifiable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from shared.errors import Conflict, FieldError, Invalid, NotFound
from shared.event import Fact, Upcaster, canonical_bytes, digest_of, without_effective_at

ComponentKind = Literal["weights", "preprocessing", "thresholds", "code", "image", "prompt", "configuration"]


class ModelVersionExists(Conflict):
    """This version of the model is registered with other content; versions never change."""


class ModelVersionMissing(NotFound):
    """There is no such version of the model."""


class WithdrawnBefore(Conflict):
    """It was withdrawn, and said to be so since another time."""


class ModelVersionIsWithdrawn(Conflict):
    """A withdrawn model version is not released again."""


class InvalidManifest(Invalid):
    """The manifest does not say what decides the model's output."""


class ManifestDigestMismatch(Invalid):
    """The digest that was sent is not that of the manifest."""


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One part that decides the output; `digest` is hex SHA-256 of its bytes."""

    kind: ComponentKind
    name: str
    digest: str


class HostedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose bytes only its provider has."""

    provider: str
    identifier: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All parts, in order of kind and name, and the hosted model among them if there is one."""

    components: tuple[Component, ...]
    hosted: HostedModel | None = None


class ModelVersionRegistered(Fact, frozen=True, kw_only=True):
    """`digest` is hex SHA-256 of the manifest's canonical bytes; `parent` is the version it was derived from."""

    TOPIC: ClassVar[str] = "releases.model-version-registered"
    model: str
    version: str
    digest: str
    manifest_digest_verifiable: bool
    manifest: Manifest
    training_dataset: str | None
    training_dataset_version: str | None
    code_revision: str
    parent: str | None
    author: str
    why: str


class ModelVersionWithdrawn(Fact, frozen=True, kw_only=True):
    """`effective_at` is since when it should not be used; None: since it was recorded."""

    TOPIC: ClassVar[str] = "releases.model-version-withdrawn"
    SCHEMA: ClassVar[int] = 2
    UPCASTERS: ClassVar[Mapping[int, Upcaster]] = {1: without_effective_at}
    model: str
    version: str
    digest: str
    effective_at: datetime | None = None


FACTS = (ModelVersionRegistered, ModelVersionWithdrawn)


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The state: what was registered, and whether it still stands."""

    registered: ModelVersionRegistered
    withdrawn: bool = False
    withdrawn_from: datetime | None = None


def manifest_of(*, components: Sequence[Component], hosted: HostedModel | None) -> Manifest:
    """The manifest in its one order; InvalidManifest if it is empty or names a part twice."""
    names = [(component.kind, component.name) for component in components]
    if not names and hosted is None:
        raise InvalidManifest(
            "The manifest is empty.",
            why="A model version is named by what decides its output.",
            next_step="List the parts with their digests, or the provider's identifier of a hosted model.",
            fields=(FieldError(field="/components", rule="at least one, unless the model is hosted"),),
        )
    if len(set(names)) < len(names):
        raise InvalidManifest(
            "The manifest names a part twice.",
            why="One part has one digest.",
            next_step="Give each part a name of its own.",
            fields=(FieldError(field="/components", rule="kind and name are unique"),),
        )
    ordered = tuple(sorted(components, key=lambda component: (component.kind, component.name)))
    return Manifest(components=ordered, hosted=hosted)


def manifest_digest(manifest: Manifest) -> str:
    """Hex SHA-256 of the manifest as JSON with sorted keys and no spaces."""
    return digest_of(canonical_bytes(manifest))


def require_stated_digest(*, manifest: Manifest, stated: str | None) -> None:
    """Whoever states the digest must mean this manifest."""
    if stated is not None and stated != manifest_digest(manifest):
        raise ManifestDigestMismatch(
            "The digest is not that of the manifest.",
            why="The digest of a model version is SHA-256 over its manifest as JSON with sorted keys and no spaces.",
            next_step="Compute it again from the same parts, in order of kind and name, or leave it out.",
            fields=(FieldError(field="/digest", rule=f"{manifest_digest(manifest)} for this manifest"),),
        )


def register(state: ModelVersion | None, *, registered: ModelVersionRegistered) -> Sequence[Fact]:
    """A version is registered once; the same again, by whomever, is a repeat."""
    if state is None:
        return (registered,)
    if msgspec.structs.replace(registered, author=state.registered.author) == state.registered:
        return ()
    raise ModelVersionExists(
        f"{registered.model} version {registered.version} is registered with other content.",
        why="A model version never changes: its digest names what it is.",
        next_step="Register the new artefact under a new version.",
    )


def withdraw(state: ModelVersion | None, *, effective_at: datetime | None = None) -> Sequence[Fact]:
    """What was verified of a withdrawn version becomes suspect, and no gate lets it pass again."""
    registered = existing(state).registered
    if existing(state).withdrawn and effective_at in {None, existing(state).withdrawn_from}:
        return ()
    if existing(state).withdrawn:
        raise WithdrawnBefore(
            f"{registered.model} version {registered.version} is withdrawn, with another effective_at or none.",
            why="What was told is not told differently later.",
            next_step="Leave effective_at out.",
        )
    return (
        ModelVersionWithdrawn(
            model=registered.model, version=registered.version, digest=registered.digest, effective_at=effective_at
        ),
    )


def existing(state: ModelVersion | None) -> ModelVersion:
    """The state, or ModelVersionMissing."""
    if state is None:
        raise ModelVersionMissing(
            "There is no such model version.", why="It was never registered.", next_step="Check model and version."
        )
    return state


def standing(state: ModelVersion | None) -> ModelVersionRegistered:
    """What was registered, unless it was withdrawn since."""
    found = existing(state)
    if found.withdrawn:
        raise ModelVersionIsWithdrawn(
            f"{found.registered.model} version {found.registered.version} is withdrawn.",
            why="A withdrawn model version is not released again.",
            next_step="Register a new version.",
        )
    return found.registered


def evolve(state: ModelVersion | None, fact: Fact) -> ModelVersion:
    """The state after one more fact."""
    match fact:
        case ModelVersionRegistered():
            return ModelVersion(registered=fact)
        case ModelVersionWithdrawn() if state is not None:
            return msgspec.structs.replace(state, withdrawn=True, withdrawn_from=fact.effective_at)
    raise TypeError(f"{fact!r} cannot follow {state!r}")
