"""Who is asking: the access tokens of an OpenID Connect provider, and what they prove about the caller.

A caller is a *person* only where the token shows one: it states a sign-in (`auth_time`) or a printed name, and nothing
in it speaks for a machine. It is a *service* when the subject is the client itself (client credentials, RFC 9068, 2.2),
when the configured `service_claim` says so, when somebody acts on behalf of the subject (`act`, RFC 8693, 4.1), or when
it shows neither `auth_time` nor `name`. In doubt it is a service, since only persons sign.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

import jwt

from shared.errors import Invalid
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
    OnlyPersonsSign,
    PersonalSubject,
    PrintedNameMissing,
    SignInTooOld,
    UnsignedToken,
)

ALGORITHMS = ("RS256", "ES256", "EdDSA")
TOKEN_CHARACTERS_MAX = 8192
SUBJECT_CHARACTERS_MAX = 255  # OpenID Connect Core 1.0, section 2
NAME_CHARACTERS_MAX = 200
CACHED_TOKENS_MAX = 4096

_BEARER = re.compile(r"bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)", re.ASCII | re.IGNORECASE)
_BEGINNINGS = ("nbf", "iat", "auth_time")
_JOINERS = str.maketrans("", "", "\u200c\u200d")  # invisible, and yet part of Persian and Hindi names


class UnsafeAlgorithm(Invalid):
    """The configured allow-list would accept unsigned tokens or shared secrets."""


@dataclass(frozen=True)
class Caller:
    """Who asks, as far as the token proves it. `subject` is opaque; `auth_time` is known for persons only.

    Where somebody acts for another (`act`), `subject` is the one who acts and `on_behalf_of` the one it acts for.
    """

    subject: str
    issuer: str
    name: str | None
    kind: Literal["person", "service"]
    on_behalf_of: str | None
    auth_time: datetime | None
    expires_at: datetime


class KeySource(Protocol):
    """The public keys of one issuer."""

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """The key that the issuer publishes now under `key_id`; without an id, its only key.

        The same object until the published keys change. Raises UnknownKey, or Unavailable where it cannot be known.
        """
        ...


@dataclass(frozen=True)
class _Verified:
    caller: Caller
    key_id: str | None
    key: jwt.PyJWK


class TokenVerifier:
    """Turns an Authorization header into a Caller, or into one of the errors of shared.token_errors.

    `clock` gives aware UTC time. `token_types` are the accepted `typ` headers in lower case; a missing one counts as
    `jwt`. `service_claim` is a claim and its value that mark a machine, for example ("idtyp", "app"). Verified tokens
    are remembered by SHA-256, until they expire or the issuer stops publishing their key.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: KeySource,
        clock: Callable[[], datetime],
        algorithms: Sequence[str] = ALGORITHMS,
        token_types: Sequence[str] = ("at+jwt",),
        service_claim: tuple[str, str] | None = None,
        leeway_s: float = 30.0,
        cached_tokens_max: int = CACHED_TOKENS_MAX,
    ) -> None:
        _require_safe(algorithms)
        self._issuer, self._audience, self._keys, self._clock = issuer, audience, keys, clock
        self._algorithms, self._token_types = list(algorithms), frozenset(token_types)
        self._service_claim = service_claim
        self._leeway = timedelta(seconds=leeway_s)
        self._cached_tokens_max = cached_tokens_max
        self._verified: dict[bytes, _Verified] = {}

    @property
    def remembered_tokens(self) -> int:
        """How many verified tokens are remembered now, at most `cached_tokens_max`."""
        return len(self._verified)

    async def verify(self, authorization: str | None) -> Caller:
        """The caller that this Authorization header proves. Raises TokenRefused, or Unavailable without any key."""
        token = _bearer_token(authorization)
        fingerprint = hashlib.sha256(token.encode()).digest()
        known = self._verified.pop(fingerprint, None)
        if known is None or not await self._still_holds(known):
            known = await self._check(token)
        self._remember(fingerprint, known)
        return known.caller

    async def _still_holds(self, known: _Verified) -> bool:
        return self._clock() < known.caller.expires_at and await self._keys.key(known.key_id) is known.key

    def _remember(self, fingerprint: bytes, verified: _Verified) -> None:
        self._verified[fingerprint] = verified
        while len(self._verified) > self._cached_tokens_max:
            del self._verified[next(iter(self._verified))]

    async def _check(self, token: str) -> _Verified:
        key_id = self._read_header(token)
        key = await self._keys.key(key_id)
        claims = self._read_claims(token, key)
        return _Verified(self._caller(claims, now=self._clock()), key_id, key)

    def _read_header(self, token: str) -> str | None:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise MalformedToken from None
        algorithm, typ = header.get("alg"), header.get("typ", "jwt")
        if "crit" in header or not isinstance(algorithm, str) or not isinstance(typ, str):
            raise MalformedToken(why="Its header names no alg, or a critical extension that is not understood here.")
        if algorithm.lower() == "none":
            raise UnsignedToken
        if algorithm not in self._algorithms:
            raise AlgorithmNotAllowed
        if typ.lower().removeprefix("application/") not in self._token_types:
            raise NotAnAccessToken
        key_id: str | None = header.get("kid")
        return key_id

    def _read_claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:  # PyJWT compares times with the machine's clock; ours is injected, so times are compared below
            return jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["iss", "aud", "sub", "exp", "iat"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.InvalidSignatureError:
            raise BadSignature from None
        except (jwt.InvalidAlgorithmError, jwt.InvalidKeyError):
            raise AlgorithmNotAllowed from None
        except jwt.InvalidIssuerError:
            raise ForeignIssuer from None
        except jwt.InvalidAudienceError:
            raise ForeignAudience from None
        except jwt.PyJWTError:
            raise MalformedToken from None

    def _caller(self, claims: Mapping[str, Any], *, now: datetime) -> Caller:
        expires_at = _moment(claims["exp"], claim="exp")
        begun = {name: _moment(claims[name], claim=name) for name in _BEGINNINGS if claims.get(name) is not None}
        if expires_at <= now - self._leeway:
            raise ExpiredToken
        if any(moment > now + self._leeway for moment in begun.values()):
            raise NotYetValidToken
        subject, on_behalf_of = self._subjects(claims)
        kind = self._kind(claims)
        return Caller(
            subject=subject,
            issuer=self._issuer,
            name=None if on_behalf_of else _name(claims),
            kind=kind,
            on_behalf_of=on_behalf_of,
            auth_time=begun.get("auth_time") if kind == "person" else None,
            expires_at=expires_at,
        )

    def _subjects(self, claims: Mapping[str, Any]) -> tuple[str, str | None]:
        subject, actor = _opaque(claims["sub"]), claims.get("act")
        if actor is None:
            return subject, None
        if not isinstance(actor, dict):
            raise MalformedToken(why="The claim act must be an object with a sub (RFC 8693, 4.1).")
        if actor.get("iss", self._issuer) != self._issuer:
            raise ForeignIssuer
        return _opaque(actor.get("sub")), subject

    def _kind(self, claims: Mapping[str, Any]) -> Literal["person", "service"]:
        is_client = claims["sub"] in (claims.get("client_id"), claims.get("azp"))
        is_marked = self._service_claim is not None and claims.get(self._service_claim[0]) == self._service_claim[1]
        shows_nobody = claims.get("auth_time") is None and not claims.get("name")
        return "service" if is_client or is_marked or shows_nobody or claims.get("act") is not None else "person"


def require_recent_sign_in(caller: Caller, now: datetime, max_age_s: int) -> None:
    """Let only a named person pass who signed in at most `max_age_s` seconds before `now`.

    After RFC 9470 and 21 CFR 11.50 and 11.200. Raises OnlyPersonsSign, PrintedNameMissing or SignInTooOld.
    """
    if caller.kind != "person":
        raise OnlyPersonsSign(
            "Only a person signs",
            why="A signature is the act of a person; services and assistants may draft.",
            next_step="Let a person with the role fetch what would be signed and sign it.",
        )
    if caller.name is None:
        raise PrintedNameMissing(
            "The sign-in states no printed name",
            why="A signature shows the printed name of its signer, and the token has no claim name.",
            next_step="Let the identity provider put the claim name into access tokens and sign in again.",
        )
    if caller.auth_time is None or now - caller.auth_time > timedelta(seconds=max_age_s):
        raise SignInTooOld(max_age_s=max_age_s)


def printed_name(text: str, *, characters_max: int) -> str | None:
    """The name as it is printed: NFC, single spaces. None where it is empty, too long or not printable."""
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    visible = name.translate(_JOINERS)
    return name if visible and visible.isprintable() and len(name) <= characters_max else None


def _require_safe(algorithms: Sequence[str]) -> None:
    if not algorithms or any(name.lower() == "none" or name.upper().startswith("HS") for name in algorithms):
        raise UnsafeAlgorithm(
            "The list of token algorithms is not safe",
            why="It must name at least one, not none, and no HS algorithm: its secret lets whoever verifies sign too.",
            next_step=f"Use some of {', '.join(ALGORITHMS)}.",
        )


def _bearer_token(authorization: str | None) -> str:
    if authorization is None or authorization.partition(" ")[0].lower() != "bearer":
        raise MissingToken
    if len(authorization) > TOKEN_CHARACTERS_MAX + len("Bearer "):
        raise MalformedToken
    found = _BEARER.fullmatch(authorization)
    if found is None:
        raise MalformedToken
    return found[1]


def _moment(seconds: object, *, claim: str) -> datetime:
    """NumericDate of RFC 7519. Python reads NaN and 1e999 as JSON too, and neither would ever expire."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 253_402_300_800:
        raise MalformedToken(why=f"The claim {claim} must be a number of seconds since 1970.")
    return datetime.fromtimestamp(math.floor(seconds), UTC)


def _opaque(subject: object) -> str:
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARACTERS_MAX:
        raise MalformedToken(why="A subject must be text of 1 to 255 characters.")
    if "@" in subject or any(character.isspace() for character in subject):
        raise PersonalSubject
    if not (subject.isascii() and subject.isprintable()):
        raise MalformedToken(why="A subject must be printable ASCII (OpenID Connect Core 1.0, section 2).")
    return subject


def _name(claims: Mapping[str, Any]) -> str | None:
    name = claims.get("name")
    if name is None or name == "":
        return None
    printed = printed_name(name, characters_max=NAME_CHARACTERS_MAX) if isinstance(name, str) else None
    if printed is None:
        raise MalformedToken(why=f"The claim name must be 1 to {NAME_CHARACTERS_MAX} printable characters.")
    return printed
