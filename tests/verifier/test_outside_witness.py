"""A witness that is not the operator's: only with its cosignature does a pack not rest on the operator alone."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.settings import read_settings
from tests.house import TestHouse, running_house
from tests.requirements.test_http_api import staffed
from tests.verifier.outside_witness import OutsideWitness
from tests.verifier.sealed_house import SealedHouse, quick_seals
from tests.verifier.test_export import exported
from verifier.prooftrail_verify import Code, Pins, Report, parse_key, verify

GRANT = "/v1/systems/flight-delay:grant-role"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[OutsideWitness]:
    """Somebody else's."""
    witness = OutsideWitness(tmp_path / "outside")
    yield witness
    witness.stop()


@pytest.fixture
async def house(
    server_url: str, tmp_path: Path, outside: OutsideWitness, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TestHouse]:
    """All services, told of the witness as an operator does, by the environment; and the witness was told of their keys."""
    quick_seals(monkeypatch)
    told = read_settings({"PROOFTRAIL_WITNESSES": f" {outside.vkey} {outside.url} ,"})
    async with running_house(server_url=server_url, folder=tmp_path / "data", witnesses=told.witnesses) as running:
        outside.known = [signer.vkey for signer in SealedHouse(running).signers.values()]
        yield running


def alone(report: Report) -> bool:
    """Whether the report says that the operator alone vouches."""
    assert report.code is Code.PROVEN, report.text()
    return any(line.startswith("operator only") for line in report.not_proven)


async def test_an_outside_witness_takes_the_operator_out_of_the_proof(
    house: TestHouse, outside: OutsideWitness
) -> None:
    """In both kinds of pack, for whoever pinned it; a pack of the time when it was silent says that the operator is alone."""
    owner, author, _ = await staffed(house)
    await author.get("/v1/systems/flight-delay/state")
    sealed = SealedHouse(house)
    await sealed.seal()
    careful = Pins(frozenset([*sealed.pins.keys, parse_key(outside.vkey)]))

    async def packs() -> list[io.BytesIO]:
        return [io.BytesIO(await exported(sealed)), await sealed.exported()]

    for pack in await packs():
        report = verify(pack, careful)
        assert not alone(report)
        assert any("cosigned by" in line and "witness.example" in line for line in report.proven)
        assert alone(verify(pack, sealed.pins))
    outside.stop()
    await owner.post(GRANT, subject="person-1", role="auditor")
    await author.get("/v1/systems/flight-delay/state", after="requirements:4")
    await sealed.seal()
    strict = Pins(frozenset(key for key in careful.keys if not key.name.endswith("/witness")))
    for pack in await packs():
        assert alone(verify(pack, careful))
        assert verify(pack, strict).code is Code.FORK
    outside.begin()
    await owner.post(GRANT, subject="person-2", role="auditor")
    await author.get("/v1/systems/flight-delay/state", after="requirements:5")
    await sealed.seal()
    assert [alone(verify(pack, careful)) for pack in await packs()] == [False, False]
