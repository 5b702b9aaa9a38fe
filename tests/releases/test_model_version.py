"""ModelVersion: every transition allowed and refused."""

from __future__ import annotations

import msgspec
import pytest

from services.releases.domain import model_version
from services.releases.domain.model_version import Component, HostedModel, ModelVersionWithdrawn
from tests.releases.samples import given, registered

WITHDRAWN = ModelVersionWithdrawn(model="delay", version="1", digest=registered().digest)


def test_a_version_is_registered_once_and_the_same_again_is_a_repeat() -> None:
    """Whoever sends it again, nothing new happens."""
    assert model_version.register(None, registered=registered()) == (registered(),)
    state = given(model_version.evolve, registered())
    assert model_version.register(state, registered=registered(author="bob")) == ()


def test_a_version_never_changes() -> None:
    """Other content needs another version."""
    state = given(model_version.evolve, registered())
    with pytest.raises(model_version.ModelVersionExists):
        model_version.register(state, registered=registered(code_revision="other"))


def test_a_version_is_withdrawn_once() -> None:
    """What does not exist cannot be withdrawn."""
    state = given(model_version.evolve, registered())
    assert model_version.withdraw(state) == (WITHDRAWN,)
    assert model_version.withdraw(given(model_version.evolve, registered(), WITHDRAWN)) == ()
    with pytest.raises(model_version.ModelVersionMissing):
        model_version.withdraw(None)


def test_a_withdrawn_version_does_not_stand() -> None:
    """Nothing new is built on it."""
    assert model_version.standing(given(model_version.evolve, registered())) == registered()
    with pytest.raises(model_version.ModelVersionIsWithdrawn):
        model_version.standing(given(model_version.evolve, registered(), WITHDRAWN))


def test_the_digest_is_that_of_the_manifest_whatever_the_order_of_its_parts() -> None:
    """Everything that decides the output is in it, so any other part gives another digest."""
    weights = Component(kind="weights", name="booster", digest="a" * 64)
    limits = Component(kind="thresholds", name="alarm", digest="b" * 64)
    one = model_version.manifest_of(components=(weights, limits), hosted=None)
    assert one == model_version.manifest_of(components=(limits, weights), hosted=None)
    other = model_version.manifest_of(
        components=(weights, msgspec.structs.replace(limits, digest="c" * 64)), hosted=None
    )
    assert model_version.manifest_digest(one) != model_version.manifest_digest(other)


def test_a_stated_digest_must_be_that_of_the_manifest() -> None:
    """The refusal names the field."""
    manifest = model_version.manifest_of(components=(), hosted=HostedModel(provider="acme", identifier="large-2026-01"))
    model_version.require_stated_digest(manifest=manifest, stated=None)
    model_version.require_stated_digest(manifest=manifest, stated=model_version.manifest_digest(manifest))
    with pytest.raises(model_version.ManifestDigestMismatch) as refused:
        model_version.require_stated_digest(manifest=manifest, stated="0" * 64)
    assert refused.value.fields[0].field == "/digest"


def test_a_manifest_is_neither_empty_nor_ambiguous() -> None:
    """One part has one digest."""
    with pytest.raises(model_version.InvalidManifest):
        model_version.manifest_of(components=(), hosted=None)
    part = Component(kind="weights", name="booster", digest="a" * 64)
    with pytest.raises(model_version.InvalidManifest):
        model_version.manifest_of(components=(part, part), hosted=None)
