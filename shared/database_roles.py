"""Who may do what in the database: migrations run as the owner, each service under a login of its own that cannot touch events.

    role                                events, head, answered      other tables of its schema   its projection   other stores
    the owner of DATABASE_URL           makes them                  makes them                   -                -
    prooftrail_<database>_<service>     read; append by function    read, write                  owns             read
    prooftrail_<database>_feed          read                        read                         -                read

A table that refuses changes by trigger can be inserted into, nothing else. PRIVATE tables are read by the service alone. Roles
belong to the whole server, hence the name of the database in theirs. A password is HMAC-SHA256 of the role's name under the
owner's password, so that every replica has the same and none is kept anywhere. Without CREATEROLE, or without a password in the
address, everything runs as the owner, and says so.

Where no process but `prooftrail migrate` is to know the owner, PROOFTRAIL_LOGINS is a folder with a file for each login, named
after the service or `feed`, that holds the password of that role. Every other process has the files that it needs, and only
checks that the database was brought to its version.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import asyncpg

from shared.errors import FieldError, Invalid

APPEND_ONLY = ("event", "head", "system_head", "answered", "migration")
"""Tables that a service reads and only the owner's functions write."""

PRIVATE = ("webhook", "webhook_secret")
"""Tables of a store that no other service reads: where events are sent to, and what signs them."""

FEED = "feed"
SCRAM_ITERATIONS = 4096
ROLE_BYTES_MAX = 63
POSTGRES_WITH_MAINTAIN = 17
PASSWORD = re.compile(r"[!-~]{16,200}")


class LoginMissing(Invalid):
    """PROOFTRAIL_LOGINS has no usable password for a login that is needed here."""


@dataclass(frozen=True, kw_only=True)
class Logins:
    """The addresses to connect with. `shared_because` says why all are the owner's, None if every service has its own.

    With a `folder` of passwords `owner` may be a place without a user: nothing connects there as the owner.
    """

    owner: str
    database: str
    password: str = ""
    folder: Path | None = None
    shared_because: str | None = None

    def url(self, user: str) -> str:
        """The address for a service, or for FEED."""
        if self.shared_because is not None:
            return self.owner
        role = role_of(database=self.database, user=user)
        return address_for(self.owner, role=role, password=self.password_for(user))

    def password_for(self, user: str) -> str:
        """The password of the role of a service, or of FEED. LoginMissing."""
        if self.folder is not None:
            return _password_file(self.folder / user)
        return password_of(role=role_of(database=self.database, user=user), owner_password=self.password)

    def described(self) -> str:
        """For a person: whether services are kept apart in the database."""
        if self.shared_because is None:
            return "one for each service, none of which can change an event"
        return f"one for everything, which could change events, because {self.shared_because}"


def given_logins(address: str, *, folder: Path) -> Logins:
    """The logins of a process that is not the owner; the database is that of the address."""
    return Logins(owner=address, database=unquote(urlsplit(address).path.lstrip("/")), folder=folder)


def _password_file(path: Path) -> str:
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _missing(path, str(error)) from None
    if not PASSWORD.fullmatch(password):
        raise _missing(path, "It holds no password of 16 to 200 printable characters.")
    return password


def _missing(path: Path, why: str) -> LoginMissing:
    return LoginMissing(
        f"{path} gives no password for its login to the database.",
        why=why,
        next_step="Put the password that `prooftrail migrate` was given into this file, and nothing else.",
        fields=(FieldError(field="PROOFTRAIL_LOGINS", rule="a folder with a file for each login"),),
    )


def role_of(*, database: str, user: str) -> str:
    """The name of the role of a service, or of FEED, in that database."""
    role = f"prooftrail_{database}_{user}"
    if len(role.encode()) <= ROLE_BYTES_MAX:
        return role
    return f"prooftrail_{hashlib.sha256(database.encode()).hexdigest()[:24]}_{user}"


