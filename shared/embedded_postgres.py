"""PostgreSQL 18 out of a Python wheel, for the embedded mode: started here, ended with its owner, out of everybody else's way.

A folder holds one server. In it, all made by us and nothing else touched:

    lock             held by the server and its supervisor; names the owner's process
    password         0600, of the one database role; dsn, 0600, says how to connect while it runs
    log              what the server says
    postgres-18-*/   only if the server's account cannot reach the wheel's programs
    cluster/         0700, of the server's account: data/ and the socket

Connections need the password, over the socket too; data checksums and fsync are on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from shared.errors import Unavailable
from shared.postgres_account import Account, make_folder, server_account
from shared.postgres_binaries import runnable_programs
from shared.postgres_cluster import ROLE, make_cluster, write_closed

SOCKET_PORT = 5432
SOCKET_NAME = f".s.PGSQL.{SOCKET_PORT}"
SOCKET_PATH_BYTES_MAX = 103  # macOS; Linux has 107
START_SECONDS_MAX = 300.0  # recovery after a crash reads up to max_wal_size
LOCK_SECONDS_MAX = 40.0
LOG_BYTES_MAX = 10 << 20
LOG_TAIL_BYTES = 1_000

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
    "unix_socket_permissions": "0700",
}


class FolderInUse(Unavailable):
    """The server of this folder still runs."""


class FolderUnusable(Unavailable):
    """The system refused a file operation in the folder: no space, no permission, no such thing."""


class PostgresDidNotStart(Unavailable):
    """The server ended before it was ready; the end of its log is in `why`."""


@dataclass(frozen=True)
class PostgresAddress:
    """Where the server listens: on the socket in the directory `host`, or on a port of 127.0.0.1."""

    host: str
    port: int

    @property
    def on_socket(self) -> bool:
        return self.host.startswith("/")

    @property
    def options(self) -> dict[str, str]:
        """The settings that make the server listen here and nowhere else."""
        directory = self.host.replace('"', '""')
        return {
            "listen_addresses": "" if self.on_socket else self.host,
            "unix_socket_directories": f'"{directory}"' if self.on_socket else "",
            "port": str(self.port),
        }

    def dsn(self, *, password: str) -> str:
        """The address as asyncpg and libpq read it."""
        if self.on_socket:
            return f"postgresql://{ROLE}:{password}@/postgres?host={quote(self.host, safe='')}&port={self.port}"
        return f"postgresql://{ROLE}:{password}@{self.host}:{self.port}/postgres"


class EmbeddedPostgres:
    """A running server; `dsn` is for asyncpg. Use it as a context manager, or call `stop`."""

    def __init__(self, *, folder: Path, dsn: str, supervisor: subprocess.Popen[bytes]) -> None:
        self.dsn = dsn
        self._folder = folder
        self._supervisor = supervisor

    @classmethod
    def start(cls, folder: Path) -> EmbeddedPostgres:
        """Starts the server of the folder, makes it if there is none, and returns when it accepts connections.

        Raises ClusterNotMade, FolderInUse, FolderOutOfReach, FolderUnusable, NoPostgresBinaries, NoUnprivilegedAccount,
        OtherPostgresVersion, PasswordLost, PostgresDidNotStart.
        """
        with _refusals_explained(folder):
            folder = folder.resolve()
            account = server_account(folder / "cluster")
            make_folder(folder=folder, account=account)
            lock = _take_lock(folder)
            try:
                return cls._start(folder, account, lock)
            finally:
                os.close(lock)

    @classmethod
    def _start(cls, folder: Path, account: Account, lock: int) -> EmbeddedPostgres:
        programs = runnable_programs(folder=folder, account=account)
        password = make_cluster(folder=folder, account=account, programs=programs, lock=lock)
        address = _address(folder)
        (folder / "dsn").unlink(missing_ok=True)
        before = _status(folder)
        supervisor = _spawn(folder, account, programs, address, lock)
        server = cls(folder=folder, dsn=address.dsn(password=password), supervisor=supervisor)
        try:
            _wait_until_ready(folder, supervisor, before)
            write_closed(file=folder / "dsn", text=server.dsn)
        except BaseException:
            server.stop()
            raise
        return server

    @staticmethod
    def running_dsn(folder: Path) -> str | None:
        """The dsn of the server that another process of this user runs in the folder, None if none runs. Raises FolderUnusable."""
        with _refusals_explained(folder):
            try:
                owner, dsn = (folder / "lock").read_text(), (folder / "dsn").read_text()
            except FileNotFoundError:
                return None
            return dsn if _alive(owner) else None

    @staticmethod
    def wait_until_ended(folder: Path) -> None:
        """Returns when no server runs in the folder; one whose owner is gone is about to end. FolderInUse, FolderUnusable."""
        with _refusals_explained(folder):
            if (folder / "lock").exists():
                os.close(_take_lock(folder))

    def stop(self) -> None:
        """Shuts the server down: no new connections, open transactions are rolled back, everything committed is on disk."""
        if self._supervisor.stdin is None or self._supervisor.stdin.closed:
            return
        if _owner(self._folder) == str(os.getpid()):
            (self._folder / "dsn").unlink(missing_ok=True)
            (self._folder / "lock").write_text("")
        self._supervisor.terminate()
        self._supervisor.stdin.close()
        self._supervisor.wait()

    def __enter__(self) -> EmbeddedPostgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def _refusals_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderUnusable(
            f"PostgreSQL's folder {folder} cannot be used: {error.strerror or error}.",
            why=f"The system refused it for {error.filename}." if error.filename else str(error),
            next_step="Make room or give this user the folder, or set PROOFTRAIL_DATA to another one.",
        ) from error


def _take_lock(folder: Path) -> int:
    """Holds the folder's lock; waits for the server of an owner that is gone, refuses if the owner is alive."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if _alive(_owner(folder)) or time.monotonic() > deadline:
                os.close(lock)
                raise _in_use(folder) from None
            time.sleep(0.02)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _in_use(folder: Path) -> FolderInUse:
    owner = _owner(folder)
    orphan = f"the server {_server(folder) or 'of another machine'}, whose owner is gone"
    holder = f"process {owner}" if _alive(owner) else orphan
    return FolderInUse(
        f"The PostgreSQL of {folder} is in use by {holder}.",
        why="One folder holds one server, and one process owns it.",
        next_step="End that process first, or set PROOFTRAIL_DATA to another folder.",
    )


