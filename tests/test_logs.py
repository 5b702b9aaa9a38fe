"""The logs of the running house, through its doors: promised, sealed, witnessed, proven; and what a fork or a restore meets."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from services.composition import open_house
from shared.log.checkpoint import OpenedCheckpoint, TreeHead, open_checkpoint
from shared.log.merkle import consistency_proof, leaf_hash, root_of, verify_consistency, verify_inclusion
from shared.log.note import NOTE, SigningKey, VerifierKey, sign_note
from shared.log.promise import open_promise
from shared.log.statements import Rotation, verify_rotation
from shared.log.tile_paths import decode_entries
from shared.log.upkeep import recover, rotate_key
from shared.log.witness import SIZE_MEDIA_TYPE, Submission
from shared.runtime import utc_now
from shared.settings import Settings
from tests.house import Client, TestHouse, fresh_database, problem_of
from tests.requirements.test_http_api import in_review, staffed
from tests.shared.log.sealed_store import until
from tests.shared.log.trees import leaves, subtree_of

REQUIREMENTS = "/v1/logs/requirements"
OLDEST: dict[str, Any] = {"from": 1}


async def keys(house: TestHouse, client: Client, service: str = "requirements") -> list[VerifierKey]:
    """The keys that an auditor pins: those of the log, and that of the house's witness."""
    found = (await client.get(f"/v1/logs/{service}/key"))["keys"]
    return [VerifierKey.parse(key) for key in (*found, *(one.vkey for one in house.house.runtime.logs.own))]


async def witnessed(
    house: TestHouse, client: Client, size: int, service: str = "requirements", *, lines: int = 2
) -> OpenedCheckpoint:
    """The checkpoint as it is served, once it covers `size` events and is signed by the log and by the witness."""
    found: list[OpenedCheckpoint] = []

    async def covers() -> bool:
        answer = await client.request("GET", f"/v1/logs/{service}/checkpoint")
        if answer.status_code == httpx.codes.OK:
            opened = open_checkpoint(answer.text, await keys(house, client, service))
            if opened.head.size >= size and len(opened.note.signers) >= lines:
                found.append(opened)
        return bool(found)

    await until(covers)
    return found[0]


async def test_a_promise_is_kept_and_proven(house: TestHouse) -> None:
    """The receipt's promise, the proof that was fetched later, and the checkpoint fit each other; nothing else is trusted."""
    owner = house.client("Olga Owner")
    receipt = await owner.post(
        "/v1/systems",
        key="flights",
        name="F",
        intended_use="Warn.",
        risk_class="limited",
        headers={"Idempotency-Key": "k"},
    )
    pinned = await keys(house, owner)
    (promised,) = open_promise(receipt["promise"], pinned).events
    opened = await witnessed(house, owner, promised.position)
    proof = await owner.get(f"{REQUIREMENTS}/events/{promised.position}/proof")
    head = open_checkpoint(proof["checkpoint"], pinned, origin=proof["origin"]).head
    assert head.size >= opened.head.size
    assert proof["leaf_hash"] == promised.leaf_hash
    verify_inclusion(
        index=promised.position - 1, size=head.size, leaf=bytes.fromhex(promised.leaf_hash), root=head.root,
        proof=[base64.b64decode(one) for one in proof["inclusion"]],
    )  # fmt: skip
    again = await owner.post(
        "/v1/systems",
        key="flights",
        name="F",
        intended_use="Warn.",
        risk_class="limited",
        headers={"Idempotency-Key": "k"},
    )
    assert again["promise"] == receipt["promise"]


async def test_every_service_has_a_log_that_traceability_witnesses(house: TestHouse) -> None:
    """Each under its own origin and key; the ledger keeps the note that is served."""
    owner, author, _ = await staffed(house)
    await in_review(author)
    await owner.post("/v1/systems/flight-delay/evidence-packs", key="P-1")
    await author.post(
        "/v1/systems/flight-delay/model-versions", model="late", version="1", components=[], code_revision="c", why="first",
        hosted={"provider": "acme", "identifier": "late-1"},
    )  # fmt: skip
    deployment = house.house.runtime.logs.deployment
    for service in ("requirements", "releases", "traceability"):
        opened = await witnessed(house, owner, 1, service)
        assert opened.head.origin == f"{deployment}/{service}/1"
        assert [signer.key.name for signer in opened.note.signers] == [
            f"{deployment}/{service}",
            f"{deployment}/witness",
        ]
    rows = await house.house.services["traceability"].foundation.pool.fetch(
        "SELECT service, size, note FROM traceability.witnessed_checkpoint"
    )
    assert {row["service"] for row in rows} == {"requirements", "releases", "traceability"}
    for row in rows:
        pinned = await keys(house, owner, row["service"])
        assert len(open_checkpoint(row["note"], pinned).note.signers) == 2
    assert (await owner.request("GET", "/v1/logs/drift/checkpoint")).status_code == httpx.codes.NOT_FOUND


