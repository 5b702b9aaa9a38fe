"""A certificate authority for the tests, and what it signs: the broker's certificate and those of clients."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=2)


@dataclass(frozen=True)
class Certificates:
    """PEM files. `broker` and `client` hold key and certificate in one file, as the broker reads them."""

    authority: Path
    authority_key: Path
    broker: Path
    client: Path
    client_certificate: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """New ones, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed("prooftrail tests", key.public_key(), key, "prooftrail tests", authority=True)
    return Certificates(
        authority=_written(folder / "authority.pem", _pem(authority)),
        authority_key=_written(folder / "authority.key.pem", _private(key)),
        broker=_leaf(folder / "broker", key),
        client=_leaf(folder / "client", key),
        client_certificate=folder / "client.certificate.pem",
        client_key=folder / "client.key.pem",
    )


def certify(certificates: Certificates, name: str) -> tuple[Path, Path]:
    """Certificate and key of one more client, whose common name it is."""
    key = serialization.load_pem_private_key(certificates.authority_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    path = certificates.authority.with_name(name)
    _leaf(path, key)
    return path.with_name(f"{name}.certificate.pem"), path.with_name(f"{name}.key.pem")


def _leaf(path: Path, authority: ec.EllipticCurvePrivateKey) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _pem(_signed(path.name, key.public_key(), authority, "prooftrail tests", authority=False))
    private = _private(key)
    _written(path.with_name(f"{path.name}.certificate.pem"), certificate)
    _written(path.with_name(f"{path.name}.key.pem"), private)
    return _written(path.with_name(f"{path.name}.pem"), private + certificate)


def _signed(
    name: str, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey, issuer: str, *, authority: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not authority:
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(uses, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path
