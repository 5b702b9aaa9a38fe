from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings, strategies as st

from shared.identity import ALGORITHMS, Caller, TokenVerifier, UnsafeAlgorithm
from shared.key_sources import StaticKeys
from shared.token_errors import (
    AlgorithmNotAllowed,
    BadSignature,
    ExpiredToken,
    ForeignAudience,
    ForeignIssuer,
    MalformedToken,
    MissingToken,
    NotAnAccessToken,
    NotYetValidToken,
    TokenRefused,
    UnknownKey,
    UnsignedToken,
)
from tests.shared.token_forge import (
    AUDIENCE,
    FORGE,
    HEADER,
    ISSUER,
    NOW,
    NOW_S,
    Clock,
    Forge,
    bearer,
    caller_of,
    encoded,
    person_claims,
    refusal_of,
    segment,
    verifier_of,
)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_signed_token_names_its_caller(algorithm: str) -> None:
    """Each algorithm of the allow-list proves the same caller."""
    caller = await verifier_of().verify(bearer(FORGE.token(algorithm, person_claims())))
    assert caller == Caller(
        subject="person-4f2a",
        issuer=ISSUER,
        name="Ada Lovelace",
        kind="person",
        on_behalf_of=None,
        auth_time=NOW - timedelta(seconds=60),
        expires_at=NOW + timedelta(seconds=600),
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_case_insensitive(scheme: str) -> None:
    """RFC 9110, 11.1."""
    token = FORGE.token("ES256", person_claims())
    assert (await verifier_of().verify(f"{scheme} {token}")).subject == "person-4f2a"


@pytest.mark.parametrize("authorization", [None, "", "Basic YWRhOnNlY3JldA==", "Bearertoken", "Negotiate x"])
async def test_a_request_without_a_bearer_token_is_asked_for_one(authorization: str | None) -> None:
    """RFC 6750, 3.1: no error code where nothing was presented."""
    with pytest.raises(MissingToken) as caught:
        await verifier_of().verify(authorization)
    assert caught.value.status == 401
    assert caught.value.www_authenticate == 'Bearer realm="prooftrail"'


@pytest.mark.parametrize(
    "credentials",
    [
        "",
        " ",
        "a",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "a.b.c a.b.c",
        "a.b.c\n",
        "ä.b.c",
        "a=.b.c",
        "e30.e30.e30",
        "\ud800.b.c",
    ],
)
async def test_a_malformed_token_is_refused(credentials: str) -> None:
    """Anything but three base64url segments with a JSON header."""
    with pytest.raises(MalformedToken) as caught:
        await verifier_of().verify(f"Bearer {credentials}")
    assert caught.value.www_authenticate.startswith('Bearer realm="prooftrail", error="invalid_token", error_descri')


async def test_a_token_too_long_is_refused_unread() -> None:
    """A valid signature does not help a token beyond the limit."""
    token = FORGE.token("ES256", person_claims(padding="x" * 8192))
    assert type(await refusal_of(token)) is MalformedToken


async def test_a_deeply_nested_header_is_refused() -> None:
    """Nesting beyond the parser's stack is malformed, not a crash."""
    token = f"{encoded(b'[' * 3000)}.{segment({})}.{encoded(b'x')}"
    assert type(await refusal_of(token)) is MalformedToken


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
@pytest.mark.parametrize("signature", ["", "x", "AAAA"])
async def test_an_unsigned_token_is_refused(name: str, signature: str) -> None:
    """The algorithm none, in any spelling and with any signature (RFC 8725, 2.1)."""
    token = f"{segment({'alg': name, 'typ': 'at+jwt', 'kid': 'RS256'})}.{segment(person_claims())}.{signature}"
    assert isinstance(await refusal_of(token), UnsignedToken | MalformedToken)
    if signature != "x":
        assert type(await refusal_of(token)) is UnsignedToken


async def test_an_algorithm_off_the_list_asks_for_no_key() -> None:
    """Whoever writes a bad algorithm is refused for that, before its key could be looked for anywhere."""
    token = f"{segment({'alg': 'RS512', 'typ': 'at+jwt', 'kid': 'unknown'})}.{segment(person_claims())}.AAAA"
    assert type(await refusal_of(token)) is AlgorithmNotAllowed


async def test_a_public_key_is_no_shared_secret() -> None:
    """HS256 keyed with the public RSA key: the algorithm confusion of RFC 8725, 2.1."""
    public = FORGE.keys["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signing_input = f"{segment({'alg': 'HS256', 'typ': 'at+jwt', 'kid': 'RS256'})}.{segment(person_claims())}"
    token = f"{signing_input}.{encoded(secret.sign(signing_input.encode(), public))}"
    assert type(await refusal_of(token)) is AlgorithmNotAllowed


async def test_a_key_is_used_with_its_own_algorithm_only() -> None:
    """A token signed with PSS by a key that is published for RS256."""
    token = FORGE.token("RS256", person_claims(), alg="PS256")
    assert type(await refusal_of(token, algorithms=("RS256", "PS256"))) is AlgorithmNotAllowed


async def test_a_short_rsa_key_is_refused() -> None:
    """1024 bits are below NIST SP 800-131A."""
    weak = Forge()
    weak.add("weak", "RS256", bits=1024)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = weak.token("weak", person_claims())
    assert type(await refusal_of(token, jwks=weak.jwks())) is AlgorithmNotAllowed


@pytest.mark.parametrize("algorithms", [(), ("none",), ("RS256", "None"), ("HS256",), ("ES256", "hs512")])
def test_an_unsafe_allow_list_is_refused_at_start(algorithms: tuple[str, ...]) -> None:
    """Nobody can configure unsigned tokens or shared secrets."""
    with pytest.raises(UnsafeAlgorithm):
        verifier_of(algorithms=algorithms)


async def test_an_altered_body_is_refused() -> None:
    """One claim changed under the old signature."""
    header, _, signature = FORGE.token("ES256", person_claims()).split(".")
    assert type(await refusal_of(f"{header}.{segment(person_claims(sub='person-else'))}.{signature}")) is BadSignature


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_missing_signature_is_refused(algorithm: str) -> None:
    """A signing algorithm in the header and nothing behind the last dot."""
    signing_input = FORGE.token(algorithm, person_claims()).rpartition(".")[0]
    assert type(await refusal_of(signing_input + ".")) is BadSignature


async def test_a_stranger_with_the_same_key_id_is_refused() -> None:
    """The key id chooses the key, it proves nothing."""
    stranger = Forge()
    stranger.add("ES256", "ES256")
    assert type(await refusal_of(stranger.token("ES256", person_claims()))) is BadSignature


async def test_an_embedded_key_is_not_believed() -> None:
    """A token that brings its own key in the header (jwk) is checked with the issuer's."""
    stranger = Forge()
    stranger.add("ES256", "ES256")
    token = stranger.token("ES256", person_claims(), jwk=stranger.jwk("ES256"))
    assert type(await refusal_of(token)) is BadSignature


async def test_an_unknown_key_is_refused() -> None:
    """Signed well, by a key that the issuer does not publish."""
    stranger = Forge()
    stranger.add("other", "ES256")
    assert type(await refusal_of(stranger.token("other", person_claims()))) is UnknownKey


async def test_a_token_without_key_id_needs_an_only_key() -> None:
    """One published key needs no name; of several none is guessed."""
    header = {"alg": "ES256", "typ": "at+jwt"}
    token = FORGE.token_with_header("ES256", person_claims(), header)
    assert (await verifier_of(jwks=FORGE.jwks("ES256")).verify(bearer(token))).kind == "person"
    assert type(await refusal_of(token)) is UnknownKey


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": True},
        {"crit": "x"},
        {"kid": 7},
        {"alg": 256},
        {"alg": None},
    ],
)
async def test_a_header_that_is_not_understood_is_refused(extra: dict[str, Any]) -> None:
    """Critical extensions and wrong types, though correctly signed (RFC 7515, 4.1.11)."""
    header = {"alg": "ES256", "typ": "at+jwt", "kid": "ES256", **extra}
    assert type(await refusal_of(FORGE.token_with_header("ES256", person_claims(), header))) is MalformedToken


