from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st
from jwt.algorithms import ECAlgorithm

from shared.identity import KeySource
from shared.key_sources import (
    DOCUMENT_BYTES_MAX,
    InsecureAddress,
    JwksUrl,
    KeysUnavailable,
    StaticKeys,
    UnreadableKeySet,
    read_key_set,
)
from shared.local_issuer import LocalIssuer
from shared.token_errors import UnknownKey
from tests.shared.published_keys import DISCOVERY, PublishedKeys, publishing
from tests.shared.token_forge import Clock, Forge, MonotonicClock

FORGE = Forge()
for _key_id in ("first", "second"):
    FORGE.add(_key_id, "ES256")

PRIVATE = ECAlgorithm.to_jwk(FORGE.keys["second"], as_dict=True)

Open = Callable[..., JwksUrl]


@pytest.fixture
def provider() -> Iterator[PublishedKeys]:
    with publishing() as server:
        server.publish(FORGE.jwks("first"))
        yield server


@pytest.fixture
def clock() -> MonotonicClock:
    return MonotonicClock()


@pytest.fixture
async def open_source(provider: PublishedKeys, clock: MonotonicClock) -> AsyncIterator[Open]:
    async with httpx.AsyncClient(trust_env=False) as client:
        opened: list[JwksUrl] = []

        def open_one(**options: Any) -> JwksUrl:
            opened.append(JwksUrl(**{"issuer": provider.address, "client": client, "clock": clock, **options}))
            return opened[-1]

        yield open_one
        for source in opened:
            await source.aclose()


@pytest.fixture(params=["static", "url", "local issuer"])
def one_key(request: pytest.FixtureRequest, open_source: Open, tmp_path: Path) -> tuple[KeySource, str]:
    """Every kind of key source, publishing one key, and the id of that key."""
    if request.param == "static":
        return StaticKeys(FORGE.jwks("first")), "first"
    if request.param == "url":
        return open_source(), "first"
    local = LocalIssuer.open(tmp_path / "issuer", issuer="http://127.0.0.1:8080/issuer", clock=Clock())
    return local, local.jwks()["keys"][0]["kid"]


class TestEveryKeySource:
    async def test_it_finds_the_published_key(self, one_key: tuple[KeySource, str]) -> None:
        """And gives the same object until the published keys change."""
        source, key_id = one_key
        found = await source.key(key_id)
        assert found.key_id == key_id
        assert await source.key(key_id) is found

    async def test_it_knows_no_other_key(self, one_key: tuple[KeySource, str]) -> None:
        """An id that is not published is unknown."""
        with pytest.raises(UnknownKey):
            await one_key[0].key("other")

    async def test_its_only_key_needs_no_id(self, one_key: tuple[KeySource, str]) -> None:
        """A token may leave the key id out where there is nothing to choose."""
        source, key_id = one_key
        assert (await source.key(None)).key_id == key_id


