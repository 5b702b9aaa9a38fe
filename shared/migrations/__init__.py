"""Numbered SQL migrations: applied once each, in order, under a lock; a folder from a newer version is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import asyncpg

from shared.errors import Unavailable
from shared.event import digest_of

STORE_SCRIPTS = Path(__file__).parent


class NewerSchema(Unavailable):
    """The database was written by a newer version of Prooftrail."""


class SchemaBehind(Unavailable):
    """The database was not brought to this version yet."""


class AlteredMigration(Unavailable):
    """A migration that was applied is not the one this version ships."""


@dataclass(frozen=True)
class Migration:
    """One script; `{schema}` and `{service}` in it stand for the service's name."""

    name: str
    sql: str

    def for_service(self, service: str) -> str:
        """The script with the names filled in."""
        return self.sql.format(schema=service, service=service)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the script as shipped."""
        return digest_of(self.sql.encode())


def scripts_in(*folders: Path) -> list[Migration]:
    """All numbered scripts of the folders, in order of folder and name."""
    return [
        Migration(name=f"{folder.parent.name}/{path.stem}", sql=path.read_text())
        for folder in folders
        for path in sorted(folder.glob("[0-9]*.sql"))
    ]


async def migrate(connection: asyncpg.Connection, *, service: str, migrations: list[Migration]) -> list[str]:
    """Brings the schema of the service to this version; returns the names of the scripts it applied."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('prooftrail.migrate'))")
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {service}")
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {service}.migration"
            " (name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        applied = dict(await connection.fetch(f"SELECT name, digest FROM {service}.migration"))
        _refuse_strangers(service, migrations, applied)
        missing = [migration for migration in migrations if migration.name not in applied]
        for migration in missing:
            await connection.execute(migration.for_service(service))
            await connection.execute(
                f"INSERT INTO {service}.migration (name, digest) VALUES ($1, $2)", migration.name, migration.digest
            )
    return [migration.name for migration in missing]


async def require_applied(connection: asyncpg.Connection, *, service: str, migrations: list[Migration]) -> None:
    """For a process that may not migrate: every script of this version was applied, unaltered. SchemaBehind, AlteredMigration.

    More scripts are no harm: the owner migrates before the processes of the next version take over from these.
    """
    try:
        applied = dict(await connection.fetch(f"SELECT name, digest FROM {service}.migration"))
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError):
        applied = {}
    known = {migration.name: migration.digest for migration in migrations}
    missing = sorted(set(known) - set(applied))
    if missing:
        raise SchemaBehind(
            f"The schema {service} lacks migrations that this version needs: {', '.join(missing)}.",
            why="This process has no right to migrate; `prooftrail migrate` does it, as the owner of the database.",
            next_step="Run `prooftrail migrate` of this version, or wait until it has ended.",
        )
    _refuse_altered(service, {name: applied[name] for name in known}, known)


def _refuse_strangers(service: str, migrations: list[Migration], applied: dict[str, str]) -> None:
    known = {migration.name: migration.digest for migration in migrations}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise NewerSchema(
            f"The schema {service} has migrations that this version does not know: {', '.join(newer)}.",
            why="A newer version of Prooftrail wrote this database.",
            next_step="Start that version, or a newer one.",
        )
    _refuse_altered(service, applied, known)


def _refuse_altered(service: str, applied: dict[str, str], known: dict[str, str]) -> None:
    altered = sorted(name for name, digest in applied.items() if known[name] != digest)
    if altered:
        raise AlteredMigration(
            f"Applied migrations of {service} differ from the shipped ones: {', '.join(altered)}.",
            why="An applied migration never changes.",
            next_step="Check out the released version of Prooftrail that created this database.",
        )
