"""Tools from npm that tests run: pinned, installed once under build/, and missed loudly where they cannot run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

NOT_TESTED = "NOT TESTED"
BUILD = Path(__file__).parents[1] / "build"
INSTALL_TIMEOUT_S = 180
START_TIMEOUT_S = 120
"""A cold disk and two busy cores may take most of a minute to load a large package."""


class CannotRun(Exception):
    """The tool cannot run here; the message is one line that says what to install."""


def installed(pins_folder: Path, *, name: str, node: str, runs: str) -> Path:
    """The node_modules folder with what the package.json and the lock of the folder pin. Raises CannotRun.

    `node` is the version to ask for, `runs` an expression of JavaScript that is true where it is new enough.
    """
    command, npm = shutil.which("node"), shutil.which("npm")
    if command is None or npm is None:
        raise CannotRun(
            f"install Node.js {node} or newer with npm (Debian and Ubuntu: nodejs npm; macOS: brew install node)"
        )
    check = f"process.exit({runs} ? 0 : 1)"
    if (
        subprocess.run([command, "-e", check], check=False, capture_output=True, timeout=START_TIMEOUT_S).returncode
        != 0
    ):
        raise CannotRun(f"install a newer Node.js ({node} or later): this one is too old for {name}")
    pins = [pins_folder / "package.json", pins_folder / "package-lock.json"]
    version = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()[:16]
    folder = BUILD / name / version
    if not folder.exists():
        _install(npm, pins, folder)
    return folder / "node_modules"


def _install(npm: str, pins: list[Path], folder: Path) -> None:
    """Into a folder beside, then renamed: an installation that was cut off is never taken for a whole one."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for pin in pins:
        shutil.copy(pin, beside)
    try:
        subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=beside,
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(beside, ignore_errors=True)
        reason = " ".join(str(error.stderr or error).split())[-200:]
        raise CannotRun(f"make `npm ci` work (is there a way to the registry?): {reason}") from None
    try:
        beside.rename(folder)
    except OSError:  # somebody else's test run was faster
        shutil.rmtree(beside, ignore_errors=True)


def skip_loudly(*, what: str, reason: Exception | str) -> NoReturn:
    """Skips with one line that nobody overlooks, at the end of the run (tests/conftest.py); in CI a skip is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}: {reason}", pytrace=False)
    pytest.skip(f"{NOT_TESTED} {what}: {reason}")
