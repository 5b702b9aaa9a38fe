"""`make kubernetes`: asks the cluster of KUBECONFIG to admit each overlay, rolls everything out there, tells the demo's story, and
rolls each service under load.

    ROLLOUT_IMAGES   prooftrail=PLACE,postgres=PLACE,apache/kafka=PLACE (default: localhost/prooftrail:dev and the public ones)
    ROLLOUT_ADDRESS  where the ports of a node are reached (default 127.0.0.1)
    ROLLOUT_REPLICAS pods of each service (default 2)

The cluster must have volumes that several pods can write. The namespace prooftrail-rollout is made anew, and stays,
as does prooftrail-admission, in which nothing runs.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from demo.story import DemoSettings, Story
from tests.kubernetes.admission import admit_overlays
from tests.kubernetes.identities import Identities
from tests.kubernetes.load import under_load
from tests.kubernetes.overlay import NAMESPACE, SERVICES, write_overlay
from tests.kubernetes.people import people_of, routed

IMAGES = {"prooftrail": "localhost/prooftrail:dev", "postgres": "postgres:18.1", "apache/kafka": "apache/kafka:4.3.1"}
SAMPLE = DemoSettings(share=0.15, least_slice_rows=150, window_days=1, tolerance=0.05)
READY_SECONDS_MAX = 600


def kubectl(*arguments: str, given: str = "") -> str:
    """What it prints, with `given` on its standard input; SystemExit with what it says when it fails."""
    done = subprocess.run(["kubectl", *arguments], check=False, capture_output=True, text=True, input=given)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Rollout:
    """One run on one cluster."""

    def __init__(self, console: Console) -> None:
        self._console = console
        given = dict(one.split("=", 1) for one in os.environ.get("ROLLOUT_IMAGES", "").split(",") if one)
        self._images = {**IMAGES, **given}
        self._replicas = int(os.environ.get("ROLLOUT_REPLICAS", "2"))
        self._marks: dict[str, str] = {}
        self.address = os.environ.get("ROLLOUT_ADDRESS", "127.0.0.1")
        self.identities = Identities.made()

    def begin(self) -> None:
        """From nothing to every service ready."""
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
        began = time.monotonic()
        self._apply()
        self._until_ready()
        self._console.print(f"all services are ready after {time.monotonic() - began:.0f} s")

    def roll(self, service: str) -> None:
        """New pods for the old ones of a service; returns when the old ones are gone."""
        self._marks[service] = str(int(self._marks.get(service, "0")) + 1)
        self._apply()
        self._until_ready()

    def _apply(self) -> None:
        folder = write_overlay(self.identities, images=self._images, replicas=self._replicas, marks=self._marks)
        kubectl("apply", "--validate=strict", "-k", str(folder))

    def _until_ready(self) -> None:
        for service in ("postgresql", "kafka", "issuer", *(f"prooftrail-{service}" for service in SERVICES)):
            kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{service}", f"--timeout={READY_SECONDS_MAX}s")


async def tell_story(rollout: Rollout, say: Console) -> None:
    """The demo's story through the Services, with everybody's own token."""
    with tempfile.TemporaryDirectory() as folder:
        async with routed(rollout.address) as http:
            people = people_of(rollout.identities, http)
            story = Story(system="flight-delay", people=people, settings=SAMPLE, say=say.print, folder=Path(folder))
            await story.tell()
            state = (await people["auditor"].get(f"{story.at}/state"))["records"]["release"]
    if state != {"R-1": "superseded", "R-2": "released"}:
        raise SystemExit(f"the story ended differently: {state}")


def main() -> int:
    """0 if everything held."""
    console = Console(highlight=False)
    admit_overlays(kubectl, console.print)
    rollout = Rollout(console)
    rollout.begin()
    asyncio.run(tell_story(rollout, console))
    failures = 0
    for service in SERVICES:
        load = asyncio.run(under_load(rollout, service))
        console.print(
            f"{service} rolled: {load.answered} requests answered, {len(load.failed)} failed {load.failed[:3]}"
        )
        failures += len(load.failed)
    console.print("no request failed" if failures == 0 else f"{failures} requests failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
