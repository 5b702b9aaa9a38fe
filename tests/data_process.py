"""A process that erases, backs up, restores or moves, and kills itself when it comes to a step.

python -m tests.data_process STEP erase URL DATA SUBJECT SERVICE      killed in that service; `decided` is before any follows
python -m tests.data_process STEP backup URL DATA FOLDER
python -m tests.data_process STEP restore FOLDER DATA NEWEST
python -m tests.data_process STEP move URL TARGET_URL FOLDER
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.composition import SERVICES, House, offline_house
from services.data_command import begin_again, follow_erasures, migrations_of
from shared.backup.restoring import restore
from shared.backup.taking import back_up
from shared.command import CommandContext
from shared.erasure import DECIDED, SOURCE
from shared.kept_erasures import KeptErasures
from shared.log.kept_folder import Step
from shared.log.upkeep import OPERATOR
from shared.moving import move
from shared.reaction import Reactions
from shared.runtime import utc_now
from shared.settings import Settings


def quiet(_what: str, _done: int, _total: int | None) -> None:
    """Nobody looks."""


def killing(step: str) -> Step:
    """Ends the process at the step as a power cut would."""

    def at(label: str) -> None:
        if label == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


async def erase(at: Step, url: str, data: str, subject: str, service: str) -> None:
    """As the command does it."""
    settings = Settings(data=Path(data), database_url=url, retention_days=0)
    async with offline_house(settings=settings, database_url=url) as house:
        context = CommandContext(actor=OPERATOR, reason="objection", at=utc_now(), correlation="0" * 32)
        erasure = house.services[SOURCE].application.erasure
        await erasure.erase_as_operator(context=context, subject=subject, why="objection")
        at("decided")
        while await _stepping(house, service, at).advance(SOURCE):
            pass
        await follow_erasures(house)


def _stepping(house: House, service: str, at: Step) -> Reactions:
    """The follower of the service, with an eraser that tells its steps."""
    foundation = house.services[service].foundation
    kept = KeptErasures(house.runtime.logs.folder / service, at=at)
    eraser = replace(foundation.eraser, kept=kept, at_step=at)
    return replace(foundation.erasures, handlers={DECIDED: eraser.erase})


async def backup(at: Step, url: str, data: str, folder: str) -> None:
    """As the command does it."""
    await back_up(
        url=url, data=Path(data), folder=Path(folder), services=SERVICES, settings={}, at=utc_now(), progress=quiet, at_step=at
    )  # fmt: skip


async def restored(at: Step, folder: str, data: str, newest: str) -> None:
    """As the command does it with --recover."""

    async def finish(url: str, staging: Path) -> None:
        await begin_again(Settings(data=staging), url, "the disk was lost")

    await restore(
        folder=Path(folder), data=Path(data), progress=quiet, newest=Path(newest), finish=finish, at_step=at
    )  # fmt: skip


async def moved(at: Step, url: str, target_url: str, folder: str) -> None:
    """As the command does it, from a server that runs."""
    migrations = {service: migrations_of(service) for service in SERVICES}
    await move(
        source_url=url, target_url=target_url, folder=Path(folder), migrations=migrations, at=utc_now(), progress=quiet,
        at_step=at,
    )  # fmt: skip


if __name__ == "__main__":
    work: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "erase": erase,
        "backup": backup,
        "restore": restored,
        "move": moved,
    }
    asyncio.run(work[sys.argv[2]](killing(sys.argv[1]), *sys.argv[3:]))
