"""Fetches the jars of Apache Kafka with Maven, once, under build/."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
INSTALLATIONS = HERE.parents[1] / "build" / "kafka-jars"
JAVA_AT_LEAST = 17
INSTALL_TIMEOUT_S = 300
WHAT_TO_INSTALL = (
    f"install a Java runtime {JAVA_AT_LEAST} or newer and Maven"
    " (Debian and Ubuntu: apt install default-jre-headless maven; macOS: brew install openjdk maven)"
)


class CannotRun(Exception):
    """The broker cannot run here; the message is one line that says what to install."""


def installed() -> Path:
    """The folder with the jars. As root on Debian missing programs are installed. Raises CannotRun.

    Of several test runs and their workers one installs, and the others find it done.
    """
    INSTALLATIONS.mkdir(parents=True, exist_ok=True)
    with (INSTALLATIONS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _installed()


def _installed() -> Path:
    if not _programs_are_there() and os.geteuid() == 0 and shutil.which("apt-get"):
        _install_programs()
    if not _programs_are_there():
        raise CannotRun(WHAT_TO_INSTALL)
    folder = INSTALLATIONS / hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()[:16]
    if not folder.exists():
        _fetch_jars(folder)
    return folder


def _programs_are_there() -> bool:
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None:
        return False
    answer = subprocess.run([java, "-version"], check=False, capture_output=True, text=True, timeout=60)
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return version is not None and int(version[1]) >= JAVA_AT_LEAST


def _install_programs() -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "default-jre-headless", "maven"],
    ):
        try:
            subprocess.run(command, check=False, capture_output=True, env=environment, timeout=INSTALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return


def _fetch_jars(folder: Path) -> None:
    """Into a folder beside, then renamed: an installation that was cut off is never taken for a whole one."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(HERE / "pom.xml"),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={beside}",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(beside, ignore_errors=True)
        reason = " ".join(str(error.stdout or error).split())[:200]
        raise CannotRun(
            f"make `mvn dependency:copy-dependencies` work (is there a way to the registry?): {reason}"
        ) from None
    try:
        beside.rename(folder)
    except OSError:  # somebody else's test run was faster
        shutil.rmtree(beside, ignore_errors=True)
