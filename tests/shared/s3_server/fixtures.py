"""Starting the server once for a module of tests, or saying loudly that it cannot run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.npm_packages import CannotRun, skip_loudly
from tests.shared.s3_server import S3Server, installed, running


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server; without Go the test is skipped with one loud line, and in CI it fails."""
    try:
        program = installed()
    except CannotRun as reason:
        skip_loudly(what="evidence files in a real S3 server", reason=reason)
    with running(program, tmp_path_factory.mktemp("s3")) as started:
        yield started
