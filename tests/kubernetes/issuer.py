"""An OpenID provider that only publishes its keys, as a pod: metadata and key set over TLS, from files. Run inside the cluster."""

from __future__ import annotations

import functools
import http.server
import ssl

FOLDER = "/run/issuer"


def main() -> None:
    """Serves `/.well-known/openid-configuration` and `/jwks` on port 8443."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=f"{FOLDER}/site")
    server = http.server.ThreadingHTTPServer(("", 8443), handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{FOLDER}/tls.crt", f"{FOLDER}/tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
