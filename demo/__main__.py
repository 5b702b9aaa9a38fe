"""`make demo`: tells the story on the embedded PostgreSQL, and leaves everything there for `make run` to look around in."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
from rich.console import Console

from demo.client import Client
from demo.story import DemoSettings, Story
from services.composition import House, open_house
from services.server import database, explain, uvicorn_serving
from shared.errors import ProoftrailError
from shared.settings import Settings, read_settings

PEOPLE = {
    "owner": "Olga Owner",
    "author": "Ada Author",
    "reviewer": "Rob Reviewer",
    "approver": "Quinn Quality",
    "releaser": "Rita Releaser",
    "auditor": "Alma Auditor",
}
PIPELINE = "training pipeline"
REQUEST_SECONDS_MAX = 120.0


def main() -> int:
    """Tells the story; returns the exit code of the process."""
    parsed = _arguments()
    logging.basicConfig(level=logging.WARNING)
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {line}", markup=True)

    settings = replace(read_settings(), port=_free_port())
    demo = DemoSettings(
        seed=parsed.seed,
        training_months=tuple(parsed.training),
        tuning_months=tuple(parsed.tuning),
        test_months=tuple(parsed.test),
        production_from=parsed.production_from,
        share=parsed.share,
    )
    try:
        with database(settings) as url:
            story = asyncio.run(_told(settings, url, demo, say))
    except ProoftrailError as error:
        print(explain(error), file=sys.stderr)
        return 2
    console.print("\n[bold]Open these files[/bold]")
    for pack in story.packs:
        console.print(f"  {pack}")
    console.print("\n[bold]Look around live[/bold]")
    console.print(f'  make run, then in another terminal: ./prooftrail pages "{PEOPLE["approver"]}"')
    return 0


async def _told(settings: Settings, url: str, demo: DemoSettings, say: Callable[[str], None]) -> Story:
    async with (
        open_house(settings=settings, database_url=url) as house,
        uvicorn_serving(house.app, settings),
        people_of(house, f"http://{settings.host}:{settings.port}") as people,
    ):
        system = await free_key(people["owner"])
        folder = settings.data / "evidence-packs"
        story = Story(system=system, people=people, settings=demo, say=say, folder=folder)
        await story.tell()
    return story


@asynccontextmanager
async def people_of(house: House, address: str) -> AsyncIterator[dict[str, Client]]:
    """Everybody in the story, each with a token of their own."""
    assert house.issuer is not None
    issuer, seen = house.issuer, dict[str, int]()
    async with httpx.AsyncClient(base_url=address, timeout=REQUEST_SECONDS_MAX) as http:
        people = {
            role: Client(
                http=http, name=name, subject=issuer.subject(name=name), token=issuer.mint(name=name), seen=seen
            )
            for role, name in PEOPLE.items()
        }
        people["pipeline"] = Client(
            http=http,
            name=PIPELINE,
            subject=issuer.subject(name=PIPELINE, kind="service"),
            token=issuer.mint(name=PIPELINE, kind="service"),
            seen=seen,
        )
        yield people


async def free_key(owner: Client) -> str:
    """`flight-delay`, or with a number when the demo ran here before."""
    taken = {item["key"] for item in (await owner.get("/v1/systems", page_size=200))["items"]}
    candidates = ["flight-delay", *(f"flight-delay-{number}" for number in range(2, 1000))]
    return next(key for key in candidates if key not in taken)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of sampling, training and bootstrap")
    parser.add_argument("--training", type=int, nargs="+", default=[1], help="months to train on")
    parser.add_argument("--tuning", type=int, nargs="+", default=[2], help="months to choose the threshold on")
    parser.add_argument("--test", type=int, nargs="+", default=[3], help="months of the sequestered test set")
    parser.add_argument("--production-from", type=int, default=4, help="month in which production begins")
    parser.add_argument("--share", type=float, default=1.0, help="share of the flights to use")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
