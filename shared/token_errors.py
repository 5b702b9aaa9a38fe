"""Why a caller is not believed: one class for each broken rule, each with the WWW-Authenticate header that says so.

    Unauthenticated
    └── TokenRefused
        ├── MissingToken        no `Authorization: Bearer`
        ├── MalformedToken      not a signed JWT with the claims of RFC 9068, or an extension not understood
        ├── NotAnAccessToken    another `typ`, an ID token for example
        ├── AlgorithmNotAllowed
        │   └── UnsignedToken
        ├── UnknownKey          the issuer publishes no such key, or no longer
        ├── BadSignature
        ├── ForeignIssuer
        ├── ForeignAudience
        ├── ExpiredToken
        ├── NotYetValidToken
        ├── PersonalSubject     events keep the subject for ever, so it must be opaque
        └── SignInTooOld        good enough to read, too old to sign
    Refused
    ├── OnlyPersonsSign
    └── PrintedNameMissing

Messages say which rule was broken and never repeat a part of the token.
"""

from __future__ import annotations

from typing import ClassVar

from shared.errors import Refused, Unauthenticated


class TokenRefused(Unauthenticated):
    """The token proves nothing. The message names the broken rule and never repeats a part of the token."""

    WHAT: ClassVar[str] = "The bearer token is not accepted"
    WHY: ClassVar[str] = ""
    NEXT_STEP: ClassVar[str] = "Ask your identity provider for a new access token and send it as Authorization: Bearer."

    def __init__(self, *, why: str | None = None) -> None:
        super().__init__(self.WHAT, why=self.WHY if why is None else why, next_step=self.NEXT_STEP)

    @property
    def www_authenticate(self) -> str:
        """Value of the WWW-Authenticate header (RFC 6750, section 3)."""
        return f'Bearer realm="prooftrail", error="invalid_token", error_description="{self.WHAT}"'


class MissingToken(TokenRefused):
    WHAT = "No bearer token was sent"
    WHY = "Everything but health, the API document and the key set is answered only to a known caller."

    @property
    def www_authenticate(self) -> str:
        """Without an error code, as RFC 6750, 3.1 asks where nothing was presented."""
        return 'Bearer realm="prooftrail"'


class MalformedToken(TokenRefused):
    WHAT = "The bearer token is malformed"
    WHY = "It must be one signed JWT of at most 8192 characters with iss, aud, sub, exp and iat (RFC 9068)."


class NotAnAccessToken(TokenRefused):
    WHAT = "The bearer token is not an access token"
    WHY = "The header typ must be one that this server accepts, at+jwt by default (RFC 9068, 2.1)."


class AlgorithmNotAllowed(TokenRefused):
    WHAT = "The signature algorithm is not allowed"
    WHY = "Only the algorithms on the allow-list count, each with a key that the issuer publishes for it."


class UnsignedToken(AlgorithmNotAllowed):
    WHAT = "The bearer token is not signed"


class UnknownKey(TokenRefused):
    WHAT = "The signing key is unknown"
    WHY = "The issuer does not publish the key that the token names; it may have been withdrawn."


class BadSignature(TokenRefused):
    WHAT = "The signature is wrong"
    WHY = "The token was altered, or signed by somebody else."


class ForeignIssuer(TokenRefused):
    WHAT = "The token was issued by somebody else"
    WHY = "The claim iss, and act.iss where there is one, must be the issuer that this server trusts."


class ForeignAudience(TokenRefused):
    WHAT = "The token is meant for somebody else"
    WHY = "The claim aud must name this server."


class ExpiredToken(TokenRefused):
    WHAT = "The token has expired"
    WHY = "The claim exp lies in the past."


class NotYetValidToken(TokenRefused):
    WHAT = "The token is not valid yet"
    WHY = "None of the claims nbf, iat and auth_time may lie in the future."


class PersonalSubject(TokenRefused):
    WHAT = "The subject is not opaque"
    WHY = "Events keep the subject for ever, so it must not be an e-mail address or a name: no @, no white space."
    NEXT_STEP = "Let the identity provider issue opaque or pairwise subjects (the claim sub) and sign in again."


class SignInTooOld(TokenRefused):
    WHAT = "The sign-in is too old to sign"
    NEXT_STEP = "Sign in again (max_age in the authorization request) and repeat the request with the new token."

    def __init__(self, *, max_age_s: int) -> None:
        super().__init__(why=f"A signature needs a stated sign-in (auth_time) at most {max_age_s} seconds old.")
        self.max_age_s = max_age_s

    @property
    def www_authenticate(self) -> str:
        """The step-up challenge of RFC 9470, section 3."""
        challenge = f'Bearer error="insufficient_user_authentication", max_age="{self.max_age_s}"'
        return f'{challenge}, error_description="{self.WHAT}"'


class OnlyPersonsSign(Refused):
    """A service, or an assistant on behalf of a person, tried to sign."""


class PrintedNameMissing(Refused):
    """A signature prints the name of its signer (21 CFR 11.50), and the token states none."""
