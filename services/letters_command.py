"""The part of the command `prooftrail` that is about dead letters: which events a reader could not take, and taking them again."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import Any

from services.composition import SERVICES, offline_house
from services.server import database_at_work
from shared.dead_letters import DeadLetter, letters_of
from shared.reaction import Reactions
from shared.runtime import Service
from shared.settings import Settings

NONE_LEFT, SOME_LEFT = 0, 1


def add_commands(commands: Any) -> None:
    """Adds the subcommand."""
    letters = commands.add_parser(
        "dead-letters",
        help="list the events that a reader could not take, or take them again",
        description=_letters.__doc__,
    )
    letters.add_argument("service", nargs="*", help="only of these services")
    letters.add_argument("--replay", action="store_true", help="take them again, once the cause is mended")
    letters.set_defaults(run=_letters)


def _letters(parsed: argparse.Namespace, settings: Settings) -> int:
    """Prints each event with its reader and the reason. Exit code 1 while there are any.

    With --replay a projection that lacks events is rebuilt from the first one, so that their order is kept, and reactions are
    carried out again; what was carried out before is not done twice. Rows of production are fetched from Kafka again, which keeps
    them for days. Safe while the services run.
    """
    with database_at_work(settings) as url:
        left = asyncio.run(_of_services(settings, url, parsed.service or SERVICES, replay=parsed.replay))
    for letter in left:
        print(f"{letter.service}: {letter.reader} of {letter.source}:{letter.position}  {letter.error}")
    print(f"{len(left)} dead letters" if left else "There are no dead letters.")
    return SOME_LEFT if left else NONE_LEFT


async def _of_services(settings: Settings, url: str, names: Sequence[str], *, replay: bool) -> list[DeadLetter]:
    async with offline_house(settings=settings, database_url=url, names=names) as house:
        for service in house.services.values() if replay else ():
            await _replay(service)
        return [
            letter
            for service in house.services.values()
            for letter in await letters_of(service.foundation.pool, service=service.name)
        ]


async def _replay(service: Service) -> None:
    foundation = service.foundation
    await foundation.projection.catch_up()
    if any(letter.reader == "projection" for letter in await letters_of(foundation.pool, service=service.name)):
        await foundation.projection.rebuild()
    every: tuple[Reactions, ...] = (*service.reactions, foundation.erasures)
    for reactions in every:
        await reactions.replay()
    for replay in service.replays:
        await replay()
