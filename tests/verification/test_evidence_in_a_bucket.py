"""Evidence files through the HTTP door into a bucket of a real S3-compatible server, and what a start says about a bad one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import fresh_database, problem_of, running_house
from tests.requirements.test_http_api import staffed
from tests.serving import CHECKOUT, bare_environment, free_port
from tests.shared.s3_server import BUCKET, S3Server, environment, installed, running
from tests.shared.s3_server.fixtures import s3_server

__all__ = ["s3_server"]

EVIDENCE = b"flight,delayed\n1,0\n"
DIGEST = hashlib.sha256(EVIDENCE).hexdigest()
FILE = f"/v1/systems/flight-delay/artefacts/{DIGEST}"


async def test_evidence_goes_into_the_bucket_and_an_outage_is_no_loss(
    s3_server: S3Server, server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the bucket is away requests are answered 503; afterwards the same request works."""
    with running(installed(), tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        async with running_house(
            server_url=server_url,
            folder=tmp_path / "data",
            artefacts=f"s3://{BUCKET}/proof",
            artefacts_plain_http=True,
        ) as house:
            _, author, _ = await staffed(house)
            assert await author.put(FILE, EVIDENCE) == {"digest": DIGEST, "length": len(EVIDENCE)}
            stored = server.root / BUCKET / "proof" / "flight-delay" / DIGEST[:2] / DIGEST
            assert stored.read_bytes() == EVIDENCE
            assert not (tmp_path / "data" / "artefacts").exists()
            stored.rename(stored.with_name("aside"))
            missing = problem_of(await author.request("GET", FILE))
            assert (missing["status"], missing["reason"]) == (404, "artefact-missing")
            server.stop()
            away = problem_of(await author.request("GET", FILE))
            assert (away["status"], away["reason"]) == (503, "artefacts-unreachable")


async def test_a_start_with_a_bad_bucket_says_what_is_wrong(
    s3_server: S3Server, server_url: str, tmp_path: Path
) -> None:
    """In one place, before anything is served: what, why and what to do; with exit code 2."""
    said = {}
    for fault, address, variables in (
        ("missing", "s3://elsewhere", s3_server.environment),
        ("credentials", f"s3://{BUCKET}", environment(port=s3_server.port, secret_key="another")),
        ("down", f"s3://{BUCKET}", environment(port=free_port())),
        ("address", f"https://{BUCKET}", s3_server.environment),
    ):
        async with fresh_database(server_url) as database:
            ended = subprocess.run(  # noqa: ASYNC221 -- nothing else happens here
                [sys.executable, "-m", "services"],
                cwd=CHECKOUT,
                env={
                    **bare_environment(),
                    **variables,
                    "DATABASE_URL": database,
                    "PROOFTRAIL_DATA": str(tmp_path),
                    "PROOFTRAIL_PORT": str(free_port()),
                    "PROOFTRAIL_METRICS_PORT": str(free_port()),
                    "PROOFTRAIL_GRPC_PORT": "0",
                    "PROOFTRAIL_ARTEFACTS": address,
                },
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert ended.returncode == 2
        said[fault] = ended.stderr
    assert "s3://elsewhere, does not exist." in said["missing"]
    assert "refuses us: SignatureDoesNotMatch." in said["credentials"]
    assert "does not answer." in said["down"]
    assert "PROOFTRAIL_ARTEFACTS is 'https://evidence'." in said["address"]
    assert all("  next: " in text and "Traceback" not in text for text in said.values())
