"""Starting the server once for a module of tests, or saying loudly that it cannot run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.shared.s3_server import CannotRun, S3Server, installed, running


@pytest.fixture(scope="module")
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server; without Go the test is skipped with one loud line, and in CI it fails."""
    try:
        program = installed()
    except CannotRun as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"S3 server: {reason}", pytrace=False)
        terminal = request.config.pluginmanager.get_plugin("terminalreporter")
        capture = request.config.pluginmanager.get_plugin("capturemanager")
        if terminal is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                terminal.write_line(f"\nNOT TESTED against a real S3 server: {reason}", red=True, bold=True)
        pytest.skip(str(reason))
    with running(program, tmp_path_factory.mktemp("s3")) as started:
        yield started
