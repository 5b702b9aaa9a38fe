"""Roles: a service can append and read, keeps its own tables, and can do nothing else to anybody's events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import pytest

from shared.database_roles import FEED, PRIVATE, Logins, address_for, password_of, role_of, separate_roles
from shared.event_store import PostgresEventStore
from shared.feed import StoreFeed
from shared.projection import ProjectionRunner
from shared.runtime import migrate_service, open_pool
from tests.house import fresh_database
from tests.shared.counting import MAPPER, READER, Counted, Counter, Tally, event_of

SERVICES = ("requirements", "releases", READER)


@dataclass(frozen=True)
class Database:
    """A database with the stores of some services, and the logins to it."""

    owner_url: str
    logins: Logins
    owner: asyncpg.Connection

    async def connect(self, user: str) -> asyncpg.Connection:
        return await asyncpg.connect(self.logins.url(user))


@pytest.fixture
async def database(server_url: str) -> AsyncIterator[Database]:
    """Migrated, with roles, and with one event of each service."""
    async with fresh_database(server_url) as url:
        for service in SERVICES:
            await migrate_service(url, service=service)
        owner = await asyncpg.connect(url)
        await owner.execute("CREATE TABLE drift.diary (line text)")
        await owner.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON drift.diary"
            " FOR EACH ROW EXECUTE FUNCTION drift.refuse_change()"
        )
        logins = await separate_roles(url, services=SERVICES)
        async with asyncpg.create_pool(url, min_size=0, max_size=2) as pool:
            for service in SERVICES:
                await Counter(pool=pool, service=service).count(1)
        yield Database(owner_url=url, logins=logins, owner=owner)
        await owner.close()


REFUSED_ON_EVENTS = (
    "UPDATE {0}.event SET event = ''",
    "DELETE FROM {0}.event",
    "TRUNCATE {0}.event",
    "INSERT INTO {0}.event SELECT position + 1, stream || 'x', version, name, system, recorded_at, leaf_hash, event FROM {0}.event",
    "ALTER TABLE {0}.event DISABLE TRIGGER ALL",
    "ALTER TABLE {0}.event ADD COLUMN more text",
    "DROP TRIGGER append_only ON {0}.event",
    "DROP TABLE {0}.event CASCADE",
    "CREATE TRIGGER more BEFORE INSERT ON {0}.event FOR EACH ROW EXECUTE FUNCTION {0}.refuse_change()",
    "CREATE RULE more AS ON INSERT TO {0}.event DO INSTEAD NOTHING",
    "UPDATE {0}.head SET position = 0",
    "DELETE FROM {0}.head",
    "UPDATE {0}.system_head SET sequence = 0",
    "INSERT INTO {0}.answered VALUES ('s', 'k', 'f', 'r', 1, 1, 1)",
    "DELETE FROM {0}.answered",
    "DELETE FROM {0}.migration",
    "CREATE TABLE {0}.event_too ()",
    "ALTER FUNCTION {0}.append_batch RESET ALL",
    "DROP FUNCTION {0}.append_batch",
    "DROP SCHEMA {0} CASCADE",
    "SET session_replication_role = replica",
    "SET ROLE {1}",
    "SET SESSION AUTHORIZATION {1}",
)


@pytest.mark.parametrize("user", [*SERVICES, FEED])
async def test_nobody_but_the_owner_can_touch_what_is_stored(database: Database, user: str) -> None:
    """Whatever a service is made to say, its own events and those of others stay as they are."""
    connection = await database.connect(user)
    owner = await database.owner.fetchval("SELECT quote_ident(current_user)")
    for statement in REFUSED_ON_EVENTS:
        for service in SERVICES:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement.format(service, owner))
    assert [await connection.fetchval(f"SELECT count(*) FROM {service}.event") for service in SERVICES] == [1, 1, 1]
    await connection.close()


async def test_a_service_appends_to_its_own_store_only(database: Database) -> None:
    """The functions are not for everybody, as PostgreSQL makes new ones; the feed appends nowhere."""
    for user in (*SERVICES, FEED):
        async with asyncpg.create_pool(database.logins.url(user), min_size=0, max_size=2) as pool:
            for service in SERVICES:
                store = PostgresEventStore(pool=pool, service=service, mapper=MAPPER)
                events = [event_of(Counted(number=1), stream=f"counter:s/{user}", version=1)]
                if service == user:
                    await store.append(events, record="r", version=1, key=None)
                else:
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await store.append(events, record="r", version=1, key=None)
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await pool.execute(
                            f"SELECT {service}.append(NULL, NULL, NULL, 'r', 1, '{{a:s/1}}', '{{1}}', '{{n}}', '{{s}}', '{{x}}')"
                        )


async def test_a_service_keeps_its_other_tables_and_reads_those_of_others(database: Database) -> None:
    """The names it was shown, its pulse, its positions and dead letters: its own it writes, those of others it reads."""
    connection = await database.connect("releases")
    for statement in (
        "UPDATE {0}.pulse SET at = clock_timestamp()",
        "INSERT INTO {0}.person VALUES ('c', 's', 'salt', 'Rita')",
        "DELETE FROM {0}.person",
        "INSERT INTO {0}.reaction_position VALUES ('drift', 1) ON CONFLICT (source) DO UPDATE SET position = 2",
        "INSERT INTO {0}.dead_letter (source, position, reader, error) VALUES ('drift', 1, 'r', 'e')",
        "DELETE FROM {0}.dead_letter",
    ):
        await connection.execute(statement.format("releases"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.format("drift"))
    assert await connection.fetchval("SELECT count(*) FROM drift.event, drift.head, drift.pulse, drift.diary") == 0
    await connection.close()


async def test_where_a_service_sends_events_is_its_own_affair(database: Database) -> None:
    """Nobody else reads the addresses of its webhooks and what signs them."""
    for user, store in (
        ("releases", "requirements"),
        (READER, "requirements"),
        (FEED, "requirements"),
        (READER, READER),
    ):
        connection = await database.connect(user)
        for table in PRIVATE:
            question = connection.fetch(f"SELECT * FROM {store}.{table}")
            if user == store:
                assert await question == []
                continue
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await question
        await connection.close()


async def test_a_service_can_wipe_its_own_directory_only(database: Database) -> None:
    """An erasure writes the table anew, so that a deleted name is no longer in its file. PostgreSQL warns where it may not."""
    connection = await database.connect("releases")
    for service, wiped in (("releases", True), ("drift", False)):
        before = await connection.fetchval("SELECT pg_relation_filenode($1::regclass)", f"{service}.person")
        await connection.execute(f"VACUUM (FULL) {service}.person")
        after = await connection.fetchval("SELECT pg_relation_filenode($1::regclass)", f"{service}.person")
        assert (after != before) is wiped
    await connection.close()


async def test_a_table_that_only_grows_can_be_inserted_into_and_nothing_else(database: Database) -> None:
    """What the trigger refuses, the rights refuse before it."""
    connection = await database.connect("drift")
    await connection.execute("INSERT INTO drift.diary VALUES ('one')")
    for statement in ("UPDATE drift.diary SET line = 'two'", "DELETE FROM drift.diary", "TRUNCATE drift.diary"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_a_projection_of_the_owner_becomes_the_services_and_can_be_rebuilt(database: Database) -> None:
    """A folder from before there were roles goes on, and `rebuild` throws its tables away as ever."""
    async with await open_pool(database.owner_url, connections_max=3, application_name="owner") as pool:
        feed = StoreFeed(pool=pool, dsn=database.owner_url)
        before = ProjectionRunner(pool=pool, feed=feed, projection=Tally())
        await before.prepare()
        await before.catch_up()
        digest = await before.state_digest()
    again = await separate_roles(database.owner_url, services=SERVICES)
    async with (
        await open_pool(again.url(READER), connections_max=3, application_name="service") as pool,
        await open_pool(again.url(FEED), connections_max=3, application_name="feed") as feed_pool,
    ):
        feed = StoreFeed(pool=feed_pool, dsn=again.url(FEED))
        after = ProjectionRunner(pool=pool, feed=feed, projection=Tally())
        assert not await after.prepare()
        assert await after.state_digest() == digest
        await after.rebuild()
        assert await after.state_digest() == digest
        assert (await feed.pulse(service="releases")).head == 1


@contextlib.asynccontextmanager
async def database_of(server_url: str, attribute: str) -> AsyncIterator[str]:
    """A database that belongs to a user who is no superuser; gives the user's address for it."""
    async with fresh_database(server_url) as beside:
        name = f"{urlsplit(beside).path[1:]}_own"
        administrator = await asyncpg.connect(server_url)
        await administrator.execute(f"CREATE ROLE {name} LOGIN {attribute} PASSWORD 'secret'")
        await administrator.execute(f"CREATE DATABASE {name} OWNER {name}")
        yield address_for(beside.replace(name.removesuffix("_own"), name), role=name, password="secret")
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
        roles = [role_of(database=name, user=user) for user in (*SERVICES, FEED)]
        for role in (*roles, name):
            await administrator.execute(f"DROP ROLE IF EXISTS {role}")
        await administrator.close()


