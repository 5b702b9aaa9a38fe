"""pg_dump and pg_restore, the client programs of PostgreSQL that come with the server in the wheel."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from shared.errors import Unavailable
from shared.postgres_account import Account
from shared.postgres_binaries import runnable_programs

OUTPUT_CHARACTERS_MAX = 1_000
LOOK_SECONDS = 0.2


class ToolFailed(Unavailable):
    """A client program of PostgreSQL ended with an error; what it said is in `why`."""


async def dump_schemas(
    *, url: str, snapshot: str, schemas: Sequence[str], file: Path, progress: Callable[[int], None]
) -> None:
    """Writes the schemas as of the snapshot, which its transaction keeps open; `progress` is told the bytes written. ToolFailed."""
    # We open the file, not pg_dump: one that outlives us never writes into the next attempt.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as output:
        await _run(
            "pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}",
            *(f"--schema={schema}" for schema in schemas), output=output.fileno(), look=lambda: progress(_size(file)),
        )  # fmt: skip
        os.fsync(output.fileno())


async def restore_dump(*, url: str, file: Path, progress: Callable[[int], None]) -> None:
    """Makes everything in the dump, in one transaction. ToolFailed."""
    await _run(
        "pg_restore", url, "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", str(file),
        look=lambda: progress(0),
    )  # fmt: skip


async def _run(
    program: str, url: str, *arguments: str, look: Callable[[], None], output: int = asyncio.subprocess.DEVNULL
) -> None:
    programs = runnable_programs(folder=Path("/nonexistent"), account=Account())
    address, password = _without_password(url)
    process = await asyncio.create_subprocess_exec(
        str(programs / program), f"--dbname={address}", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.PIPE,
        env={"LC_ALL": "C", "PATH": os.defpath, "PGPASSWORD": password},
    )  # fmt: skip
    ended = asyncio.create_task(process.communicate())
    try:
        while not (await asyncio.wait({ended}, timeout=LOOK_SECONDS))[0]:
            look()
    except BaseException:
        process.kill()
        await ended
        raise
    if process.returncode != 0:
        raise ToolFailed(
            f"{program} failed.",
            why=ended.result()[1].decode(errors="replace").strip()[-OUTPUT_CHARACTERS_MAX:],
            next_step="Mend what it says (often: no space left, or a PostgreSQL newer than 18), and do this again.",
        )


def _without_password(url: str) -> tuple[str, str]:
    """The address without the password, which other users of the machine could read in a list of processes, and the password."""
    address = urlsplit(url)
    password = unquote(address.password or "") or parse_qs(address.query).get("password", [""])[0]
    user, _, place = address.netloc.rpartition("@")
    query = "&".join(part for part in address.query.split("&") if not part.startswith("password="))
    netloc = f"{user.partition(':')[0]}@{place}" if user else place
    return address._replace(netloc=netloc, query=query).geturl(), password


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
