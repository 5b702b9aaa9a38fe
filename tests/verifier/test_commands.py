"""From the command line: fetch a pack, export everything while it runs and after it ended, check both with keys got elsewhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import served
from tests.test_command import SYSTEM, client, command, token_of


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
