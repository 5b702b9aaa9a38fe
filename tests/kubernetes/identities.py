"""Who the cluster believes during a rollout: an authority for TLS, an issuer with one key, and tokens of people."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from jwt.algorithms import OKPAlgorithm

ISSUER = "https://issuer:8443"
KEY_ID = "rollout"


@dataclass(frozen=True)
class Identities:
    """`certificate` and `key` are PEM of the issuer's server, which is its own authority; `signing` signs tokens."""

    certificate: bytes
    key: bytes
    signing: ed25519.Ed25519PrivateKey

    @classmethod
    def made(cls) -> Identities:
        """New ones, for a day."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("issuer")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            ed25519.Ed25519PrivateKey.generate(),
        )

    @property
    def site(self) -> dict[str, str]:
        """What the issuer publishes, by file name."""
        public = json.loads(OKPAlgorithm.to_jwk(self.signing.public_key()))
        return {
            "openid-configuration": json.dumps({"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks"}),
            "jwks": json.dumps({"keys": [{**public, "kid": KEY_ID, "alg": "EdDSA", "use": "sig"}]}),
        }

    def subject(self, name: str) -> str:
        """The opaque subject of a name."""
        return f"rollout-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    def token(self, name: str, *, person: bool) -> str:
        """An access token (RFC 9068) for an hour; a service shows no sign-in, and is its own client."""
        now, subject = int(time.time()), self.subject(name)
        claims = {"iss": ISSUER, "aud": "prooftrail", "sub": subject, "iat": now, "exp": now + 3600, "jti": f"{now}"}
        more = {"name": name, "auth_time": now} if person else {"client_id": subject}
        return jwt.encode({**claims, **more}, self.signing, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": KEY_ID})
