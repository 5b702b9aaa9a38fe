"""The operating-system account that the embedded PostgreSQL runs under, and the folder that this account has to reach.

PostgreSQL refuses to run as root. We run it as ourselves, or, if we are root, as an unprivileged account: the owner of a cluster
that is there already, else `prooftrail`, made where that can be done, else one that the system has.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Unavailable

OWN_ACCOUNT = "prooftrail"
SYSTEM_ACCOUNTS = ("_postgres", "nobody")
ADD_ACCOUNT = ("--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
CLOSED_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}
# Prints the first directory that exists and cannot be entered; below one that is missing there is nothing to enter.
FIND_CLOSED = 'for d do [ -e "$d" ] || exit 0; cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done'


class FolderOutOfReach(Unavailable):
    """The account that the server runs under cannot enter a directory on the way to the folder."""


class NoUnprivilegedAccount(Unavailable):
    """We are root, and there is no other account to run the server under."""


@dataclass(frozen=True)
class Account:
    """Numeric user and group of the server's processes; without them, our own."""

    user: int | None = None
    group: int | None = None

    @property
    def extra_groups(self) -> list[int] | None:
        """No other groups for another account, our own for ourselves."""
        return None if self.user is None else []

    def run(self, *command: str | Path, pass_fds: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end, under this account and with a closed environment. Raises OSError if it cannot be run."""
        return subprocess.run(
            command,
            user=self.user,
            group=self.group,
            extra_groups=self.extra_groups,
            pass_fds=pass_fds,
            cwd="/",
            env=CLOSED_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )

    def give(self, descriptor: int) -> None:
        """Makes this account the owner of an open file or directory."""
        if self.user is not None and self.group is not None:
            os.fchown(descriptor, self.user, self.group)


def server_account(cluster: Path) -> Account:
    """The account for the server of this cluster, which need not exist yet. Raises NoUnprivilegedAccount."""
    if os.geteuid() != 0:
        return Account()
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    entry = _entry(OWN_ACCOUNT) or _added() or next(filter(None, map(_entry, SYSTEM_ACCOUNTS)), None)
    if entry is None:
        raise NoUnprivilegedAccount(
            "There is no account to run PostgreSQL under.",
            why="PostgreSQL does not run as root, and this system has neither `nobody` nor `useradd`.",
            next_step=f"Add an account named {OWN_ACCOUNT}, or start as an ordinary user.",
        )
    return Account(entry.pw_uid, entry.pw_gid)


def _added() -> pwd.struct_passwd | None:
    if useradd := shutil.which("useradd", path=SYSTEM_PATH):
        Account().run(useradd, *ADD_ACCOUNT, OWN_ACCOUNT)
    return _entry(OWN_ACCOUNT)


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def make_folder(*, folder: Path, account: Account) -> None:
    """Makes the folder and what is missing above it, once it is sure that the account can reach it.

    Another account has to enter them, hence 0755; our own folder is ours alone, 0700. Raises FolderOutOfReach.
    """
    way = [*reversed(folder.parents), folder]
    closed = account.run("/bin/sh", "-c", FIND_CLOSED, "sh", *way).stdout
    if closed:
        raise FolderOutOfReach(
            f"{closed} is closed to the account that PostgreSQL runs under.",
            why="PostgreSQL does not run as root, and we change no permission of a directory that we did not make.",
            next_step="Set PROOFTRAIL_DATA to a folder that every account can enter, for instance /var/lib/prooftrail.",
        )
    for directory in way:
        if not directory.exists():
            directory.mkdir()
            if account.user is not None:
                directory.chmod(0o755)
            elif directory == folder:
                directory.chmod(0o700)
