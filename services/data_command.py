"""The part of the command `prooftrail` that is about the data: forget a person, back up, restore, move to another PostgreSQL."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any
from uuid import uuid4

from services.composition import House, offline_house
from services.server import database_at_work
from shared.command import CommandContext
from shared.erasure import GROUNDS, SOURCE, Why
from shared.log.upkeep import OPERATOR
from shared.runtime import utc_now
from shared.settings import Settings

DONE = 0


def add_commands(commands: Any) -> None:
    """Adds the subcommands."""
    erase = commands.add_parser(
        "erase",
        help="forget a person's name in every service; events and proofs stay",
        description=_erase.__doc__,
    )
    erase.add_argument("subject", help="the opaque subject, as in the `actor` of the person's events")
    erase.add_argument("--reason", required=True, choices=GROUNDS, help="the ground of GDPR, 17(1)")
    erase.set_defaults(run=_erase)


def _erase(parsed: argparse.Namespace, settings: Settings) -> int:
    """Deletes the names and salts of the subject from the directories of all services and records it in each log.

    Refused while the person holds a role, or a record stands on their signature or has to be kept (PROOFTRAIL_RETENTION_DAYS).
    Cut off, it can be run again. Backups and PostgreSQL's write-ahead log keep the name until they are replaced.
    """
    with database_at_work(settings) as url:
        told = asyncio.run(_erase_everywhere(settings, url, parsed.subject, parsed.reason))
    print("\n".join(told))
    return DONE


async def _erase_everywhere(settings: Settings, url: str, subject: str, why: Why) -> list[str]:
    async with offline_house(settings=settings, database_url=url) as house:
        context = CommandContext(actor=OPERATOR, reason=why, at=utc_now(), correlation=uuid4().hex)
        erasure = house.services[SOURCE].application.erasure
        receipt = await erasure.erase_as_operator(context=context, subject=subject, why=why)
        await follow_erasures(house)
        return [f"{receipt.record}: forgotten in {', '.join(house.services)} ({receipt.position})"]


async def follow_erasures(house: House) -> None:
    """Carries out in every service what was decided, for when no service runs; one that runs may do the same beside."""
    for service in house.services.values():
        while await service.foundation.erasures.advance(SOURCE):
            pass
