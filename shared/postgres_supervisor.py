"""Keeps one PostgreSQL server for as long as its owner lives: `postgres_supervisor.py OWNER LOCK UID GID postgres ARGUMENT...`

OWNER is the process that started us and holds the other end of our standard input. When it is gone, however it went, or SIGTERM
comes, the server is shut down. LOCK is the descriptor of the folder's lock: the server inherits it, so the lock is free only when
supervisor and server are both gone. Only the standard library is used: this process stays beside the server and should stay small.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
FAST_SHUTDOWN_SECONDS = 20
CLOSED_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}


def supervise(owner: int, lock: int, user: int | None, group: int | None, command: list[str]) -> int:
    """Runs the server until the owner is gone or the server ends; returns the server's exit code."""
    signals = _signals()
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=CLOSED_ENVIRONMENT,
        user=user,
        group=group,
        extra_groups=[] if user is not None else None,
        pass_fds=(lock,),
        preexec_fn=_end_with_parent(),  # noqa: PLW1509 -- this process has one thread
    )
    _wait_for_an_end(server, owner, signals)
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(FAST_SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
    return server.wait()


def _signals() -> int:
    """A descriptor from which the numbers of arriving signals are read: SIGTERM, and SIGCHLD when the server ends."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return read


def _end_with_parent() -> Callable[[], None] | None:
    """On Linux: the server gets a fast shutdown if even this process is killed. Set after the change of user, which clears it."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _wait_for_an_end(server: subprocess.Popen[bytes], owner: int, signals: int) -> None:
    """Returns when the owner is gone, when SIGTERM came, or when the server has ended by itself."""
    gone = [0, *_exit_of(owner)]
    if os.getppid() != owner:
        return
    while server.poll() is None:
        ready, _, _ = select.select([*gone, signals], [], [])
        if signals in ready and signal.SIGTERM in os.read(signals, 512):
            return
        if any(end in ready for end in gone):
            return


def _exit_of(process: int) -> list[int]:
    """On Linux: a descriptor that becomes readable when the process ends, for a child that it forked may hold its pipe."""
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        return [os.pidfd_open(process)]
    except OSError:
        return []


if __name__ == "__main__":
    account = [None if number == "-" else int(number) for number in sys.argv[3:5]]
    sys.exit(supervise(int(sys.argv[1]), int(sys.argv[2]), account[0], account[1], sys.argv[5:]))