@pytest.mark.parametrize("typ", ["JWT", "logout+jwt", "dpop+jwt", ""])
async def test_another_kind_of_token_is_refused(typ: str) -> None:
    """An ID token or a logout token of the same issuer is no access token (RFC 9068, 4)."""
    header = {"alg": "ES256", "typ": typ, "kid": "ES256"}
    assert type(await refusal_of(FORGE.token_with_header("ES256", person_claims(), header))) is NotAnAccessToken


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"typ": "application/at+JWT"}, {}])
async def test_other_types_can_be_configured(header: dict[str, str]) -> None:
    """Providers that write JWT, or no typ at all."""
    token = FORGE.token_with_header("ES256", person_claims(), {"alg": "ES256", "kid": "ES256", **header})
    assert (await verifier_of(token_types=("at+jwt", "jwt")).verify(bearer(token))).kind == "person"


async def test_an_expired_token_is_refused() -> None:
    """Up to the leeway of 30 seconds and no second longer."""
    clock = Clock()
    token = FORGE.token("ES256", person_claims())
    verifier = verifier_of(clock=clock)
    clock.pass_s(629)
    assert (await verifier.verify(bearer(token))).kind == "person"
    clock.pass_s(1)
    with pytest.raises(ExpiredToken):
        await verifier.verify(bearer(token))


