"""The part of the command `prooftrail` that is about the data: forget a person, back up, restore, move to another PostgreSQL."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn

from services.composition import SERVICES, House, migrate_all, offline_house, until_reachable
from services.server import database_at_work
from shared.backup.manifest import Manifest
from shared.backup.restoring import restore
from shared.backup.taking import Progress, back_up
from shared.command import CommandContext
from shared.database_roles import Logins
from shared.embedded_postgres import EmbeddedPostgres
from shared.erasure import GROUNDS, SOURCE, Why
from shared.errors import Conflict, Invalid, NotFound
from shared.log.upkeep import OPERATOR, begin_epoch
from shared.migrations import STORE_SCRIPTS, Migration, scripts_in
from shared.moving import move
from shared.runtime import utc_now
from shared.settings import Settings

DONE = 0
ERASURES_LOST = """
WARNING: names that were erased after {since} are readable again, and nothing here knows whose.
Run `prooftrail erase` for each of these persons before anybody reads.
"""


class EmbeddedOnly(Conflict):
    """What is asked for concerns the embedded store, and DATABASE_URL names another one."""


class NoLogins(Conflict):
    """PROOFTRAIL_LOGINS asks for a login for each service, and the owner may not make them."""


class ErasuresNotSaid(Invalid):
    """A restore would bring back who was erased, and says nothing of it."""


class NothingToMove(NotFound):
    """There is no embedded store."""


def add_commands(commands: Any) -> None:
    """Adds the subcommands."""
    erase = commands.add_parser(
        "erase",
        help="forget a person's name in every service; events and proofs stay",
        description=_erase.__doc__,
    )
    erase.add_argument("subject", help="the opaque subject, as in the `actor` of the person's events")
    erase.add_argument("--reason", required=True, choices=GROUNDS, help="the ground of GDPR, 17(1)")
    erase.set_defaults(run=_erase)

    hand_over = commands.add_parser(
        "hand-over", help="make somebody the only owner of an AI system", description=_hand_over.__doc__
    )
    hand_over.add_argument("system", help="the key of the AI system")
    hand_over.add_argument(
        "subject", help="the opaque subject of the new owner (`prooftrail subject NAME` in embedded mode)"
    )
    hand_over.add_argument("--reason", required=True, help="stays in the log for ever: no personal data")
    hand_over.set_defaults(run=_hand_over)

    backup = commands.add_parser("backup", help="back everything up while it runs", description=_backup.__doc__)
    backup.add_argument("folder", type=Path, help="a folder that does not exist yet")
    backup.set_defaults(run=_backup)

    _add_restore(commands)

    migrate = commands.add_parser(
        "migrate",
        help="bring the database to this version, as its owner, and give every service its login",
        description=_migrate.__doc__,
    )
    migrate.set_defaults(run=_migrate)

    move = commands.add_parser(
        "move", help="carry the embedded store to a PostgreSQL of your own", description=_move.__doc__
    )
    move.add_argument(
        "database_url", metavar="DATABASE_URL", help="an empty database: postgresql://user:password@host/name"
    )
    move.set_defaults(run=_move)


def _add_restore(commands: Any) -> None:
    restore = commands.add_parser("restore", help="make a data folder from a backup", description=_restore.__doc__)
    restore.add_argument("folder", type=Path, help="what `prooftrail backup` made")
    after = restore.add_mutually_exclusive_group(required=True)
    after.add_argument("--final", action="store_true", help="nothing was recorded after this backup: the logs go on")
    after.add_argument(
        "--recover", metavar="WHY", help="something may have been: every log begins a new epoch and says why"
    )
    erased = restore.add_mutually_exclusive_group()
    erased.add_argument(
        "--erased", type=Path, metavar="FOLDER", help="the newest data or log folder: who was erased since the backup"
    )
    erased.add_argument(
        "--erased-unknown", action="store_true", help="it is lost, and names may be back that were erased"
    )
    restore.set_defaults(run=_restore)


def _migrate(_parsed: argparse.Namespace, settings: Settings) -> int:
    """Applies the migrations of all services and makes their roles. DATABASE_URL is that of the owner of the database.

    PROOFTRAIL_LOGINS is a folder with a file for each login (the services, and feed) that holds its password; without it passwords
    are made of the owner's. Run again it changes nothing. Cut off, it left each schema as it was or as it shall be.
    """
    with database_at_work(settings) as url:
        logins = asyncio.run(_migrate_once_reachable(url, settings))
    if logins.shared_because is not None and settings.logins is not None:
        raise NoLogins(
            "The services have no logins of their own.",
            why=logins.shared_because,
            next_step="Give the owner CREATEROLE and the database (ALTER DATABASE ... OWNER TO), and run this again.",
        )
    print(f"The database is at this version. Logins: {logins.described()}.")
    return DONE


async def _migrate_once_reachable(url: str, settings: Settings) -> Logins:
    await until_reachable(url)
    return await migrate_all(url, folder=settings.logins, tell=print)


def _erase(parsed: argparse.Namespace, settings: Settings) -> int:
    """Deletes the names and salts of the subject from the directories of all services and records it in each log.

    Refused while the person holds a role, or a record stands on their signature or has to be kept (PROOFTRAIL_RETENTION_DAYS).
    Cut off, it can be run again. Backups and PostgreSQL's write-ahead log keep the name until they are replaced.
    """
    with database_at_work(settings) as url:
        told = asyncio.run(_erase_everywhere(settings, url, parsed.subject, parsed.reason))
    print("\n".join(told))
    return DONE


async def _erase_everywhere(settings: Settings, url: str, subject: str, why: Why) -> list[str]:
    async with offline_house(settings=settings, database_url=url) as house:
        context = CommandContext(actor=OPERATOR, reason=why, at=utc_now(), correlation=uuid4().hex)
        erasure = house.services[SOURCE].application.erasure
        receipt = await erasure.erase_as_operator(context=context, subject=subject, why=why)
        await follow_erasures(house)
        return [f"{receipt.record}: forgotten in {', '.join(house.services)} ({receipt.position})"]


async def follow_erasures(house: House) -> None:
    """Carries out in every service what was decided, for when no service runs; one that runs may do the same beside."""
    for service in house.services.values():
        while await service.foundation.erasures.advance(SOURCE):
            pass


def _hand_over(parsed: argparse.Namespace, settings: Settings) -> int:
    """Grants the role owner to the subject and revokes it from everybody else, for when the owners are gone.

    Owners who are there do it themselves, by granting the role owner. It is recorded as done by the operator. Again is no harm.
    """
    with database_at_work(settings) as url:
        told = asyncio.run(_handed_over(settings, url, parsed.system, parsed.subject, parsed.reason))
    print(told)
    return DONE


async def _handed_over(settings: Settings, url: str, system: str, subject: str, why: str) -> str:
    async with offline_house(settings=settings, database_url=url, names=["requirements"]) as house:
        context = CommandContext(actor=OPERATOR, reason=why, at=utc_now(), correlation=uuid4().hex)
        requirements = house.services["requirements"].application
        receipt = await requirements.hand_over_as_operator(context=context, system=system, subject=subject)
        return f"{receipt.record}: {subject} is the only owner ({receipt.position})"


def _backup(parsed: argparse.Namespace, settings: Settings) -> int:
    """Writes the stores, signers, witness, issuer and evidence files of one moment into the folder, with a manifest at the end.

    The folder holds private keys and names of people. Evidence files in a bucket (PROOFTRAIL_ARTEFACTS) are not in it.
    """
    with database_at_work(settings) as url, showing_progress() as progress:
        manifest = asyncio.run(
            back_up(
                url=url,
                data=settings.data,
                folder=parsed.folder,
                services=SERVICES,
                settings=settings.printable(),
                at=utc_now(),
                progress=progress,
            )
        )
    size = sum(file.length for file in manifest.files)
    print(f"{parsed.folder}: {len(manifest.files)} files, {size:,} bytes, up to {_positions(manifest)}")
    return DONE


def _restore(parsed: argparse.Namespace, settings: Settings) -> int:
    """Makes the data folder (PROOFTRAIL_DATA), which must not exist or be empty, from a backup.

    If anything was recorded after the backup, its signatures are out there: --recover opens a new epoch of every log, which says
    so. --final is for a backup of a deployment that was stopped before and never started again; a false one is found by whoever
    holds a later checkpoint.

    With --recover it has to be said who was erased after the backup: --erased names the newest data folder, or its log folder, or a
    copy; these persons are erased again before anything is served. --erased-unknown says that it is lost.
    """
    _require_embedded(settings)
    _require_said(parsed)
    why: str | None = parsed.recover

    async def finish(url: str, data: Path) -> None:
        if why is not None:
            await begin_again(replace(settings, data=data), url, why)

    with showing_progress() as progress:
        manifest = asyncio.run(
            restore(folder=parsed.folder, data=settings.data, progress=progress, newest=parsed.erased, finish=finish)
        )
    print(f"{settings.data}: restored as of {manifest.made_at.isoformat()}, up to {_positions(manifest)}")
    if parsed.erased_unknown:
        print(ERASURES_LOST.format(since=manifest.made_at.isoformat()), file=sys.stderr)
    return DONE


def _require_said(parsed: argparse.Namespace) -> None:
    if parsed.recover is not None and parsed.erased is None and not parsed.erased_unknown:
        raise ErasuresNotSaid(
            "It is not said who was erased after the backup.",
            why="Their names are in the backup, and only the newest folder of the signers knows them.",
            next_step="Add --erased FOLDER (the newest data folder, its log folder, or a copy), or --erased-unknown if it is lost.",
        )


def _require_embedded(settings: Settings) -> None:
    if settings.database_url is not None:
        raise EmbeddedOnly(
            "DATABASE_URL is set, and a restore makes an embedded store.",
            why="A database of your own is restored with its own tools, or with `prooftrail move` from a restored folder.",
            next_step="Unset DATABASE_URL; docs/operations.md says how the rest is done.",
        )


async def begin_again(settings: Settings, url: str, why: str) -> None:
    """A new epoch for every log: what was promised in the old one after the backup is declared lost. Erasures are told again."""
    async with offline_house(settings=settings, database_url=url) as house:
        for service in house.services.values():
            foundation = service.foundation
            await begin_epoch(store=foundation.store, log=foundation.log, why=why, clock=utc_now)
            await foundation.eraser.record_again()
        await follow_erasures(house)


def _move(parsed: argparse.Namespace, settings: Settings) -> int:
    """Copies the embedded store, compares it event by event, and marks the embedded one as moved. Nothing may be serving it.

    Positions, bytes, hashes, origins and epochs stay. The data folder stays too: signers, issuer and evidence files are in it.
    """
    folder = settings.data / "postgres"
    if not (folder / "cluster" / "data").exists():
        raise NothingToMove(
            f"There is no embedded store in {settings.data}.",
            why="Only a store that was made here can be moved from here.",
            next_step="Set PROOFTRAIL_DATA to the folder that holds it.",
        )
    with EmbeddedPostgres.start(folder) as server, showing_progress() as progress:
        moved = asyncio.run(
            move(
                source_url=server.dsn,
                target_url=parsed.database_url,
                folder=folder,
                migrations={service: migrations_of(service) for service in SERVICES},
                at=utc_now(),
                progress=progress,
            )
        )
    print(f"Moved to {moved.to}: {', '.join(f'{service}:{position}' for service, position in moved.positions.items())}")
    print("Set DATABASE_URL to it from now on, with the same PROOFTRAIL_DATA.")
    return DONE


def migrations_of(service: str) -> list[Migration]:
    """All migrations of the service's schema."""
    own: Path | None = import_module(f"services.{service}.main").MIGRATIONS
    return scripts_in(STORE_SCRIPTS, *([own] if own else []))


def _positions(manifest: Manifest) -> str:
    return ", ".join(f"{service}:{store.position}" for service, store in manifest.services.items())


@contextlib.contextmanager
def showing_progress() -> Iterator[Progress]:
    """A bar on the terminal, and nothing where there is none."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with rich.progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda what, done, total: bars.update(task, description=what, completed=done, total=total)
