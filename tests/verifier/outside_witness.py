"""A witness of somebody else: over HTTP on loopback, with a folder and a key of its own, and silent when it is told to be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from shared.errors import ProoftrailError
from shared.log.note import VerifierKey
from shared.log.witness import FolderWitness, parse_submission, witness_answer
from shared.runtime import utc_now


class OutsideWitness:
    """`known` are the keys of logs that it was given; it cosigns for no other."""

    def __init__(self, folder: Path) -> None:
        self.known: Sequence[str] = ()
        self._witness = FolderWitness.open(folder, name="witness.example", logs=self._keys, clock=utc_now)
        self._port = 0
        self.begin()

    @property
    def vkey(self) -> str:
        """Its verifier key."""
        return self._witness.vkey

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

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

    def _keys(self, origin: str) -> list[VerifierKey]:
        keys = map(VerifierKey.parse, self.known)
        return [key for key in keys if key.name == origin.rpartition("/")[0]]

    def _answered(self, body: bytes) -> tuple[int, str, str]:
        try:
            asked = parse_submission(body)
            lines = asyncio.run(
                self._witness.add_checkpoint(old_size=asked.old_size, proof=asked.proof, note=asked.note)
            )
        except ProoftrailError as error:
            return witness_answer(error)
        return 200, "text/plain; charset=utf-8", lines

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        witness = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, media_type, answer = witness._answered(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(answer.encode())))
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *_: Any) -> None:
                return

        return Handler
