"""The port of evidence files: folder and bucket pass the same tests, the bucket on a real S3-compatible server."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.artefact_bucket import ArtefactBucket
from shared.artefacts import (
    ARTEFACT_BYTES_MAX,
    CHUNK_BYTES,
    ArtefactDamaged,
    ArtefactDigestMismatch,
    ArtefactFolder,
    ArtefactMissing,
    Artefacts,
    ArtefactsUnreachable,
    ArtefactTooLarge,
)
from tests.serving import CHECKOUT
from tests.shared.s3_server import BUCKET, S3Server
from tests.shared.s3_server.fixtures import s3_server

__all__ = ["s3_server"]

EVIDENCE = b"flight,delayed\n1,0\n"
DIGEST = hashlib.sha256(EVIDENCE).hexdigest()


@dataclass(frozen=True)
class Place:
    """Where evidence is kept, and the way behind its back."""

    artefacts: Artefacts
    folder: Path

    def file(self, digest: str = DIGEST, system: str = "flights") -> Path:
        """The stored file, as somebody with access to the disk sees it."""
        return self.folder / system / digest[:2] / digest


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "folder":
        return Place(artefacts=ArtefactFolder(folder=tmp_path / "evidence"), folder=tmp_path / "evidence")
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = ArtefactBucket(address=f"s3://{BUCKET}/{tmp_path.name}", plain_http=True)
    return Place(artefacts=bucket, folder=server.root / BUCKET / tmp_path.name)


def stored(place: Place, content: bytes = EVIDENCE, system: str = "flights") -> str:
    """Puts the content and returns its digest."""
    digest = hashlib.sha256(content).hexdigest()
    place.artefacts.put(system=system, digest=digest, content=content)
    return digest


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 5 * CHUNK_BYTES + 7])
def test_what_was_put_is_got(place: Place, length: int) -> None:
    """Whole, in chunks, and measured; also no bytes at all."""
    content = hashlib.shake_256(b"evidence").digest(length)
    digest = stored(place, content)
    assert place.artefacts.get(system="flights", digest=digest) == content
    assert place.artefacts.length(system="flights", digest=digest) == length
    chunks = list(place.artefacts.chunks(system="flights", digest=digest))
    assert b"".join(chunks) == content
    assert all(len(chunk) < 2 * CHUNK_BYTES for chunk in chunks)


def test_the_largest_file_is_taken_and_one_byte_more_is_refused(place: Place) -> None:
    """The limit is that of the HTTP door."""
    content = bytes(ARTEFACT_BYTES_MAX)
    assert place.artefacts.length(system="flights", digest=stored(place, content)) == ARTEFACT_BYTES_MAX
    with pytest.raises(ArtefactTooLarge) as refused:
        stored(place, content + b"1")
    assert refused.value.fields[0].rule == f"at most {ARTEFACT_BYTES_MAX} bytes"


def test_the_same_again_changes_nothing(place: Place) -> None:
    """A client that lost the answer sends it again."""
    stored(place)
    before = place.file().stat()
    stored(place)
    after = place.file().stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_bytes_under_another_digest_are_not_stored(place: Place) -> None:
    """Nothing of them is left."""
    with pytest.raises(ArtefactDigestMismatch):
        place.artefacts.put(system="flights", digest=DIGEST, content=EVIDENCE + b"!")
    assert not place.file().exists()
    with pytest.raises(ArtefactMissing):
        place.artefacts.get(system="flights", digest=DIGEST)


def test_each_system_has_its_own(place: Place) -> None:
    """Who knows a digest does not thereby reach the evidence of another AI system."""
    stored(place)
    with pytest.raises(ArtefactMissing):
        place.artefacts.length(system="loans", digest=DIGEST)
    stored(place, system="loans")
    assert place.artefacts.get(system="loans", digest=DIGEST) == EVIDENCE


@pytest.mark.parametrize(
    ("system", "digest"),
    [("..", DIGEST), ("flights/..", DIGEST), ("flights", "../" + DIGEST[3:]), ("flights", "f" * 63), ("flights", "")],
)
def test_a_name_that_leads_elsewhere_is_that_of_no_file(place: Place, system: str, digest: str) -> None:
    """Also when somebody forged an event that names it."""
    with pytest.raises(ArtefactMissing):
        place.artefacts.get(system=system, digest=digest)


def flipped(content: bytes) -> bytes:
    """One bit of the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda content: content[:-1], lambda content: content + b"0", lambda _: b"other evidence", lambda _: b""],
    ids=["flipped", "cut", "longer", "replaced", "emptied"],
)
def test_what_is_no_longer_what_it_was_is_told_and_stays(place: Place, damage: Callable[[bytes], bytes]) -> None:
    """It is neither served nor overwritten: whoever looks into it needs it as it is."""
    stored(place)
    found = damage(EVIDENCE)
    place.file().write_bytes(found)
    for read in (place.artefacts.get, place.artefacts.length):
        with pytest.raises(ArtefactDamaged) as told:
            read(system="flights", digest=DIGEST)
        assert DIGEST in told.value.what
    with pytest.raises(ArtefactDamaged):
        stored(place)
    assert place.file().read_bytes() == found


