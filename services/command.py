"""The command `prooftrail`: tokens, the gate, packs and their check, rebuilding the projections, OpenAPI and protos."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services import data_command, letters_command, log_command, pack_command, schema_command
from services.composition import SERVICES, local_issuer, offline_house
from services.server import database, database_at_work, explain
from shared.errors import Invalid, ProoftrailError
from shared.proto_schema import descriptors_of, proto_files
from shared.settings import Settings, read_settings

ALLOWED, DENIED, CANNOT_TELL = 0, 1, 2
GATE_TIMEOUT_SECONDS = 10.0


class NoTokenHere(Invalid):
    """Tokens are minted here only in embedded mode."""


def main(arguments: Sequence[str]) -> int:
    """Runs one subcommand; returns the exit code of the process."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed, read_settings())
    except ProoftrailError as error:
        print(explain(error), file=sys.stderr)
        return CANNOT_TELL
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prooftrail", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    token = commands.add_parser("token", help="mint a token of the embedded issuer")
    token.add_argument("name", help="printed name of the person or service")
    token.add_argument("--service", action="store_true", help="the token of a service, which may draft but never sign")
    token.add_argument("--hours", type=float, default=1.0, help="how long it is valid (default 1)")
    token.set_defaults(run=_token)

    subject = commands.add_parser("subject", help="print the opaque subject of a name, to grant it a role")
    subject.add_argument("name")
    subject.add_argument("--service", action="store_true")
    subject.set_defaults(run=_subject)

    pages = commands.add_parser("pages", help="print the link that signs a person in to the pages")
    pages.add_argument("name")
    pages.set_defaults(run=_pages)

    gate = commands.add_parser(
        "gate", help="may this release go out? exit code 0 allow, 1 deny, 2 cannot tell", description=_gate.__doc__
    )
    gate.add_argument("release", help="system/release, for instance flight-delay/R-2")
    gate.add_argument("--url", default=None, help="address of the service (default: where `make run` serves)")
    gate.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    gate.set_defaults(run=_gate)

    rebuild = commands.add_parser("rebuild", help="throw every projection away and rebuild it from the events")
    rebuild.add_argument("service", nargs="*", help="only these services")
    rebuild.set_defaults(run=_rebuild)

    pack_command.add_commands(commands)
    data_command.add_commands(commands)
    letters_command.add_commands(commands)
    log_command.add_commands(commands)
    schema_command.add_commands(commands)

    openapi = commands.add_parser("openapi", help="write the OpenAPI document")
    openapi.add_argument("file", type=Path)
    openapi.set_defaults(run=_openapi)

    proto = commands.add_parser("proto", help="write the protos and their descriptors from the OpenAPI document")
    proto.add_argument("openapi", type=Path, help="the OpenAPI document")
    proto.add_argument("folder", type=Path, help="where the protos are")
    proto.set_defaults(run=_proto)
    return parser


def _require_local_issuer(settings: Settings) -> None:
    if settings.issuer is not None:
        raise NoTokenHere(
            "This deployment has an issuer of its own.",
            why="PROOFTRAIL_ISSUER is set, so tokens come from there.",
            next_step="Get a token from your identity provider and put it in PROOFTRAIL_TOKEN.",
        )


def _token(parsed: argparse.Namespace, settings: Settings) -> int:
    _require_local_issuer(settings)
    issuer = local_issuer(settings)
    kind: Any = "service" if parsed.service else "person"
    print(issuer.mint(name=parsed.name, kind=kind, lifetime_s=int(parsed.hours * 3600), audience=settings.audience))
    return 0


def _subject(parsed: argparse.Namespace, settings: Settings) -> int:
    _require_local_issuer(settings)
    print(local_issuer(settings).subject(name=parsed.name, kind="service" if parsed.service else "person"))
    return 0


def _pages(parsed: argparse.Namespace, settings: Settings) -> int:
    _require_local_issuer(settings)
    token = local_issuer(settings).mint(name=parsed.name, audience=settings.audience)
    print(f"http://{settings.host}:{settings.port}/pages/enter?token={token}")
    print("Open it in a browser on this machine within the hour; it signs you in.", file=sys.stderr)
    return 0


