"""The page of an evidence pack: everything in it, nothing fetched, nothing from the data taken for markup."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from services.traceability.domain import evidence_pack
from services.traceability.domain.evidence_pack import PackEvent
from services.traceability.domain.trace import Trace, apply
from services.traceability.evidence_html import FORGOTTEN, render
from shared.event import digest_of, leaf_hash_of

from .flight_history import COMMITMENTS, FORGOTTEN_SUBJECT, NAMES, flights, pack_of

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


def words(page: str) -> str:
    """The text of the page, single-spaced."""
    return " ".join("".join(read(page).text).split())


def section(page: str, name: str, until: str) -> str:
    """The markup between two headings."""
    return page[page.index(f'id="{name}"') : page.index(f'id="{until}"')]


def altered(content: bytes, **values: Any) -> bytes:
    """The pack with other values in these fields; None leaves the field out."""
    fields = {**json.loads(content), **values}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_the_head_counts_what_the_records_say() -> None:
    """Requirements in force, those shown to be met by the version that is out, gaps and signatures."""
    content = pack_of(flights().events)
    pack_fields, text = json.loads(content), words(render(content))
    assert "2 requirements with statistical acceptance criteria are in force." in text
    assert "For model late 2 of release R-2 (released), 1 of them is shown to be met" in text
    assert f"{len(pack_fields['signatures'])} signatures by 3 people are recorded." in text
    assert f"{len(pack_fields['gaps'])} gaps are open." in text
    assert digest_of(content) in text


def test_the_release_that_went_out_last_is_not_the_last_by_name() -> None:
    """R-9 went out after R-10; the page speaks of R-9."""
    went_out = ("R-10", "1"), ("R-9", "2")
    names = ("releases.release-candidate-opened", "releases.release-deployed")
    events = [
        event(2 * number + part, name, f"release:loans/{key}", key=key, model="late", version=version,
              model_digest=DIGESTS[version])
        for number, (key, version) in enumerate(went_out)
        for part, name in enumerate(names, start=1)
    ]  # fmt: skip
    assert "For model late 2 of release R-9 (released)" in words(render(pack(events)))


def test_the_approved_criteria_are_shown_not_the_drafted_ones() -> None:
    """A criterion that was revised after the draft stands in the approval."""
    stream, data = "requirement:loans/REQ-1", {"key": "REQ-1", "revision": 1}
    drafted = {"title": "Recall", "criteria": [{"key": "C1", "metric": "drafted-metric"}]}
    events = [
        event(1, "requirements.requirement-drafted", stream, **data, content=drafted),
        event(2, "requirements.requirement-approved", stream, **data, criteria=[{"key": "C1", "metric": "approved-metric"}]),
    ]  # fmt: skip
    shown = section(render(pack(events)), "requirements", "metrics")
    assert "approved-metric" in shown
    assert "drafted-metric" not in shown


def test_model_versions_are_drawn_on_one_scale_with_one_threshold() -> None:
    """Both versions of a slice stand below each other, and a better estimate lies further to the right."""
    rows = re.findall(r"<tr>.*?</tr>", section(render(pack_of(flights().events)), "metrics", "data"), re.DOTALL)
    drawn = [
        (re.findall(r"late (\d)", row), re.findall(r'<circle cx="([\d.]+)"', row), row)
        for row in rows
        if "<circle" in row
    ]
    recall = [(found[0], float(place[0]), row) for found, place, row in drawn if "recall" in row]
    assert [version for version, _, _ in recall] == ["1", "2"] * 4
    assert all(second[1] > first[1] for first, second in zip(recall[::2], recall[1::2], strict=True))
    assert len({re.findall(r'<line x1="([\d.]+)"', row)[0] for _, _, row in recall}) == 1
    assert sum("inconclusive</span>" in row for _, _, row in recall) == 1


@pytest.mark.parametrize("windows", [30, 1000])
def test_a_signal_is_marked_however_many_windows_there_are(windows: int) -> None:
    """Thinning leaves at most 400 points, hides no peak and moves no mark; only the feature that is named has a dot."""
    content = pack_of(flights(windows=windows).events)
    drift_windows = json.loads(content)["drift_windows"]["PLAN-1"]
    shown = section(render(content), "drift", "changes")
    charts = re.findall(r"<figure>.*?</figure>", shown, re.DOTALL)
    paths = [re.findall(r'<path d="([^"]*)" class="series"', chart)[0] for chart in charts]
    assert [chart.count('class="signal"') for chart in charts] == [1, 1, 1, 1]
    assert ["<circle" in chart for chart in charts] == ["<strong>departure hour" in chart for chart in charts]
    assert all(min(windows, 300) <= len(re.findall(r"[\d.]+,[\d.]+", path)) <= min(windows, 400) for path in paths)
    highest = max(window["features"][0]["psi_debiased"] for window in drift_windows)
    top = float(re.findall(r'text-anchor="end">([\d.]+)<', charts[0])[0])
    drawn = min(float(height) for height in re.findall(r",([\d.]+)", paths[0]))
    assert drawn == pytest.approx(84 - highest / top * 76, abs=0.06)


def test_environments_are_drawn_apart() -> None:
    """A plan that watches two environments has a chart for each."""
    stream, features = "monitoring-plan:loans/PLAN-1", [{"name": "age", "psi": 0.1}]
    events = [
        event(number, "drift.drift-window-closed", stream, plan="PLAN-1", environment=place, features=features,
              end=f"2026-01-0{number}T00:00:00Z")
        for number, place in enumerate(("test", "production", "test"), start=1)
    ]  # fmt: skip
    text = words(render(pack(events)))
    assert "PLAN-1 in test 2 windows" in text
    assert "PLAN-1 in production 1 window," in text


def test_causes_lead_to_their_events_and_windows_stand_in_one_line() -> None:
    """Every link inside the page has its target."""
    page = render(pack_of(flights().events))
    targets = set(re.findall(r' id="([^"]+)"', page))
    assert {address.removeprefix("#") for address in read(page).addresses} <= targets
    history = section(page, "history", "signatures")
    assert history.count("drift window closed") == 1
    assert "(30 of them)" in history
    deployed = next(
        row for row in re.findall(r"<tr .*?</tr>", history, re.DOTALL) if "release deployed" in row and "#event-" in row
    )
    assert "change request submitted" in section(
        page, f"event-{re.findall(r'#event-([0-9]+)', deployed)[0]}", "signatures"
    )


def test_forgetting_a_person_takes_the_name_and_leaves_the_signature() -> None:
    """Everything else in the table of signatures is as before."""
    events = flights().events
    everybody = {
        COMMITMENTS[subject]: {"subject": subject, "salt": f"salt-{subject}", "name": name}
        for subject, name in NAMES.items()
    }
    before = section(render(pack_of(events, people=everybody)), "signatures", "controls").partition("<h3>")[0]
    after = section(render(pack_of(events)), "signatures", "controls").partition("<h3>")[0]
    assert NAMES[FORGOTTEN_SUBJECT] in before
    assert before.replace(NAMES[FORGOTTEN_SUBJECT], FORGOTTEN) == after


def test_a_waiver_that_expired_says_so() -> None:
    """Its date is compared with the moment of the pack, not with a clock."""
    content = pack_of(flights().events)
    assert ">granted<" in section(render(content), "waivers", "drift")
    assert ">expired<" in section(render(altered(content, as_of="2015-01-01T00:00:00Z")), "waivers", "drift")


def test_the_check_that_the_page_prints_finds_an_altered_event(tmp_path: Path) -> None:
    """An auditor needs Python and the JSON file, nothing of ours."""
    content = pack_of(flights().events)
    program = html.unescape(re.findall(r'<pre id="check">(.*?)</pre>', render(content), re.DOTALL)[0])
    count = len(json.loads(content)["events"])
    for number, (name, wrong) in enumerate({"Find late flights": 0, "Find all flights": 3}.items()):
        path = tmp_path / f"pack-{number}.json"
        path.write_bytes(content.replace(b"Find late flights", name.encode()))
        run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines() == [digest_of(path.read_bytes()), f"{count} events, {wrong} wrong"]


def test_the_page_says_what_does_not_agree() -> None:
    """An altered event, a missing one and a false name are seen when the page is made."""
    content = pack_of(flights().events)
    sound = section(render(content), "integrity", "check")
    assert "disagree" not in sound
    assert "broken in" not in sound
    assert "3 of 3 printed names" in sound
    events = json.loads(content)["events"]
    events[0]["event"] = events[0]["event"].replace("Warns", "Tells")
    del events[40]
    people = {commitment: {**person, "name": "Eve"} for commitment, person in json.loads(content)["people"].items()}
    unsound = section(render(altered(content, events=events, people=people)), "integrity", "check")
    assert "1 disagree" in unsound
    assert unsound.count("broken in 1 place<") == 2
    assert "0 of 3 printed names" in unsound


@pytest.mark.parametrize("missing", sorted(json.loads(pack_of(flights(windows=2).events))))
def test_a_pack_without_one_of_its_fields_still_has_a_page(missing: str) -> None:
    """What is absent is shown as absent."""
    assert "Integrity" in words(render(altered(pack_of(flights(windows=2).events), **{missing: None})))


def test_tables_and_drawings_can_be_read_aloud() -> None:
    """Each heading of a table has a scope, each drawing a title and a description."""
    page = render(pack_of(flights().events))
    assert [cell for cell in re.findall(r"<th\b[^>]*>", page) if "scope=" not in cell] == []
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) > 10
    assert all("<title>" in one and "<desc>" in one and 'role="img"' in one for one in drawings)
