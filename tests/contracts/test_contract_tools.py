"""The tools of those who made the formats have nothing to say against our documents."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import npm_packages
from tests.npm_packages import CannotRun, skip_loudly

CHECKOUT = Path(__file__).parents[2]
PINS = Path(__file__).parent / "npm"
RELEASED = Path(__file__).parent / "released.binpb"
"""The protos of the last release: copied from proto/prooftrail.binpb when one is tagged, and never to make a test pass."""
TIMEOUT_S = 120


@pytest.fixture(scope="session")
def modules() -> Path:
    """The installed tools."""
    try:
        return npm_packages.installed(
            PINS, name="contract-tools", node="18", runs="Number(process.versions.node.split('.')[0]) >= 18"
        )
    except CannotRun as reason:
        skip_loudly(what="AsyncAPI document and protos by their own tools", reason=reason)


def _run(*command: str | Path, cwd: Path = CHECKOUT) -> tuple[int, str]:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    return ended.returncode, ended.stdout + ended.stderr


def test_the_asyncapi_document_is_valid(modules: Path, tmp_path: Path) -> None:
    """Every payload is found and read; a wrong name or a missing file would be noticed."""
    check = PINS / "validate_asyncapi.mjs"
    assert _run("node", check, modules, CHECKOUT / "docs" / "asyncapi.json") == (0, "")
    damaged = tmp_path / "asyncapi.json"
    text = (CHECKOUT / "docs" / "asyncapi.json").read_text()
    for old, new in (('"protocol"', '"protocols"'), ("./schemas/", "./nowhere/")):
        damaged.write_text(text.replace(old, new).replace("./schemas/", f"{CHECKOUT}/docs/schemas/"))
        assert _run("node", check, modules, damaged)[0] == 1


def test_the_protos_are_lint_clean(modules: Path, tmp_path: Path) -> None:
    """By the STANDARD rules of buf."""
    buf = modules / ".bin" / "buf"
    assert _run(buf, "lint", "proto") == (0, "")
    (tmp_path / "bad.proto").write_text('syntax = "proto3";\nmessage lower {}\n')
    assert _run(buf, "lint", tmp_path)[0] != 0


def test_the_protos_break_nobody(modules: Path, tmp_path: Path) -> None:
    """Whoever compiled the protos that were released last, whatever came between; a field that goes is noticed."""
    buf = modules / ".bin" / "buf"
    assert _run(buf, "breaking", "proto", "--against", RELEASED) == (0, "")
    shutil.copytree(CHECKOUT / "proto", tmp_path / "proto")
    damaged = tmp_path / "proto" / "prooftrail" / "requirements" / "v1" / "requirements.proto"
    field = "  optional string intended_use = "
    kept = [line for line in damaged.read_text().splitlines() if not line.startswith(field)]
    damaged.write_text("\n".join(kept))
    code, said = _run(buf, "breaking", tmp_path / "proto", "--against", RELEASED)
    assert code != 0
    assert 'with name "intended_use"' in said