async def test_tiles_give_the_root_that_was_signed(house: TestHouse) -> None:
    """Whoever reads hashes and bundles comes to the same tree; the log only grew between two checkpoints."""
    owner, author, _ = await staffed(house)
    first = (await witnessed(house, owner, 3)).head
    await in_review(author)
    last = (await witnessed(house, owner, 6)).head
    tile = (await owner.request("GET", f"{REQUIREMENTS}/tile/0/000.p/{last.size}")).content
    hashes = [tile[at : at + 32] for at in range(0, len(tile), 32)]
    bundle = (await owner.request("GET", f"{REQUIREMENTS}/tile/entries/000.p/{last.size}")).content
    assert hashes == [leaf_hash(entry) for entry in decode_entries(bundle)]
    assert root_of(hashes) == last.root
    proven = await owner.get(f"{REQUIREMENTS}/consistency", **{"from": first.size, "to": last.size})
    verify_consistency(
        old_size=first.size, old_root=first.root, new_size=last.size, new_root=last.root,
        proof=[base64.b64decode(one) for one in proven["consistency"]],
    )  # fmt: skip


async def test_who_may_read_what(house: TestHouse) -> None:
    """Nobody without a token; hashes for everybody else; events only with a role in every AI system of the bundle."""
    owner, _, _ = await staffed(house)
    await witnessed(house, owner, 3)
    stranger = house.client("Stan Stranger")
    paths = ("checkpoint", "key", "tile/0/000.p/3", "events/1/proof", "consistency?from=1")
    for path in paths:
        assert (await house.http.get(f"{REQUIREMENTS}/{path}")).status_code == httpx.codes.UNAUTHORIZED
        assert (await stranger.request("GET", f"{REQUIREMENTS}/{path}", **OLDEST)).status_code == httpx.codes.OK
    refused = problem_of(await stranger.request("GET", f"{REQUIREMENTS}/tile/entries/000.p/3"))
    assert (refused["status"], refused["reason"]) == (403, "not-every-system")


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("events/9/proof", 404, "not-in-the-log"),
        ("events/0/proof", 422, "invalid-request"),
        ("tile/0/000", 404, "not-in-the-log"),
        ("tile/0/001.p/1", 404, "not-in-the-log"),
        ("tile/1/000.p/1", 404, "not-in-the-log"),
        ("tile/0/x001/000", 404, "not-in-the-log"),
        ("tile/entries/x001/x234/067.p/8", 404, "not-in-the-log"),
        ("tile/0/0.p/1", 422, "invalid-request"),
        ("tile/0/x000/000.p/1", 422, "no-such-tile-path"),
        ("tile/0/000.p/256", 422, "no-such-tile-path"),
        ("tile/entries/000.p/9", 404, "not-in-the-log"),
        ("consistency?from=2&to=1", 404, "not-in-the-log"),
        ("consistency?from=1&to=99", 404, "not-in-the-log"),
    ],
)
async def test_what_the_log_does_not_have(house: TestHouse, path: str, status: int, reason: str) -> None:
    """Each is told with what to do instead."""
    owner, _, _ = await staffed(house)
    await witnessed(house, owner, 3)
    path, _, query = path.partition("?")
    asked: dict[str, Any] = dict(part.split("=") for part in query.split("&") if part)
    problem = problem_of(await owner.request("GET", f"{REQUIREMENTS}/{path}", **asked))
    assert (problem["status"], problem["reason"]) == (status, reason)
    assert problem["next_step"]


