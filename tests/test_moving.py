"""An embedded store is carried to a PostgreSQL of one's own, a second real server: same positions, bytes, origins and epochs."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from services.composition import SERVICES, House, offline_house
from services.data_command import migrations_of
from services.server import database
from shared.embedded_postgres import EmbeddedPostgres
from shared.errors import ProoftrailError
from shared.moving import MARK, Moved, move
from shared.runtime import utc_now
from shared.settings import Settings
from tests.house import Client, fresh_database
from tests.test_backup import leaves_of, quiet, register, sealed

TABLES = ("event", "head", "system_head", "answered", "person", "person_change", "log_tile", "log_checkpoint")
TRACEABILITY_TABLES = ("ledger", "ledger_head", "witnessed_checkpoint")


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder in a place that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "data"


@pytest.fixture
async def target_url(server_url: str) -> AsyncIterator[str]:
    """An empty database on another server."""
    async with fresh_database(server_url) as url:
        yield url


def source(data: Path) -> EmbeddedPostgres:
    """The embedded server of the data folder."""
    return EmbeddedPostgres.start(data / "postgres")


async def filled(data: Path) -> None:
    """An embedded store with people, events, reactions and checkpoints, at rest."""
    with source(data) as server:
        async with offline_house(settings=Settings(data=data), database_url=server.dsn) as house:
            person = await client_of(house, "Olga Owner")
            async with person.http:
                for number in range(300):
                    await register(person, f"system-{number}")
                    person.seen.clear()  # nobody reads along that it could wait for
            traceability = house.services["traceability"]
            await traceability.application.ledger.catch_up()
            for service in SERVICES:
                await house.services[service].foundation.projection.catch_up()
            await sealed(house, "requirements")


async def client_of(house: House, name: str) -> Client:
    """A person at the door of a house that does not run."""
    assert house.issuer is not None
    transport = httpx.ASGITransport(app=house.app, raise_app_exceptions=False)
    http = httpx.AsyncClient(transport=transport, base_url="http://house")
    token, subject = house.issuer.mint(name=name), house.issuer.subject(name=name)
    return Client(http=http, name=name, subject=subject, token=token, seen={})


async def moved(data: Path, server: EmbeddedPostgres, target_url: str, progress: Any = quiet) -> Moved:
    """As the command does it."""
    return await move(
        source_url=server.dsn, target_url=target_url, folder=data / "postgres",
        migrations={service: migrations_of(service) for service in SERVICES}, at=utc_now(), progress=progress,
    )  # fmt: skip


async def contents(url: str) -> dict[str, list[str]]:
    """Every row of every table that counts, as text."""
    connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    try:
        names = [f"{service}.{table}" for service in SERVICES for table in TABLES]
        names += [f"traceability.{table}" for table in TRACEABILITY_TABLES]
        return {
            name: sorted(row["t"] for row in await connection.fetch(f"SELECT t::text AS t FROM {name} t"))
            for name in names
        }
    finally:
        await connection.close()


async def schemas_in(url: str) -> int:
    """How many schemas of services there are."""
    connection = await asyncpg.connect(url)
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM pg_namespace WHERE nspname = ANY($1)", list(SERVICES)
        )
        return count
    finally:
        await connection.close()


async def test_a_moved_store_is_the_same_store_and_goes_on(data: Path, target_url: str) -> None:
    """Every row of every table; then the next event follows the last, under the same origin and epoch."""
    await filled(data)
    with source(data) as server:
        before, leaves = await contents(server.dsn), await leaves_of(server.dsn)
        mark = await moved(data, server, target_url)
        assert await contents(server.dsn) == before
    assert len(before["requirements.event"]) == 300
    assert before["requirements.person"]
    assert before["requirements.log_checkpoint"]
    assert before["requirements.log_tile"]
    assert len(before["traceability.ledger"]) == 300
    assert await contents(target_url) == before
    assert mark.positions["requirements"] == 300
    settings = Settings(data=data, database_url=target_url)
    async with offline_house(settings=settings, database_url=target_url) as house:
        log = house.services["requirements"].foundation.log
        assert log.sealer.refusal is None
        assert log.signer.epoch == 1
        person = await client_of(house, "Olga Owner")
        async with person.http:
            receipt = await register(person, "after-the-move")
            assert receipt["position"] == "requirements:301"
            person.seen.clear()
            assert len((await person.get("/v1/systems", page_size=200))["items"]) == 200
        origin, size = await sealed(house, "requirements")
        assert (origin, size) == (log.origin, 301)
    after = await leaves_of(target_url)
    assert after["requirements"][:300] == leaves["requirements"]


async def test_the_source_says_that_it_was_moved(data: Path, target_url: str) -> None:
    """Going on there would make a second history under the same signers."""
    await filled(data)
    with source(data) as server:
        await moved(data, server, target_url)
    with pytest.raises(ProoftrailError) as refused, database(Settings(data=data)):
        pass
    assert refused.value.reason == "store-moved"
    assert "DATABASE_URL" in refused.value.next_step
    text = (data / "postgres" / MARK).read_text()
    assert target_url.partition("@")[0].rpartition(":")[2] not in text


@pytest.mark.parametrize(
    "step", ["copying requirements.event", "copying traceability.ledger", "comparing traceability"]
)
async def test_a_move_that_was_cut_off_left_nothing_and_is_done_again(data: Path, target_url: str, step: str) -> None:
    """All of it is one transaction of the target."""
    await filled(data)

    def cut_off(what: str, _done: int, _total: int | None) -> None:
        if what == step:
            raise KeyboardInterrupt

    with source(data) as server:
        with pytest.raises(KeyboardInterrupt):
            await moved(data, server, target_url, cut_off)
        assert await schemas_in(target_url) == 0
        assert not (data / "postgres" / MARK).exists()
        await moved(data, server, target_url)
        assert await contents(target_url) == await contents(server.dsn)


async def test_a_move_that_was_cut_off_after_the_commit_only_needs_its_mark(data: Path, target_url: str) -> None:
    """What is there is compared, not copied again."""
    await filled(data)
    with source(data) as server:
        await moved(data, server, target_url)
        (data / "postgres" / MARK).unlink()
        await moved(data, server, target_url)
        assert (data / "postgres" / MARK).exists()
        assert await contents(target_url) == await contents(server.dsn)


async def test_a_store_is_moved_to_one_place_only(data: Path, target_url: str, server_url: str) -> None:
    """Also if the move there was cut off: it may have arrived."""
    await filled(data)
    with source(data) as server:
        await moved(data, server, target_url)
        async with fresh_database(server_url) as other:
            with pytest.raises(ProoftrailError) as refused:
                await moved(data, server, other)
            assert refused.value.reason == "store-moved"
            mark = data / "postgres" / MARK
            mark.write_text(mark.read_text().replace('"finished": true', '"finished": false'))
            with pytest.raises(ProoftrailError) as unfinished:
                await moved(data, server, other)
            assert unfinished.value.reason == "move-unfinished"
            assert await schemas_in(other) == 0


async def test_a_target_with_another_store_is_refused(data: Path, target_url: str) -> None:
    """Two histories are never mixed; also not with one that went on."""
    await filled(data)
    settings = Settings(data=data.with_name("other"), database_url=target_url)
    async with offline_house(settings=settings, database_url=target_url):
        pass
    with source(data) as server, pytest.raises(ProoftrailError) as refused:
        await moved(data, server, target_url)
    assert refused.value.reason == "target-has-store"
    assert not (data / "postgres" / MARK).exists()


async def test_a_source_that_was_altered_is_not_carried_on(data: Path, target_url: str) -> None:
    """The first position that is wrong is named, and nothing is copied."""
    await filled(data)
    with source(data) as server:
        owner = await asyncpg.connect(server.dsn)
        await owner.execute(
            "ALTER TABLE requirements.event DISABLE TRIGGER USER;"
            " UPDATE requirements.event SET event = event || ' '::bytea WHERE position = 7"
        )
        await owner.close()
        with pytest.raises(ProoftrailError) as refused:
            await moved(data, server, target_url)
    assert refused.value.reason == "store-altered"
    assert "position 7" in refused.value.what
    assert await schemas_in(target_url) == 0


async def test_what_arrives_is_compared_before_it_is_kept(data: Path, target_url: str) -> None:
    """A target that changes what it gets is noticed, and nothing stays."""
    await filled(data)
    owner = await asyncpg.connect(target_url)
    await owner.execute(
        "CREATE FUNCTION meddle() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF to_regclass('requirements.person') IS NOT NULL THEN UPDATE requirements.person SET name = 'Somebody Else'; END IF;"
        " END $$;"
        " CREATE EVENT TRIGGER meddle ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION meddle()"
    )
    await owner.close()
    with source(data) as server, pytest.raises(ProoftrailError) as refused:
        await moved(data, server, target_url)
    assert refused.value.reason == "copy-differs"
    assert "requirements.person" in refused.value.what
    assert await schemas_in(target_url) == 0


async def test_a_store_of_another_version_is_not_moved(data: Path, target_url: str) -> None:
    """Its tables may not fit those that this version makes."""
    await filled(data)
    with source(data) as server:
        owner = await asyncpg.connect(server.dsn)
        await owner.execute("DELETE FROM drift.migration WHERE name LIKE '%people'")
        await owner.close()
        with pytest.raises(ProoftrailError) as refused:
            await moved(data, server, target_url)
    assert refused.value.reason == "source-outdated"
    assert "drift" in refused.value.what


async def test_a_target_out_of_reach_is_said(data: Path) -> None:
    """With the address and without the password."""
    await filled(data)
    with source(data) as server, pytest.raises(ProoftrailError) as refused:
        await moved(data, server, "postgresql://somebody:secret@127.0.0.1:1/nowhere")
    assert refused.value.reason == "target-unusable"
    assert "secret" not in refused.value.what + refused.value.why
