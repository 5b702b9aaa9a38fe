"""Tokens of a real, certified identity provider (npm oidc-provider), from discovery to a fresh sign-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest

from shared.identity import TokenVerifier, require_recent_sign_in
from shared.key_sources import JwksUrl
from shared.token_errors import (
    BadSignature,
    ExpiredToken,
    ForeignAudience,
    MalformedToken,
    NotAnAccessToken,
    OnlyPersonsSign,
    PersonalSubject,
    SignInTooOld,
    UnknownKey,
)
from tests.npm_packages import skip_loudly
from tests.shared.identity_provider import CannotRun, IdentityProvider, installed, running, service_token, sign_in
from tests.shared.token_forge import Clock, MonotonicClock, bearer, segment

RESOURCE = "urn:prooftrail:ES256"

Verifier = Callable[..., TokenVerifier]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    try:
        modules = installed()
    except CannotRun as reason:
        skip_loudly(what="against a real identity provider", reason=reason)
    with running(modules, tmp_path_factory.mktemp("identity-provider") / "log") as started:
        yield started


@pytest.fixture
def monotonic() -> MonotonicClock:
    return MonotonicClock()


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


@pytest.fixture
async def verifier(provider: IdentityProvider, monotonic: MonotonicClock) -> AsyncIterator[Verifier]:
    async with httpx.AsyncClient(trust_env=False) as client:
        keys = JwksUrl(issuer=provider.issuer, client=client, clock=monotonic)

        def build(clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> TokenVerifier:
            return TokenVerifier(issuer=provider.issuer, audience="prooftrail", keys=keys, clock=clock)

        yield build
        await keys.aclose()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_service_is_recognised(
    provider: IdentityProvider, browser: httpx.AsyncClient, verifier: Verifier, algorithm: str
) -> None:
    """Client credentials, a resource indicator for the audience, each algorithm of the allow-list."""
    token = await service_token(browser, provider.issuer, resource=f"urn:prooftrail:{algorithm}")
    caller = await verifier().verify(bearer(token))
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert (caller.subject, caller.kind, caller.issuer) == ("nightly-build", "service", provider.issuer)
    with pytest.raises(OnlyPersonsSign):
        require_recent_sign_in(caller, datetime.now(UTC), 900)


async def test_a_person_is_recognised(
    provider: IdentityProvider, browser: httpx.AsyncClient, verifier: Verifier
) -> None:
    """Authorization code with PKCE: subject, printed name and the time of the sign-in."""
    tokens = await sign_in(browser, provider.issuer, account="account-17", resource=RESOURCE)
    caller = await verifier().verify(bearer(tokens["access_token"]))
    assert (caller.subject, caller.kind, caller.name) == ("account-17", "person", "Ada Lovelace")
    require_recent_sign_in(caller, datetime.now(UTC), 900)


async def test_a_step_up_gives_a_fresh_sign_in(
    provider: IdentityProvider, browser: httpx.AsyncClient, verifier: Verifier
) -> None:
    """A new token of an old session is too old to sign; one asked for with max_age=0 is not (RFC 9470)."""
    parameters = {"account": "account-17", "resource": RESOURCE}
    await sign_in(browser, provider.issuer, **parameters)
    await asyncio.sleep(1.1)  # auth_time counts whole seconds
    silent = await sign_in(browser, provider.issuer, **parameters)
    stepped_up = await sign_in(browser, provider.issuer, max_age="0", **parameters)
    stale = await verifier().verify(bearer(silent["access_token"]))
    fresh = await verifier().verify(bearer(stepped_up["access_token"]))
    assert fresh.auth_time is not None
    require_recent_sign_in(fresh, fresh.auth_time, 0)
    with pytest.raises(SignInTooOld):
        require_recent_sign_in(stale, fresh.auth_time, 0)


async def test_an_address_as_subject_is_refused_and_a_pairwise_one_taken(
    provider: IdentityProvider, browser: httpx.AsyncClient, verifier: Verifier
) -> None:
    """The same account, known by its address to one client and by a pairwise subject to the other."""
    parameters = {"account": "ada@example.org", "resource": RESOURCE}
    by_address = await sign_in(browser, provider.issuer, **parameters)
    pairwise = await sign_in(browser, provider.issuer, client_id="portal", **parameters)
    with pytest.raises(PersonalSubject):
        await verifier().verify(bearer(by_address["access_token"]))
    caller = await verifier().verify(bearer(pairwise["access_token"]))
    assert (caller.kind, caller.name, len(caller.subject)) == ("person", "Ada Lovelace", 64)


async def test_only_access_tokens_for_us_count(
    provider: IdentityProvider, browser: httpx.AsyncClient, verifier: Verifier
) -> None:
    """Not the ID token of the same sign-in, not an opaque token, not a token for another server."""
    tokens = await sign_in(browser, provider.issuer, account="account-17", resource=RESOURCE)
    opaque = await sign_in(browser, provider.issuer, account="account-17")
    foreign = await service_token(browser, provider.issuer, resource="urn:elsewhere:ES256")
    with pytest.raises(NotAnAccessToken):
        await verifier().verify(bearer(tokens["id_token"]))
    with pytest.raises(MalformedToken):
        await verifier().verify(bearer(opaque["access_token"]))
    with pytest.raises(ForeignAudience):
        await verifier().verify(bearer(foreign))


async def test_an_altered_and_an_expired_token_are_refused(
    provider: IdentityProvider, browser: httpx.AsyncClient, verifier: Verifier
) -> None:
    """Another subject under the provider's signature; and the right token an hour later."""
    token = await service_token(browser, provider.issuer, resource=RESOURCE)
    header, _, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    with pytest.raises(BadSignature):
        await verifier().verify(bearer(f"{header}.{segment(claims | {'sub': 'somebody'})}.{signature}"))
    with pytest.raises(ExpiredToken):
        await verifier(Clock(datetime.now(UTC) + timedelta(hours=1))).verify(bearer(token))


async def test_rotated_keys_are_followed(
    provider: IdentityProvider, browser: httpx.AsyncClient, verifier: Verifier, monotonic: MonotonicClock
) -> None:
    """A new key is fetched when its first token arrives; a withdrawn one ends with the fresh time of the keys."""
    checked = verifier()
    before = await service_token(browser, provider.issuer, resource=RESOURCE)
    await checked.verify(bearer(before))
    provider.command("rotate")
    after = await service_token(browser, provider.issuer, resource=RESOURCE)
    assert jwt.get_unverified_header(after)["kid"] != jwt.get_unverified_header(before)["kid"]
    monotonic.seconds += 10
    assert (await checked.verify(bearer(after))).subject == (await checked.verify(bearer(before))).subject
    provider.command("withdraw")
    monotonic.seconds += 301
    with pytest.raises(UnknownKey):
        await checked.verify(bearer(before))
    assert (await checked.verify(bearer(after))).kind == "service"