def _owner(folder: Path) -> str:
    return (folder / "lock").read_text()


def _status(folder: Path) -> str:
    """What the server writes about itself: first its process, last whether it is ready; after a crash, what it wrote before."""
    try:
        return (folder / "cluster" / "data" / "postmaster.pid").read_text()
    except FileNotFoundError:
        return ""


def _server(folder: Path) -> str:
    return _status(folder).partition("\n")[0]


def _alive(process: str) -> bool:
    """Whether the process runs; one that has ended and whose parent has not noticed does not."""
    try:
        state = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        state = ""
    return _exists(process) and state not in {"Z", "X"}


def _exists(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _address(folder: Path) -> PostgresAddress:
    """The socket in the cluster, or a free port of loopback if the path is too long for a socket or reads like a list of hosts."""
    cluster = folder / "cluster"
    if len(os.fsencode(cluster / SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX and "," not in str(cluster):
        return PostgresAddress(host=str(cluster), port=SOCKET_PORT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return PostgresAddress(host="127.0.0.1", port=probe.getsockname()[1])


def _spawn(
    folder: Path, account: Account, programs: Path, address: PostgresAddress, lock: int
) -> subprocess.Popen[bytes]:
    log, data = folder / "log", folder / "cluster" / "data"
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.rename(folder / "log.before")
    # A process that has the number of a server that is gone: PostgreSQL would take it for the server, but we hold its lock.
    if _exists(_server(folder)):
        (data / "postmaster.pid").unlink()
    settings = [f"--{name}={value}" for name, value in {**SERVER_SETTINGS, **address.options}.items()]
    numbers = [os.getpid(), lock, *("-" if number is None else number for number in (account.user, account.group))]
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return subprocess.Popen(
            [
                sys.executable, "-I", "-S", str(Path(__file__).with_name("postgres_supervisor.py")), *map(str, numbers),
                str(programs / "postgres"), "-D", str(data), *settings,
            ],
            stdin=subprocess.PIPE, stdout=output, stderr=output, cwd="/", start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
    finally:
        os.close(output)


def _wait_until_ready(folder: Path, supervisor: subprocess.Popen[bytes], before: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and supervisor.poll() is None:
        status = _status(folder)
        if status != before and status.split()[-1:] == ["ready"]:
            return
        time.sleep(0.01)
    log = folder / "log"
    raise PostgresDidNotStart(
        f"The PostgreSQL of {folder} did not start.",
        why=log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip(),
        next_step=f"Mend what the log says (often: no space left), and start again. The whole log is {log}.",
    )
