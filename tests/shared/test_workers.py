"""Work in a process of its own: a worker that dies takes its work with it, and nothing else."""

from __future__ import annotations

import os
import signal
from concurrent.futures import BrokenExecutor

import pytest

from shared.workers import Workers


def test_a_worker_that_was_killed_is_replaced() -> None:
    """The work under way fails; the next is done by another process."""
    with Workers() as workers:
        first = workers.submit(os.getpid).result(30)
        assert first != os.getpid()
        with pytest.raises(BrokenExecutor):
            workers.submit(os.kill, first, signal.SIGKILL).result(30)
        second = workers.submit(os.getpid).result(30)
        assert second not in (first, os.getpid())
