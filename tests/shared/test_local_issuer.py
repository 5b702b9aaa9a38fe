from __future__ import annotations

import base64
import json
import multiprocessing
import os
import signal
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, strategies as st

from shared.identity import Caller, TokenVerifier, printed_name, require_recent_sign_in
from shared.local_issuer import LIFETIME_S_MAX, CannotMint, DamagedIssuerFolder, IssuerFolderOpen, LocalIssuer
from shared.token_errors import OnlyPersonsSign, SignInTooOld, UnknownKey
from tests.shared.token_forge import NOW, Clock, bearer

ISSUER = "http://127.0.0.1:8080/issuer"


def open_issuer(folder: Path, *, clock: Clock | None = None, **options: Any) -> LocalIssuer:
    return LocalIssuer.open(folder, issuer=ISSUER, clock=clock or Clock(), **options)


async def verified(issuer: LocalIssuer, token: str, *, clock: Clock | None = None) -> Caller:
    verifier = TokenVerifier(issuer=ISSUER, audience="prooftrail", keys=issuer, clock=clock or Clock())
    return await verifier.verify(bearer(token))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "issuer"


class TestMinting:
    async def test_a_person_is_recognised_and_may_sign(self, folder: Path) -> None:
        """The token says who, under which name, and that the sign-in is fresh."""
        issuer = open_issuer(folder)
        caller = await verified(issuer, issuer.mint(name="Ada Lovelace"))
        assert (caller.kind, caller.name, caller.issuer) == ("person", "Ada Lovelace", ISSUER)
        assert caller.subject == issuer.subject(name="Ada Lovelace")
        assert caller.subject.startswith("person-")
        assert caller.expires_at == NOW + timedelta(hours=1)
        require_recent_sign_in(caller, NOW, 0)

    async def test_an_earlier_sign_in_is_told(self, folder: Path) -> None:
        """`auth_time` is what the token says it is, so that a stale sign-in can be tried."""
        issuer = open_issuer(folder)
        caller = await verified(issuer, issuer.mint(name="Ada", auth_time=NOW - timedelta(seconds=901)))
        with pytest.raises(SignInTooOld):
            require_recent_sign_in(caller, NOW, 900)

    async def test_a_service_never_signs(self, folder: Path) -> None:
        """Its token shows a client and no sign-in."""
        issuer = open_issuer(folder)
        caller = await verified(issuer, issuer.mint(name="nightly build", kind="service"))
        assert (caller.kind, caller.name, caller.auth_time) == ("service", "nightly build", None)
        assert caller.subject.startswith("service-")
        with pytest.raises(OnlyPersonsSign):
            require_recent_sign_in(caller, NOW, 900)

    async def test_an_assistant_names_whom_it_acts_for(self, folder: Path) -> None:
        """It acts under its own subject, without the person's name."""
        issuer = open_issuer(folder)
        caller = await verified(issuer, issuer.mint(name="drafter", kind="service", on_behalf_of="Ada"))
        assert caller.subject == issuer.subject(name="drafter", kind="service")
        assert caller.on_behalf_of == issuer.subject(name="Ada")
        assert (caller.kind, caller.name) == ("service", None)

    async def test_the_token_is_an_access_token(self, folder: Path) -> None:
        """RFC 9068, 2: the header and every required claim."""
        token = open_issuer(folder).mint(name="Ada", lifetime_s=60, audience="elsewhere")
        claims = jwt.decode(token, options={"verify_signature": False})
        assert jwt.get_unverified_header(token).keys() == {"typ", "alg", "kid"}
        assert claims.keys() == {"iss", "aud", "sub", "client_id", "iat", "exp", "jti", "auth_time", "name"}
        assert claims["exp"] - claims["iat"] == 60
        assert claims["aud"] == "elsewhere"

    def test_no_two_tokens_are_equal(self, folder: Path) -> None:
        """Not even in the same second for the same person."""
        issuer = open_issuer(folder)
        assert issuer.mint(name="Ada") != issuer.mint(name="Ada")

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            ({"name": ""}, "/name"),
            ({"name": " \t"}, "/name"),
            ({"name": "x" * 81}, "/name"),
            ({"name": "bell\x07"}, "/name"),
            ({"name": "a\u202eb"}, "/name"),
            ({"name": "\ud800"}, "/name"),
            ({"name": "Ada", "lifetime_s": 0}, "/lifetime_s"),
            ({"name": "Ada", "lifetime_s": LIFETIME_S_MAX + 1}, "/lifetime_s"),
            ({"name": "Ada", "auth_time": NOW + timedelta(seconds=1)}, "/auth_time"),
            ({"name": "Ada", "auth_time": NOW.replace(tzinfo=None)}, "/auth_time"),
            ({"name": "Ada", "kind": "robot"}, "/kind"),
            ({"name": "Ada", "on_behalf_of": "Grace"}, "/on_behalf_of"),
            ({"name": "bot", "kind": "service", "on_behalf_of": ""}, "/on_behalf_of"),
        ],
    )
    def test_a_request_beyond_the_limits_is_refused(self, folder: Path, request_: dict[str, Any], field: str) -> None:
        """The error names the field, and nobody is left behind under a name that got no token."""
        issuer = open_issuer(folder)
        with pytest.raises(CannotMint) as caught:
            issuer.mint(**request_)
        assert [broken.field for broken in caught.value.fields] == [field]
        assert not (folder / "people.json").exists()


