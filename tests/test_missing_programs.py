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
