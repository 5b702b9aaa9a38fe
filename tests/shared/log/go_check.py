"""Builds the Go program beside this file, which checks our formats with Go's own code for logs and notes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "go"
PROGRAMS = Path(__file__).parents[3] / "build" / "log-check"
BUILD_TIMEOUT_S = 240
INSTALL_TIMEOUT_S = 300


class CannotBuild(Exception):
    """The program cannot be built here; the message is one line that says what to install."""


def built() -> Path:
    """The program, built once for each state of its sources. CannotBuild."""
    sources = [SOURCES / name for name in ("go.mod", "go.sum", "main.go")]
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    program = PROGRAMS / version
    if not program.exists():
        _build(_go(), program)
    return program


def _go() -> str:
    """The compiler; a root of a CI machine may install it."""
    found = shutil.which("go")
    if found is None and os.environ.get("CI") == "true" and os.geteuid() == 0 and shutil.which("apt-get"):
        _run(["apt-get", "update"], INSTALL_TIMEOUT_S)
        _run(
            ["apt-get", "install", "--yes", "--no-install-recommends", "golang-go", "ca-certificates"],
            INSTALL_TIMEOUT_S,
        )
        found = shutil.which("go")
    if found is None:
        raise CannotBuild("install Go 1.19 or newer (Debian and Ubuntu: golang-go; macOS: brew install go)")
    return found


def _build(go: str, program: Path) -> None:
    """Beside, then renamed: a build that was cut off is never taken for a whole one."""
    program.parent.mkdir(parents=True, exist_ok=True)
    beside = program.with_name(f"{program.name}.{os.getpid()}")
    _run([go, "build", "-mod=readonly", "-buildvcs=false", "-o", str(beside), "."], BUILD_TIMEOUT_S)
    beside.replace(program)


def _run(command: list[str], timeout_s: int) -> None:
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            command, cwd=SOURCES, env=environment, check=True, capture_output=True, text=True, timeout=timeout_s
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = " ".join(str(error.stderr or error).split())[-200:]
        raise CannotBuild(
            f"make `{' '.join(command[:2])}` work in {SOURCES.name} (is there a way to Go's modules?): {reason}"
        ) from None
