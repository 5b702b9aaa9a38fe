"""The page of an evidence pack: everything in it, nothing fetched, nothing from the data taken for markup."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from services.traceability.domain import evidence_pack
from services.traceability.domain.evidence_pack import PackEvent
from services.traceability.domain.trace import Trace, apply
from services.traceability.evidence_html import FORGOTTEN, render
from shared.event import leaf_hash_of

HOSTILE = "<script>alert('x')</script><img src=x onerror=y>\"'&"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NAMED, FORGOTTEN_PERSON = "a" * 64, "b" * 64
DIGESTS = {"1": "1" * 64, "2": "2" * 64}


def event(number: int, name: str, stream: str, signer: str = NAMED, /, **data: Any) -> PackEvent:
    """One event of a pack, recorded `number` hours after the beginning."""
    service = name.partition(".")[0]
    content = {
        "service": service, "position": number, "recorded_at": (BEGAN + timedelta(hours=number)).isoformat(),
        "system": "loans", "system_sequence": number, "system_previous": None, "id": f"id-{number}", "stream": stream,
        "version": 1, "name": name, "schema": 1,
        "actor": {"subject": "person-1", "kind": "person", "name_commitment": signer},
        "reason": HOSTILE, "correlation": "c", "causation": None, "data": data,
    }  # fmt: skip
    text = json.dumps(content)
    return PackEvent(
        ledger_position=number, service=service, position=number, leaf_hash=leaf_hash_of(text.encode()), event=text
    )


def signature(signer: str) -> dict[str, Any]:
    """A signature in an event."""
    return {
        "signer": {"subject": "person-1", "kind": "person", "name_commitment": signer},
        "meaning": "approval", "signed_at": "2026-01-01T05:00:00Z", "digest": "d" * 64, "covers": ["d" * 64],
    }  # fmt: skip


def verdict(outcome: str, value: float | None) -> dict[str, Any]:
    """A verdict of a verification."""
    return {
        "criterion": "C1", "metric": "recall", "slice": "origin=EWR", "comparator": ">=", "threshold": 0.7,
        "decision_rule": "confidence bound", "level": 0.95, "outcome": outcome, "value": value,
        "bound": None if value is None else value - 0.02, "n": 1234, "n_needed": 5000 if outcome == "inconclusive" else None,
        "explanation": HOSTILE,
    }  # fmt: skip


def verification(number: int, version: str, outcome: str, value: float | None) -> list[PackEvent]:
    """A verification that was recorded and approved."""
    stream = f"verification:loans/VER-{version}"
    recorded = {
        "key": f"VER-{version}", "author": "p", "test_case": "TC-1", "test_case_revision": 1, "requirement": "REQ-1",
        "requirement_revision": 1, "model": "late", "version": version, "model_digest": DIGESTS[version], "dataset": "flights",
        "dataset_version": "1", "dataset_digest": "3" * 64, "run": f"RUN-{version}", "post_hoc": False, "grade": "recomputed",
        "attempt": 1, "verdicts": [verdict(outcome, value)], "outcome": outcome, "comparison": [],
    }  # fmt: skip
    return [
        event(number, "verification.verification-recorded", stream, **recorded),
        event(
            number + 1,
            "verification.verification-approved",
            stream,
            FORGOTTEN_PERSON,
            signature=signature(FORGOTTEN_PERSON),
        ),
    ]


def history() -> list[PackEvent]:
    """Two model versions, one of them released with a gap, drift and a waiver; every text is hostile."""
    release = {
        "key": "R-1", "author": "p", "model": "late", "version": "1", "model_digest": DIGESTS["1"],
        "environment": "production", "previous": None, "change_request": None,
        "changes": [{"what": HOSTILE, "before": "1", "after": "2"}],
    }  # fmt: skip
    window = {
        "plan": "PLAN-1", "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z", "rows": 10,
        "features": [{"name": HOSTILE, "psi": 0.3, "psi_debiased": 0.2, "tolerance": 0.05}],
    }  # fmt: skip
    return [
        event(1, "requirements.ai-system-registered", "ai-system:loans", key="loans", name=HOSTILE, intended_use=HOSTILE,
              risk_class="high", owner="person-1"),
        event(2, "requirements.requirement-drafted", "requirement:loans/REQ-1", key="REQ-1", revision=1,
              content={"title": HOSTILE, "statement": HOSTILE, "criteria": []}),
        event(3, "requirements.requirement-approved", "requirement:loans/REQ-1", key="REQ-1", revision=1, title=HOSTILE,
              criteria=[{"key": "C1", "metric": "recall", "slice": "overall"}], signature=signature(NAMED)),
        *verification(4, "1", "met", 0.8),
        *verification(6, "2", "inconclusive", None),
        event(8, "releases.release-candidate-opened", "release:loans/R-1", **release),
        event(9, "releases.release-deployed", "release:loans/R-1", key="R-1", observed_digest=DIGESTS["1"]),
        event(10, "drift.drift-window-closed", "monitoring-plan:loans/PLAN-1", **window),
        event(11, "drift.drift-signal-raised", "drift-signal:loans/S-1", key="S-1", plan="PLAN-1", features=[],
              window_end="2026-01-02T00:00:00Z", triage_until="2026-02-01T00:00:00Z"),
        event(12, "releases.waiver-granted", "waiver:loans/W-1", key="W-1", release="R-1", requirement="REQ-1",
              compensating_control=HOSTILE, expires_at="2026-01-01T06:00:00Z", signature=signature(NAMED)),
    ]  # fmt: skip


def pack(events: list[PackEvent], *, release: str | None = None) -> bytes:
    """The pack of these events; one of the two people was forgotten."""
    trace = Trace(system="loans")
    for one in events:
        content = json.loads(one.event)
        apply(
            trace,
            position=one.ledger_position,
            recorded_at=datetime.fromisoformat(content["recorded_at"]),
            content=content,
        )
    people = {NAMED: {"subject": "person-1", "salt": "s", "name": f"Nina {HOSTILE}"}}
    return evidence_pack.pack_bytes(trace, events=events, people=people, release=release)


class Reader(HTMLParser):
    """Collects the elements, the addresses they name and the text, and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")], "an event handler"
        if tag not in ("meta", "br", "img", "link", "input", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    """The page as a browser would see it."""
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.mark.parametrize("release", [None, "R-1"])
def test_nothing_is_fetched_and_nothing_from_the_data_becomes_markup(release: str | None) -> None:
    """Names, titles and reasons are text, whatever they contain."""
    reader = read(render(pack(history(), release=release)))
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(reader.elements)
    assert all(address.startswith("#") for address in reader.addresses)
    assert HOSTILE in "".join(reader.text)


def test_the_same_bytes_give_the_same_page_and_other_bytes_another() -> None:
    """The page can be made again from the JSON by anybody."""
    content = pack(history())
    assert render(content) == render(content)
    assert render(pack(history()[:-1])) != render(content)


def test_the_page_says_what_is_missing_and_who_was_forgotten() -> None:
    """Gaps come first; a forgotten signer has no name, and the signature stays."""
    text = " ".join("".join(read(render(pack(history()))).text).split())
    assert text.index("waiver-expired") < text.index("Traceability matrix")
    assert "release-without-monitoring" in text
    assert FORGOTTEN in text
    assert f"Nina {HOSTILE}" in text
    assert "n needed: 5,000" in text


def test_every_verdict_with_a_value_is_drawn() -> None:
    """A dot, a bound and a threshold for one that was measured; nothing is drawn for one that was not."""
    page = render(pack(history()))
    assert len(re.findall(r'aria-label="recall on origin=EWR', page)) == 1
    assert 'class="series"' in page


def test_an_empty_system_has_a_page_too() -> None:
    """What is not there is not an error."""
    text = "".join(read(render(pack(history()[:1]))).text)
    assert "No window has closed yet" in text


def test_a_pack_of_a_release_shows_only_the_evidence_of_its_model_version() -> None:
    """What was verified of another version is another pack's business."""
    page = render(pack(history(), release="R-1"))
    assert "VER-1" in page
    metrics = page[page.index('id="metrics"') : page.index('id="releases"')]
    assert "VER-2" not in metrics