def password_of(*, role: str, owner_password: str) -> str:
    """The password of the role: 64 hex digits."""
    return hmac.new(owner_password.encode(), f"prooftrail role {role}".encode(), hashlib.sha256).hexdigest()


def scram_verifier(*, password: str, salt: bytes) -> str:
    """What PostgreSQL keeps of a password (RFC 5803), so that the password itself stands in no statement and no log."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    stored, server, salt_text = (
        base64.b64encode(part).decode() for part in (hashlib.sha256(client_key).digest(), server_key, salt)
    )
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt_text}${stored}:{server}"


async def separate_roles(owner_url: str, *, services: Sequence[str], folder: Path | None = None) -> Logins:
    """Makes the logins and gives each what it may do; the stores of all services are migrated before. May run again at any time.

    Their passwords are made of the owner's, or read from the files in `folder`.
    """
    connection = await asyncpg.connect(owner_url)
    try:
        database = await connection.fetchval("SELECT current_database()")
        logins = Logins(owner=owner_url, database=database, password=_password_in(owner_url), folder=folder)
        because = await _why_not(connection, logins)
        if because is None:
            because = await _grant_all(connection, logins, services)
        if because is None:
            because = await _why_no_login(logins)
    finally:
        await connection.close()
    return replace(logins, shared_because=because)


async def _why_not(connection: asyncpg.Connection, logins: Logins) -> str | None:
    if not logins.password and logins.folder is None:
        return "the database address names no password, of which those of the roles are made"
    if not await connection.fetchval("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"):
        return "the database user may not create roles (CREATEROLE)"
    return None


async def _why_no_login(logins: Logins) -> str | None:
    try:
        probe = await asyncpg.connect(logins.url(FEED))
    except (OSError, asyncpg.PostgresError) as error:
        return f"the server does not let the roles in ({error})"
    await probe.close()
    return None


async def _grant_all(connection: asyncpg.Connection, logins: Logins, services: Sequence[str]) -> str | None:
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('prooftrail.migrate'))")
            for user in (*services, FEED):
                await _make_role(connection, logins, user)
            for service in services:
                await _grant_own(connection, role_of(database=logins.database, user=service), service, logins.database)
            for user in (*services, FEED):
                await _grant_reading(connection, role_of(database=logins.database, user=user), own=user)
            return await _why_no_schemas(connection, logins, services)
    except asyncpg.InsufficientPrivilegeError as error:
        return f"the database user may not set them up ({error})"


async def _make_role(connection: asyncpg.Connection, logins: Logins, user: str) -> None:
    role = role_of(database=logins.database, user=user)
    password = logins.password_for(user)
    verifier = scram_verifier(password=password, salt=hashlib.sha256(f"salt {password}".encode()).digest()[:16])
    exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)
    verb = "ALTER" if exists else "CREATE"
    await connection.execute(f"{verb} ROLE {_quoted(role)} LOGIN PASSWORD '{verifier}'")
    if not await connection.fetchval("SELECT pg_has_role(current_user, $1, 'USAGE')", role):
        await connection.execute(f"GRANT {_quoted(role)} TO CURRENT_USER")  # to give its projection to it


async def _grant_own(connection: asyncpg.Connection, role: str, service: str, database: str) -> None:
    name = _quoted(role)
    await connection.execute(
        f"GRANT CREATE, CONNECT, TEMPORARY ON DATABASE {_quoted(database)} TO {name};"
        f" REVOKE ALL ON ALL TABLES IN SCHEMA {service} FROM {name};"
        f" GRANT EXECUTE ON FUNCTION {service}.append, {service}.append_batch TO {name};"
    )
    for table, only_grows in await _writable_tables(connection, service):
        rights = "INSERT" if only_grows else "INSERT, UPDATE, DELETE"
        await connection.execute(f"GRANT {rights} ON {service}.{_quoted(table)} TO {name}")
    await _let_wipe(connection, role, service)
    await _give_projections(connection, role, service)


async def _grant_reading(connection: asyncpg.Connection, role: str, *, own: str) -> None:
    """Every store of the database, also of services that run elsewhere, but for what is private to others."""
    stores = await connection.fetch(
        "SELECT pronamespace::regnamespace::text AS store FROM pg_proc WHERE proname = 'append_batch'"
    )
    for (store,) in stores:
        await connection.execute(
            f"GRANT USAGE ON SCHEMA {store} TO {_quoted(role)}; GRANT SELECT ON ALL TABLES IN SCHEMA {store} TO {_quoted(role)}"
        )
        for table in PRIVATE if store != own else ():
            if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{store}.{table}"):
                await connection.execute(f"REVOKE ALL ON {store}.{table} FROM {_quoted(role)}")


async def _let_wipe(connection: asyncpg.Connection, role: str, service: str) -> None:
    """An erasure writes the directory anew (VACUUM FULL): a right of its own since PostgreSQL 17, before that the owner's."""
    name, table = _quoted(role), f"{service}.person"
    if connection.get_server_version().major >= POSTGRES_WITH_MAINTAIN:
        await connection.execute(f"GRANT MAINTAIN ON {table} TO {name}")
        return
    await connection.execute(
        f"GRANT CREATE ON SCHEMA {service} TO {name}; ALTER TABLE {table} OWNER TO {name};"
        f" REVOKE CREATE ON SCHEMA {service} FROM {name}"
    )


