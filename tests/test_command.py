"""The command line and the served process: exit codes that a CI job can trust, and a kill that loses nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from services.composition import local_issuer
from shared.settings import Settings
from tests.serving import CHECKOUT, bare_environment, served

SYSTEM = {"name": "Flights", "intended_use": "Warn.", "risk_class": "limited", "reason": "a system of its own"}


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder in a place that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="prooftrail-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "data"


def command(
    data: Path, *arguments: str, port: int | None = None, token: str = "", settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `prooftrail` on the data folder."""
    environment = {**bare_environment(), **(settings or {})}
    environment |= {"PROOFTRAIL_DATA": str(data), **({"PROOFTRAIL_PORT": str(port)} if port else {})}
    environment |= {"PROOFTRAIL_TOKEN": token} if token else {}
    return subprocess.run(
        [sys.executable, "-m", "services.command", *arguments],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def client(address: str, token: str) -> httpx.Client:
    """Somebody at the HTTP door."""
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60)


def token_of(data: Path, name: str) -> str:
    """A token of the embedded issuer, minted by the command."""
    ended = command(data, "token", name)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_started_again_it_continues_and_a_rebuild_gives_the_same_state(data: Path) -> None:
    """What was recorded before is there after, and nothing of it depends on the projections."""
    with served(data) as (address, _, _):
        with client(address, token_of(data, "Olga Owner")) as owner:
            created = owner.post("/v1/systems", json={"key": "flights", **SYSTEM})
            assert created.status_code == 201, created.text
        while_running = command(data, "rebuild")
        assert while_running.returncode == 0, while_running.stderr
    stopped = command(data, "rebuild")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stderr.count(" same") >= 6
    assert "DIFFERS" not in stopped.stderr
    with served(data) as (address, _, _), client(address, token_of(data, "Olga Owner")) as owner:
        listed = owner.get("/v1/systems", params={"after": created.json()["position"]})
        assert [item["key"] for item in listed.json()["items"]] == ["flights"]
        assert owner.get("/v1/info").json()["mode"] == "embedded"


def test_the_gate_tells_a_ci_job_deny_with_reasons_and_cannot_tell(data: Path) -> None:
    """1 with the list of what is missing; 2 for a release that it may not see, for nobody there, and for a broken token."""
    with served(data) as (address, _, _):
        port = int(address.rpartition(":")[2])
        with client(address, token_of(data, "Olga Owner")) as owner:
            owner.post("/v1/systems", json={"key": "flights", **SYSTEM}).raise_for_status()
            author = local_issuer(Settings(data=data)).subject(name="Olga Owner")
            granted = owner.post(
                "/v1/systems/flights:grant-role",
                json={"subject": author, "role": "author", "reason": "one-person start"},
            )
            position = granted.json()["position"]
            hosted = {"provider": "somebody", "identifier": "model-7"}
            registered = owner.post(
                "/v1/systems/flights/model-versions",
                params={"after": position},
                json={
                    "model": "m",
                    "version": "1",
                    "components": [],
                    "hosted": hosted,
                    "code_revision": "c",
                    "why": "w",
                    "reason": "first",
                },
            )
            assert registered.status_code == 201, registered.text
            opened = owner.post(
                "/v1/systems/flights/releases",
                params={"after": registered.json()["position"]},
                json={"key": "R-1", "model": "m", "version": "1", "environment": "production", "reason": "try"},
            )
            assert opened.status_code == 201, opened.text
        token = token_of(data, "Olga Owner")
        denied = command(data, "gate", "flights/R-1", port=port, token=token)
        assert denied.returncode == 1, denied.stdout + denied.stderr
        assert denied.stdout.startswith("DENY")
        assert "monitoring-plan-missing" in denied.stdout
        whole = json.loads(command(data, "gate", "flights/R-1", "--json", port=port, token=token).stdout)
        assert whole["allowed"] is False
        assert command(data, "gate", "flights/R-1", port=port).returncode == 2, "the pipeline holds no role"
        assert command(data, "gate", "flights/R-9", port=port, token=token).returncode == 2
        assert command(data, "gate", "flights/R-1", port=port, token="made.up.token").returncode == 2
    assert command(data, "gate", "flights/R-1", port=port, token=token).returncode == 2


def test_the_link_of_the_pages_signs_in(data: Path) -> None:
    """The printed address leads to the pages, with a cookie."""
    with served(data) as (address, _, _):
        ended = command(data, "pages", "Quinn Quality", port=int(address.rpartition(":")[2]))
        with httpx.Client() as browser:
            page = browser.get(ended.stdout.strip(), follow_redirects=True)
    assert page.status_code == 200
    assert "What waits for my signature" in page.text


def test_killed_with_minus_nine_while_it_is_written_to_it_loses_nothing_that_it_acknowledged(data: Path) -> None:
    """Every acknowledged command is there after the crash, and a retry under its key finds its answer."""
    acknowledged: list[tuple[str, str]] = []
    token = token_of(data, "Olga Owner")
    for round_number in range(3):
        with served(data) as (address, _, process):
            writer = threading.Thread(target=_write, args=(address, token, round_number, acknowledged))
            writer.start()
            while len(acknowledged) < (round_number + 1) * 20:
                if not writer.is_alive():
                    break
            os.kill(process, signal.SIGKILL)
            writer.join()
    assert len(acknowledged) >= 60
    with served(data) as (address, _, _), client(address, token) as owner:
        for key, position in acknowledged:
            again = owner.post("/v1/systems", json={"key": key, **SYSTEM}, headers={"Idempotency-Key": key})
            assert (again.status_code, again.json()["position"]) == (201, position)


def _write(address: str, token: str, round_number: int, acknowledged: list[tuple[str, str]]) -> None:
    with client(address, token) as owner:
        for number in itertools.count():
            key = f"s-{round_number}-{number}"
            try:
                answer = owner.post("/v1/systems", json={"key": key, **SYSTEM}, headers={"Idempotency-Key": key})
            except httpx.HTTPError:
                return
            if answer.status_code == 201:
                acknowledged.append((key, answer.json()["position"]))


def test_embedded_mode_refuses_an_address_that_others_can_reach(data: Path) -> None:
    """It mints its own tokens, so it stays on loopback; the message names the variable."""
    ended = subprocess.run(
        [sys.executable, "-m", "services"],
        cwd=CHECKOUT,
        env={**bare_environment(), "PROOFTRAIL_DATA": str(data), "PROOFTRAIL_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "PROOFTRAIL_HOST" in ended.stderr
    assert not data.exists()
