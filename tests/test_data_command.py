"""Forget, back up, restore and move by the command, on a data folder that a real process serves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from services.composition import SERVICES
from shared.embedded_postgres import EmbeddedPostgres
from tests.serving import served
from tests.test_command import SYSTEM, client, command, data, token_of

__all__ = ["data"]

FORGOTTEN = "Wilhelmina Vergissmeinnicht"


@pytest.fixture
def backed_up(data: Path) -> Path:
    """A folder beside the data folder, with a backup that was made while it was served; one system came later."""
    folder = data.with_name("backup")
    with served(data) as (address, _, _), client(address, token_of(data, "Olga Owner")) as owner:
        register(owner, "before")
        made = command(data, "backup", str(folder))
        assert made.returncode == 0, made.stderr
        assert "requirements:1" in made.stdout
        register(owner, "after")
    return folder


def register(owner: httpx.Client, key: str) -> str:
    """One command, and the position to wait for."""
    answer = owner.post("/v1/systems", json={"key": key, **SYSTEM})
    assert answer.status_code == 201, answer.text
    position: str = answer.json()["position"]
    return position


def systems(data: Path) -> list[str]:
    """What the owner sees on the served folder, after one more command."""
    with served(data) as (address, _, _), client(address, token_of(data, "Olga Owner")) as owner:
        position = register(owner, "continued")
        items = owner.get("/v1/systems", params={"after": position}).json()["items"]
        assert owner.get("/v1/logs/requirements/checkpoint").status_code == 200
        return [item["key"] for item in items]


def test_a_backup_is_restored_into_another_folder_and_served(data: Path, backed_up: Path) -> None:
    """The same people, and what was there; a folder that holds something is refused, and so is a restore without its statement."""
    again = data.with_name("again")
    assert command(again, "restore", str(backed_up)).returncode == 2
    assert not again.exists()
    onto = command(data, "restore", str(backed_up), "--final")
    assert (onto.returncode, "is not empty" in onto.stderr) == (2, True)
    unsaid = command(again, "restore", str(backed_up), "--recover", "the disk was lost")
    assert (unsaid.returncode, "--erased" in unsaid.stderr) == (2, True)
    assert not again.exists()
    ended = command(again, "restore", str(backed_up), "--recover", "the disk was lost", "--erased-unknown")
    assert ended.returncode == 0, ended.stderr
    assert "WARNING: names that were erased after" in ended.stderr
    assert systems(again) == ["before", "continued"]


def test_who_was_erased_after_the_backup_stays_erased_in_a_restored_folder(data: Path) -> None:
    """The newest data folder tells who; nothing is served before."""
    backup, again = data.with_name("backup"), data.with_name("again")
    with served(data) as (address, _, _):
        with client(address, token_of(data, FORGOTTEN)) as person:
            person.post("/v1/systems/nowhere:grant-role", json={"subject": "x", "role": "author", "reason": "why"})
        subject = command(data, "subject", FORGOTTEN).stdout.strip()
        assert command(data, "backup", str(backup)).returncode == 0
        assert command(data, "erase", subject, "--reason", "objection").returncode == 0
    restored = ("restore", str(backup), "--recover", "the disk was lost")
    ended = command(again, *restored, "--erased", str(data))
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr
    assert not in_files(again, FORGOTTEN, but=("pg_wal",))
    assert in_files(backup, FORGOTTEN, but=())


def test_an_old_database_with_the_newest_signers_is_recovered_by_name(data: Path, backed_up: Path) -> None:
    """Commands go on, sealing is refused and says why; the recovery tells the lost range in the log."""
    again = data.with_name("again")
    assert command(again, "restore", str(backed_up), "--final").returncode == 0
    shutil.rmtree(again / "log")
    shutil.copytree(data / "log", again / "log")
    with served(again) as (address, _, _), client(address, token_of(again, "Olga Owner")) as owner:
        refused = owner.get("/v1/logs/requirements/checkpoint")
        assert refused.status_code == 409, refused.text
        assert "2 were signed" in refused.text
    recovered = command(again, "recover", "requirements", "--reason", "an older backup was restored")
    assert recovered.returncode == 0, recovered.stderr
    with served(again) as (address, _, _), client(address, token_of(again, "Olga Owner")) as owner:
        note = owner.get("/v1/logs/requirements/checkpoint")
        assert note.status_code == 200, note.text
        assert note.text.splitlines()[0].endswith("/requirements/2")


def test_a_person_is_erased_while_the_services_run(data: Path) -> None:
    """By the command, for one who holds no role; again it is a repeat, and for an owner it is refused by name."""
    with served(data) as (address, _, _):
        with client(address, token_of(data, FORGOTTEN)) as person:
            refused = person.post(
                "/v1/systems/nowhere:grant-role", json={"subject": "x", "role": "author", "reason": "why"}
            )
            assert refused.status_code == 404
        with client(address, token_of(data, "Olga Owner")) as owner:
            register(owner, "flights")
        subject = command(data, "subject", FORGOTTEN).stdout.strip()
        for _ in range(2):
            erased = command(data, "erase", subject, "--reason", "objection")
            assert erased.returncode == 0, erased.stderr
            assert all(service in erased.stdout for service in SERVICES)
        olga = command(data, "subject", "Olga Owner").stdout.strip()
        kept = command(data, "erase", olga, "--reason", "objection")
        assert (kept.returncode, "owner of flights" in kept.stderr) == (2, True)
        assert command(data, "erase", olga, "--reason", "she asked").returncode == 2
        heir = command(data, "subject", "Hanna Heir").stdout.strip()
        handed_over = command(data, "hand-over", "flights", heir, "--reason", "the owner left")
        assert (handed_over.returncode, f"{heir} is the only owner" in handed_over.stdout) == (0, True), (
            handed_over.stderr
        )
        kept = command(data, "erase", olga, "--reason", "objection")
        assert (kept.returncode, "has to be kept until" in kept.stderr) == (2, True)
        assert FORGOTTEN not in (data / "issuer" / "people.json").read_text()
    assert not in_files(data, FORGOTTEN, but=("pg_wal",))


def in_files(folder: Path, text: str, *, but: tuple[str, ...]) -> list[Path]:
    """The files below that hold the text."""
    return [
        file
        for file in folder.rglob("*")
        if file.is_file() and not set(but) & set(file.parts) and text.encode() in file.read_bytes()
    ]


def test_an_embedded_store_is_moved_and_served_from_there(data: Path, backed_up: Path) -> None:
    """Not while it is served; afterwards the old one says where it went."""
    other = data.with_name("other")
    with EmbeddedPostgres.start(other) as target:
        with served(data):
            busy = command(data, "move", target.dsn)
            assert (busy.returncode, "in use" in busy.stderr) == (2, True)
        moved = command(data, "move", target.dsn)
        assert moved.returncode == 0, moved.stderr
        assert "requirements:2" in moved.stdout
        again = command(data, "rebuild")
        assert (again.returncode, "was moved to" in again.stderr) == (2, True)
        with (
            served(data, database_url=target.dsn) as (address, _, _),
            client(address, token_of(data, "Olga Owner")) as owner,
        ):
            register(owner, "moved")
            items = owner.get("/v1/systems", params={"after": "requirements:3"}).json()["items"]
            assert [item["key"] for item in items] == ["after", "before", "moved"]
            assert owner.get("/v1/logs/requirements/checkpoint").text.splitlines()[0].endswith("/requirements/1")


def test_a_folder_without_a_store_is_not_moved(data: Path) -> None:
    """And none is made by the question."""
    ended: subprocess.CompletedProcess[str] = command(data, "move", "postgresql://nobody@127.0.0.1:1/none")
    assert (ended.returncode, "no embedded store" in ended.stderr) == (2, True)
    assert not (data / "postgres").exists()
