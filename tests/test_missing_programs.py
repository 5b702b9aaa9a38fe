"""What a machine without Java, Maven or Node does: install once where it may, and otherwise say loudly what was not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import fresh_database
from tests.serving import CHECKOUT, bare_environment, served

APT = """#!/bin/sh
/bin/mkdir "{folder}/apt-lock" || exit 100
/bin/sleep 0.3
[ "$1" = install ] && /bin/cp "{folder}/packages/"* "{folder}/bin/"
/bin/rmdir "{folder}/apt-lock"
"""
JAVA = """#!/bin/sh
echo 'openjdk version "21.0.1"' >&2
"""
MAVEN = """#!/bin/sh
echo fetched >> "{folder}/fetched"
for argument; do case $argument in -DoutputDirectory=*) : > "${{argument#*=}}/kafka.jar" ;; esac; done
"""
INSTALL = """
import os, pathlib
from tests.kafka_broker import installation
os.geteuid = lambda: 0
installation.INSTALLATIONS = pathlib.Path({folder!r}) / "build" / "jars"
print(sorted(one.name for one in installation.installed().iterdir()))
"""
SKIPPING = """
import pytest
from tests.npm_packages import skip_loudly

@pytest.mark.parametrize("number", range(3))
def test_needs_a_program(number):
    skip_loudly(what="against a real thing", reason=RuntimeError("install the thing"))
"""


def test_of_several_workers_one_installs(tmp_path: Path) -> None:
    """On Debian as root: apt-get refuses whoever comes while it works, and Maven fetches once."""
    for name, text in (("bin/apt-get", APT), ("packages/java", JAVA), ("packages/mvn", MAVEN)):
        program = tmp_path / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text.format(folder=tmp_path))
        program.chmod(0o755)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", INSTALL.format(folder=str(tmp_path))], cwd=CHECKOUT,
            env={"PATH": str(tmp_path / "bin")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    answers = [worker.communicate(timeout=120) for worker in workers]
    assert [told for told, _ in answers] == ["['kafka.jar']\n"] * 3, answers
    assert (tmp_path / "fetched").read_text() == "fetched\n"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_was_not_tested_is_said_once_at_the_end(tmp_path: Path, workers: str) -> None:
    """Also where workers ran the tests, which is how `make test` runs them; in CI it is a failure."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_terminal_summary\n")
    (tmp_path / "test_it.py").write_text(SKIPPING)
    said = run_pytest(tmp_path, workers, ci="")
    assert said.returncode == 0, said.stdout
    lines = said.stdout.splitlines()
    assert lines.count("NOT TESTED against a real thing: install the thing") == 1, said.stdout
    failed = run_pytest(tmp_path, workers, ci="true")
    assert failed.returncode == 1
    assert "3 failed" in failed.stdout


def run_pytest(folder: Path, workers: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    options = ("-n", workers, "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder))
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)], cwd=CHECKOUT, timeout=120, check=False,
        env={**bare_environment(), "CI": ci, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True,
    )  # fmt: skip


async def test_a_test_never_joins_the_deployment_of_the_shell(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes see neither its database, nor its Kafka, nor where its traces go; each of these would end one here."""
    for name, value in (
        ("KAFKA_BOOTSTRAP", "no address"),
        ("PROOFTRAIL_LOG_FORMAT", "no format"),
        ("DATABASE_URL", server_url),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
    ):
        monkeypatch.setenv(name, value)
        assert name not in bare_environment()
    async with fresh_database(server_url) as url:
        with served(tmp_path / "data", "requirements", database_url=url):
            pass
