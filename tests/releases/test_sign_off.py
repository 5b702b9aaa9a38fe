"""Signing a release off: duties are segregated, and a signature covers exactly what was shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from services.releases.domain import release, sign_off, waiver
from services.releases.domain.evidence import Evidence
from services.releases.domain.release import Release, ReleaseNotInState, ReleaseSignedOff, ReleaseSignOffDeclined
from services.releases.domain.signature_rules import DigestMismatch
from services.releases.domain.waiver import Waiver
from shared.event import Fact
from tests.releases import test_release as releases
from tests.releases.samples import EVIDENCE, RECORD, given, later, opened, sign_off_signature, signed
from tests.releases.test_waiver import CONTENT

OPENED = opened()
OTHER_EVIDENCE = (Evidence(requirement="REQ-1", revision=1, verifications=("V-2",), waiver=None),)


def sign(
    *facts: Fact,
    role: Any = "approver",
    name: str = "ben",
    shown: Sequence[Evidence] = EVIDENCE,
    waivers: Sequence[Waiver] = (),
) -> Sequence[Fact]:
    """The person signs, after the facts, what they were shown; the gate finds EVIDENCE."""
    state = given(release.evolve, OPENED, *facts)
    signature = sign_off_signature(state, role=role, name=name, evidence=shown)
    return sign_off.sign_off(state, role=role, evidence=EVIDENCE, waivers=waivers, record=RECORD, signature=signature)


def decline(*facts: Fact, role: Any = "approver", name: str = "ben") -> Sequence[Fact]:
    """The person declines."""
    state = given(release.evolve, OPENED, *facts)
    signature = sign_off_signature(state, role=role, name=name)
    return sign_off.decline(state, role=role, evidence=EVIDENCE, record=RECORD, signature=signature)


def segregation(**changes: Any) -> Waiver:
    """A waiver that lets ben fill a second role until tomorrow."""
    fields = {"kind": "segregation of duties", "requirement": None, "granted_to": "ben", "expires_at": later(days=1)}
    content = msgspec.structs.replace(CONTENT, **{**fields, **changes})
    return Waiver(content=content)


def test_two_people_sign_in_two_roles() -> None:
    """Each signature names its role; signing the same again is a repeat."""
    first = sign()
    assert isinstance(first[0], ReleaseSignedOff)
    second = sign(*first, role="releaser", name="rob")
    assert isinstance(second[0], ReleaseSignedOff)
    assert given(release.evolve, OPENED, *first, *second).signed_off
    assert sign(*first) == ()


def test_the_author_signs_nothing_off() -> None:
    """Whoever opened the candidate is its author."""
    with pytest.raises(sign_off.AuthorCannotSignOff):
        sign(name="ada")


def test_one_person_cannot_fill_two_required_roles() -> None:
    """Not even by declining in the first."""
    for first in (sign(), decline()):
        with pytest.raises(sign_off.OnePersonOneRole):
            sign(*first, role="releaser")


def test_a_waiver_opens_the_way_for_whom_it_names_until_it_expires() -> None:
    """The event names the waiver, so that it is printed."""
    fact = sign(*sign(), role="releaser", waivers=(segregation(),))[0]
    assert isinstance(fact, ReleaseSignedOff)
    assert fact.waiver == "W-1"
    for useless in (
        segregation(granted_to="rob"),
        segregation(expires_at=later(seconds=0)),
        segregation(kind="requirement", requirement="REQ-1"),
        msgspec.structs.replace(segregation(), revoked=True),
    ):
        with pytest.raises(sign_off.OnePersonOneRole):
            sign(*sign(), role="releaser", waivers=(useless,))


def test_a_waiver_is_named_only_if_it_was_needed() -> None:
    """Otherwise its end would take the sign-off with it."""
    fact = sign(waivers=(segregation(),))[0]
    assert isinstance(fact, ReleaseSignedOff)
    assert fact.waiver is None


def test_a_signature_covers_the_evidence_that_was_shown() -> None:
    """Other evidence by now, and the signer must look again."""
    with pytest.raises(DigestMismatch):
        sign(shown=OTHER_EVIDENCE)


def test_a_signature_for_one_role_is_none_for_another() -> None:
    """The role is in the signed bytes."""
    state = given(release.evolve, OPENED)
    signature = sign_off_signature(state, role="approver", name="ben")
    with pytest.raises(DigestMismatch):
        sign_off.sign_off(state, role="releaser", evidence=EVIDENCE, waivers=(), record=RECORD, signature=signature)


def test_what_is_declined_can_be_signed_later() -> None:
    """The last word of a role counts."""
    declined = decline()
    assert isinstance(declined[0], ReleaseSignOffDeclined)
    assert decline(*declined) == ()
    assert not given(release.evolve, OPENED, *declined, *sign(role="releaser", name="rob")).signed_off
    assert isinstance(sign(*declined)[0], ReleaseSignedOff)


def test_only_required_roles_sign() -> None:
    """A reviewer signs where the candidate asked for one."""
    with pytest.raises(sign_off.RoleNotRequired):
        sign(role="reviewer")
    state = given(release.evolve, opened(required_roles=("reviewer", "approver", "releaser")))
    assert sign_off.outstanding(state, digest="0" * 64) == ("reviewer", "approver", "releaser")


@pytest.mark.parametrize("status", ["released", "superseded", "suspended", "withdrawn", "rolled back"])
def test_a_release_that_is_out_is_not_signed_anymore(status: str) -> None:
    """A signature afterwards would pretend to have been before."""
    with pytest.raises(ReleaseNotInState):
        sign(*releases.STATUSES[status][1:])


def test_an_emergency_release_is_signed_off_afterwards() -> None:
    """Once by each role, then no more."""
    emergency = releases.deploy_in_emergency(given(release.evolve, OPENED))
    first = sign(*emergency)
    second = sign(*emergency, *first, role="releaser", name="rob")
    state = given(release.evolve, OPENED, *emergency, *first, *second)
    assert (state.status, state.signed_off) == ("released", True)
    with pytest.raises(ReleaseNotInState):
        sign(*emergency, *first, *second, name="cleo")


def test_outdated_sign_offs_are_outstanding() -> None:
    """A role that signed other evidence is asked again."""
    state: Release = given(release.evolve, OPENED, *sign())
    digest = state.sign_offs["approver"].evidence_digest
    assert sign_off.outstanding(state, digest=digest) == ("releaser",)
    assert sign_off.outstanding(state, digest="0" * 64) == ("approver", "releaser")


@pytest.mark.parametrize(("role", "meaning"), sorted(sign_off.MEANINGS.items()))
def test_the_meaning_tells_the_role(role: str, meaning: str) -> None:
    """There is no meaning without a role."""
    assert sign_off.role_of(meaning) == role
    with pytest.raises(sign_off.UnknownMeaning):
        sign_off.role_of(f"{meaning} maybe")


def test_a_waiver_of_segregation_still_needs_somebody_else_to_grant_it() -> None:
    """Nobody opens the way for themselves."""
    content, record = segregation().content, "waiver:flight-delay/W-1"
    own = signed("ben", waiver.grant_bytes(content, record=record))
    with pytest.raises(waiver.WaiverToOneself):
        waiver.grant(None, content=content, record=record, signature=own)