def test_many_who_put_the_same_at_once_all_succeed(place: Place) -> None:
    """One of them was first, and nobody else wrote."""
    content = hashlib.shake_256(b"race").digest(300_000)
    with ThreadPoolExecutor(8) as threads:
        digests = set(threads.map(lambda _: stored(place, content), range(24)))
    (digest,) = digests
    assert place.artefacts.get(system="flights", digest=digest) == content
    assert [file.name for file in place.file(digest).parent.iterdir()] == [digest]


def test_a_usable_place_is_found_usable_again_and_again(place: Place) -> None:
    """The probe of one start does not stand in the way of the next."""
    for _ in range(3):
        place.artefacts.require_usable()


KILLED_AT = """
import os, pathlib, signal, sys
from shared.artefacts import ArtefactFolder
original = getattr(os, sys.argv[1])
def killed(*arguments):
    if sys.argv[2] == "after":
        original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[1], killed)
folder = ArtefactFolder(folder=pathlib.Path(sys.argv[3]))
folder.put(system="flights", digest=sys.argv[4], content=sys.stdin.buffer.read())
"""


@pytest.mark.parametrize(
    ("step", "moment", "whole"),
    [("fsync", "before", False), ("link", "before", False), ("link", "after", True)],
)
def test_a_writer_that_is_killed_leaves_all_or_nothing(tmp_path: Path, step: str, moment: str, whole: bool) -> None:
    """Whatever it leaves behind does not bear the name of the evidence, and the next one who writes is not disturbed."""
    folder = ArtefactFolder(folder=tmp_path)
    (tmp_path / "flights" / DIGEST[:2]).mkdir(parents=True)
    arguments = [sys.executable, "-c", KILLED_AT, step, moment, str(tmp_path), DIGEST]
    ended = subprocess.run(arguments, input=EVIDENCE, cwd=CHECKOUT, check=False)
    assert ended.returncode == -signal.SIGKILL
    if whole:
        assert folder.get(system="flights", digest=DIGEST) == EVIDENCE
    else:
        with pytest.raises(ArtefactMissing):
            folder.get(system="flights", digest=DIGEST)
    folder.put(system="flights", digest=DIGEST, content=EVIDENCE)
    assert folder.get(system="flights", digest=DIGEST) == EVIDENCE


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """At start and later, naming the folder and the reason."""
    (tmp_path / "evidence").write_text("somebody's file")
    folder = ArtefactFolder(folder=tmp_path / "evidence")
    for attempt in (folder.require_usable, lambda: folder.put(system="flights", digest=DIGEST, content=EVIDENCE)):
        with pytest.raises(ArtefactsUnreachable) as told:
            attempt()
        assert str(tmp_path / "evidence") in told.value.what
        assert told.value.next_step


NO_ROOM = """
import pathlib, resource, sys
from shared.artefacts import ArtefactFolder, ArtefactsUnreachable
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
folder = ArtefactFolder(folder=pathlib.Path(sys.argv[1]))
try:
    folder.put(system="flights", digest=sys.argv[2], content=sys.stdin.buffer.read())
except ArtefactsUnreachable as error:
    print(error.what)
"""


def test_no_room_for_the_bytes_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """The bytes that did fit are not taken for the file and are removed."""
    arguments = [sys.executable, "-c", NO_ROOM, str(tmp_path), DIGEST]
    ended = subprocess.run(arguments, input=EVIDENCE, cwd=CHECKOUT, check=True, capture_output=True)
    assert "cannot be used: File too large" in ended.stdout.decode()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
