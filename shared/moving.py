"""Carries the stores of an embedded PostgreSQL to one of one's own: positions, bytes and hashes as they are, in one transaction.

Whatever has happened, the target holds all of it or nothing. The source is only read, and marked before the target has anything:
so at no moment both can be served. A move that was cut off can be done again. What is folded from events is not carried: the
services build it there at their start.

Failure table
    before the mark                 nothing is in the target, and the source is served as before
    marked as begun, no commit      nothing is in the target; neither is served until the move is done again, or taken back by hand
    committed, mark still begun     done again: the target is compared with the source, found the same, and the mark finished

Steps, told to `at_step` (a test may end the process there): `source checked`, `<service> copied`, `marked`, `committed`,
`finished`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec

from shared.backup.manifest import write_whole
from shared.backup.stores import StoreDigest, store_digest
from shared.errors import Conflict, Unavailable
from shared.log.kept_folder import Step, no_step
from shared.migrations import Migration, migrate

MARK = "moved.json"
CHUNKS_MAX = 8
NOT_CARRIED = "migration"
"""Written by the migrations themselves, which make the tables of the target."""

AS_TEXT = {"timezone": "UTC", "bytea_output": "hex", "extra_float_digits": "1"}
"""So that the same row is the same text on both sides."""

Progress = Callable[[str, int, int | None], None]


class TargetHasStore(Conflict):
    """The target holds a store, and it is not the one that is moved."""


class TargetUnusable(Unavailable):
    """The target cannot be reached, or does not let us make schemas."""


class SourceOutdated(Conflict):
    """The source was last started with another version, so that its tables are not those of this one."""


class CopyDiffers(Conflict):
    """What arrived is not what was sent; nothing was kept."""


class StoreMoved(Conflict):
    """The store of this folder was moved, and lives on somewhere else."""


class MoveUnfinished(Conflict):
    """A move of the store of this folder was begun, and nobody knows here whether the target has it."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The mark in the source's folder: where to (without login), when, and up to which position of each service."""

    to: str
    at: datetime
    positions: Mapping[str, int]
    finished: bool = True


def require_not_moved(folder: Path) -> None:
    """StoreMoved, MoveUnfinished if the folder bears the mark: going on here would make a second history beside the one there."""
    moved = _marked(folder)
    if moved is None:
        return
    if not moved.finished:
        raise MoveUnfinished(
            f"A move of this store to {moved.to} was cut off.",
            why="The store may be there already, whole. Served from here and from there it would have two histories.",
            next_step=f"Run `prooftrail move` to it again, which finishes it. To stay here instead, drop that database and remove"
            f" {folder / MARK}.",
        )
    raise StoreMoved(
        f"This store was moved to {moved.to} on {moved.at.date().isoformat()}.",
        why="It goes on there. Events that are recorded here too would be a second history under the same signers.",
        next_step=f"Set DATABASE_URL to {moved.to}, with your login, and start again with the same data folder.",
    )


def _marked(folder: Path) -> Moved | None:
    mark = folder / MARK
    return msgspec.json.decode(mark.read_bytes(), type=Moved) if mark.exists() else None


def _require_no_other_target(folder: Path, to: str) -> None:
    """One store is moved to one place: to another one only when the mark was taken back."""
    moved = _marked(folder)
    if moved is not None and moved.to != to:
        require_not_moved(folder)


async def move(
    *,
    source_url: str,
    target_url: str,
    folder: Path,
    migrations: Mapping[str, Sequence[Migration]],
    at: datetime,
    progress: Progress,
    at_step: Step = no_step,
) -> Moved:
    """Copies the stores of all services, compares them, and marks the source's `folder`. `migrations` are those of each service.

    Raises the errors above, and StoreAltered if the source itself is not whole.
    """
    await asyncio.to_thread(_require_no_other_target, folder, place_of(target_url))
    source = await asyncpg.connect(source_url, server_settings=AS_TEXT)
    try:
        target = await _connect(target_url)
        try:
            async with source.transaction(isolation="repeatable_read", readonly=True):
                wanted = await _checked(source, migrations, progress)
                at_step("source checked")
                moved = Moved(
                    to=place_of(target_url), at=at, positions={name: found.position for name, found in wanted.items()}
                )

                async def mark() -> None:
                    begun = msgspec.structs.replace(moved, finished=False)
                    await asyncio.to_thread(write_whole, folder / MARK, begun)
                    at_step("marked")

                await _carry_once(source, target, migrations, wanted, mark, progress, at_step)
                at_step("committed")
        finally:
            await target.close()
    finally:
        await source.close()
    await asyncio.to_thread(write_whole, folder / MARK, moved)
    at_step("finished")
    return moved


def place_of(url: str) -> str:
    """The address of a database without user, password and options."""
    address = urlsplit(url)
    return f"postgresql://{address.netloc.rpartition('@')[2]}{address.path}"


async def _connect(url: str) -> asyncpg.Connection:
    try:
        connection = await asyncpg.connect(url, server_settings=AS_TEXT)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise TargetUnusable(
            f"{place_of(url)} does not let us in.",
            why=str(error),
            next_step="Check the address, user and password, and that the database exists.",
        ) from error
    if await connection.fetchval("SHOW server_encoding") != "UTF8":
        await connection.close()
        raise TargetUnusable(
            f"{place_of(url)} does not store text as UTF-8.",
            why="Events are UTF-8, to the byte.",
            next_step="Make the database with ENCODING 'UTF8'.",
        )
    return connection


async def _checked(
    source: asyncpg.Connection, migrations: Mapping[str, Sequence[Migration]], progress: Progress
) -> dict[str, StoreDigest]:
    """What has to arrive."""
    wanted: dict[str, StoreDigest] = {}
    for service, own in migrations.items():
        await _require_current(source, service, own)
        progress(f"checking the events of {service}", len(wanted), len(migrations))
        wanted[service] = await store_digest(source, service)
    return wanted


