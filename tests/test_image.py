"""What the Dockerfile puts into the image is enough to start, and what it builds on is what it was."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import CHECKOUT

DOCKERFILE = CHECKOUT / "deploy" / "Dockerfile"
INSTALLED = Path("/opt/prooftrail")
START_SECONDS_MAX = 120


def instructions(name: str) -> list[list[str]]:
    """The words after each instruction of that name; lines that go on are one."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith(f"{name} ")]


def sent(path: Path) -> bool:
    """Whether the engine is given the path at all: .dockerignore sends nothing but what it names."""
    ignored = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    named = {Path(line.removeprefix("!")) for line in ignored if line.startswith("!")}
    return bool(named & {path, *path.parents})


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder for the image's /opt/prooftrail, with what is copied from the checkout and nothing else."""
    for source, target in (words for words in instructions("COPY") if not words[0].startswith("--from")):
        assert sent(Path(source)), source
        if not Path(target).is_relative_to(INSTALLED):
            continue
        place = tmp_path / Path(target).relative_to(INSTALLED)
        if (CHECKOUT / source).is_dir():
            shutil.copytree(CHECKOUT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True)
            shutil.copy(CHECKOUT / source, place)
    return tmp_path


def run(image: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=image, env={"PYTHONDONTWRITEBYTECODE": "1"},
        check=False, capture_output=True, text=True, timeout=START_SECONDS_MAX,
    )  # fmt: skip


def test_what_is_copied_is_enough_to_start(image: Path) -> None:
    """By the entry point, with nothing of the checkout beside it: it answers with the services that there are."""
    (entry,) = instructions("ENTRYPOINT")
    assert "".join(entry) == "[python3,-m,services]"
    done = run(image, "-m", "services", "--help")
    assert "The services are requirements, verification, releases, drift, traceability." in done.stderr


def test_what_is_copied_is_enough_for_every_module_and_for_grpc(image: Path) -> None:
    """Also what is imported late, the Job's command, the verifier, and the descriptors of the services."""
    program = (
        "import importlib, pkgutil, services, shared, verifier.prooftrail_verify\n"
        "for package in (shared, services):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "from shared.grpc_server import message_type\n"
        "print(services.__path__[0], message_type('prooftrail.requirements.v1.GetAiSystemRequest').DESCRIPTOR.name)\n"
    )
    done = run(image, "-W", "ignore", "-c", program)
    assert done.stderr == ""
    assert done.stdout.split() == [str(image / "services"), "GetAiSystemRequest"]
    assert run(image, "-m", "services.command", "migrate", "--help").returncode == 0


def test_the_base_is_pinned_by_digest() -> None:
    """A tag can be moved; both stages stand on the same base, and nothing else is pulled."""
    ((argument,),) = instructions("ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=\S+@sha256:[0-9a-f]{64}", argument)
    assert {words[0] for words in instructions("FROM")} == {"${PYTHON_IMAGE}"}


def test_nobody_is_root_in_it() -> None:
    """By number, so that Kubernetes can tell, and the one that the manifests name."""
    assert instructions("USER") == [["10001:10001"]]
