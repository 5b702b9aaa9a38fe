"""Whoever reads events without a type for them reads every version: trace, time axis, page, reactions, ledger, packs, verifier."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from services.composition import SERVICES
from services.traceability.domain import evidence_pack
from services.traceability.domain.effective import told as told_of, true_from
from services.traceability.domain.evidence_pack import PackEvent
from services.traceability.domain.trace import Trace, apply
from services.traceability.evidence_html import render
from shared.event import leaf_hash_of
from tests.contracts.test_golden_events import GOLDEN
from tests.foreign import append_told
from tests.house import TestHouse
from tests.verifier.sealed_house import SealedHouse
from verifier.prooftrail_verify import Code, verify

SYSTEM = "flight-delay"
KINDS = (
    "requirement", "test-case", "verification", "model-version", "change-plan", "nonconformity", "waiver",
    "monitoring-plan", "drift-signal", "release",
)  # fmt: skip
"""Records whose events begin with their name."""
OF_THE_LOG = ("log-recovered", "log-key-rotated")
"""What a signer says of itself: it belongs to no AI system, and would have to be true of this log."""


def goldens() -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Bytes and values of every version of every event but those of the log."""
    for raw in (file.read_bytes() for file in sorted(GOLDEN.iterdir())):
        content = json.loads(raw)
        if not content["name"].endswith(OF_THE_LOG):
            yield raw, content


def _on_its_record(content: dict[str, Any]) -> dict[str, Any]:
    """The event on the stream of the record that it belongs to."""
    event = content["name"].partition(".")[2]
    kind = next((kind for kind in KINDS if event.startswith(f"{kind}-")), event)
    return {**content, "stream": f"{kind}:{SYSTEM}/KEY-1"}


def test_the_trace_the_time_axis_and_the_page_take_every_version() -> None:
    """Each is in its record, has its place in time and a line on the page of the pack."""
    trace, entries, events = Trace(system=SYSTEM), [], []
    for number, (raw, stored) in enumerate(goldens(), start=1):
        content = _on_its_record(stored)
        recorded_at = datetime.fromisoformat(content["recorded_at"])
        apply(trace, position=number, recorded_at=recorded_at, content=content)
        entries.append(told_of(recorded_at=recorded_at, content=content))
        events.append(
            PackEvent(
                ledger_position=number,
                service=content["service"],
                position=number,
                leaf_hash=leaf_hash_of(raw),
                event=raw.decode(),
            )
        )
        if content["name"] != "drift.drift-window-closed":
            record = trace.records[content["stream"]]
            assert record.events[-1] == (number, content["name"])
            assert record.fields.items() >= content["data"].items()
    assert len(true_from(entries)) == len(entries) > len(SERVICES)
    page = render(evidence_pack.pack_bytes(trace, events=events, people={}, release="KEY-1"))
    assert [content["name"] for _, content in goldens() if content["name"] not in page] == []


async def test_a_house_takes_every_version(house: TestHouse) -> None:
    """No projection and no reaction puts any of them aside; the ledger has them all, and a pack of them is proven."""
    url = house.house.runtime.database_url
    for number, (_, content) in enumerate(goldens()):
        told = {**content, "stream": content["stream"].replace(SYSTEM, f"system-{number}")}  # all have the same key
        house.seen[content["service"]] = await append_told(url, content["service"], told)
    sealed = SealedHouse(house)
    for service in house.house.services.values():
        for reactions in (*service.reactions, service.foundation.erasures):
            await reactions.wait(house.seen, timeout_s=60)
        await service.foundation.projection.wait(house.seen, timeout_s=60)
        letters = await service.foundation.pool.fetch(f"SELECT * FROM {service.name}.dead_letter")
        assert [dict(one) for one in letters] == []
    await sealed.seal()
    report = verify(await sealed.exported(), sealed.pins)
    assert report.code is Code.PROVEN, report.text()
    assert {log.events for log in report.logs} != {0}
