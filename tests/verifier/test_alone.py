"""The verifier is one file: it runs alone, elsewhere, and says by its exit code what it found."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verifier.pack_maker import Deployment, packed, small_deployment, unpacked
from verifier import prooftrail_verify

FILE = Path(prooftrail_verify.__file__)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """A deployment with its pack and its keys in files, and the verifier alone in another folder."""
    made = small_deployment()
    (tmp_path / "pack.zip").write_bytes(made.pack())
    (tmp_path / "keys.txt").write_text("# acme, as told over the telephone\n\n" + "\n".join(made.vkeys) + "\n")
    (tmp_path / "alone").mkdir()
    shutil.copy(FILE, tmp_path / "alone")
    return made


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the copy, with nothing of this checkout in reach."""
    return subprocess.run(
        [sys.executable, "-I", "alone/prooftrail_verify.py", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_imports_the_standard_library_and_cryptography_only() -> None:
    """Nothing of Prooftrail, and nothing that an auditor would have to trust besides."""
    imported = set()
    for node in ast.walk(ast.parse(FILE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names == {"cryptography"}
    assert not imported & {"http", "socket", "subprocess", "urllib", "os"}


def test_it_runs_alone_and_tells_what_is_proven_and_what_is_not(tmp_path: Path, deployment: Deployment) -> None:
    """0, with events, positions, times, evidence, names and witnesses, and with the limits of a proof."""
    ended = run(tmp_path, "pack.zip", "--keys", "keys.txt")
    assert (ended.returncode, ended.stderr) == (0, "")
    for part in ("requirements: 6 events up to position 9", "flight-delay", "1 evidence files, 2 printed names"):
        assert part in ended.stdout
    assert "cosigned by acme/witness, witness.example" in ended.stdout
    assert "that what was entered is true" in ended.stdout
    assert "operator only" not in ended.stdout


def test_without_a_pinned_key_it_says_so(tmp_path: Path, deployment: Deployment) -> None:
    """3: a key that was found inside the pack proves little."""
    ended = run(tmp_path, "pack.zip")
    assert ended.returncode == 3
    assert "no pinned key vouches for the manifest, the log of requirements, the log of verification" in ended.stdout
    some = run(tmp_path, "pack.zip", "--key", deployment.vkeys[0])
    assert some.returncode == 3
    assert "vouches for the manifest, the log of verification" in some.stdout


def test_without_a_witness_outside_it_says_operator_only(tmp_path: Path, deployment: Deployment) -> None:
    """The operator's own witness is the operator."""
    keys = [part for vkey in (*deployment.vkeys[:-1], deployment.witness.vkey(4)) for part in ("--key", vkey)]
    ended = run(tmp_path, "pack.zip", *keys)
    assert ended.returncode == 0
    assert "operator only: no pinned witness outside the operator cosigned requirements, verification" in ended.stdout


def test_the_operators_witness_vouches_for_the_logs(tmp_path: Path, deployment: Deployment) -> None:
    """One pinned key is enough: the witness signs the manifest, and cosigned the checkpoints of all logs."""
    assert run(tmp_path, "pack.zip", "--key", deployment.witness.vkey(4)).returncode == 0


def test_a_failure_names_class_service_and_position(tmp_path: Path, deployment: Deployment) -> None:
    """For people and as JSON."""
    files = unpacked(deployment.pack())
    files["events/requirements.jsonl"] = files["events/requirements.jsonl"].replace(b"as planned", b"as pl4nned", 1)
    (tmp_path / "pack.zip").write_bytes(packed(files))
    told = run(tmp_path, "pack.zip", "--keys", "keys.txt")
    assert told.returncode == 10
    assert "event altered" in told.stdout
    assert "service requirements" in told.stdout
    assert "first bad position 1" in told.stdout
    report = json.loads(run(tmp_path, "pack.zip", "--keys", "keys.txt", "--json").stdout)
    assert (report["code"], report["class"]) == (10, "event altered")
    assert (report["failure"]["service"], report["failure"]["position"]) == ("requirements", 1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("missing.zip",), 1),
        (("keys.txt",), 1),
        ((), 2),
        (("pack.zip", "--keys", "missing.txt"), 2),
        (("pack.zip", "--key", "no key"), 2),
        (("pack.zip", "--key", "acme/witness+00000000+AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="), 2),
        (("pack.zip", "--unknown"), 2),
    ],
)
def test_what_is_not_a_pack_and_what_is_not_a_command(
    tmp_path: Path, deployment: Deployment, arguments: tuple[str, ...], code: int
) -> None:
    """1 for a file that is no pack, 2 for a command that is none."""
    ended = run(tmp_path, *arguments)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr


def test_the_command_of_a_checkout_runs_the_same_file(tmp_path: Path, deployment: Deployment) -> None:
    """`prooftrail verify` says what the file says, with the same exit codes."""
    checkout = FILE.parent.parent
    for arguments in (("--keys", "keys.txt"), (), ("--keys", "keys.txt", "--json")):
        ended = subprocess.run(
            [sys.executable, "-m", "services.command", "verify", "pack.zip", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        alone = run(tmp_path, "pack.zip", *arguments)
        assert (ended.returncode, ended.stdout) == (alone.returncode, alone.stdout)
