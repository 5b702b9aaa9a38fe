"""The part of the command `prooftrail` that is about the logs: change a key, begin again after a restore, show the keys to pin."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from services.composition import SERVICES, offline_house
from services.server import database_at_work
from shared.log.upkeep import recover, rotate_key
from shared.runtime import Foundation, utc_now
from shared.settings import Settings

DONE = 0


def add_commands(commands: Any) -> None:
    """Adds the subcommands."""
    rotate = commands.add_parser(
        "rotate-key", help="let another key sign for a service's log", description=_rotate.__doc__
    )
    rotate.add_argument("service", choices=SERVICES)
    rotate.add_argument("--reason", required=True, help="stays in the log for ever: no personal data")
    rotate.set_defaults(run=_rotate)

    recovery = commands.add_parser(
        "recover", help="take a log up again after an older database was restored", description=_recover.__doc__
    )
    recovery.add_argument("service", choices=SERVICES)
    recovery.add_argument("--reason", required=True, help="stays in the log for ever: no personal data")
    recovery.set_defaults(run=_recover)

    keys = commands.add_parser("keys", help="print the verifier keys of logs and witness, for others to pin")
    keys.set_defaults(run=_keys)


def _rotate(parsed: argparse.Namespace, settings: Settings) -> int:
    """Makes a new key and records it in the log, signed by the old one; from the next checkpoint on it signs.

    May run beside `make run`. Whoever pinned the first key follows the change by itself; tell the others, and witnesses outside.
    """
    with database_at_work(settings) as url:
        rotation = asyncio.run(_rotated(settings, url, parsed.service, parsed.reason))
    print(f"{parsed.service}: {rotation.new_key} signs from the next checkpoint on")
    return DONE


def _recover(parsed: argparse.Namespace, settings: Settings) -> int:
    """Opens a new epoch of the log on the database as it is now, and records which positions are lost, signed.

    Only where database and signer do not agree, that is after a lawful restore from a backup. It is never silent: the log tells it
    for ever, and everybody who holds a receipt of a lost event can prove that it was lost.
    """
    with database_at_work(settings) as url:
        statement = asyncio.run(_recovered(settings, url, parsed.service, parsed.reason))
    lost = (
        f"the positions {statement.lost_first} to {statement.lost_last} are lost"
        if statement.lost_last >= statement.lost_first
        else "no position is lost"
    )
    print(f"{parsed.service}: epoch {statement.epoch} is open; {lost}, and the log says so")
    return DONE


def _keys(_parsed: argparse.Namespace, settings: Settings) -> int:
    with database_at_work(settings) as url:
        print("\n".join(asyncio.run(_verifier_keys(settings, url))))
    return DONE


@contextlib.asynccontextmanager
async def _foundation(settings: Settings, url: str, service: str) -> AsyncIterator[Foundation]:
    async with offline_house(settings=settings, database_url=url, names=[service]) as house:
        yield house.services[service].foundation


async def _rotated(settings: Settings, url: str, service: str, why: str) -> Any:
    async with _foundation(settings, url, service) as foundation:
        return await rotate_key(store=foundation.store, signer=foundation.log.signer, why=why, clock=utc_now)


async def _recovered(settings: Settings, url: str, service: str, why: str) -> Any:
    async with _foundation(settings, url, service) as foundation:
        return await recover(store=foundation.store, log=foundation.log, why=why, clock=utc_now)


async def _verifier_keys(settings: Settings, url: str) -> list[str]:
    async with offline_house(settings=settings, database_url=url) as house:
        logs = house.runtime.logs
        keys = [log.signer.vkeys[0] for log in logs.by_service.values()]
        return [*keys, *(witness.vkey for witness in (*logs.own, *logs.outside))]
