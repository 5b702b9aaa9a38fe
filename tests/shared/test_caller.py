from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from shared.identity import printed_name, require_recent_sign_in
from shared.token_errors import (
    ForeignIssuer,
    MalformedToken,
    OnlyPersonsSign,
    PersonalSubject,
    PrintedNameMissing,
    SignInTooOld,
    TokenRefused,
)
from tests.shared.token_forge import FORGE, HEADER, ISSUER, NOW, caller_of, person_claims, refusal_of


@pytest.mark.parametrize("subject", ["ada@example.org", "Ada Lovelace", "a\tb", "a\u00a0b", "@", "7c9e@clients"])
async def test_a_personal_subject_is_refused(subject: str) -> None:
    """Events hold the subject for ever; an address or a name could never be forgotten."""
    refusal = await refusal_of(FORGE.token("ES256", person_claims(sub=subject)))
    assert type(refusal) is PersonalSubject
    assert "pairwise" in refusal.next_step


@pytest.mark.parametrize("subject", ["", "x" * 256, "José", "a\u202eb", "a\x7f", 5, ["a"], {"a": 1}, True])
async def test_a_subject_that_is_no_identifier_is_refused(subject: object) -> None:
    """At most 255 printable ASCII characters (OpenID Connect Core 1.0, section 2)."""
    token = FORGE.token_with_header("ES256", person_claims(sub=subject), HEADER)
    assert type(await refusal_of(token)) is MalformedToken


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "person"),
        ({"name": None}, "person"),
        ({"auth_time": None}, "person"),
        ({"auth_time": None, "name": None}, "service"),
        ({"auth_time": None, "name": ""}, "service"),
        ({"sub": "workbench"}, "service"),
        ({"sub": "workbench", "client_id": None, "azp": "workbench"}, "service"),
        ({"act": {"sub": "assistant-1"}}, "service"),
        ({"idtyp": "app"}, "service"),
        ({"idtyp": "user"}, "person"),
    ],
)
async def test_who_counts_as_a_person(changes: dict[str, Any], kind: str) -> None:
    """Any sign of a machine makes a service, and so does the absence of every sign of a person."""
    caller = await caller_of(person_claims(**changes), service_claim=("idtyp", "app"))
    assert caller.kind == kind
    assert kind == "person" or caller.auth_time is None


async def test_an_assistant_is_the_subject_and_names_whom_it_acts_for() -> None:
    """RFC 8693, 4.1: `act` acts, `sub` is the one it acts for; the person's name is not the assistant's."""
    caller = await caller_of(person_claims(act={"sub": "assistant-1", "iss": ISSUER, "act": {"sub": "earlier"}}))
    assert (caller.subject, caller.on_behalf_of, caller.name) == ("assistant-1", "person-4f2a", None)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        ("assistant-1", MalformedToken),
        ([], MalformedToken),
        ({}, MalformedToken),
        ({"sub": 5}, MalformedToken),
        ({"sub": "bot@example.org"}, PersonalSubject),
        ({"sub": "assistant-1", "iss": "https://elsewhere.example"}, ForeignIssuer),
    ],
)
async def test_an_actor_that_cannot_be_named_is_refused(act: object, error: type[TokenRefused]) -> None:
    """A broken `act` never falls back to the person."""
    assert type(await refusal_of(FORGE.token("ES256", person_claims(act=act)))) is error


@pytest.mark.parametrize(
    ("claim", "name"),
    [
        ("Ada Lovelace", "Ada Lovelace"),
        ("  Ada\u3000 \n Lovelace ", "Ada Lovelace"),
        ("Jose\u0301", "José"),
        ("علی‌رضا", "علی‌رضا"),
        ("", None),
        (None, None),
    ],
)
async def test_the_printed_name_is_tidied(claim: str | None, name: str | None) -> None:
    """One space between words, composed characters, invisible joiners kept."""
    assert (await caller_of(person_claims(name=claim))).name == name


@pytest.mark.parametrize("name", ["a\u202eb", "bell\x07", "x" * 201, "\u200d", 5, ["Ada"], {"first": "Ada"}])
async def test_a_name_that_cannot_be_printed_is_refused(name: object) -> None:
    """A name is shown to others beside a signature, so nothing in it may hide or reorder."""
    assert type(await refusal_of(FORGE.token("ES256", person_claims(name=name)))) is MalformedToken


class TestRecentSignIn:
    async def test_a_recent_sign_in_may_sign(self) -> None:
        """Up to and including the greatest age."""
        require_recent_sign_in(await caller_of(person_claims()), NOW, 60)

    async def test_an_old_sign_in_is_asked_to_step_up(self) -> None:
        """RFC 9470, 3: the challenge says how recent a sign-in has to be."""
        with pytest.raises(SignInTooOld) as caught:
            require_recent_sign_in(await caller_of(person_claims()), NOW, 59)
        assert caught.value.status == 401
        assert caught.value.www_authenticate.startswith('Bearer error="insufficient_user_authentication", max_age="59"')

    async def test_a_sign_in_at_an_unknown_time_is_too_old(self) -> None:
        """Without auth_time nothing shows that it is recent."""
        with pytest.raises(SignInTooOld):
            require_recent_sign_in(await caller_of(person_claims(auth_time=None)), NOW, 900)

    @pytest.mark.parametrize("changes", [{"sub": "workbench"}, {"act": {"sub": "assistant-1"}}])
    async def test_only_persons_sign(self, changes: dict[str, Any]) -> None:
        """A fresh auth_time in the token of a service or an assistant does not help."""
        with pytest.raises(OnlyPersonsSign) as caught:
            require_recent_sign_in(await caller_of(person_claims(**changes)), NOW, 900)
        assert caught.value.status == 403

    async def test_a_signature_needs_a_printed_name(self) -> None:
        """21 CFR 11.50 (a) (1)."""
        with pytest.raises(PrintedNameMissing):
            require_recent_sign_in(await caller_of(person_claims(name=None)), NOW, 900)


@given(st.text(max_size=100))
def test_a_printed_name_is_stable(text: str) -> None:
    """Tidying a tidy name changes nothing."""
    name = printed_name(text, characters_max=80)
    assert name is None or (printed_name(name, characters_max=80) == name and 1 <= len(name) <= 80)
