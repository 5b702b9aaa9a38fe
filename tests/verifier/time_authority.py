"""A time stamp authority on loopback: OpenSSL's own, behind a small HTTP server, with keys that were made for this run."""

from __future__ import annotations

import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

OPENSSL = shutil.which("openssl")
CONFIGURATION = """
[tsa]
default_tsa = own
[own]
serial = {folder}/serial
signer_cert = {folder}/signer.pem
signer_key = {folder}/signer.key
certs = {folder}/root.pem
default_policy = 1.2.3.4.1
signer_digest = sha256
digests = {digests}
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class TimeAuthority:
    """`url` answers queries; `answers` are those so far, and `canned` is what it says instead, when it is set."""

    def __init__(
        self, folder: Path, *, kind: str = "rsa", digests: str = "sha256", began: datetime | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self._folder, self.answers, self.canned = folder, list[bytes](), b""
        began = began or datetime.now(UTC) - timedelta(days=1)
        self.root = _issue(folder, "root", kind=kind, issuer=None, began=began)
        self.signer = _issue(folder, "signer", kind=kind, issuer="root", began=began)
        (folder / "openssl.cnf").write_text(CONFIGURATION.format(folder=folder, digests=digests))
        (folder / "serial").write_text("01\n")
        self._port = 0
        self.begin()
        self.url = f"http://127.0.0.1:{self._port}/"

    def begin(self) -> None:
        """Answers, again at the same address."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        """Nobody answers any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, query: bytes) -> bytes:
        """OpenSSL's answer."""
        (self._folder / "query").write_bytes(query)
        self._openssl("-reply", "-queryfile", "query", "-out", "reply", "-config", "openssl.cnf")
        return (self._folder / "reply").read_bytes()

    def accepts(self, response: bytes, content: bytes) -> bool:
        """Whether OpenSSL verifies the response over the content."""
        (self._folder / "content").write_bytes(content)
        (self._folder / "response").write_bytes(response)
        arguments = ("-verify", "-data", "content", "-in", "response", "-CAfile", "root.pem")
        return b"Verification: OK" in self._openssl(*arguments)

    def _openssl(self, *arguments: str) -> bytes:
        assert OPENSSL is not None
        done = subprocess.run(
            [OPENSSL, "ts", *arguments], cwd=self._folder, capture_output=True, check=False, timeout=60
        )
        return done.stdout + done.stderr

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                answer = authority.canned or authority.answer(query)
                authority.answers.append(answer)
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                return

        return Handler


def _issue(folder: Path, name: str, *, kind: str, issuer: str | None, began: datetime) -> x509.Certificate:
    """A certificate and its key as files: the root, or that of whoever stamps."""
    key: Any = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, f"Time {name}")])
    signer, vouching = key, subject
    if issuer is not None:
        signer = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
        vouching = x509.load_pem_x509_certificate((folder / f"{issuer}.pem").read_bytes()).subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(vouching)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        stamping = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(stamping, critical=True)
    certificate = builder.sign(signer, hashes.SHA256())
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / f"{name}.key").write_bytes(private)
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate
