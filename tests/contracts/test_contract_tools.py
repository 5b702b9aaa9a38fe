"""The tools of those who made the formats have nothing to say against our documents."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import npm_packages
from tests.npm_packages import CannotRun, skip_loudly

CHECKOUT = Path(__file__).parents[2]
PINS = Path(__file__).parent / "npm"
TIMEOUT_S = 120


@pytest.fixture(scope="session")
def modules(request: pytest.FixtureRequest) -> Path:
    """The installed tools."""
    try:
        return npm_packages.installed(
            PINS, name="contract-tools", node="18", runs="Number(process.versions.node.split('.')[0]) >= 18"
        )
    except CannotRun as reason:
        skip_loudly(request, what="AsyncAPI document and protos by their own tools", reason=reason)


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
    """Against those of the last commits that changed them."""
    commits = _git("log", "-2", "--diff-filter=AM", "--format=%H", "--", "proto/prooftrail").decode().split()
    if not commits:
        pytest.skip("the history of the protos is not here")
    for commit in commits:
        before = tmp_path / commit
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "proto/prooftrail"))) as archive:
            archive.extractall(before, filter="data")
        assert _run(modules / ".bin" / "buf", "breaking", "proto", "--against", before / "proto") == (0, "")


def test_a_break_would_be_noticed(modules: Path, tmp_path: Path) -> None:
    """A field that goes is one."""
    for version, field in (("before", "string name = 1;"), ("after", "")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.proto").write_text(f'syntax = "proto3";\npackage a.v1;\nmessage Thing {{ {field} }}\n')
    code, said = _run(modules / ".bin" / "buf", "breaking", tmp_path / "after", "--against", tmp_path / "before")
    assert code != 0
    assert 'Previously present field "1"' in said


def _git(*arguments: str) -> bytes:
    """Nothing where there is no repository."""
    safe = f"safe.directory={CHECKOUT}"
    ended = subprocess.run(["git", "-c", safe, *arguments], cwd=CHECKOUT, capture_output=True, check=False)
    return ended.stdout if ended.returncode == 0 else b""
