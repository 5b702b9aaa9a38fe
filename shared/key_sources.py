"""Where the public keys of an issuer come from: a key set in memory, or the address at which the issuer publishes it.

    JwksUrl         age of the keys      provider answers          provider is away
                    up to fresh_s        used as they are          used as they are
                    up to keep_s         fetched first             used as they are, fetched again in the background
                    older, or none       fetched first             KeysUnavailable
                    unknown key id       fetched once, UnknownKey  KeysUnavailable

However many ask, one fetch runs at a time, and no two begin within `gap_s`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from shared.errors import Invalid, Unavailable
from shared.token_errors import UnknownKey

KEYS_MAX = 100
DOCUMENT_BYTES_MAX = 262_144
FIRST_GAP_S = 1.0

# What the library is known to raise for a key that it cannot read, `alg: none` among them.
_UNUSABLE = (
    jwt.PyJWTError,
    UnsupportedAlgorithm,
    ArithmeticError,
    AttributeError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
)

_log = logging.getLogger(__name__)


class KeysUnavailable(Unavailable):
    """The issuer cannot be reached, so nobody can be recognised by its keys for now."""


class UnreadableKeySet(Invalid):
    """The document is not a JWK Set (RFC 7517, section 5), or not the metadata of the issuer that was asked."""


class InsecureAddress(Invalid):
    """Keys would be fetched without TLS from another machine."""


@dataclass(frozen=True)
class KeySet:
    """The usable signing keys of one published JWK Set, in its order."""

    keys: tuple[jwt.PyJWK, ...] = ()

    def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of this id; without an id, the only key there is."""
        if key_id is None:
            return self.keys[0] if len(self.keys) == 1 else None
        return next((key for key in self.keys if key.key_id == key_id), None)


def read_key_set(document: object) -> KeySet:
    """The usable keys of a JWK Set; those of unknown kinds are passed over (RFC 7517, 5). Raises UnreadableKeySet."""
    members = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(members, list) or len(members) > KEYS_MAX:
        raise UnreadableKeySet(
            "The document is not a key set",
            why=f"A JWK Set is an object with at most {KEYS_MAX} keys.",
            next_step="Check the address of the identity provider's key set.",
        )
    return KeySet(tuple(key for key in map(_usable_key, members) if key is not None))


class StaticKeys:
    """A key source that holds one JWK Set in memory."""

    def __init__(self, jwks: Mapping[str, Any]) -> None:
        self._keys = read_key_set(jwks)

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """As KeySource.key; never Unavailable."""
        found = self._keys.find(key_id)
        if found is None:
            raise UnknownKey
        return found


class JwksUrl:
    """A key source that fetches the issuer's JWK Set from `jwks_uri`, or from where its discovery document says.

    `clock` gives monotonic seconds. `fresh_s`: how long keys count without asking again, so also how long a withdrawn
    key may still be believed. `keep_s`: how long they count while the provider is away. Close with `aclose`.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client: httpx.AsyncClient,
        clock: Callable[[], float],
        jwks_uri: str | None = None,
        fresh_s: float = 300.0,
        keep_s: float = 3600.0,
        gap_s: float = 10.0,
        timeout_s: float = 5.0,
    ) -> None:
        self._issuer, self._jwks_uri = issuer, jwks_uri
        _require_secure(issuer if jwks_uri is None else jwks_uri)
        self._client, self._clock = client, clock
        self._fresh_s, self._keep_s, self._gap_s, self._timeout_s = fresh_s, keep_s, gap_s, timeout_s
        self._keys = KeySet()
        self._fetched_at = self._tried_at = -math.inf
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """As KeySource.key. Raises UnknownKey, or KeysUnavailable as in the table above."""
        await self._freshen()
        found = self._keys.find(key_id)
        if found is None:
            await self._fetched()
            found = self._keys.find(key_id)
        if found is None and self._failing:
            raise self._unavailable()
        if found is None:
            raise UnknownKey
        return found

    async def aclose(self) -> None:
        """Stop a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _freshen(self) -> None:
        age_s = self._clock() - self._fetched_at
        if age_s <= self._fresh_s:
            return
        if age_s <= self._keep_s and self._failing:
            self._begin_fetch()
            return
        await self._fetched()
        if self._clock() - self._fetched_at > self._keep_s:
            raise self._unavailable()

    async def _fetched(self) -> None:
        fetching = self._begin_fetch()
        if fetching is None:
            return
        await asyncio.wait([fetching])  # and not `await fetching`: a caller who hangs up would end it for the others
        if not fetching.cancelled():
            fetching.result()

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, a new one, or None where the last one began too short a while ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        gap_s = self._gap_s if self._fetched_at > -math.inf else min(self._gap_s, FIRST_GAP_S)
        if self._clock() - self._tried_at < gap_s:
            return None
        self._tried_at = self._clock()
        self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._keys = read_key_set(await self._document(await self._address()))
        except (httpx.HTTPError, httpx.InvalidURL, Invalid, TimeoutError, ValueError, RecursionError) as error:
            self._failing = True
            _log.warning("the keys of %s could not be fetched: %s", self._issuer, type(error).__name__)
        else:
            self._failing = False
            self._fetched_at = self._tried_at

    async def _address(self) -> str:
        """OpenID Connect Discovery 1.0, 4.3: the metadata must name exactly the issuer that was asked."""
        if self._jwks_uri is not None:
            return self._jwks_uri
        metadata = await self._document(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        address = metadata.get("jwks_uri") if isinstance(metadata, dict) else None
        if not isinstance(address, str) or metadata.get("issuer") != self._issuer:
            raise UnreadableKeySet("The discovery document names another issuer, or no key set")
        _require_secure(address)
        return address

    async def _document(self, address: str) -> Any:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        async with self._client.stream("GET", address, headers=headers, follow_redirects=False) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > DOCUMENT_BYTES_MAX:
                    raise UnreadableKeySet("The document is too large")
        if response.status_code != httpx.codes.OK:
            raise UnreadableKeySet("The answer is not a document")
        return json.loads(body)

    def _unavailable(self) -> KeysUnavailable:
        return KeysUnavailable(
            "The identity provider cannot be reached",
            why="Without its current keys no token can be checked.",
            next_step=f"Repeat the request later; check that the issuer {self._issuer} is up and reachable from here.",
        )


def _usable_key(member: object) -> jwt.PyJWK | None:
    """A public key for signatures, or None. A shared secret or a published private key proves nothing."""
    if not isinstance(member, dict) or member.get("kty") == "oct" or "d" in member:
        return None
    if member.get("use", "sig") != "sig":
        return None
    try:
        return jwt.PyJWK(member)
    except _UNUSABLE:
        return None


def _require_secure(address: str) -> None:
    """Raises InsecureAddress unless the address is https, or http on this machine."""
    try:
        parts = urlsplit(address)
        secure = bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
        )
    except ValueError:
        secure = False
    if not secure:
        raise InsecureAddress(
            f"Keys cannot be fetched from {address}",
            why="Whoever can alter them on the way could sign as anybody; only https counts, or http on loopback.",
            next_step="Name the identity provider by its https address.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
