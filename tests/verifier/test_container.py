"""The container: written by us as the standard library writes it, read by both, and one way of writing it only."""

from __future__ import annotations

import io
import os
import random
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.traceability.domain.pack_container import Entry, directory, head, head_length
from services.traceability.pack_writer import MemberChanged, PackWriter
from tests.verifier.pack_maker import packed
from verifier.prooftrail_verify import Code, Container, Failure


def test_it_is_what_the_standard_library_writes() -> None:
    """Byte for byte, with nothing, one and many members."""
    chosen = random.Random(1)
    for count in (0, 1, 7, 300):
        files = {f"artefacts/{number}": chosen.randbytes(chosen.randrange(2000)) for number in range(count)}
        files["manifest"] = b"signed"
        written = io.BytesIO()
        writer = PackWriter(written)
        for name, content in files.items():
            if name != "manifest":
                writer.add_chunks(name, len(content), [content[:100], content[100:]])
        writer.finish("signed")
        assert written.getvalue() == packed(files)
        assert [one.name for one in writer.listed] == list(files)
        assert {name: Container(written).read(name) for name in files} == files


async def test_a_member_that_changes_while_it_is_read_is_refused() -> None:
    """The length stands before the bytes, so it must be true."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    writer = PackWriter(io.BytesIO())
    await writer.add_stream("events/drift.jsonl", 6, chunks())
    with pytest.raises(MemberChanged):
        await writer.add_stream("events/releases.jsonl", 5, chunks())


def test_large_members_and_far_offsets_need_zip64(tmp_path: Path) -> None:
    """More than 4 GiB in one member: the standard library and the verifier find it and what comes after it."""
    size, crc = 5 << 30, 0x12345678
    large = Entry(name="events/drift.jsonl", size=size, crc=crc, offset=0)
    small = Entry(name="manifest", size=3, crc=zlib.crc32(b"abc"), offset=head_length(large.name, size) + size)
    with (tmp_path / "pack.zip").open("wb") as file:  # sparse: nothing is stored for the zeros
        file.write(head(name=large.name, size=size, crc=crc))
        file.seek(size, os.SEEK_CUR)
        file.write(head(name=small.name, size=3, crc=small.crc) + b"abc" + directory([large, small]))
    with zipfile.ZipFile(tmp_path / "pack.zip") as archive:
        assert [(one.filename, one.file_size, one.header_offset) for one in archive.infolist()] == [
            (one.name, one.size, one.offset) for one in (large, small)
        ]
    with (tmp_path / "pack.zip").open("rb") as file:
        container = Container(file)
        assert [member.size for member in container.members.values()] == [size, 3]
        assert container.read("manifest") == b"abc"


def test_many_members_need_zip64() -> None:
    """More than 65,534 of them."""
    names = [f"artefacts/{number:05d}" for number in range(70_000)]
    entries, content = [], bytearray()
    for name in names:
        entries.append(Entry(name=name, size=0, crc=0, offset=len(content)))
        content += head(name=name, size=0, crc=0)
    pack = io.BytesIO(bytes(content) + directory(entries))
    assert zipfile.ZipFile(pack).namelist() == names
    assert list(Container(pack).members) == names


@pytest.mark.parametrize("option", ["compressed", "later", "comment", "unix", "extra", "twice"])
def test_another_way_of_writing_it_is_refused(option: str) -> None:
    """What unpacks to the same files in other bytes is no pack."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name in ("people.json", "manifest"):
            entry = zipfile.ZipInfo(name, (2026 if option == "later" else 1980, 1, 1, 0, 0, 0))
            entry.create_system = 3 if option == "unix" else 0
            entry.extra = b"\xfe\xca\x00\x00" if option == "extra" else b""
            archive.writestr(entry, b"{}" * 50, zipfile.ZIP_DEFLATED if option == "compressed" else zipfile.ZIP_STORED)
            entry.external_attr = 0
            entry.filename = "manifest" if option == "twice" else name
        archive.comment = b"hello" if option == "comment" else b""
    with pytest.raises(Failure) as refused:
        Container(written)
    assert refused.value.code is Code.UNREADABLE
