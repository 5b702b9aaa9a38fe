"""Time stamps of a real authority (OpenSSL's): asked for, kept, handed out, and checked without trusting whoever keeps them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from services.traceability.timestamping import Timestamping
from shared.log.note import parse_note
from shared.timestamp import NoTimestamp, timestamp
from tests.house import TestHouse
from tests.shared.log.sealed_store import until
from tests.verifier.pack_maker import small_deployment, unpacked
from tests.verifier.sealed_house import SealedHouse
from tests.verifier.time_authority import OPENSSL, TimeAuthority
from verifier.prooftrail_verify import Brought, Code, Failure, Pins, Report, check_timestamp, parse_key, verify

pytestmark = pytest.mark.skipif(
    OPENSSL is None and os.environ.get("CI") != "true",
    reason="install openssl: the authority of these tests is OpenSSL's",
)


@pytest.fixture(scope="module", params=["rsa", "ec"])
def authority(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimeAuthority]:
    """An authority that stamps."""
    running = TimeAuthority(tmp_path_factory.mktemp("authority") / "ts", kind=request.param)
    yield running
    running.stop()


async def stamped(content: bytes, authority: TimeAuthority) -> bytes:
    """The authority's answer over the content."""
    async with httpx.AsyncClient() as client:
        return await timestamp(content, authority=authority.url, client=client)


def checked(pack: bytes, **brought: object) -> Report:
    """The report on the pack of the small deployment."""
    pins = Pins(frozenset(map(parse_key, small_deployment().vkeys)))
    return verify(io.BytesIO(pack), pins, Brought(**brought))  # type: ignore[arg-type]


@pytest.fixture
def pack() -> bytes:
    """The pack of a small deployment on paper."""
    made = small_deployment()
    made.seal()
    return made.pack("*")


async def test_what_openssl_stamps_is_proven_under_its_pinned_root(authority: TimeAuthority, pack: bytes) -> None:
    """Of the manifest, which names every file, and of a checkpoint; OpenSSL says the same of what we keep."""
    manifest = unpacked(pack)["manifest"]
    response = await stamped(manifest, authority)
    assert authority.accepts(response, manifest)
    for pinned in (authority.root, authority.signer):
        report = checked(pack, timestamps=[response], authorities=[pinned])
        assert report.code is Code.PROVEN, report.text()
        assert f"this pack: existed by {datetime.now(UTC):%Y-%m-%d}" in report.text()
        assert "says CN=Time signer" in report.text()
    checkpoint = json.loads(unpacked(pack)["proof/requirements.json"])["checkpoint"]
    text = parse_note(checkpoint).text
    report = checked(pack, timestamps=[await stamped(text.encode(), authority)], authorities=[authority.root])
    assert f"requirements up to position {text.splitlines()[1]}: existed by" in report.text()


async def test_without_a_pinned_authority_a_time_stamp_proves_nothing(authority: TimeAuthority, pack: bytes) -> None:
    """And the report says so."""
    report = checked(pack, timestamps=[await stamped(unpacked(pack)["manifest"], authority)])
    assert report.code is Code.PROVEN
    assert any("no authority is pinned" in line for line in report.not_proven)
    assert "existed by" not in " ".join(report.proven)


async def test_what_is_not_of_this_or_not_of_them_is_refused(
    authority: TimeAuthority, pack: bytes, tmp_path: Path
) -> None:
    """Another pack's stamp, and that of an authority that nobody pinned, though it has the same names."""
    stranger = TimeAuthority(tmp_path / "stranger")
    stranger.stop()
    response = await stamped(unpacked(pack)["manifest"], authority)
    other = checked(pack, timestamps=[await stamped(b"another", authority)], authorities=[authority.root])
    assert (other.code, "something else" in other.text()) == (Code.TIME, True)
    unknown = checked(pack, timestamps=[response], authorities=[stranger.root])
    assert (unknown.code, "no pinned authority vouches" in unknown.text()) == (Code.TIME, True)


