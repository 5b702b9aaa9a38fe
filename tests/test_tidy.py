"""What nobody may break: sizes, names, leftovers and paths, checked over every file of the checkout."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 500
# The verifier is one file on purpose: an auditor reads it and carries it away.
FILE_LINES_MAX_OF = {Path("verifier/prooftrail_verify.py"): 1650}
FUNCTION_LINES_MAX = 50
SERVICE_README_LINES = range(8, 41)
DECISION_SECTIONS = ("Context", "Decision", "Consequences", "Alternatives")
# The last two shadow a library when a file beside them runs as a script.
BANNED_MODULES = {"utils", "helpers", "manager", "base", "common", "service", "models", "http", "grpc"}
LEFTOVER_FILE = re.compile(r"(plan|status|progress|roadmap|notes?|summary|to-?do|hand-?off|handover)", re.IGNORECASE)
# Put together from parts, so that this file does not find itself.
LEFTOVER_WORD = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
HOME_FOLDER = re.compile(r"(?<![\w.])/(home|Users|root)/\w")
HOST = re.compile(r"://|--(index-url|extra-index-url|find-links|trusted-host)")
UNTRACKED_FOLDER = re.compile(r"(.*/)?(\.(?!ci/)[^/]+|__pycache__)/|(build|data)/")
CLOCK_AND_CHANCE = {"now", "utcnow", "today", "fromtimestamp", "uuid1", "uuid4", "default_rng"}


def _checkout() -> tuple[Path, ...]:
    """Files that git tracks or would add; without git, everything that is not hidden."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        names = listing.stdout.splitlines()
    else:
        below = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(path) for path in below if not UNTRACKED_FOLDER.match(str(path))]
    return tuple(Path(name) for name in sorted(names) if (ROOT / name).is_file())


FILES = _checkout()
PYTHON = tuple(path for path in FILES if path.suffix == ".py" and "wire" not in path.parts)
PROSE = tuple(path for path in FILES if path.suffix in {".md", ".txt", ".rst"} and path.parts[0] != "requirements")
SERVICES = tuple(
    sorted({Path(*path.parts[:2]) for path in PYTHON if path.parts[0] == "services" and len(path.parts) > 2})
)


def _text(path: Path) -> str:
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def _tree(path: Path) -> ast.Module:
    return ast.parse(_text(path), filename=str(path))


def _matches(pattern: re.Pattern[str], paths: tuple[Path, ...]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate(_text(path).splitlines(), start=1)
        if pattern.search(line)
    ]


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _long_functions(path: Path) -> Iterator[str]:
    """A function inside a function counts for itself: a router of twenty short routes is not a long function."""
    for node in _functions(_tree(path)):
        inner = (_lines(other) for other in _functions(node) if other is not node)
        own = len(_lines(node).difference(*inner))
        if own > FUNCTION_LINES_MAX:
            yield f"{path}:{node.lineno}: {node.name} has {own} lines"


def _absolute_imports_of_services(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        yield from (f"{path}: imports {name}" for name in names if name.split(".")[0] == "services")


def _calls_of_clock_and_chance(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in CLOCK_AND_CHANCE:
                yield f"{path}:{node.lineno}: {name}"


def test_the_checkout_is_seen() -> None:
    """Every rule below looks at files that exist."""
    assert Path("Makefile") in FILES
    assert Path("tests/test_tidy.py") in PYTHON


def test_files_are_short() -> None:
    """A file that grows past the limit is two rooms."""
    lengths = {path: len(_text(path).splitlines()) for path in PYTHON}
    too_long = {path: n for path, n in lengths.items() if n > FILE_LINES_MAX_OF.get(path, FILE_LINES_MAX)}
    assert too_long == {}


def test_functions_are_short() -> None:
    """A function fits on one screen."""
    assert [finding for path in PYTHON for finding in _long_functions(path)] == []


def test_modules_have_telling_names() -> None:
    """No module is named after having no name, or after a library that it would shadow."""
    assert [str(path) for path in PYTHON if {path.stem, *path.parts[:-1]} & BANNED_MODULES] == []


def test_nothing_is_left_for_later() -> None:
    """Work that is not done stands in an issue, never in the code."""
    assert _matches(LEFTOVER_WORD, FILES) == []


def test_no_plan_or_status_file_is_kept() -> None:
    """The repository describes what is, not how it came about."""
    assert [str(path) for path in PROSE if LEFTOVER_FILE.fullmatch(path.stem)] == []


def test_no_path_of_a_machine_is_kept() -> None:
    """Nothing depends on, or tells, where somebody's home lies."""
    assert _matches(HOME_FOLDER, FILES) == []


def test_requirements_name_no_host() -> None:
    """The pins hold wherever packages come from."""
    pins = tuple(path for path in FILES if path.parts[0] == "requirements")
    assert len(pins) >= 2
    assert _matches(HOST, pins) == []


@pytest.mark.parametrize("source", sorted((ROOT / "requirements").glob("*.in")), ids=lambda path: path.stem)
def test_requirements_are_pinned(source: Path) -> None:
    """Each package asked for has a pin, and each pin a hash."""
    asked = re.findall(r"^([a-z][\w-]*)", source.read_text(), flags=re.MULTILINE)
    pins = source.with_suffix(".txt").read_text()
    assert [name for name in asked if not re.search(rf"^{name}==\S+ .*\\$", pins, flags=re.MULTILINE)] == []
    assert re.findall(r"^[a-z].*\\\n(?!    --hash=sha256:)", pins, flags=re.MULTILINE) == []


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_service_explains_itself(service: Path) -> None:
    """The README beside the code says what the service answers, in 10 to 20 lines or little more."""
    readme = ROOT / service / "README.md"
    assert readme.is_file()
    assert len(readme.read_text().splitlines()) in SERVICE_README_LINES


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_service_is_a_folder_to_copy(service: Path) -> None:
    """Inside a service imports are relative, so that the folder works under another name."""
    files = [path for path in PYTHON if service in path.parents]
    assert [finding for path in files for finding in _absolute_imports_of_services(path)] == []


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_domain_reads_no_clock_and_throws_no_dice(service: Path) -> None:
    """Time, identifiers and chance come into the domain as parameters."""
    files = [path for path in PYTHON if service / "domain" in path.parents]
    assert [finding for path in files for finding in _calls_of_clock_and_chance(path)] == []


def test_every_target_has_a_help_line() -> None:
    """`make help` shows all there is."""
    makefile = _text(Path("Makefile"))
    targets = re.findall(r"^([a-z][\w-]*):(?!=)(.*)$", makefile, flags=re.MULTILINE)
    assert len(targets) > 5
    assert [name for name, rest in targets if " ## " not in rest] == []


def test_decision_records_have_their_sections() -> None:
    """A decision is kept with what led to it, what follows and what was left."""
    records = [path for path in FILES if path.parent == Path("docs/decisions") and path.suffix == ".md"]
    missing = [
        f"{path}: {section}"
        for path in records
        for section in DECISION_SECTIONS
        if not re.search(rf"^##+ {section}\b", _text(path), flags=re.MULTILINE)
    ]
    assert missing == []
    assert [str(path) for path in records if not re.match(r"\d{4}-[a-z0-9-]+$", path.stem)] == []