@pytest.mark.parametrize("claim", ["nbf", "iat", "auth_time"])
async def test_a_token_from_the_future_is_refused(claim: str) -> None:
    """A sign-in in the future would stay recent for too long."""
    assert (await caller_of(person_claims(**{claim: NOW_S + 30}))).kind == "person"
    token = FORGE.token("ES256", person_claims(**{claim: NOW_S + 31}))
    assert type(await refusal_of(token)) is NotYetValidToken


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "exp", "iat"])
async def test_a_required_claim_is_missed(claim: str) -> None:
    """RFC 9068, 2.2."""
    assert type(await refusal_of(FORGE.token("ES256", person_claims(**{claim: None})))) is MalformedToken


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "auth_time"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, -1, 10**12, 10**400, "tomorrow", [1], {}])
async def test_a_time_that_is_none_is_refused(claim: str, value: object) -> None:
    """NaN compares with nothing, so it would never expire."""
    token = FORGE.token_with_header("ES256", person_claims(**{claim: value}), HEADER)
    assert type(await refusal_of(token)) is MalformedToken


@pytest.mark.parametrize("issuer", [ISSUER + "/", "https://id.example.com", "", [ISSUER], {"a": 1}, 5])
async def test_a_foreign_issuer_is_refused(issuer: object) -> None:
    """The issuer is compared character by character."""
    token = FORGE.token_with_header("ES256", person_claims(iss=issuer), HEADER)
    assert type(await refusal_of(token)) is ForeignIssuer


@pytest.mark.parametrize("audience", ["other", "Prooftrail", ["other"], [AUDIENCE, 7], {"prooftrail": 1}, 5])
async def test_a_foreign_audience_is_refused(audience: object) -> None:
    """A token for another server is not taken, though the issuer is the same."""
    assert type(await refusal_of(FORGE.token("ES256", person_claims(aud=audience)))) is ForeignAudience


async def test_one_of_several_audiences_is_enough() -> None:
    """RFC 7519, 4.1.3."""
    assert (await caller_of(person_claims(aud=["other", AUDIENCE]))).kind == "person"


async def test_a_refusal_repeats_nothing_of_the_token() -> None:
    """Neither the token nor a value from it reaches a log or an answer."""
    secret = "hush-9d1f"
    broken: list[dict[str, Any]] = [
        {"iss": secret},
        {"aud": secret},
        {"sub": f"{secret}@x"},
        {"name": f"{secret}\x07"},
        {"exp": secret},
        {"act": secret},
    ]
    tokens = [FORGE.token_with_header("ES256", person_claims(**changes), HEADER) for changes in broken]
    headers = [{"alg": secret}, {"alg": "ES256", "typ": secret}, {"alg": "ES256", "typ": "at+jwt", "kid": secret}]
    tokens += [FORGE.token_with_header("ES256", person_claims(), header) for header in headers]
    for token in tokens:
        refusal = await refusal_of(token)
        said = " ".join([str(refusal), refusal.why, refusal.next_step, refusal.www_authenticate, repr(refusal)])
        assert secret not in said
        assert not any(part in said for part in token.split("."))
        assert refusal.__cause__ is None


