"""Programs in Go that tests use: built once under build/ from pinned modules, whose sums Go checks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.npm_packages import CannotRun

BUILT = Path(__file__).parents[1] / "build"
BUILD_TIMEOUT_S = 900


def go_program(*, name: str, module: str, version: str, folder: str) -> Path:
    """The program `name` of the module, in build/<folder>/<version>. Raises CannotRun, which says what to install."""
    program = BUILT / folder / version / name
    if not program.exists():
        go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
        if go is None:
            raise CannotRun("install Go (Debian and Ubuntu: golang; macOS: brew install go)")
        _build(go, f"{module}@{version}", program.parent)
    return program


def _build(go: str, module: str, folder: Path) -> None:
    """Into a folder beside, then renamed: a build that was cut off is never taken for a whole one."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    environment = {**os.environ, "GOBIN": str(beside), "CGO_ENABLED": "0"}
    try:
        subprocess.run(
            [go, "install", module],
            cwd=beside,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(beside, ignore_errors=True)
        reason = " ".join(str(error.stderr or error).split())[-200:]
        raise CannotRun(f"make `go install {module}` work (is Go new enough?): {reason}") from None
    try:
        beside.rename(folder)
    except OSError:  # somebody else's test run was faster
        shutil.rmtree(beside, ignore_errors=True)
