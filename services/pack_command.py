"""The part of the command `prooftrail` that is about packs: fetch the pack of an AI system, export the deployment, check a pack."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from services.composition import offline_house
from services.server import database_at_work
from shared.settings import Settings
from verifier import prooftrail_verify

FETCHED, NOT_FETCHED = 0, 2
FETCH_TIMEOUT_SECONDS = 300.0


def add_commands(commands: Any) -> None:
    """Adds the subcommands."""
    pack = commands.add_parser("pack", help="fetch the pack of an AI system, which proves itself to a stranger")
    pack.add_argument("system")
    pack.add_argument("file", type=Path, help="the ZIP file to write")
    pack.add_argument("--release", help="the evidence pack in it is that of this release")
    pack.add_argument("--ledger-position", type=int, help="as of this ledger position; now without it")
    pack.add_argument("--url", default=None, help="address of the service (default: where `make run` serves)")
    pack.set_defaults(run=_pack)

    export = commands.add_parser(
        "export", help="write the pack of the whole deployment from its database", description=_export.__doc__
    )
    export.add_argument("file", type=Path, help="the ZIP file to write")
    export.set_defaults(run=_export)

    verify = commands.add_parser(
        "verify",
        help="check a pack without trusting anybody, offline; the exit code names what is wrong",
        description=prooftrail_verify.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prooftrail_verify.add_arguments(verify)
    verify.set_defaults(run=_verify)


def _pack(parsed: argparse.Namespace, settings: Settings) -> int:
    token = os.environ.get("PROOFTRAIL_TOKEN")
    if not token:
        print('Set PROOFTRAIL_TOKEN, for instance to $(./prooftrail token "Your Name").', file=sys.stderr)
        return NOT_FETCHED
    url = parsed.url or f"http://{settings.host}:{settings.port}"
    asked = {"release": parsed.release, "ledger_position": parsed.ledger_position}
    partial = parsed.file.with_name(f"{parsed.file.name}.part")
    try:
        with httpx.stream(
            "GET",
            f"{url}/v1/systems/{parsed.system}/evidence-pack.zip",
            params={name: value for name, value in asked.items() if value is not None},
            headers={"Authorization": f"Bearer {token}"},
            timeout=FETCH_TIMEOUT_SECONDS,
        ) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                print(f"no pack: {_problem(answer)}", file=sys.stderr)
                return NOT_FETCHED
            with partial.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
    except (httpx.HTTPError, OSError) as error:
        print(f"no pack: {error}. Is `make run` serving at {url}?", file=sys.stderr)
        return NOT_FETCHED
    partial.replace(parsed.file)
    print(
        f"{parsed.file}: {parsed.file.stat().st_size:,} bytes. Check it: ./prooftrail verify {parsed.file} --keys FILE"
    )
    return FETCHED


def _problem(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        return f"{body['title']} {body.get('next_step', '')}"
    except (ValueError, KeyError, TypeError):
        return f"the answer is {answer.status_code}"


def _export(parsed: argparse.Namespace, settings: Settings) -> int:
    """Writes every event of every service, as the stores hold it, as far as it is sealed and witnessed.

    Nothing has to run; what runs goes on. Whether anything was altered is for `prooftrail verify` to say.
    """
    partial = parsed.file.with_name(f"{parsed.file.name}.part")
    with database_at_work(settings) as url, partial.open("w+b") as file:
        counts = asyncio.run(_export_to(settings, url, file))
    partial.replace(parsed.file)
    print(f"{parsed.file}: " + ", ".join(f"{count} events of {service}" for service, count in counts.items()))
    return FETCHED


async def _export_to(settings: Settings, url: str, file: BinaryIO) -> dict[str, int]:
    async with offline_house(settings=settings, database_url=url) as house:
        counts: dict[str, int] = await house.services["traceability"].application.export(file)
        return counts


def _verify(parsed: argparse.Namespace, _settings: Settings) -> int:
    return prooftrail_verify.run(parsed)
