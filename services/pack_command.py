"""The part of the command `prooftrail` that is about packs: fetch the pack of an AI system, export the deployment, check a pack."""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from services.composition import SERVICES, offline_house
from services.server import database_at_work
from shared.settings import Settings
from shared.timestamp import NoTimestamp, timestamp
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
    _add_timestamp(pack)
    pack.set_defaults(run=_pack)

    export = commands.add_parser(
        "export", help="write the pack of the whole deployment from its database", description=_export.__doc__
    )
    export.add_argument("file", type=Path, help="the ZIP file to write")
    _add_timestamp(export)
    export.set_defaults(run=_export)

    timestamps = commands.add_parser(
        "timestamps",
        help="fetch the checkpoints that a time stamp authority has stamped",
        description=_timestamps.__doc__,
    )
    timestamps.add_argument("folder", type=Path, help="where to write them")
    timestamps.add_argument("--url", default=None, help="address of traceability (default: where `make run` serves)")
    timestamps.set_defaults(run=_timestamps)

    verify = commands.add_parser(
        "verify",
        help="check a pack without trusting anybody, offline; the exit code names what is wrong",
        description=prooftrail_verify.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prooftrail_verify.add_arguments(verify)
    verify.set_defaults(run=_verify)


def _add_timestamp(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timestamp", action="store_true",
        help="also have the pack's manifest stamped by PROOFTRAIL_TIMESTAMP_URL (RFC 3161), into FILE.tsr",
    )  # fmt: skip


def _token() -> str | None:
    token = os.environ.get("PROOFTRAIL_TOKEN")
    if not token:
        print('Set PROOFTRAIL_TOKEN, for instance to $(./prooftrail token "Your Name").', file=sys.stderr)
    return token or None


def _pack(parsed: argparse.Namespace, settings: Settings) -> int:
    token = _token()
    if token is None:
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
    if parsed.timestamp:
        _stamp(parsed.file, settings)
    return FETCHED


def _stamp(pack: Path, settings: Settings) -> None:
    """Writes the time stamp of the manifest, which names every file of the pack by its digest. NoTimestamp."""
    if settings.timestamp_url is None:
        raise NoTimestamp(
            "No time stamp authority is set.",
            why="A pack is stamped by an authority that speaks RFC 3161.",
            next_step="Set PROOFTRAIL_TIMESTAMP_URL to its address. The pack itself is written.",
        )
    with zipfile.ZipFile(pack) as archive:
        manifest = archive.read("manifest")
    response = asyncio.run(_stamped(manifest, settings.timestamp_url))
    beside = pack.with_name(f"{pack.name}.tsr")
    beside.write_bytes(response)
    print(f"{beside}: the time stamp. Check it: ./prooftrail verify {pack} --timestamp {beside} --authority FILE ...")


async def _stamped(content: bytes, authority: str) -> bytes:
    async with httpx.AsyncClient() as client:
        return await timestamp(content, authority=authority, client=client)


def _timestamps(parsed: argparse.Namespace, settings: Settings) -> int:
    """Writes SERVICE-SIZE.checkpoint and SERVICE-SIZE.tsr for each, as `verify --checkpoint` and `--timestamp` take them."""
    token = _token()
    if token is None:
        return NOT_FETCHED
    parsed.folder.mkdir(parents=True, exist_ok=True)
    url, count = parsed.url or f"http://{settings.host}:{settings.port}", 0
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=FETCH_TIMEOUT_SECONDS) as client:
        for service in SERVICES:
            try:
                for one in _pages(client, f"{url}/v1/logs/{service}/timestamps"):
                    name = parsed.folder / f"{service}-{one['size']}"
                    name.with_suffix(".checkpoint").write_text(one["checkpoint"])
                    name.with_suffix(".tsr").write_bytes(base64.b64decode(one["response"]))
                    count += 1
            except (httpx.HTTPError, OSError) as error:
                print(f"no time stamps: {error}. Is `make run` serving at {url}?", file=sys.stderr)
                return NOT_FETCHED
    print(f"{parsed.folder}: {count} checkpoints with time stamps")
    return FETCHED


def _pages(client: httpx.Client, url: str) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        answer = client.get(url, params={"after_size": after})
        answer.raise_for_status()
        page = answer.json()["timestamps"]
        if not page:
            return
        yield from page
        after = page[-1]["size"]


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
    if parsed.timestamp:
        _stamp(parsed.file, settings)
    return FETCHED


async def _export_to(settings: Settings, url: str, file: BinaryIO) -> dict[str, int]:
    async with offline_house(settings=settings, database_url=url) as house:
        counts: dict[str, int] = await house.services["traceability"].application.export(file)
        return counts


def _verify(parsed: argparse.Namespace, _settings: Settings) -> int:
    return prooftrail_verify.run(parsed)
