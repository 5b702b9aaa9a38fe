"""Tokens for the tests of identity: right ones, and every way to get them wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from shared.identity import ALGORITHMS, Caller, TokenVerifier
from shared.key_sources import StaticKeys
from shared.token_errors import TokenRefused

ISSUER = "https://id.example.org/realms/main"
AUDIENCE = "prooftrail"
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
HEADER = {"alg": "ES256", "typ": "at+jwt", "kid": "ES256"}


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class MonotonicClock:
    """Seconds that pass when they are told to."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def segment(content: object) -> str:
    return encoded(json.dumps(content).encode())


@dataclass
class Forge:
    """Private keys by key id, and what is made with them."""

    keys: dict[str, Any] = field(default_factory=dict)
    algorithms: dict[str, str] = field(default_factory=dict)

    def add(self, key_id: str, algorithm: str, *, bits: int = 2048) -> None:
        if algorithm[:2] in ("RS", "PS"):
            self.keys[key_id] = rsa.generate_private_key(public_exponent=65537, key_size=bits)
        elif algorithm == "ES256":
            self.keys[key_id] = ec.generate_private_key(ec.SECP256R1())
        else:
            self.keys[key_id] = ed25519.Ed25519PrivateKey.generate()
        self.algorithms[key_id] = algorithm

    def jwk(self, key_id: str) -> dict[str, Any]:
        algorithm = self.algorithms[key_id]
        public = self.keys[key_id].public_key()
        members: Mapping[str, Any] = get_default_algorithms()[algorithm].to_jwk(public, as_dict=True)
        return {**members, "kid": key_id, "alg": algorithm, "use": "sig"}

    def jwks(self, *key_ids: str) -> dict[str, Any]:
        return {"keys": [self.jwk(key_id) for key_id in key_ids or self.keys]}

    def token(self, key_id: str, claims: Mapping[str, Any], **header: Any) -> str:
        headers = {"typ": "at+jwt", "kid": key_id, **header}
        return jwt.encode(dict(claims), self.keys[key_id], header.get("alg", self.algorithms[key_id]), headers)

    def token_with_header(self, key_id: str, claims: Mapping[str, Any], header: Mapping[str, Any]) -> str:
        """Signed correctly under a header that a library would refuse to write."""
        signing_input = f"{segment(header)}.{segment(claims)}"
        algorithm = get_default_algorithms()[self.algorithms[key_id]]
        return f"{signing_input}.{encoded(algorithm.sign(signing_input.encode(), self.keys[key_id]))}"


def person_claims(**changes: Any) -> dict[str, Any]:
    """Claims of a person who signed in a minute ago; a change to None leaves a claim out."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "person-4f2a",
        "client_id": "workbench",
        "iat": NOW_S,
        "exp": NOW_S + 600,
        "jti": "1",
        "auth_time": NOW_S - 60,
        "name": "Ada Lovelace",
    }
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


def bearer(token: str) -> str:
    return f"Bearer {token}"


FORGE = Forge()
for _algorithm in ALGORITHMS:
    FORGE.add(_algorithm, _algorithm)


def verifier_of(*, clock: Clock | None = None, jwks: dict[str, Any] | None = None, **options: Any) -> TokenVerifier:
    keys = StaticKeys(FORGE.jwks(*ALGORITHMS) if jwks is None else jwks)
    return TokenVerifier(issuer=ISSUER, audience=AUDIENCE, keys=keys, clock=clock or Clock(), **options)


async def refusal_of(token: str, **options: Any) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        await verifier_of(**options).verify(bearer(token))
    return caught.value


async def caller_of(claims: dict[str, Any], **options: Any) -> Caller:
    return await verifier_of(**options).verify(bearer(FORGE.token("ES256", claims)))