async def test_an_owner_who_is_no_superuser_can_do_it_too(server_url: str) -> None:
    """CREATEROLE and a database of its own are enough, as on a managed server; it can still read what the roles make."""
    async with database_of(server_url, "CREATEROLE") as url:
        for service in SERVICES:
            await migrate_service(url, service=service)
        await separate_roles(url, services=SERVICES)
        logins = await separate_roles(url, services=SERVICES)
        assert logins.shared_because is None
        async with await open_pool(logins.url(READER), connections_max=3, application_name="service") as pool:
            runner = ProjectionRunner(pool=pool, feed=StoreFeed(pool=pool, dsn=url), projection=Tally())
            await runner.prepare()
            await runner.rebuild()
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(f"DELETE FROM {READER}.event")
        owner = await asyncpg.connect(url)
        assert await owner.fetchval(f"SELECT count(*) FROM {READER}_projection.tally") == 0
        await owner.close()


@pytest.mark.parametrize(
    ("attribute", "password", "reason"), [("NOCREATEROLE", True, "CREATEROLE"), ("CREATEROLE", False, "password")]
)
async def test_without_the_right_to_make_roles_everything_runs_as_the_owner_and_says_why(
    server_url: str, attribute: str, password: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is broken by it, and nobody is told that it is otherwise."""
    async with database_of(server_url, attribute) as complete:
        url = complete if password else complete.replace(":secret@", "@")
        monkeypatch.setenv("PGPASSWORD", "secret")
        await migrate_service(url, service=READER)
        logins = await separate_roles(url, services=[READER])
        assert logins.shared_because is not None
        assert reason in logins.shared_because
        assert logins.url(READER) == logins.url(FEED) == url


def test_roles_of_two_databases_on_one_server_differ_and_names_fit() -> None:
    """Roles belong to the whole server."""
    names = {role_of(database=database, user=user) for database in ("a", "b", "c" * 63) for user in SERVICES}
    assert len(names) == 9
    assert max(len(name) for name in names) <= 63
    passwords = {password_of(role=name, owner_password=secret) for name in names for secret in ("x", "y")}
    assert len(passwords) == 18
