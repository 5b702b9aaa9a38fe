"""The seventeen attacks, each carried out as superuser on a live database, and what finds it.

| #  | attack                                    | found by                                         | test                        |
|----|-------------------------------------------|--------------------------------------------------|-----------------------------|
| 1  | payload, time or actor changed in a row   | 10: the bytes have not their hash                | a_changed_row               |
| 2  | and the hash beside it recomputed         | 10 by the system's chain, 14 by the root         | a_changed_row_with_its_hash |
| 3  | everything rewritten, signed with its key | 16: the witness cosigned another history         | a_history_signed_anew       |
| 4  | an event deleted in the middle            | 11 at the position                               | a_deleted_row               |
| 5  | the tail cut, sealed or not yet           | 11 at the first lost one; 11 by a kept promise   | a_cut_tail                  |
| 6  | two events exchanged; versions exchanged  | 11 at the first; the export refuses the row      | exchanged_rows              |
| 7  | an event put in between, backdated        | 14 by the root, between kept checkpoints         | a_row_put_in_between        |
| 8  | a second history of the same size         | the witness refuses it; 16 with both checkpoints | a_fork                      |
| 9  | an event appended a second time           | 11 at the second                                 | a_row_appended_twice        |
| 10 | the log's key replaced                    | 12: none of its keys is the pinned one           | a_replaced_key              |
| 11 | an evidence file exchanged                | the store refuses it; 15 at the naming event     | an_exchanged_evidence_file  |
| 12 | the database set back to a backup         | the signer refuses; 16 from the first lost one   | a_database_set_back         |
| 13 | a row of a projection rewritten           | the state digest of a rebuild; packs have none   | a_rewritten_projection      |
| 14 | a copy of the events altered or cut       | the export refuses the row; 10, 14 with its hash | an_altered_copy             |
|    | the copy in Kafka, with its hash          | the witness: the ledger gives another root       | an_altered_record           |
| 15 | printed names exchanged; one deleted      | 17 at the naming event; a remark, the code is 0  | exchanged_names             |
| 16 | the clock set back                        | 11 at the first event before its time            | a_clock_set_back            |
| 17 | a malicious event name                    | 10; the mapper resolves no name by import        | a_malicious_name            |

An untouched control passes in every test, before the attack. The pack of everything is made from the stores, as they are; the
pack of one AI system comes from the ledger, traceability's own copy, which is why most attacks on a store do not reach it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec
import pytest

from services.traceability.ledger import Ledger
from services.traceability.main import MIGRATIONS
from services.traceability.witnessing import KnownKeys, LedgerDisagrees, Witnessing
from shared.artefacts import ArtefactDamaged, ArtefactFolder
from shared.cloud_event import headers_of, recorded_event
from shared.directory import commit
from shared.event import RecordedEvent, digest_of, leaf_hash_of
from shared.log.merkle import root_of
from shared.log.note import NOTE, SigningKey, sign_note
from shared.log.row_check import EventAltered, EventsMissing
from shared.log.signer import RollbackNoticed
from shared.log.witness import FolderWitness, ForkRefused
from shared.runtime import migrate_service, utc_now
from shared.topic_records import Elsewhere, read_record
from tests.foreign import foreign
from tests.house import TestHouse, fresh_database
from tests.traceability.test_ledger import MemoryFeed
from tests.verifier.pack_maker import leaf_hash, packed, unpacked
from tests.verifier.sealed_house import SealedHouse
from tests.verifier.test_export import SYSTEM, exported, sealed
from verifier.prooftrail_verify import Brought, Code, Report, verify

__all__ = ["sealed"]

SERVICE = "requirements"
Found = tuple[Code, str | None, int | None, int | None]


@pytest.fixture
async def superuser(house: TestHouse, sealed: SealedHouse) -> AsyncIterator[asyncpg.Connection]:
    """Somebody whom no right and no trigger stops; nothing was altered yet, and the control passes."""
    assert (await checked(sealed)).code is Code.PROVEN
    connection = await asyncpg.connect(house.house.runtime.database_url)
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def checked(sealed: SealedHouse, **brought: Any) -> Report:
    """The report on the pack of everything, with the keys pinned as they were."""
    return verify(await sealed.exported(), sealed.pins, Brought(**brought))


def found(report: Report) -> Found:
    """Class, service, first bad position and the last that it can be."""
    assert report.failure is not None, report.text()
    return report.code, report.failure.service, report.failure.position, report.failure.until


def assert_around(report: Report, code: Code, position: int) -> None:
    """The class, and a first bad position between two kept checkpoints around this one."""
    found_code, service, first, last = found(report)
    assert (found_code, service) == (code, SERVICE)
    assert first is not None
    assert last is not None
    assert first <= position <= last


async def rows_of(superuser: asyncpg.Connection) -> list[dict[str, Any]]:
    """All events of the service as JSON values."""
    rows = await superuser.fetch(f"SELECT event FROM {SERVICE}.event ORDER BY position")
    return [json.loads(row["event"]) for row in rows]


async def put(superuser: asyncpg.Connection, event: dict[str, Any], *, at: int, rehash: bool) -> None:
    """Rewrites the bytes at a position and the time in its row, and the hash beside them or not."""
    raw = msgspec.json.encode(event)
    recorded_at = datetime.fromisoformat(event["recorded_at"])
    await superuser.execute(
        f"UPDATE {SERVICE}.event SET event = $2, recorded_at = $3 WHERE position = $1", at, raw, recorded_at
    )
    if rehash:
        await superuser.execute(f"UPDATE {SERVICE}.event SET leaf_hash = $2 WHERE position = $1", at, leaf_hash(raw))


async def rechain(superuser: asyncpg.Connection) -> None:
    """Makes positions, sequences and hashes fit again from the first event on."""
    heads: dict[str | None, tuple[int, str | None]] = {}
    for at, event in enumerate(await rows_of(superuser), start=1):
        sequence, previous = heads.get(event["system"], (0, None))
        if event["system"] is not None:
            event.update(position=at, system_sequence=sequence + 1, system_previous=previous)
        await put(superuser, event, at=at, rehash=True)
        heads[event["system"]] = (sequence + 1, leaf_hash(msgspec.json.encode(event)).hex())


async def stolen_signature(sealed: SealedHouse, superuser: asyncpg.Connection, key: SigningKey | None = None) -> str:
    """A checkpoint over what the store holds now, signed with the log's own key, or with another under its name."""
    folder = sealed.house.house.runtime.logs.folder / SERVICE
    kept = json.loads((folder / "keys.json").read_bytes().partition(b"\n")[2])
    rows = await superuser.fetch(f"SELECT leaf_hash FROM {SERVICE}.event ORDER BY position")
    root = base64.b64encode(root_of([row["leaf_hash"] for row in rows])).decode()
    text = f"{sealed.packs.deployment}/{SERVICE}/1\n{len(rows)}\n{root}\n"
    return sign_note(text, key or SigningKey.parse(kept["signing"]))


