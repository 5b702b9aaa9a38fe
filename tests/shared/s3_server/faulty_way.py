"""A way to a server that can be cut, made deaf, or that loses a header."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

BLOCK_BYTES = 1 << 16


@dataclass
class FaultyWay:
    """Passes connections on to `target`. All limits hold for each connection apart; None means without limit.

    `request_bytes`: after so many bytes to the server both sides are closed. `answer_bytes`: so many bytes of the answer come
    back, then both sides are closed. `rewritten`: bytes that are exchanged for others of the same length on their way there.
    """

    target: int
    request_bytes: int | None = None
    answer_bytes: int | None = None
    rewritten: tuple[bytes, bytes] | None = None

    def __enter__(self) -> FaultyWay:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for work in (self._there, self._back):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        with _closing(client, server):
            for block in _limited(client, self.request_bytes):
                server.sendall(block.replace(*self.rewritten) if self.rewritten else block)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with _closing(client, server):
            for block in _limited(server, self.answer_bytes):
                client.sendall(block)


def _limited(source: socket.socket, limit: int | None) -> Iterator[bytes]:
    left = limit
    while block := source.recv(BLOCK_BYTES):
        if left is None:
            yield block
            continue
        if left > 0:
            yield block[:left]
        left -= len(block)
        if left < 0:
            return


@contextlib.contextmanager
def _closing(*sockets: socket.socket) -> Iterator[None]:
    with contextlib.suppress(OSError):
        yield
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