async def _writable_tables(connection: asyncpg.Connection, service: str) -> Iterable[asyncpg.Record]:
    """The tables that the service itself writes, and whether a trigger refuses to change their rows."""
    rows: list[asyncpg.Record] = await connection.fetch(
        "SELECT c.relname, EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        "  WHERE t.tgrelid = c.oid AND p.proname = 'refuse_change')"
        " FROM pg_class c WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> ALL ($2)",
        service,
        APPEND_ONLY,
    )
    return rows


async def _give_projections(connection: asyncpg.Connection, role: str, service: str) -> None:
    """What the owner made before there were roles becomes the service's, which throws it away and makes it anew by itself."""
    rows = await connection.fetch(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_namespace n LEFT JOIN pg_class c"
        " ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relowner <> $2::regrole"
        " WHERE n.nspname = ANY ($1) AND (n.nspowner <> $2::regrole OR c.oid IS NOT NULL) ORDER BY 1",
        [f"{service}_projection{suffix}" for suffix in ("", "_new", "_old")],
        _quoted(role),
    )
    for schema in dict.fromkeys(row["nspname"] for row in rows):
        await connection.execute(f"ALTER SCHEMA {schema} OWNER TO {_quoted(role)}")
    for schema, relation, kind in rows:
        if relation is not None and kind != b"S":
            await connection.execute(f"ALTER TABLE {schema}.{_quoted(relation)} OWNER TO {_quoted(role)}")


async def _why_no_schemas(connection: asyncpg.Connection, logins: Logins, services: Sequence[str]) -> str | None:
    """PostgreSQL only warns when it grants nothing."""
    role = role_of(database=logins.database, user=services[0])
    if await connection.fetchval("SELECT has_database_privilege($1, current_database(), 'CREATE')", role):
        return None
    return "the database user may not let others make schemas (it does not own the database)"


def _password_in(url: str) -> str:
    address = urlsplit(url)
    return unquote(address.password or "") or parse_qs(address.query).get("password", [""])[0]


def address_for(url: str, *, role: str, password: str) -> str:
    """The same place under another login."""
    address = urlsplit(url)
    query = "&".join(part for part in address.query.split("&") if not part.startswith(("user=", "password=")))
    place = address.netloc.rpartition("@")[2]
    return address._replace(netloc=f"{quote(role, safe='')}:{password}@{place}", query=query).geturl()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
