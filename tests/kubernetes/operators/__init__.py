"""Holds the operators' own kinds to the schemas of their definitions, which npm's @kubernetes-models carry."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests import npm_packages

HERE = Path(__file__).parent
_RUNS = "Number(process.versions.node.split('.')[0]) >= 20"


def installed() -> Path:
    """The node_modules folder with the pinned schemas, installed once under build/. Raises CannotRun."""
    return npm_packages.installed(HERE, name="operators", node="20", runs=_RUNS)


def findings(schemas: Path, manifests: list[dict[str, Any]]) -> list[str]:
    """One line for each field that is wrong, missing or unknown."""
    command = shutil.which("node")
    assert command is not None
    done = subprocess.run(
        [command, HERE / "validate.mjs", schemas], input=json.dumps(manifests),
        check=False, capture_output=True, text=True, timeout=npm_packages.START_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
