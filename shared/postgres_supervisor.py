"""Keeps one PostgreSQL server for as long as its owner lives: `python postgres_supervisor.py LOCK UID GID postgres ARGUMENT...`

Standard input is a pipe that the owner holds. When it ends, the owner is gone, however it went, and the server is shut down.
LOCK is the descriptor of the folder's lock: the server inherits it, so the lock is free only when owner, supervisor and server
are all gone. Only the standard library is used: this process stays beside the server all the time and should stay small.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
FAST_SHUTDOWN_SECONDS = 20


def supervise(lock: int, user: int | None, group: int | None, command: list[str]) -> int:
    """Runs the server until the owner's pipe ends or the server does; returns the server's exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        user=user,
        group=group,
        extra_groups=[] if user is not None else None,
        pass_fds=(lock,),
        preexec_fn=_end_with_parent(),  # noqa: PLW1509 -- this process has one thread
    )
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.send_signal(signal.SIGINT))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    _wait_for_owner(server)
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(FAST_SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
    return server.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """On Linux: the server gets a fast shutdown if even this process is killed. Set after the change of user, which clears it."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _wait_for_owner(server: subprocess.Popen[bytes]) -> None:
    """Returns when the pipe ends, or when the server has ended by itself."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    while server.poll() is None:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 512)
        if 0 in ready and not os.read(0, 512):
            return


if __name__ == "__main__":
    sys.exit(
        supervise(
            int(sys.argv[1]),
            int(sys.argv[2]) if sys.argv[2] != "-" else None,
            int(sys.argv[3]) if sys.argv[3] != "-" else None,
            sys.argv[4:],
        )
    )