async def test_a_change_of_keys_is_followed_by_witness_and_readers(house: TestHouse) -> None:
    """The log tells it, whoever knows the first key finds the second, and traces are as they were."""
    owner, author, _ = await staffed(house)
    await witnessed(house, owner, 3)
    (first,) = (await owner.get(f"{REQUIREMENTS}/key"))["keys"]
    foundation = house.house.services["requirements"].foundation
    before = await owner.get("/v1/systems/flight-delay/state")
    await rotate_key(store=foundation.store, signer=foundation.log.signer, why="a year has passed", clock=utc_now)
    opened = await witnessed(house, owner, 4)
    (kept, second) = (await owner.get(f"{REQUIREMENTS}/key"))["keys"]
    assert kept == first
    assert str(opened.note.signers[0].key) == second
    feed = await owner.get("/v1/requirements/events", from_position=3)
    told = [event for event in feed["events"] if "log-key-rotated" in event["event"]]
    assert len(told) == 1
    await in_review(author)
    state = await owner.get("/v1/systems/flight-delay/state")
    assert set(before["records"]) <= set(state["records"])
    assert "log" not in state["records"]
    for page in ("matrix", "gaps", "timeline", "ledger", "evidence-pack"):
        await owner.get(f"/v1/systems/flight-delay/{page}")
    rotation = (await foundation.store.load("log::requirements"))[0].data
    fields = {name: getattr(rotation, name) for name in ("old_key", "new_key", "signature")}
    assert (
        str(verify_rotation(Rotation(**fields), name=foundation.log.signer.name, keys=[VerifierKey.parse(first)]))
        == second
    )


async def asked(house: TestHouse, note: str, *, old_size: int, proof: tuple[bytes, ...] = ()) -> httpx.Response:
    """The answer of the witness's door, which takes no token."""
    body = Submission(old_size=old_size, proof=proof, note=note).body()
    return await house.http.post("/add-checkpoint", content=body, headers={"Content-Type": "text/plain"})


def stolen_key(house: TestHouse, service: str) -> SigningKey:
    """The private key of a log, as whoever breaks into the machine has it."""
    text = (house.house.runtime.settings.data / "log" / service / "keys.json").read_text()
    return SigningKey.parse(text.partition('"signing":"')[2].partition('"')[0])


async def test_a_fork_is_refused_whoever_signs_it(house: TestHouse) -> None:
    """With the log's own key another history is signed; the witness's ledger says otherwise, and its memory too."""
    owner, _, _ = await staffed(house)
    opened = await witnessed(house, owner, 3)
    origin, size = opened.head.origin, opened.head.size
    key, other = stolen_key(house, "requirements"), leaves(size + 4)

    same_size = sign_note(TreeHead(origin, size, root_of(other[:size])).text(), key)
    assert (await asked(house, same_size, old_size=size)).status_code == 422
    await owner.post("/v1/systems/flight-delay:grant-role", subject="person-1", role="auditor")
    await witnessed(house, owner, size + 1)
    grown = sign_note(TreeHead(origin, size + 1, root_of(other[: size + 1])).text(), key)
    proof = tuple(consistency_proof(size, size + 1, subtree_of(other)))
    assert (await asked(house, grown, old_size=size + 1)).status_code == 422
    assert (await asked(house, grown, old_size=size, proof=proof)).status_code == 422
    beyond = sign_note(TreeHead(f"{origin.rpartition('/')[0]}/2", size, opened.head.root).text(), key)
    assert (await asked(house, beyond, old_size=0)).status_code == 422, "a new epoch that the log does not tell"


async def test_the_door_of_the_witness_answers_as_tlog_witness_says(house: TestHouse) -> None:
    """400, 403, 404 and 409, in plain text; the same request again gives a cosignature again."""
    owner, _, _ = await staffed(house)
    opened = await witnessed(house, owner, 3)
    head, log_note = opened.head, sign_note(opened.head.text(), stolen_key(house, "requirements"))
    stale = await asked(house, log_note, old_size=1)
    assert (stale.status_code, stale.headers["content-type"], stale.text) == (409, SIZE_MEDIA_TYPE, f"{head.size}\n")
    again = await asked(house, log_note, old_size=head.size)
    assert again.status_code == 200
    witness = VerifierKey.parse(house.house.runtime.logs.own[0].vkey)
    assert open_checkpoint(f"{head.text()}\n{again.text}", [witness]).head == head
    foreign = SigningKey(stolen_key(house, "requirements").name, NOTE, bytes(32))
    assert (await asked(house, sign_note(head.text(), foreign), old_size=head.size)).status_code == 403
    unknown = SigningKey("elsewhere/requirements", NOTE, bytes(32))
    text = TreeHead("elsewhere/requirements/1", head.size, head.root).text()
    assert (await asked(house, sign_note(text, unknown), old_size=0)).status_code == 404
    for body in (b"", b"old x\n\n", b"old 1\n" + log_note.encode(), b"old 1\n\nno note\n", b"\xff"):
        assert (await house.http.post("/add-checkpoint", content=body)).status_code == 400


