"""Waiver: every transition allowed and refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.releases.domain import waiver
from services.releases.domain.signature_rules import DigestMismatch
from services.releases.domain.waiver import WaiverContent, WaiverGranted, WaiverRevoked
from shared.event import Signature
from tests.releases.samples import NOW, given, later, signed

RECORD = "waiver:flight-delay/W-1"
CONTENT = WaiverContent(
    key="W-1",
    kind="requirement",
    release="R-1",
    requirement="REQ-1",
    granted_to="ada",
    compensating_control="an agent checks every alarm",
    expires_at=later(days=30),
)


def grant(name: str = "ben", **changes: Any) -> Any:
    """What follows when the person grants this content."""
    content = msgspec.structs.replace(CONTENT, **changes)
    signature = signed(name, waiver.grant_bytes(content, record=RECORD))
    return waiver.grant(None, content=content, record=RECORD, signature=signature)


def granted() -> WaiverGranted:
    """The event of ben's grant."""
    fact: WaiverGranted = grant()[0]
    return fact


def revocation(name: str = "ben") -> Signature:
    """The signature that takes it back."""
    return signed(name, waiver.revocation_bytes(given(waiver.evolve, granted()), record=RECORD))


def test_an_approver_grants_it_to_another_person() -> None:
    """The event repeats all that is allowed, so that it can be printed."""
    fields = {name: getattr(granted(), name) for name in WaiverContent.__struct_fields__}
    assert WaiverContent(**fields) == CONTENT


def test_nobody_grants_a_waiver_to_themselves() -> None:
    """Who answers for a deviation is not who allows it."""
    with pytest.raises(waiver.WaiverToOneself):
        grant("ada")


@pytest.mark.parametrize("expires_at", [NOW, later(days=-1), later(days=367)])
def test_it_ends_in_the_future_and_not_too_late(expires_at: Any) -> None:
    """A deviation for ever is no waiver."""
    with pytest.raises(waiver.InvalidWaiver) as refused:
        grant(expires_at=expires_at)
    assert refused.value.fields[0].field == "/expires_at"


@pytest.mark.parametrize("changes", [{"requirement": None}, {"kind": "segregation of duties"}])
def test_exactly_a_waiver_of_a_requirement_names_one(changes: dict[str, Any]) -> None:
    """The refusal names the field."""
    with pytest.raises(waiver.InvalidWaiver) as refused:
        grant(**changes)
    assert refused.value.fields[0].field == "/requirement"


def test_the_signature_covers_exactly_the_content() -> None:
    """Another date needs another signature."""
    signature = signed("ben", waiver.grant_bytes(CONTENT, record=RECORD))
    other = msgspec.structs.replace(CONTENT, expires_at=later(days=31))
    with pytest.raises(DigestMismatch):
        waiver.grant(None, content=other, record=RECORD, signature=signature)


def test_the_same_grant_again_is_a_repeat_and_another_needs_another_key() -> None:
    """A waiver never changes, and a revoked one does not come back."""
    signature = signed("ben", waiver.grant_bytes(CONTENT, record=RECORD))
    in_force = given(waiver.evolve, granted())
    assert waiver.grant(in_force, content=CONTENT, record=RECORD, signature=signature) == ()
    revoked = given(waiver.evolve, granted(), WaiverRevoked(key="W-1", signature=revocation()))
    with pytest.raises(waiver.WaiverExists):
        waiver.grant(revoked, content=CONTENT, record=RECORD, signature=signature)


def test_it_is_in_force_until_its_date_or_its_revocation() -> None:
    """The rule compares time; no event is needed for the end."""
    state = given(waiver.evolve, granted())
    assert state.in_force(at=later(days=29))
    assert not state.in_force(at=later(days=30))
    fact = waiver.revoke(state, record=RECORD, signature=revocation())[0]
    assert not given(waiver.evolve, granted(), fact).in_force(at=NOW)


def test_revoking_again_is_a_repeat() -> None:
    """What was never granted cannot be revoked."""
    state = given(waiver.evolve, granted(), WaiverRevoked(key="W-1", signature=revocation()))
    signature = signed("cleo", waiver.revocation_bytes(state, record=RECORD))
    assert waiver.revoke(state, record=RECORD, signature=signature) == ()
    with pytest.raises(waiver.WaiverMissing):
        waiver.revoke(None, record=RECORD, signature=signature)


def test_a_signature_for_the_grant_does_not_revoke() -> None:
    """The two acts cover different bytes."""
    signature = signed("ben", waiver.grant_bytes(CONTENT, record=RECORD))
    with pytest.raises(DigestMismatch):
        waiver.revoke(given(waiver.evolve, granted()), record=RECORD, signature=signature)