async def replace_checkpoint(superuser: asyncpg.Connection, note: str) -> None:
    """Puts the note where the last checkpoint was."""
    size, root = note.split("\n")[1:3]
    await superuser.execute(
        "UPDATE traceability.witnessed_checkpoint SET note = $1, root = $2 WHERE service = $3 AND size = $4",
        note,
        base64.b64decode(root),
        SERVICE,
        int(size),
    )


@pytest.mark.parametrize("field", ["reason", "recorded_at", "actor"])
async def test_a_changed_row(sealed: SealedHouse, superuser: asyncpg.Connection, field: str) -> None:
    """Attack 1."""
    event = (await rows_of(superuser))[3]
    other = {
        "reason": "another",
        "recorded_at": "2020-01-01T00:00:00.000000Z",
        "actor": {**event["actor"], "subject": "e"},
    }
    await put(superuser, {**event, field: other[field]}, at=4, rehash=False)
    assert found(await checked(sealed)) == (Code.EVENT, SERVICE, 4, None)


async def test_a_changed_row_with_its_hash(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 2, with the chain left as it was and with the chain made anew."""
    await put(superuser, {**(await rows_of(superuser))[3], "reason": "another"}, at=4, rehash=True)
    assert found(await checked(sealed)) == (Code.EVENT, SERVICE, 4, None)
    await rechain(superuser)
    assert_around(await checked(sealed), Code.TREE, 4)


async def test_a_history_signed_anew(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 3: with the stolen key, and with the cosignature of the true checkpoint put beside it."""
    true = await superuser.fetchval(
        "SELECT note FROM traceability.witnessed_checkpoint WHERE service = $1 ORDER BY size DESC LIMIT 1", SERVICE
    )
    last = len(await rows_of(superuser))
    await put(superuser, {**(await rows_of(superuser))[last - 1], "reason": "another"}, at=last, rehash=True)
    forged = await stolen_signature(sealed, superuser)
    for note in (forged, forged + true.splitlines(keepends=True)[-1]):
        await replace_checkpoint(superuser, note)
        assert_around(await checked(sealed), Code.FORK, last)


async def test_a_deleted_row(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 4."""
    await superuser.execute(f"DELETE FROM {SERVICE}.event WHERE position = 4")
    assert found(await checked(sealed)) == (Code.ORDER, SERVICE, 4, None)


async def test_a_cut_tail(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 5, after the last checkpoint and before it."""
    receipt = await sealed.house.client("Olga Owner").post(
        "/v1/systems", key="third", name="Third", intended_use="None.", risk_class="limited"
    )
    promise, last = receipt["promise"], int(receipt["position"].partition(":")[2])
    await superuser.execute(f"DELETE FROM {SERVICE}.event WHERE position = $1", last)
    assert (await checked(sealed)).code is Code.PROVEN
    assert found(await checked(sealed, promises=[promise])) == (Code.ORDER, SERVICE, last, None)
    size = sealed.seals[-1][SERVICE]
    await superuser.execute(f"DELETE FROM {SERVICE}.event WHERE position > $1", size - 2)
    assert found(await checked(sealed)) == (Code.ORDER, SERVICE, size - 1, None)


async def test_exchanged_rows(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 6: the contents of two rows, and then the versions that their columns tell."""
    exchange = (
        f"UPDATE {SERVICE}.event e SET ({{0}}) = (SELECT {{0}} FROM {SERVICE}.event o WHERE o.position = 7 - e.position)"
        " WHERE position IN (3, 4)"
    )
    await superuser.execute(f"ALTER TABLE {SERVICE}.event DROP CONSTRAINT event_stream_version_key")
    await superuser.execute(exchange.format("event, leaf_hash, stream, version, name, system, recorded_at"))
    assert found(await checked(sealed)) == (Code.ORDER, SERVICE, 3, None)
    await superuser.execute(exchange.format("event, leaf_hash, name, system, recorded_at"))
    with pytest.raises(EventAltered) as refused:
        await checked(sealed)
    assert refused.value.position == 3


async def test_a_row_put_in_between(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 7: backdated, with all others moved on and every hash made anew; the log signed another tree."""
    events = await rows_of(superuser)
    added = {**events[3], "id": "put-in", "stream": f"requirement:{SYSTEM}/REQ-0", "version": 1}
    later = [dict(row) for row in await superuser.fetch(f"SELECT * FROM {SERVICE}.event WHERE position > 4 ORDER BY 1")]
    await superuser.execute(f"DELETE FROM {SERVICE}.event WHERE position > 4")
    raw = msgspec.json.encode(added)
    columns = [5, added["stream"], 1, added["name"], SYSTEM, later[0]["recorded_at"], leaf_hash(raw), raw]
    for row in [columns, *([row.pop("position") + 1, *row.values()] for row in later)]:
        await superuser.execute(f"INSERT INTO {SERVICE}.event VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", *row)
    await rechain(superuser)
    assert_around(await checked(sealed), Code.TREE, 5)


async def test_a_fork(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 8: the witness does not cosign a second history; whoever holds both checkpoints can prove it."""
    kept = str(sealed.signers[SERVICE].note)
    await put(superuser, {**(await rows_of(superuser))[3], "reason": "another"}, at=4, rehash=True)
    await rechain(superuser)
    forged = await stolen_signature(sealed, superuser)
    with pytest.raises(ForkRefused):
        await sealed.witness.add_checkpoint(old_size=int(forged.split("\n")[1]), proof=[], note=forged)
    await superuser.execute("DELETE FROM traceability.witnessed_checkpoint WHERE size < $1", sealed.seals[-1][SERVICE])
    await replace_checkpoint(superuser, forged)
    file = await sealed.exported()
    logs_only = type(sealed.pins)(frozenset(key for key in sealed.pins.keys if key.algorithm == 1))
    assert_around(verify(file, logs_only, Brought(checkpoints=[kept])), Code.FORK, 4)


async def test_a_row_appended_twice(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 9: through the store's own function, into another stream, and sealed like any other."""
    event = (await rows_of(superuser))[3]
    stream = f"requirement:{SYSTEM}/REQ-9"
    position = await append(superuser, {**event, "stream": stream, "version": 1}, stream, event["name"])
    await sealed.seal()
    assert found(await checked(sealed)) == (Code.ORDER, SERVICE, position, None)


async def append(superuser: asyncpg.Connection, event: dict[str, Any], stream: str, name: str) -> int:
    """Calls the store's function with a record that no service would write."""
    stamped = ("service", "position", "recorded_at", "system", "system_sequence", "system_previous")
    record = msgspec.json.encode({key: value for key, value in event.items() if key not in stamped}).decode()
    position: int = await superuser.fetchval(
        f"SELECT at_position FROM {SERVICE}.append(NULL, NULL, NULL, $1, 1, ARRAY[$1], ARRAY[1], ARRAY[$2], ARRAY[$3], ARRAY[$4])",
        stream,
        name,
        SYSTEM,
        record,
    )
    return position


async def test_a_replaced_key(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 10: a new key under the same name signs a new history; nobody introduced it."""
    await put(superuser, {**(await rows_of(superuser))[3], "reason": "another"}, at=4, rehash=True)
    await rechain(superuser)
    key = SigningKey(f"{sealed.packs.deployment}/{SERVICE}", NOTE, bytes(32))
    await replace_checkpoint(superuser, await stolen_signature(sealed, superuser, key))
    true = sealed.packs.log_keys
    packs = dataclasses.replace(
        sealed.packs, log_keys=lambda origin: [key.verifier] if f"/{SERVICE}/" in origin else true(origin)
    )
    report = verify(await sealed.exported(packs), sealed.pins)
    assert found(report) == (Code.SIGNATURE, SERVICE, None, None)  # no position of such a history is known to be good


async def test_an_exchanged_evidence_file(sealed: SealedHouse) -> None:
    """Attack 11: where files are kept, and in the pack by whoever signs it."""
    content = b"flight,predicted\n1,0.2\n"
    digest, folder = digest_of(content), sealed.house.house.runtime.settings.data / "artefacts"
    ArtefactFolder(folder=folder).put(system=SYSTEM, digest=digest, content=content)
    named = {"name": "a", "digest": digest, "length": len(content), "media_type": "text/csv", "personal_data": False}
    await foreign(sealed.house, "verification", "evaluation-run-recorded", f"run:{SYSTEM}/RUN-1", artefacts=[named])
    await sealed.house.client("Ada Author").get(f"/v1/systems/{SYSTEM}/state", after="verification:1")
    await sealed.seal()
    files = unpacked(await exported(sealed))
    assert files[f"artefacts/{digest}"] == content
    files[f"artefacts/{digest}"] = other = content.replace(b"0.2", b"0.9")
    text = files["manifest"].decode().rpartition("\n\n")[0] + "\n"
    files["manifest"] = sealed.witness.sign_manifest(text.replace(digest, digest_of(other), 1)).encode()
    assert found(verify(io.BytesIO(packed(files)), sealed.pins)) == (Code.EVIDENCE, "verification", 1, None)
    stored = next(folder.rglob(digest))
    stored.chmod(0o600)
    stored.write_bytes(other)
    with pytest.raises(ArtefactDamaged):
        await exported(sealed)


async def test_a_database_set_back(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 12: to the first seal, as from a backup of then; the signer and the witness remember."""
    first, last = sealed.seals[0][SERVICE], sealed.seals[-1][SERVICE]
    await superuser.execute(f"DELETE FROM {SERVICE}.event WHERE position > $1", first)
    await superuser.execute(f"UPDATE {SERVICE}.head SET position = $1", first)
    await superuser.execute(
        "DELETE FROM traceability.witnessed_checkpoint WHERE service = $1 AND size > $2", SERVICE, first
    )
    assert found(await checked(sealed)) == (Code.FORK, SERVICE, first + 1, last)
    log = sealed.house.house.services[SERVICE].foundation.log
    await log.check()
    assert isinstance(log.sealer.refusal, RollbackNoticed)


async def test_a_rewritten_projection(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 13: who holds which role, in the table that requests are judged by."""
    projection = sealed.house.house.services[SERVICE].foundation.projection
    before = await projection.state_digest()
    await superuser.execute(f"UPDATE {SERVICE}_projection.role_grant SET role = 'owner' WHERE role = 'author'")
    rewritten = await projection.state_digest()
    await projection.rebuild()
    assert (rewritten == before, await projection.state_digest() == before) == (False, True)


HASH = "sha256('\\x00'::bytea || {})"
OTHER = "convert_to(replace(convert_from(event, 'UTF8'), '\"reason\":\"', '\"reason\":\"not '), 'UTF8')"
MOVED = f"convert_to(replace(convert_from(event, 'UTF8'), '\"system\":\"{SYSTEM}\"', '\"system\":\"other\"'), 'UTF8')"
COPY = "traceability.ledger {} WHERE service = 'requirements' AND service_position = 4"
LAST = (
    "traceability.ledger {} WHERE service = 'requirements' AND service_position ="
    f" (SELECT max(service_position) FROM traceability.ledger WHERE service = 'requirements' AND system = '{SYSTEM}')"
)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (f"UPDATE {COPY.format(f'SET event = {OTHER}')}", 4),
        (f"UPDATE {COPY.format(f'SET event = {OTHER}, leaf_hash = {HASH.format(OTHER)}')}", (Code.EVENT, SERVICE, 4, None)),
        (f"DELETE FROM {COPY.format('')}", 3),
        ("UPDATE traceability.ledger SET position = 7 - position WHERE position IN (3, 4)", None),
        ("UPDATE {}".format(LAST.format("SET system = 'other'")), 8),
        ("UPDATE {}".format(LAST.format("SET system = NULL, stream = 'x::'")), 8),
        ("UPDATE {}".format(LAST.format("SET position = 1000")), 9),
        ("UPDATE {}".format(LAST.format(f"SET system = 'other', event = {MOVED}")), 8),
        (
            "UPDATE {}".format(LAST.format(f"SET system = 'other', event = {MOVED}, leaf_hash = {HASH.format(MOVED)}")),
            (Code.TREE, SERVICE, 1, 8),
        ),
    ],
    ids=[
        "bytes", "bytes and hash", "deleted", "order of arrival",
        "system", "system and stream", "position", "system and bytes", "system, bytes and hash",
    ],
)  # fmt: skip
async def test_an_altered_copy(
    sealed: SealedHouse, superuser: asyncpg.Connection, statement: str, expected: Found | int | None
) -> None:
    """Attack 14: the ledger is a copy of all events, and the pack of one AI system is made from it.

    What does not fit itself is refused at a position; what does is the verifier's to find; another order of arrival alters nothing.
    """
    await superuser.execute("ALTER TABLE traceability.ledger DROP CONSTRAINT ledger_pkey")
    await superuser.execute(statement)
    if isinstance(expected, int):
        with pytest.raises((EventAltered, EventsMissing)) as refused:
            await exported(sealed)
        assert getattr(refused.value, "position", None) == expected
        return
    report = verify(io.BytesIO(await exported(sealed)), sealed.pins)
    if expected is None:
        assert report.code is Code.PROVEN, report.text()
    else:
        assert found(report) == expected


async def test_an_altered_record(
    sealed: SealedHouse, superuser: asyncpg.Connection, server_url: str, tmp_path: Path
) -> None:
    """Attack 14 on Kafka's copy: one byte changed is no event; with the hash made anew it gets into the ledger, and no further."""
    feed = MemoryFeed()
    events = [recorded_event(row["event"], service=SERVICE, position=at) for at, row in enumerate(
        await superuser.fetch(f"SELECT event FROM {SERVICE}.event ORDER BY position"), start=1
    )]  # fmt: skip
    altered = events[3].raw.replace(b'"reason":"', b'"reason":"not ')
    careless = record_of(altered, leaf_hash=events[3].leaf_hash)
    assert read_record(careless, service=SERVICE) == Elsewhere(4)
    thorough = read_record(record_of(altered, leaf_hash=leaf_hash_of(altered)), service=SERVICE)
    assert isinstance(thorough, RecordedEvent)
    checkpoint = sealed.signers[SERVICE].note
    assert checkpoint is not None
    for copy, refused in ((events, False), ([*events[:3], thorough, *events[4:]], True)):
        feed.events[SERVICE] = copy
        async with fresh_ledger(server_url, feed) as ledger:
            await ledger.catch_up()
            witnessing = witnessing_of(sealed, ledger, tmp_path / f"witness-{refused}")
            expected = pytest.raises(LedgerDisagrees) if refused else contextlib.nullcontext()
            with expected:
                await witnessing.add_checkpoint(old_size=0, proof=[], note=checkpoint)
            rows = await ledger.pool.fetch("SELECT size FROM traceability.witnessed_checkpoint")
            assert len(rows) == (0 if refused else 1)


def record_of(raw: bytes, *, leaf_hash: str) -> Any:
    """A record of the service's topic, as the relay writes it."""
    headers = headers_of(raw, source=b"urn:prooftrail:requirements", leaf_hash=leaf_hash, epoch=b"1")
    return SimpleNamespace(topic=SERVICE, offset=3, value=raw, headers=headers)


@contextlib.asynccontextmanager
async def fresh_ledger(server_url: str, feed: MemoryFeed) -> AsyncIterator[Ledger]:
    """That of another process, which has its events from Kafka."""
    async with fresh_database(server_url) as url:
        await migrate_service(url, service="traceability", scripts=MIGRATIONS)
        async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
            yield Ledger(pool=pool, feed=feed, sources=(SERVICE,), timeout_s=0.2)


def witnessing_of(sealed: SealedHouse, ledger: Ledger, folder: Path) -> Witnessing:
    """A witness that believes this ledger, and knows the keys of the house."""
    keys = KnownKeys(given=sealed.house.house.runtime.logs.keys)
    witness = FolderWitness.open(folder, name="witness.example", logs=keys, clock=utc_now)
    return Witnessing(pool=ledger.pool, ledger=ledger, deployment=sealed.packs.deployment, keys=keys, witness=witness)


async def first_naming(superuser: asyncpg.Connection, commitment: str) -> int:
    """The position of the first event that commits to the name."""
    events = await superuser.fetch(f"SELECT position, event FROM {SERVICE}.event ORDER BY position")
    return next(int(row["position"]) for row in events if commitment.encode() in row["event"])


async def test_exchanged_names(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 15: the names of two people are exchanged, then one is deleted without a word."""
    people = await superuser.fetch(f"SELECT name_commitment, name FROM {SERVICE}.person ORDER BY name LIMIT 2")
    await superuser.execute(f"ALTER TABLE {SERVICE}.person DROP CONSTRAINT person_subject_name_key")
    places: set[int] = set()
    for own, other in (people, reversed(people)):
        await superuser.execute(
            f"UPDATE {SERVICE}.person SET name = $2 WHERE name_commitment = $1", own["name_commitment"], other["name"]
        )
        places.add(await first_naming(superuser, own["name_commitment"]))
        code, service, position, until = found(await checked(sealed))
        assert (code, service, position in places, until) == (Code.NAME, SERVICE, True, None)
        assert commit(salt="", name=own["name"]) != own["name_commitment"]
    for own in people:
        await superuser.execute(
            f"UPDATE {SERVICE}.person SET name = $2 WHERE name_commitment = $1", own["name_commitment"], own["name"]
        )
    await superuser.execute(f"DELETE FROM {SERVICE}.person WHERE name_commitment = $1", people[0]["name_commitment"])
    report = await checked(sealed)
    assert report.code is Code.PROVEN
    assert any(
        "1 names that are not in the pack; of 1 of them it holds no recorded erasure" in line
        for line in report.not_proven
    )


async def test_a_clock_set_back(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 16: an event with an older time than the one before it, sealed like any other."""
    event = (await rows_of(superuser))[-1]
    stream = f"requirement:{SYSTEM}/REQ-9"
    record = {**event, "id": "another", "stream": stream, "version": 1}
    async with superuser.transaction():
        position = await append(superuser, record, stream, event["name"])
        backdated = {**(await rows_of(superuser))[-1], "recorded_at": "2020-01-01T00:00:00.000000Z"}
        await put(superuser, backdated, at=position, rehash=True)
    await sealed.seal()
    assert found(await checked(sealed)) == (Code.ORDER, SERVICE, position, None)


async def test_a_malicious_name(sealed: SealedHouse, superuser: asyncpg.Connection) -> None:
    """Attack 17: a name that a careless reader would import, appended through the store's function and sealed."""
    event = (await rows_of(superuser))[-1]
    stream = f"requirement:{SYSTEM}/REQ-9"
    record = {**event, "id": "another", "stream": stream, "version": 1, "name": "this:s"}
    position = await append(superuser, record, stream, "this:s")
    await sealed.seal()
    assert found(await checked(sealed)) == (Code.EVENT, SERVICE, position, None)
    store = sealed.house.house.services[SERVICE].foundation.store
    with pytest.raises(Exception, match="unknown here"):
        await store.load(stream)