async def test_a_ledger_that_was_altered_cosigns_nothing(house: TestHouse, caplog: pytest.LogCaptureFixture) -> None:
    """Log and ledger disagree: the checkpoint is served without the witness, and an ERROR says why."""
    owner, _, _ = await staffed(house)
    await witnessed(house, owner, 3)
    administrator = await asyncpg.connect(house.house.runtime.database_url)
    await administrator.execute("SET session_replication_role = replica")
    await administrator.execute("UPDATE traceability.ledger SET leaf_hash = sha256('x') WHERE service_position = 2")
    await administrator.execute("DELETE FROM traceability.witnessed_range")
    await administrator.close()
    await owner.post("/v1/systems/flight-delay:grant-role", subject="person-1", role="auditor")
    await witnessed(house, owner, 4, lines=1)
    await until(lambda: house.house.services["requirements"].foundation.log.cosigner.refused == 1)
    assert any(record.levelname == "ERROR" and "not cosigned" in record.message for record in caplog.records)
    assert len((await witnessed(house, owner, 4, lines=1)).note.signers) == 1


@pytest.fixture
async def database_url(server_url: str) -> AsyncIterator[str]:
    """An empty database."""
    async with fresh_database(server_url) as url:
        yield url


async def serve(url: str, folder: Path, doing: Any) -> Any:
    """What `doing` gives in a house on this database and data folder."""
    settings = Settings(data=folder, database_url=url, deployment="acme")
    async with (
        open_house(settings=settings, database_url=url) as house,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=house.app, raise_app_exceptions=False), base_url="http://house"
        ) as http,
    ):
        assert house.issuer is not None
        return await doing(TestHouse(house=house, http=http, issuer=house.issuer))


async def test_a_restored_backup_is_refused_told_recovered_and_witnessed_again(
    server_url: str, database_url: str, tmp_path: Path
) -> None:
    """The whole way of an operator: an older copy, a 409 that says what to do, a recovery, and an epoch that is witnessed."""

    async def before(house: TestHouse) -> None:
        owner, _, _ = await staffed(house)
        await witnessed(house, owner, 3)

    async def lost(house: TestHouse) -> dict[str, Any]:
        owner = house.client("Olga Owner")
        receipt: dict[str, Any] = await owner.post(
            "/v1/systems/flight-delay:grant-role", subject="person-1", role="auditor"
        )
        await witnessed(house, owner, 4)
        return receipt

    async def after(house: TestHouse) -> None:
        owner = house.client("Olga Owner")
        log = house.house.services["requirements"].foundation.log
        problem = problem_of(await owner.request("GET", f"{REQUIREMENTS}/checkpoint"))
        assert (problem["status"], problem["reason"]) == (409, "sealing-refused")
        assert "prooftrail recover requirements" in problem["next_step"]
        granted = await owner.post("/v1/systems/flight-delay:grant-role", subject="person-2", role="auditor")
        assert granted["promise"] is None
        store = house.house.services["requirements"].foundation.store
        statement = await recover(store=store, log=log, why="the disk died", clock=utc_now)
        assert (statement.epoch, statement.lost_first, statement.lost_last) == (2, 4, 4)
        opened = await witnessed(house, owner, 5)
        assert opened.head.origin == "acme/requirements/2"
        (promised,) = open_promise(broken["promise"], await keys(house, owner)).events
        assert statement.lost_first <= promised.position <= statement.lost_last
        proof = await owner.get(f"{REQUIREMENTS}/events/{promised.position}/proof")
        assert proof["leaf_hash"] != promised.leaf_hash

    await serve(database_url, tmp_path, before)
    name = database_url.rpartition("/")[2].partition("?")[0]
    administrator = await asyncpg.connect(server_url)
    await administrator.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    broken = await serve(database_url, tmp_path, lost)
    try:
        await serve(database_url.replace(name, f"{name}_copy"), tmp_path, after)
    finally:
        await administrator.execute(f"DROP DATABASE {name}_copy WITH (FORCE)")
        for role in await administrator.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE $1", f"%{name}_copy%"):
            await administrator.execute(f'DROP ROLE "{role["rolname"]}"')
        await administrator.close()
