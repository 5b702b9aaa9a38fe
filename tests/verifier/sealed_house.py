"""A running house with its own sealers and witness, seen by somebody who waits for checkpoints, keeps keys and exports packs."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from dataclasses import dataclass, field
from functools import partial

import asyncpg
import pytest

from services import composition
from services.traceability.pack_deployment import DeploymentExport
from services.traceability.pack_export import PackExport
from shared.log.deployment import Logs
from shared.log.sealer import Pace
from shared.log.signer import LogSigner
from shared.log.witness import FolderWitness
from tests.house import TestHouse
from verifier.prooftrail_verify import Pins, parse_key

SEALED_SECONDS_MAX = 60.0


def quick_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Houses seal ten times as often, so that a test need not wait a second for each checkpoint."""
    monkeypatch.setattr(composition, "Logs", partial(Logs, pace=Pace(seal_s=0.1, least_s=0.02)))


@dataclass
class SealedHouse:
    """What an auditor and an attacker need of a house. `seals` are the sizes of the logs each time that all was witnessed."""

    house: TestHouse
    seals: list[dict[str, int]] = field(default_factory=list)

    @property
    def packs(self) -> PackExport:
        """The export of one AI system, with little patience."""
        packs: PackExport = self.house.house.services["traceability"].application.packs
        return dataclasses.replace(packs, timeout_s=0.1)

    @property
    def witness(self) -> FolderWitness:
        """The witness of the deployment."""
        witness = self.packs.signer
        assert isinstance(witness, FolderWitness)
        return witness

    @property
    def signers(self) -> dict[str, LogSigner]:
        """The signers of all logs."""
        return {name: service.foundation.log.signer for name, service in self.house.house.services.items()}

    @property
    def pool(self) -> asyncpg.Pool:
        """Traceability's connections."""
        return self.house.house.services["traceability"].foundation.pool

    @property
    def pins(self) -> Pins:
        """What a careful auditor pins: the first key of each log, and the witness."""
        keys = [signer.vkeys[0] for signer in self.signers.values()]
        return Pins(frozenset(map(parse_key, [*keys, self.witness.vkey])))

    async def exported(self, packs: PackExport | None = None) -> io.BytesIO:
        """The pack of everything."""
        file = io.BytesIO()
        await DeploymentExport(packs=packs or self.packs).write(file)
        return file

    async def seal(self) -> None:
        """Returns once a witnessed checkpoint covers everything that there is in the stores and in the ledger."""
        until = asyncio.get_running_loop().time() + SEALED_SECONDS_MAX
        while (sizes := await self._sizes()) is None:
            assert asyncio.get_running_loop().time() < until, "the logs are not being sealed"
            await asyncio.sleep(0.02)
        self.seals.append(sizes)

    async def _sizes(self) -> dict[str, int] | None:
        sizes = {"ledger": await self.pool.fetchval("SELECT position FROM traceability.ledger_head")}
        for service in self.house.house.services:
            sizes[service] = await self.pool.fetchval(f"SELECT position FROM {service}.head")
            witnessed = await self.pool.fetchval(
                "SELECT coalesce(max(size), 0) FROM traceability.witnessed_checkpoint WHERE service = $1", service
            )
            if witnessed < sizes[service]:
                return None
        return sizes if sizes["ledger"] == sum(sizes.values()) - sizes["ledger"] else None