class TestRememberedTokens:
    async def test_a_remembered_token_still_expires(self) -> None:
        """What was verified once is believed until exp, then checked again."""
        clock = Clock()
        verifier = verifier_of(clock=clock, leeway_s=0)
        authorization = bearer(FORGE.token("ES256", person_claims()))
        first = await verifier.verify(authorization)
        assert await verifier.verify(authorization) is first
        clock.pass_s(600)
        with pytest.raises(ExpiredToken):
            await verifier.verify(authorization)
        assert verifier.remembered_tokens == 0

    async def test_a_withdrawn_key_ends_remembered_tokens(self) -> None:
        """A token is believed no longer than its key is published."""

        class Published:
            source = StaticKeys(FORGE.jwks())

            async def key(self, key_id: str | None) -> jwt.PyJWK:
                return await self.source.key(key_id)

        published = Published()
        verifier = TokenVerifier(issuer=ISSUER, audience=AUDIENCE, keys=published, clock=Clock())
        authorization = bearer(FORGE.token("ES256", person_claims()))
        await verifier.verify(authorization)
        published.source = StaticKeys(FORGE.jwks("RS256"))
        with pytest.raises(UnknownKey):
            await verifier.verify(authorization)

    async def test_an_altered_copy_of_a_remembered_token_is_refused(self) -> None:
        """Only exactly the same token is remembered."""
        verifier = verifier_of()
        token = FORGE.token("ES256", person_claims())
        await verifier.verify(bearer(token))
        with pytest.raises(BadSignature):
            await verifier.verify(bearer(token[:-6] + "AAAAAA"))

    async def test_no_more_tokens_are_remembered_than_allowed(self) -> None:
        """The least recently used one goes first."""
        verifier = verifier_of(cached_tokens_max=2)
        authorizations = [bearer(FORGE.token("EdDSA", person_claims(jti=str(number)))) for number in range(3)]
        first = [await verifier.verify(authorization) for authorization in authorizations[:2]]
        assert await verifier.verify(authorizations[0]) is first[0]
        await verifier.verify(authorizations[2])
        assert verifier.remembered_tokens == 2
        assert await verifier.verify(authorizations[0]) is first[0]
        assert await verifier.verify(authorizations[1]) is not first[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["RS256", "ES256", "EdDSA", "HS256", "none"]) | JSON,
        "kid": st.sampled_from(ALGORITHMS) | JSON,
        "typ": st.sampled_from(["at+jwt", "JWT"]) | JSON,
        "crit": JSON,
        "b64": JSON,
    },
)
SEGMENTS = st.binary(max_size=40).map(encoded) | HEADERS.map(segment) | JSON.map(segment) | st.text(max_size=20)
CLAIM_NAMES = ["iss", "aud", "sub", "exp", "nbf", "iat", "auth_time", "name", "act", "client_id", "azp"]


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.text(max_size=60).map(bearer)
    | st.tuples(HEADERS.map(segment), SEGMENTS, SEGMENTS).map(lambda parts: bearer(".".join(parts)))
    | st.lists(SEGMENTS, max_size=5).map(lambda parts: bearer(".".join(parts)))
)
async def test_no_header_breaks_the_verifier(authorization: str) -> None:
    """Whatever is sent, the answer is one of the typed refusals."""
    with pytest.raises(TokenRefused):
        await verifier_of().verify(authorization)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(CLAIM_NAMES), JSON, max_size=4))
async def test_no_signed_claim_breaks_the_verifier(changes: dict[str, Any]) -> None:
    """Even the issuer's own nonsense gives a caller with an opaque subject, or a typed refusal."""
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": "EdDSA"}
    token = FORGE.token_with_header("EdDSA", person_claims() | changes, header)
    try:
        caller = await verifier_of().verify(bearer(token))
    except TokenRefused:
        return
    assert caller.subject.isascii()
    assert "@" not in caller.subject
    assert caller.expires_at > NOW - timedelta(seconds=30)
    assert caller.kind == "service" or caller.on_behalf_of is None
    json.dumps(caller.name, ensure_ascii=False).encode()