class TestPeople:
    def test_a_name_keeps_its_subject(self, folder: Path) -> None:
        """For ever, after a restart too, and however the name is typed."""
        subject = open_issuer(folder).subject(name="José Martí")
        assert open_issuer(folder).subject(name="  Jose\u0301  Martí ") == subject

    def test_a_person_and_a_service_of_one_name_are_two(self, folder: Path) -> None:
        """A role granted to one is not the other's."""
        issuer = open_issuer(folder)
        assert issuer.subject(name="Ada") != issuer.subject(name="Ada", kind="service")

    def test_the_subject_tells_nothing_of_the_name(self, folder: Path) -> None:
        """It is drawn at random, so that it cannot be guessed back from a list of names."""
        assert open_issuer(folder / "a").subject(name="Ada") != open_issuer(folder / "b").subject(name="Ada")

    def test_a_forgotten_person_leaves_nothing_behind(self, folder: Path) -> None:
        """And whoever comes later under the same name is somebody else."""
        issuer = open_issuer(folder)
        before = issuer.subject(name="Ada Lovelace")
        assert issuer.forget(name="Ada Lovelace")
        assert not issuer.forget(name="Ada Lovelace")
        assert not any(b"Lovelace" in file.read_bytes() for file in folder.iterdir())
        assert issuer.subject(name="Ada Lovelace") != before

    @given(st.text(max_size=90))
    def test_every_printable_name_is_taken(self, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
        """Exactly the names of 1 to 80 printable characters."""
        issuer = open_issuer(tmp_path_factory.getbasetemp() / "every-name")
        if printed_name(name, characters_max=80) is None:
            with pytest.raises(CannotMint):
                issuer.subject(name=name)
        else:
            assert issuer.subject(name=name) == issuer.subject(name=name)


class TestKeys:
    async def test_a_rotated_key_still_verifies_what_it_signed(self, folder: Path) -> None:
        """The new key signs, the old one stays published, and its private half is gone."""
        issuer = open_issuer(folder)
        before, seed = issuer.mint(name="Ada"), json.loads((folder / "key.json").read_text())["signing"]
        key_id = issuer.rotate()
        after = issuer.mint(name="Ada")
        assert jwt.get_unverified_header(after)["kid"] == key_id
        assert [key["kid"] for key in issuer.jwks()["keys"]] == [key_id, jwt.get_unverified_header(before)["kid"]]
        assert await verified(issuer, before) == await verified(issuer, after)
        assert seed not in (folder / "key.json").read_text()

    async def test_a_rotated_key_ends_with_its_last_token(self, folder: Path) -> None:
        """After the longest life of a token it is published no longer."""
        clock = Clock()
        issuer = open_issuer(folder, clock=clock)
        old = issuer.jwks()["keys"][0]["kid"]
        issuer.rotate()
        clock.pass_s(LIFETIME_S_MAX)
        assert old not in [key["kid"] for key in issuer.jwks()["keys"]]
        issuer.rotate()
        with pytest.raises(UnknownKey):
            await issuer.key(old)

    async def test_another_process_rotates(self, folder: Path) -> None:
        """A running server takes the new key at once."""
        server, command = open_issuer(folder), open_issuer(folder)
        await verified(server, server.mint(name="Ada"))
        command.rotate()
        assert (await verified(server, command.mint(name="Ada"))).kind == "person"

    def test_only_public_halves_are_published(self, folder: Path) -> None:
        """RFC 8037, 2: `d` is the private key."""
        issuer = open_issuer(folder)
        issuer.rotate()
        assert all(key.keys() == {"kty", "crv", "x", "kid", "alg", "use"} for key in issuer.jwks()["keys"])

    def test_the_key_id_is_the_thumbprint_of_the_standard(self, folder: Path) -> None:
        """The example of RFC 8037, appendix A.1 to A.3."""
        seed = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
        issuer = open_issuer(folder, random_bytes=lambda size: seed[:size])
        assert issuer.jwks()["keys"][0]["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
        assert issuer.jwks()["keys"][0]["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


class TestFolder:
    def test_only_the_owner_reads_it(self, folder: Path) -> None:
        """Whatever the umask."""
        previous = os.umask(0)
        try:
            open_issuer(folder).subject(name="Ada")
        finally:
            os.umask(previous)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}

    def test_a_folder_that_exists_keeps_its_permissions(self, folder: Path) -> None:
        """We change no permission of a directory that we did not create."""
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        open_issuer(folder)
        assert folder.stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize(("name", "mode"), [("key.json", 0o640), ("people.json", 0o604), (".", 0o777)])
    def test_a_folder_open_to_others_is_refused(self, folder: Path, name: str, mode: int) -> None:
        """Somebody else could sign in as anybody, so the issuer does not start."""
        open_issuer(folder).subject(name="Ada")
        (folder / name).chmod(mode)
        with pytest.raises(IssuerFolderOpen):
            open_issuer(folder)

    @pytest.mark.parametrize("name", ["key.json", "people.json"])
    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", '{"signing": 5}', '{"signing": "AAAA"}', '{"signing": "ä"}', '{"person": {"Ada": 5}}', "\x00"],
    )
    def test_a_damaged_file_is_never_made_anew(self, folder: Path, name: str, content: str) -> None:
        """A lost subject would be a lost role, so the damage is told and the file left alone."""
        open_issuer(folder).subject(name="Ada")
        (folder / name).write_text(content)
        with pytest.raises(DamagedIssuerFolder) as caught:
            open_issuer(folder)
        assert name in caught.value.what
        assert (folder / name).read_text() == content

    async def test_a_lost_key_is_told(self, folder: Path) -> None:
        """A running server whose key file is gone says so."""
        issuer = open_issuer(folder)
        (folder / "key.json").unlink()
        with pytest.raises(DamagedIssuerFolder):
            await issuer.key("any")

    def test_a_half_written_file_is_ignored(self, folder: Path) -> None:
        """What a killed process left beside the file is overwritten."""
        subject = open_issuer(folder).subject(name="Ada")
        (folder / "people.new").write_text('{"per')
        issuer = open_issuer(folder)
        assert issuer.subject(name="Grace") != issuer.subject(name="Ada") == subject


_gate: Barrier


def _wait_at(gate: Barrier) -> None:
    global _gate  # noqa: PLW0603 - how a pool hands something to its processes
    _gate = gate


def _draw(arguments: tuple[Path, list[str]]) -> dict[str, str]:
    folder, names = arguments
    _gate.wait(60)
    issuer = open_issuer(folder)
    return {name: issuer.subject(name=name) for name in names}


def _tell_subjects(folder: Path, told: Connection) -> None:
    issuer = open_issuer(folder)
    number = 0
    while True:
        name = f"Person {number}"
        told.send((name, issuer.subject(name=name)))
        if number % 5 == 0:
            issuer.rotate()
        number += 1


class TestProcesses:
    def test_processes_agree_on_every_subject(self, folder: Path) -> None:
        """Three processes meet an empty folder and the same names at the same time."""
        names = [f"Person {number}" for number in range(20)]
        context = multiprocessing.get_context("spawn")
        with context.Pool(3, _wait_at, (context.Barrier(3),)) as pool:
            orders = [(folder, names), (folder, names[::-1]), (folder, names[10:] + names[:10])]
            drawn = pool.map(_draw, orders, chunksize=1)
        assert drawn[0] == drawn[1] == drawn[2]
        assert len(set(drawn[0].values())) == len(names)
        assert len(open_issuer(folder).jwks()["keys"]) == 1

    @pytest.mark.parametrize("told_before", [1, 23])
    def test_a_killed_process_loses_no_subject_it_told(self, folder: Path, told_before: int) -> None:
        """kill -9 in the middle of drawing and rotating."""
        context = multiprocessing.get_context("spawn")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_tell_subjects, args=(folder, sending))
        process.start()
        sending.close()
        told = dict(receiving.recv() for _ in range(told_before))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        receiving.close()
        process.close()
        issuer = open_issuer(folder)
        assert {name: issuer.subject(name=name) for name in told} == told
        assert issuer.rotate() == issuer.jwks()["keys"][0]["kid"]
