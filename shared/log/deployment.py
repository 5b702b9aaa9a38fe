"""What the logs of one deployment share: its name, the folder of signers and witness, and who witnesses."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import asyncpg
import msgspec

from shared.feed import Feed
from shared.log.kept_folder import KeptFolder
from shared.log.note import VerifierKey
from shared.log.sealer import USUAL_PACE, Pace
from shared.log.service_log import ServiceLog
from shared.log.signer import LogSigner
from shared.log.witness import FolderWitness, LogKeys, Witness

NAME = "deployment.json"


class _Named(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


def deployment_name(
    folder: Path, *, configured: str | None, random_bytes: Callable[[int], bytes] = secrets.token_bytes
) -> str:
    """The configured name, else the one that was drawn for this folder: `prooftrail-` and eight hex digits."""
    if configured is not None:
        return configured
    kept = KeptFolder(folder)
    with kept.held():
        named = kept.read(NAME, _Named)
        if named is None:
            named = _Named(name=f"prooftrail-{random_bytes(4).hex()}")
            kept.write(NAME, named)
    return named.name


@dataclass(frozen=True, kw_only=True)
class Logs:
    """The logs of this process by service. `own` are witnesses in this process; they join while services are built.

    `pinned` are the keys of logs that other processes of the deployment seal.
    """

    deployment: str
    folder: Path
    clock: Callable[[], datetime]
    outside: Sequence[Witness] = ()
    pinned: Sequence[VerifierKey] = ()
    own: list[Witness] = field(default_factory=list)
    pace: Pace = USUAL_PACE
    by_service: dict[str, ServiceLog] = field(default_factory=dict)

    def open(self, *, service: str, pool: asyncpg.Pool, dsn: str, feed: Feed) -> ServiceLog:
        """The log of a service of this process. Raises what `LogSigner.open` raises."""
        signer = LogSigner.open(self.folder / service, deployment=self.deployment, service=service)
        log = ServiceLog(
            service=service,
            pool=pool,
            dsn=dsn,
            signer=signer,
            feed=feed,
            outside=self.outside,
            own=self.own,
            clock=self.clock,
            pace=self.pace,
        )
        self.by_service[service] = log
        return log

    def open_witness(self, logs: LogKeys) -> FolderWitness:
        """The witness of the deployment; whoever serves as it puts itself into `own`."""
        return FolderWitness.open(
            self.folder / "witness", name=f"{self.deployment}/witness", logs=logs, clock=self.clock
        )

    def keys(self, origin: str) -> list[VerifierKey]:
        """The keys of a log of the deployment by its origin; none for another log."""
        name = origin.rpartition("/")[0]
        for log in self.by_service.values():
            if log.signer.name == name:
                return [VerifierKey.parse(key) for key in log.signer.vkeys]
        return [key for key in self.pinned if key.name == name]