async def _carry_once(
    source: asyncpg.Connection,
    target: asyncpg.Connection,
    migrations: Mapping[str, Sequence[Migration]],
    wanted: Mapping[str, StoreDigest],
    mark: Callable[[], Awaitable[None]],
    progress: Progress,
    at_step: Step,
) -> None:
    """Carries everything, or finds that it is there. The last thing before the commit is the mark in the source."""
    try:
        async with target.transaction():
            await target.execute("SELECT pg_advisory_xact_lock(hashtext('prooftrail.migrate'))")
            there = await _services_in(target, migrations)
            if there:
                await _require_same(target, wanted, there)
            else:
                await _carry(source, target, migrations, wanted, progress, at_step)
            await mark()
    except asyncpg.InsufficientPrivilegeError as error:
        raise TargetUnusable(
            "The target does not let this user make the schemas of the services.",
            why=str(error),
            next_step="Use the owner of the database, or grant CREATE on the database to the user.",
        ) from error


async def _require_current(source: asyncpg.Connection, service: str, migrations: Sequence[Migration]) -> None:
    """Every migration of this version was applied, and no other."""
    exists = await source.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{service}.migration")
    rows = await source.fetch(f"SELECT name, digest FROM {service}.migration") if exists else []
    if {row["name"]: row["digest"] for row in rows} != {one.name: one.digest for one in migrations}:
        raise SourceOutdated(
            f"The store of {service} is not that of this version of Prooftrail.",
            why="The target gets the tables of this version, and what is in the source must fit them.",
            next_step="Start this version once on the embedded store, end it, and move again.",
        )


async def _services_in(target: asyncpg.Connection, services: Mapping[str, object]) -> set[str]:
    rows = await target.fetch("SELECT nspname FROM pg_namespace WHERE nspname = ANY($1::text[])", list(services))
    return {row["nspname"] for row in rows}


async def _require_same(target: asyncpg.Connection, wanted: Mapping[str, StoreDigest], there: set[str]) -> None:
    """The target is what an earlier move left: the same stores to the last event."""
    for service, digest in wanted.items():
        found = await store_digest(target, service) if service in there else None
        if found != digest:
            raise TargetHasStore(
                f"The target already holds a store, and its {service} is not the one that is moved.",
                why="Two histories are never mixed, and what is there is never overwritten.",
                next_step="Name an empty database. If the move was finished and the services run there, use that one.",
            )


async def _carry(
    source: asyncpg.Connection,
    target: asyncpg.Connection,
    migrations: Mapping[str, Sequence[Migration]],
    wanted: Mapping[str, StoreDigest],
    progress: Progress,
    at_step: Step,
) -> None:
    for done, (service, own) in enumerate(migrations.items()):
        await migrate(target, service=service, migrations=list(own))
        for table, columns in await _tables(source, service):
            progress(f"copying {service}.{table}", done, len(migrations))
            await _copy(source, target, service, table, columns)
        progress(f"comparing {service}", done, len(migrations))
        if await store_digest(target, service) != wanted[service]:
            raise _differs(f"{service}.event")
        at_step(f"{service} copied")


async def _tables(source: asyncpg.Connection, service: str) -> list[tuple[str, list[str]]]:
    """The tables of the service, and the columns that are stored."""
    rows = await source.fetch(
        "SELECT c.relname, array_agg(a.attname ORDER BY a.attnum) AS columns FROM pg_class c"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
        " WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' AND c.relname <> $2 GROUP BY c.relname ORDER BY 1",
        service,
        NOT_CARRIED,
    )
    return [(row["relname"], [str(column) for column in row["columns"]]) for row in rows]


async def _copy(
    source: asyncpg.Connection, target: asyncpg.Connection, service: str, table: str, columns: Sequence[str]
) -> None:
    """All rows, in place of those that the migrations wrote; triggers rest, since what they do is copied too."""
    await target.execute(f"ALTER TABLE {service}.{table} DISABLE TRIGGER USER; DELETE FROM {service}.{table}")
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(CHUNKS_MAX)
    listed = ", ".join(f'"{column}"' for column in columns)

    async def sent() -> None:
        await source.copy_from_query(f"SELECT {listed} FROM {service}.{table}", output=chunks.put, format="binary")
        await chunks.put(None)

    async def arriving() -> AsyncIterator[bytes]:
        while (chunk := await chunks.get()) is not None:
            yield chunk

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sent())
            group.create_task(
                target.copy_to_table(table, schema_name=service, columns=columns, source=arriving(), format="binary")
            )
    except ExceptionGroup as broken:
        raise broken.exceptions[0] from None
    await target.execute(f"ALTER TABLE {service}.{table} ENABLE TRIGGER USER")
    if await _contents(source, service, table, listed) != await _contents(target, service, table, listed):
        raise _differs(f"{service}.{table}")


async def _contents(connection: asyncpg.Connection, service: str, table: str, listed: str) -> tuple[int, str]:
    """Rows, and the sum of their hashes, which no order changes; events are compared by their leaf hashes besides."""
    row = await connection.fetchrow(
        f"SELECT count(*) AS rows, coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text AS sum"
        f" FROM (SELECT {listed} FROM {service}.{table}) t"
    )
    return row["rows"], row["sum"]


def _differs(what: str) -> CopyDiffers:
    return CopyDiffers(
        f"{what} did not arrive as it was sent.",
        why="Everything that is copied is compared before it is kept; nothing was kept.",
        next_step="Move again. If it differs again, check the disks and the versions of both servers.",
    )
