"""The directory: names apart from events, so that a person can be forgotten and every proof stays valid."""

from __future__ import annotations

import asyncio
import hashlib
import itertools

from shared.directory import Directory, TableNames, commit
from tests.shared.conftest import Stores

SERVICE, OTHER = "requirements", "releases"


def directory(stores: Stores, salts: str = "salt", service: str = SERVICE) -> Directory:
    """A directory as a process opens it, with salts that tell where they come from."""
    numbers = itertools.count()
    return Directory(pool=stores.pool, service=service, new_salt=lambda: f"{salts}-{next(numbers)}")


def test_a_commitment_is_a_hash_of_salt_and_name() -> None:
    """Computed here apart; the zero byte keeps salt and name from running into each other."""
    assert commit(salt="s", name="Ada") == hashlib.sha256(b"s\0Ada").hexdigest()
    assert commit(salt="s", name="Ada") != commit(salt="sA", name="da")
    assert commit(salt="s", name="Zoë") == hashlib.sha256("s\0Zoë".encode()).hexdigest()


async def test_one_name_of_one_subject_has_one_commitment(stores: Stores) -> None:
    """Also in another process, and another name or subject has another."""
    first = await directory(stores).commitment(subject="p1", name="Ada Lovelace")
    assert await directory(stores, "later").commitment(subject="p1", name="Ada Lovelace") == first
    others = {
        await directory(stores, "more").commitment(subject="p1", name="Ada King"),
        await directory(stores, "most").commitment(subject="p2", name="Ada Lovelace"),
    }
    assert len(others | {first}) == 3


async def test_the_entry_proves_the_commitment(stores: Stores) -> None:
    """A reader can check that the printed name is the one that was committed to."""
    commitment = await directory(stores).commitment(subject="p1", name="Ada Lovelace")
    people = await directory(stores).people([commitment, "0" * 64])
    assert list(people) == [commitment]
    person = people[commitment]
    assert (person.subject, person.name, person.name_commitment) == ("p1", "Ada Lovelace", commitment)
    assert commit(salt=person.salt, name=person.name) == commitment


async def test_two_processes_that_meet_a_person_at_once_agree(stores: Stores) -> None:
    """Each draws a salt of its own; one of them counts, for both."""
    for number in range(10):
        racing = [directory(stores, f"{number}-{process}") for process in range(6)]
        commitments = await asyncio.gather(*(one.commitment(subject=f"p{number}", name="Ada") for one in racing))
        assert len(set(commitments)) == 1
        assert (
            await stores.pool.fetchval(f"SELECT count(*) FROM {SERVICE}.person WHERE subject = $1", f"p{number}") == 1
        )


async def test_a_forgotten_person_is_gone_and_comes_back_as_somebody_new(stores: Stores) -> None:
    """The old commitment stays valid and tells nothing; a later sign-in has an entry and a commitment of its own."""
    here = directory(stores)
    before = await here.commitment(subject="p1", name="Ada Lovelace")
    assert await here.erase("p1") == 1
    assert await here.people([before]) == {}
    after = await here.commitment(subject="p1", name="Ada Lovelace")
    assert after != before
    assert list(await here.people([before, after])) == [after]


async def test_what_another_process_erased_is_soon_not_used_any_more(stores: Stores) -> None:
    """A commitment is remembered, so that not every command asks for it, and not for long."""
    here, there = directory(stores, "here"), directory(stores, "there")
    before = await here.commitment(subject="p1", name="Ada Lovelace")
    await there.erase("p1")
    async with asyncio.timeout(30):
        while await here.commitment(subject="p1", name="Ada Lovelace") == before:  # noqa: ASYNC110 -- a clock decides
            await asyncio.sleep(0.05)


async def test_names_of_all_services_are_found(stores: Stores) -> None:
    """A record that brings services together prints the names of each."""
    commitments = [
        await directory(stores, "a", SERVICE).commitment(subject="p1", name="Ada Lovelace"),
        await directory(stores, "b", OTHER).commitment(subject="p2", name="Ben"),
    ]
    names = TableNames(pool=stores.pool, services=(SERVICE, OTHER))
    people = await names.people(commitments)
    assert [people[commitment].name for commitment in commitments] == ["Ada Lovelace", "Ben"]
    assert await names.people([]) == {}
    assert list(await TableNames(pool=stores.pool, services=(OTHER,)).people(commitments)) == commitments[1:]