class TestFetching:
    async def test_the_key_set_is_discovered(self, provider: PublishedKeys, open_source: Open) -> None:
        """From the issuer alone: metadata first, then the keys that it points to; then the answer is kept."""
        source = open_source()
        await source.key("first")
        await source.key("first")
        assert provider.asked == [DISCOVERY, "/keys"]

    async def test_a_given_address_needs_no_discovery(self, provider: PublishedKeys, open_source: Open) -> None:
        """With `jwks_uri` the issuer itself is never asked, and may be any name."""
        await open_source(issuer="urn:anybody", jwks_uri=provider.jwks_uri).key("first")
        assert provider.asked == ["/keys"]

    async def test_many_who_ask_at_once_cause_one_fetch(self, provider: PublishedKeys, open_source: Open) -> None:
        """Single flight."""
        source = open_source()
        found = await asyncio.gather(*(source.key("first") for _ in range(20)))
        assert len({id(key) for key in found}) == 1
        assert provider.asked == [DISCOVERY, "/keys"]

    async def test_an_unknown_key_causes_one_fetch_in_ten_seconds(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """Invented key ids cannot make us flood the provider."""
        source = open_source(jwks_uri=provider.jwks_uri)
        await source.key("first")
        for seconds, fetches in ((9.9, 1), (0.1, 2), (9.9, 2), (0.1, 3)):
            clock.seconds += seconds
            for number in range(5):
                with pytest.raises(UnknownKey):
                    await source.key(f"invented-{number}")
            assert len(provider.asked) == fetches

    async def test_a_rotated_key_is_found_at_once(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """The first token signed by the new key fetches it, long before the old set is stale."""
        source = open_source()
        await source.key("first")
        provider.publish(FORGE.jwks("second", "first"))
        clock.seconds += 10
        assert (await source.key("second")).key_id == "second"
        assert (await source.key("first")).key_id == "first"

    async def test_a_withdrawn_key_ends_with_the_fresh_time(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """A key is believed for `fresh_s` after it was last seen, however long nobody asked."""
        source = open_source(fresh_s=300)
        await source.key("first")
        provider.publish(FORGE.jwks("second"))
        clock.seconds += 300
        assert (await source.key("first")).key_id == "first"
        clock.seconds += 1
        with pytest.raises(UnknownKey):
            await source.key("first")

    async def test_an_emptied_key_set_is_believed(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """A provider that withdraws every key means it."""
        source = open_source()
        await source.key("first")
        provider.publish({"keys": []})
        clock.seconds += 301
        with pytest.raises(UnknownKey):
            await source.key("first")


class TestProviderAway:
    async def test_stale_keys_keep_working_for_a_bounded_time(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """For `keep_s` and no longer; and all is well again once the provider is back."""
        source = open_source(keep_s=3600)
        await source.key("first")
        provider.break_down()
        clock.seconds += 3600
        assert (await source.key("first")).key_id == "first"
        assert (await source.key("first")).key_id == "first"
        clock.seconds += 1
        with pytest.raises(KeysUnavailable):
            await source.key("first")
        provider.publish(FORGE.jwks("first"))
        clock.seconds += 10
        assert (await source.key("first")).key_id == "first"
        with pytest.raises(UnknownKey):
            await source.key("second")

    async def test_a_provider_that_never_ends_its_answer(self, provider: PublishedKeys, open_source: Open) -> None:
        """A byte now and then does not hold us longer than the time set."""
        provider.dripping.add("/keys")
        with pytest.raises(KeysUnavailable):
            await open_source(timeout_s=0.2).key("first")

    async def test_stale_keys_are_renewed_in_the_background(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """Once a fetch has failed, nobody waits for the next: a provider that hangs does not slow us down."""
        source = open_source(timeout_s=1.5)
        await source.key("first")
        provider.open_gate.clear()
        clock.seconds += 301
        assert (await source.key("first")).key_id == "first"
        clock.seconds += 10
        asked = len(provider.asked)
        answered = asyncio.create_task(source.key("first"))
        await asyncio.sleep(0)
        assert answered.done()
        provider.open_gate.set()
        await provider.has_been_asked(asked + 2)

    async def test_without_any_key_nobody_can_be_recognised(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """A server that starts before its provider says so, and tries again a second later."""
        source = open_source()
        provider.break_down()
        for _ in range(3):
            with pytest.raises(KeysUnavailable, match="cannot be reached"):
                await source.key("first")
        assert len(provider.asked) == 1
        provider.publish(FORGE.jwks("first"))
        clock.seconds += 1
        assert (await source.key("first")).key_id == "first"

    async def test_an_unknown_key_cannot_be_judged(
        self, provider: PublishedKeys, open_source: Open, clock: MonotonicClock
    ) -> None:
        """It may be new, so the answer is to come back later."""
        source = open_source()
        await source.key("first")
        provider.break_down()
        clock.seconds += 10
        for _ in range(2):
            with pytest.raises(KeysUnavailable):
                await source.key("second")

    async def test_nobody_listens(self, open_source: Open) -> None:
        """A refused connection is an answer too."""
        with publishing() as gone:
            address = gone.address
        with pytest.raises(KeysUnavailable):
            await open_source(issuer=address).key("first")

    async def test_a_caller_who_hangs_up_leaves_the_fetch_to_the_others(
        self, provider: PublishedKeys, open_source: Open
    ) -> None:
        """The first caller is cancelled while its fetch is under way."""
        source = open_source()
        provider.open_gate.clear()
        first, second = asyncio.create_task(source.key("first")), asyncio.create_task(source.key("first"))
        await provider.has_been_asked(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        provider.open_gate.set()
        assert (await second).key_id == "first"
        assert provider.asked == [DISCOVERY, "/keys"]

    async def test_closing_ends_a_fetch(self, provider: PublishedKeys, open_source: Open) -> None:
        """Whoever waits is told that the keys are not there."""
        source = open_source()
        provider.open_gate.clear()
        waiting = asyncio.create_task(source.key("first"))
        await provider.has_been_asked(1)
        await source.aclose()
        with pytest.raises(KeysUnavailable):
            await asyncio.wait_for(waiting, 60)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/keys", 200, b"not json"),
        ("/keys", 200, b"\xff\xfe"),
        ("/keys", 200, b"[]"),
        ("/keys", 200, b'{"keys": {}}'),
        ("/keys", 200, b"[" * 100_000),
        ("/keys", 200, b'{"keys": []}' + b" " * DOCUMENT_BYTES_MAX),
        ("/keys", 200, b'{"keys": [' + b"{}," * 100 + b"{}]}"),
        ("/keys", 302, b"/elsewhere"),
        ("/keys", 404, b'{"keys": []}'),
        (DISCOVERY, 302, b"/elsewhere"),
        (DISCOVERY, 200, b"[]"),
        (DISCOVERY, 200, b'{"jwks_uri": "{address}/keys"}'),
        (DISCOVERY, 200, b'{"issuer": "https://elsewhere.example", "jwks_uri": "{address}/keys"}'),
        (DISCOVERY, 200, b'{"issuer": "{address}", "jwks_uri": 5}'),
        (DISCOVERY, 200, b'{"issuer": "{address}", "jwks_uri": "http://0.0.0.0:{port}/keys"}'),
        (DISCOVERY, 200, b'{"issuer": "{address}", "jwks_uri": "http://[::1/keys"}'),
        (DISCOVERY, 200, b'{"issuer": "{address}", "jwks_uri": "file:///etc/passwd"}'),
    ],
)
async def test_an_answer_that_is_no_key_set_counts_as_none(
    provider: PublishedKeys, open_source: Open, path: str, status: int, body: bytes
) -> None:
    """Garbage, redirects, floods, another issuer's metadata and insecure addresses."""
    discovered, keys = provider.answers[DISCOVERY], provider.answers["/keys"]
    provider.answers["/elsewhere"] = discovered if path == DISCOVERY else keys
    body = body.replace(b"{address}", provider.address.encode()).replace(b"{port}", str(provider.server_port).encode())
    provider.answers[path] = (status, body)
    with pytest.raises(KeysUnavailable):
        await open_source().key("first")


@pytest.mark.parametrize(
    "address",
    [
        "http://id.example.org",
        "http://127.0.0.1.example.org",
        "http://192.168.0.1",
        "http://localhost.example.org",
        "ftp://127.0.0.1",
        "id.example.org",
        "https://",
        "http://[::1",
        "",
    ],
)
async def test_keys_are_not_fetched_over_an_open_line(open_source: Open, address: str) -> None:
    """Without TLS only from this machine."""
    for options in ({"issuer": address}, {"issuer": "https://id.example.org", "jwks_uri": address}):
        with pytest.raises(InsecureAddress):
            open_source(**options)


@pytest.mark.parametrize(
    "address",
    ["https://id.example.org", "http://127.0.0.1:80", "http://127.9.9.9", "http://[::1]:8080", "http://localhost"],
)
async def test_keys_are_fetched_over_a_safe_line(open_source: Open, address: str) -> None:
    """With TLS from anywhere."""
    assert isinstance(open_source(issuer=address), JwksUrl)


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {**FORGE.jwk("second"), "use": "enc"},
        {**FORGE.jwk("second"), "d": PRIVATE["d"]},
        {**FORGE.jwk("second"), "alg": "none"},
        {**FORGE.jwk("second"), "alg": ["ES256"]},
        {**FORGE.jwk("second"), "x": "AAAA"},
        {**FORGE.jwk("second"), "crv": "P-999", "alg": None},
        {"kty": "RSA", "e": "AQAB"},
        {"kty": "RSA", "e": "AQAB", "n": ""},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
        {},
        "first",
        None,
    ],
)
async def test_a_key_that_cannot_be_used_is_passed_over(member: object) -> None:
    """Shared secrets, encryption keys, leaked private keys and kinds still to come spoil nothing beside them."""
    keys = read_key_set({"keys": [member, FORGE.jwk("first")]}).keys
    assert [key.key_id for key in keys] == ["first"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["kty", "use", "alg", "kid", "crv", "x", "y", "n", "e", "d"])
VALUES = (
    st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "Ed448", "RS256", "ES256", "EdDSA", "AQAB", "sig"]) | JSON
)


@given(JSON | st.fixed_dictionaries({"keys": st.lists(st.dictionaries(MEMBERS, VALUES), max_size=4)}))
def test_no_document_breaks_the_reader(document: Any) -> None:
    """Any JSON gives keys for signatures, or the one typed error."""
    try:
        keys = read_key_set(json.loads(json.dumps(document))).keys
    except UnreadableKeySet:
        return
    assert all(key.key_type in ("RSA", "EC", "OKP") for key in keys)
