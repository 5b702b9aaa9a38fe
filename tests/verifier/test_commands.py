"""From the command line: fetch a pack, export everything while it runs and after it ended, check both with keys got elsewhere."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.serving import served
from tests.test_command import SYSTEM, client, command, token_of
from tests.verifier.time_authority import OPENSSL, TimeAuthority

PATIENCE_S = 120.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in a place that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent)


def keep_keys(reader: httpx.Client, folder: Path) -> None:
    """What an auditor asks for before any pack: the first key of each log, and the one that witnesses them."""
    services = ("requirements", "verification", "releases", "drift", "traceability")
    keys = [reader.get(f"/v1/logs/{service}/key").json()["keys"][0] for service in services]
    (folder / "keys.txt").write_text("\n".join(keys) + "\n")


def test_a_pack_is_fetched_and_everything_is_exported(folder: Path) -> None:
    """Without the witness's key the manifest is not pinned, which is said; the logs themselves are."""
    data, pack, whole = folder / "data", folder / "pack.zip", folder / "whole.zip"
    with served(data) as (address, _, _):
        port = int(address.rpartition(":")[2])
        token = token_of(data, "Olga Owner")
        with client(address, token) as owner:
            created = owner.post("/v1/systems", json={"key": "flights", **SYSTEM})
            assert created.status_code == 201, created.text
            owner.get("/v1/systems/flights/state", params={"after": created.json()["position"]})
            (folder / "promise.txt").write_text(created.json()["promise"])
            keep_keys(owner, folder)
        fetched = command(data, "pack", "flights", str(pack), port=port, token=token)
        assert fetched.returncode == 0, fetched.stderr
        running = command(data, "export", str(whole))
        assert running.returncode == 0, running.stderr
        assert "1 events of requirements" in running.stdout
        missing = command(data, "pack", "nothing", str(folder / "none.zip"), port=port, token=token)
        assert (missing.returncode, (folder / "none.zip").exists()) == (2, False)
        assert "Traceback" not in missing.stderr
        nobody = command(data, "pack", "flights", str(pack), port=port)
        assert (nobody.returncode, "PROOFTRAIL_TOKEN" in nobody.stderr) == (2, True)
    known = ("--keys", str(folder / "keys.txt"), "--promise", str(folder / "promise.txt"), "--json")
    for file in (pack, whole):
        report = json.loads(command(data, "verify", str(file), *known).stdout)
        assert (report["code"], report["failure"]) == (3, None)
        assert "no pinned key vouches for the manifest" in report["not_proven"][0]
        assert [service["pinned"] for service in report["services"]] == [True] * len(report["services"])
    first = whole.read_bytes()
    stopped = command(data, "export", str(whole))
    assert stopped.returncode == 0, stopped.stderr
    assert whole.read_bytes() == first


def run(
    data: Path, *arguments: str, port: int | None = None, token: str = "", settings: Mapping[str, str] | None = None
) -> str:
    """What the command prints; it ends with 0."""
    ended = command(data, *arguments, port=port, token=token, settings=settings)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def created(address: str, token: str, key: str) -> None:
    """Another AI system, which traceability knows of."""
    with client(address, token) as owner:
        receipt = owner.post("/v1/systems", json={"key": key, **SYSTEM}).raise_for_status().json()
        owner.get(f"/v1/systems/{key}/state", params={"after": receipt["position"]}).raise_for_status()


def test_the_way_of_the_readme_from_keys_to_a_proof(folder: Path) -> None:
    """Keys, pack, verify: 0; and again after a change of keys, with the keys that were pinned before it."""
    data, keys, pack = folder / "data", folder / "keys.txt", folder / "pack.zip"
    with served(data) as (address, _, _):
        port, token = int(address.rpartition(":")[2]), token_of(data, "Olga Owner")
        created(address, token, "flights")
        keys.write_text(run(data, "keys"))
        assert len(keys.read_text().split()) == 6
        run(data, "pack", "flights", str(pack), port=port, token=token)
        assert run(data, "verify", str(pack), "--keys", str(keys)).startswith("PROVEN (exit code 0)")
        said = run(data, "rotate-key", "requirements", "--reason", "a year has passed")
        assert "signs from the next checkpoint on" in said
        created(address, token, "trains")
        run(data, "pack", "trains", str(pack), port=port, token=token)
        assert run(data, "verify", str(pack), "--keys", str(keys)).startswith("PROVEN (exit code 0)")
        with client(address, token) as owner:
            used = owner.get("/v1/logs/requirements/key").json()["keys"]
        assert (len(used), used[0] in keys.read_text(), used[1] in said) == (2, True, True)
    assert run(data, "keys") == keys.read_text()


@pytest.mark.skipif(OPENSSL is None and os.environ.get("CI") != "true", reason="install openssl: it is the authority")
def test_packs_and_checkpoints_are_stamped(folder: Path) -> None:
    """Without an authority the pack is there, and it is said what is missing; with one, verify tells since when all this exists."""
    data, stamps, pack, whole = folder / "data", folder / "stamps", folder / "pack.zip", folder / "whole.zip"
    with served(data) as (address, _, _):
        port, token = int(address.rpartition(":")[2]), token_of(data, "Olga Owner")
        created(address, token, "flights")
        refused = command(data, "pack", "flights", str(pack), "--timestamp", port=port, token=token)
        assert (refused.returncode != 0, pack.exists()) == (True, True)
        assert "Set PROOFTRAIL_TIMESTAMP_URL" in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stderr
    authority, other = TimeAuthority(folder / "ts"), TimeAuthority(folder / "other")
    other.stop()
    try:
        settings = {"PROOFTRAIL_TIMESTAMP_URL": authority.url}
        with served(data, settings=settings) as (address, _, _):
            port = int(address.rpartition(":")[2])
            run(data, "pack", "flights", str(pack), "--timestamp", port=port, token=token, settings=settings)
            until_there(lambda: "requirements-1.tsr" in fetched(data, stamps, port, token))
        run(data, "export", str(whole), "--timestamp", settings=settings)
    finally:
        authority.stop()
    brought = ("--timestamp", f"{whole}.tsr", "--timestamp", str(stamps / "requirements-1.tsr"))
    pinned = ("--authority", str(folder / "ts" / "root.pem"), "--checkpoint", str(stamps / "requirements-1.checkpoint"))
    (folder / "keys.txt").write_text(run(data, "keys"))
    said = run(data, "verify", str(whole), "--keys", str(folder / "keys.txt"), *brought, *pinned)
    for subject in ("this pack", "requirements up to position 1"):
        assert f"{subject}: existed by" in said
    stranger = ("--timestamp", f"{pack}.tsr", "--authority", str(folder / "other" / "root.pem"))
    ended = command(data, "verify", str(pack), *stranger)
    assert (ended.returncode, "no pinned authority vouches" in ended.stdout) == (18, True)


def fetched(data: Path, stamps: Path, port: int, token: str) -> set[str]:
    """The names of the files that the command writes."""
    assert "checkpoints with time stamps" in run(data, "timestamps", str(stamps), port=port, token=token)
    return {file.name for file in stamps.iterdir()}


def until_there(holds: Callable[[], bool]) -> None:
    """Returns when it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)