async def test_a_certificate_that_had_ended_stamps_nothing(pack: bytes, tmp_path: Path) -> None:
    """Its key may be anybody's by then."""
    ended = TimeAuthority(tmp_path / "ended", began=datetime.now(UTC) - timedelta(days=20))
    try:
        response = await stamped(unpacked(pack)["manifest"], ended)
    finally:
        ended.stop()
    report = checked(pack, timestamps=[response], authorities=[ended.root])
    assert (report.code, "not valid at its time" in report.text()) == (Code.TIME, True)


async def test_no_changed_byte_gives_another_time(authority: TimeAuthority) -> None:
    """Whatever is flipped is refused, or was not what is said: the answer's wrapping and what the authority did not sign."""
    response, accepted, codes = await stamped(b"content", authority), 0, set[Code]()
    said = check_timestamp(response, [authority.root])
    assert said.digest == hashlib.sha256(b"content").digest()
    for place in range(len(response)):
        changed = bytearray(response)
        changed[place] ^= 1 << place % 8
        try:
            told = check_timestamp(bytes(changed), [authority.root])
        except Failure as failure:
            codes.add(failure.code)
        else:
            assert told == said
            accepted += 1
    assert codes == {Code.TIME}
    assert accepted < len(response) / 3, "only its wrapping, and the root that it carries though it is pinned"


@pytest.mark.parametrize("trouble", ["away", "refuses", "answers another question", "no answer"])
async def test_an_authority_that_does_not_stamp_is_said(trouble: str, tmp_path: Path) -> None:
    """And nothing it says instead is taken."""
    authority = TimeAuthority(tmp_path / "ts", digests="sha512" if trouble == "refuses" else "sha256")
    try:
        if trouble == "answers another question":
            authority.canned = await stamped(b"content", authority)
        elif trouble == "no answer":
            authority.canned = b"<html>"
        elif trouble == "away":
            authority.stop()
        with pytest.raises(NoTimestamp):
            await stamped(b"content", authority)
    finally:
        if trouble != "away":
            authority.stop()


async def test_an_authority_that_was_away_is_asked_again(
    house: TestHouse, authority: TimeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """The trouble is told once, nothing else waits, and the newest checkpoints are stamped when it is back."""
    ada = house.client("Ada Author")
    await ada.post("/v1/systems", key="own", name="Own", intended_use="tests", risk_class="limited")
    sealed = SealedHouse(house)
    await sealed.seal()
    timestamping = Timestamping(pool=sealed.pool, authority=authority.url, every_s=0.02)
    authority.stop()
    running = asyncio.create_task(timestamping.run())

    def told() -> list[str]:
        return [record.message for record in caplog.records if "wait for their time stamp" in record.message]

    async def stamped_sizes() -> list[int]:
        return [one.size for one in await timestamping.stamped(service="requirements", after=0, limit=9)]

    try:
        await until(told)
        await ada.post("/v1/systems", key="two", name="Two", intended_use="tests", risk_class="limited")
        await sealed.seal()
        assert await stamped_sizes() == []
        assert len(told()) == 1
    finally:
        authority.begin()
    await until(stamped_sizes)
    assert await stamped_sizes() == [sealed.seals[-1]["requirements"]]
    running.cancel()


async def test_a_log_that_grew_is_stamped_once_and_handed_out(house: TestHouse, authority: TimeAuthority) -> None:
    """Only its newest checkpoint, and not again before the time; who is signed in can fetch it and check it."""
    ada = house.client("Ada Author")
    await ada.post("/v1/systems", key="own", name="Own", intended_use="tests", risk_class="limited")
    sealed = SealedHouse(house)
    await sealed.seal()
    timestamping = Timestamping(pool=sealed.pool, authority=authority.url)
    async with httpx.AsyncClient() as client:
        assert await timestamping.stamp_due(client) >= 1
        assert await timestamping.stamp_due(client) == 0
        await ada.post("/v1/systems", key="two", name="Two", intended_use="tests", risk_class="limited")
        await sealed.seal()
        assert await timestamping.stamp_due(client) == 0
        timestamping.every_s = 0.0
        assert await timestamping.stamp_due(client) >= 1
    page = (await ada.get("/v1/logs/requirements/timestamps"))["timestamps"]
    assert [one["size"] for one in page] == sorted({one["size"] for one in page})
    for one in page:
        text = parse_note(one["checkpoint"]).text.encode()
        assert authority.accepts(base64.b64decode(one["response"]), text)