def _gate(parsed: argparse.Namespace, settings: Settings) -> int:
    """Asks the release gate. Exit code 0: allow. 1: deny, with the list of what is missing. 2: cannot tell, so do not deploy."""
    system, _, release = parsed.release.partition("/")
    url = parsed.url or f"http://{settings.host}:{settings.port}"
    token = os.environ.get("PROOFTRAIL_TOKEN") or (
        "" if settings.issuer else local_issuer(settings).mint(name="release pipeline", kind="service")
    )
    try:
        answer = httpx.get(
            f"{url}/v1/systems/{system}/gate",
            params={"release": release},
            headers={"Authorization": f"Bearer {token}"},
            timeout=GATE_TIMEOUT_SECONDS,
        )
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        print(f"cannot tell: {url} does not answer ({error}). Is `make run` serving there?", file=sys.stderr)
        return CANNOT_TELL
    if answer.status_code != httpx.codes.OK or not isinstance(body.get("allowed"), bool):
        print(f"cannot tell: {body.get('title')} {body.get('next_step', '')}", file=sys.stderr)
        return CANNOT_TELL
    print(json.dumps(body, indent=2) if parsed.json else _told(parsed.release, body))
    return ALLOWED if body["allowed"] else DENIED


def _told(release: str, body: dict[str, Any]) -> str:
    head = f"{'ALLOW' if body['allowed'] else 'DENY'}  {release}  decision {body['decision_id'][:12]}"
    missing = [
        f"  {item['code']}: {item['record']}: {item['explanation']} Next: {item['next_verb']} by {item['role']}."
        for item in body["missing"]
    ]
    return "\n".join([head, *missing])


def _rebuild(parsed: argparse.Namespace, settings: Settings) -> int:
    console = Console(stderr=True)
    with database_at_work(settings) as url:
        changed = asyncio.run(_rebuild_all(settings, url, parsed.service or SERVICES, console))
    return DENIED if changed else ALLOWED


async def _rebuild_all(settings: Settings, url: str, names: Sequence[str], console: Console) -> list[str]:
    """Rebuilds and compares state digests; returns the projections whose state is another one now."""
    changed = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    async with offline_house(settings=settings, database_url=url, names=names) as house:
        with Progress(*columns, console=console) as progress:
            for service in house.services.values():
                for part in service.rebuildable:
                    await part.catch_up()
                    before = await part.state_digest()
                    task = progress.add_task(part.name, total=None)
                    await part.rebuild(
                        lambda source, done, total, task=task, name=part.name: progress.update(  # type: ignore[misc]
                            task, description=f"{name} from {source}", completed=done, total=total
                        )
                    )
                    after = await part.state_digest()
                    console.print(f"{part.name}: {after} {'same' if after == before else f'DIFFERS from {before}'}")
                    if after != before:
                        changed.append(part.name)
    return changed


def _openapi(parsed: argparse.Namespace, settings: Settings) -> int:
    with tempfile.TemporaryDirectory(prefix="prooftrail-openapi-") as folder:
        Path(folder).chmod(0o755)
        scratch = replace(settings, data=Path(folder) / "data")
        with database(scratch) as url:
            document = asyncio.run(_openapi_document(scratch, url))
    parsed.file.parent.mkdir(parents=True, exist_ok=True)
    parsed.file.write_text(openapi_text(document))
    print(f"wrote {parsed.file}")
    return 0


async def _openapi_document(settings: Settings, url: str) -> dict[str, Any]:
    async with offline_house(settings=settings, database_url=url) as house:
        return house.app.openapi()


def _proto(parsed: argparse.Namespace, _settings: Settings) -> int:
    known = {str(file.relative_to(parsed.folder)): file.read_text() for file in parsed.folder.rglob("*.proto")}
    for path, text in proto_files(json.loads(parsed.openapi.read_text()), services=SERVICES, known=known).items():
        file = parsed.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (parsed.folder / "prooftrail.binpb").write_bytes(descriptors_of(parsed.folder))
    print(f"wrote {parsed.folder}")
    return 0


def openapi_text(document: dict[str, Any]) -> str:
    """The document as it is committed: sorted, so that a change shows as what it is."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
