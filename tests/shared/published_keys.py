"""A small HTTP server on loopback that publishes keys, counts who asks, and can be told to misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DISCOVERY = "/.well-known/openid-configuration"


class PublishedKeys(ThreadingHTTPServer):
    """`answers` maps a path to status and body; `asked` lists the paths in order of arrival.

    While `open_gate` is clear, answers are held back; those to paths in `dripping` never end; a redirect goes to its
    body.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.jwks_uri = f"{self.address}/keys"
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.arrival = threading.Condition()
        self.dripping: set[str] = set()
        self.closing = threading.Event()
        self.open_gate = threading.Event()
        self.open_gate.set()

    def publish(self, jwks: object) -> None:
        """Serve a discovery document and this key set."""
        self.say("/keys", jwks)
        self.say(DISCOVERY, {"issuer": self.address, "jwks_uri": self.jwks_uri})

    def say(self, path: str, document: object, *, status: int = 200) -> None:
        self.answers[path] = (status, json.dumps(document).encode())

    async def has_been_asked(self, times: int) -> None:
        """Return once this many requests have arrived."""

        def wait() -> bool:
            with self.arrival:
                return self.arrival.wait_for(lambda: len(self.asked) >= times, timeout=60)

        assert await asyncio.to_thread(wait)

    def break_down(self) -> None:
        """Answer everything with 500."""
        self.answers = dict.fromkeys(self.answers, (500, b"{}"))


class _Handler(BaseHTTPRequestHandler):
    server: PublishedKeys

    def do_GET(self) -> None:
        with self.server.arrival:
            self.server.asked.append(self.path)
            self.server.arrival.notify_all()
        self.server.open_gate.wait(60)
        status, body = self.server.answers.get(self.path, (404, b"{}"))
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", body.decode())
        if self.path not in self.server.dripping:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path in self.server.dripping:
            self._drip()

    def _drip(self) -> None:
        """One byte at a time, until the other side has had enough."""
        with suppress(OSError):
            while not self.server.closing.wait(0.02):
                self.wfile.write(b" ")

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def publishing() -> Iterator[PublishedKeys]:
    server = PublishedKeys()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.open_gate.set()
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
