"""The data of the embedded PostgreSQL: made once, whole or not at all, with a password, checksums and UTF-8."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from shared.errors import Unavailable
from shared.postgres_account import Account
from shared.postgres_binaries import VERSION

ROLE = "prooftrail"
OUTPUT_CHARACTERS_MAX = 1_000


class ClusterNotMade(Unavailable):
    """initdb failed; what it said is in `why`. The next start makes the cluster from the beginning."""


class OtherPostgresVersion(Unavailable):
    """The folder was made by another major version of PostgreSQL."""


class PasswordLost(Unavailable):
    """The cluster is there and the file with its password is not."""


def make_cluster(*, folder: Path, account: Account, programs: Path, lock: int) -> str:
    """Makes `cluster/data` in the folder if there is none; returns the password of its one role.

    `lock` is held until initdb has ended, even if we are killed. Raises ClusterNotMade, OtherPostgresVersion, PasswordLost.
    """
    data = folder / "cluster" / "data"
    if data.exists():
        _require_version(data)
        return _kept_password(folder)
    password = secrets.token_urlsafe(32)
    write_closed(file=folder / "password", text=password)
    _make_data(folder, account, programs, password, lock)
    return password


def write_closed(*, file: Path, text: str, account: Account | None = None) -> None:
    """Writes a file that only we, or the account, can read; whole or not at all."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        if account is not None:
            account.give(opened.fileno())
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    _rename(new, file)


def _rename(new: Path, place: Path) -> None:
    """Renames for good: after a power cut too the new name is there."""
    new.rename(place)
    directory = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _require_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != VERSION:
        raise OtherPostgresVersion(
            f"{data} was made by PostgreSQL {version}; this is {VERSION}.",
            why="A server reads only data of its own major version.",
            next_step=f"Start the Prooftrail that came with PostgreSQL {version}, or set PROOFTRAIL_DATA to another folder.",
        )


def _kept_password(folder: Path) -> str:
    file = folder / "password"
    if not file.exists():
        raise PasswordLost(
            f"{file} is missing.",
            why="The database beside it was made with the password in that file, which stands nowhere else.",
            next_step="Put the file back, or set PROOFTRAIL_DATA to another folder.",
        )
    return file.read_text().strip()


def _make_data(folder: Path, account: Account, programs: Path, password: str, lock: int) -> None:
    """Makes the data beside their place and moves them there when they are whole: an interrupted start leaves no half."""
    cluster = folder / "cluster"
    if not cluster.exists():
        _make_closed_directory(cluster, account)
    new = cluster / "data.new"
    if new.exists():
        shutil.rmtree(new)
    # In our folder, not in the account's: what lies there could be a link of the account's making.
    pwfile = folder / "password.once"
    write_closed(file=pwfile, text=password, account=account)
    try:
        made = account.run(
            programs / "initdb", "--pgdata", new, "--username", ROLE, "--pwfile", pwfile, "--auth=scram-sha-256",
            "--data-checksums", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
            pass_fds=(lock,),
        )  # fmt: skip
    finally:
        pwfile.unlink()
    if made.returncode != 0:
        raise ClusterNotMade(
            f"PostgreSQL could not make its data in {cluster}.",
            why=(made.stderr or made.stdout).strip()[-OUTPUT_CHARACTERS_MAX:],
            next_step="Mend what it says (often: no space left), and start again.",
        )
    _rename(new, cluster / "data")


def _make_closed_directory(place: Path, account: Account) -> None:
    """Makes a directory of the account's; it gets its name once it is the account's."""
    new = place.with_suffix(".new")
    if new.exists():
        new.rmdir()
    new.mkdir(mode=0o700)
    descriptor = os.open(new, os.O_RDONLY)
    account.give(descriptor)
    os.close(descriptor)
    _rename(new, place)
