"""The evidence pack as one self-contained HTML file: nothing is fetched, no script is needed, the same bytes give the same file.

A pack of an unfinished system, or one with fields that are missing, is shown as far as it goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Template
from markupsafe import Markup

from shared.directory import commit
from shared.event import digest_of, leaf_hash_of

FORGOTTEN = "(forgotten person)"
POINTS_MAX = 400
PLOT_WIDTH, PLOT_MARGIN = 240.0, 10.0
CHART_WIDTH, CHART_LEFT, CHART_TOP, CHART_BOTTOM = 300.0, 4.0, 8.0, 84.0
LISTS = ("matrix", "gaps", "timeline", "signatures", "controls", "events")
MAPPINGS = ("service_positions", "people", "roles", "records", "drift_windows")

Values = Mapping[str, Any]


def render(pack: bytes) -> str:
    """The page of a pack, from its JSON bytes as domain/evidence_pack.py makes them; msgspec.DecodeError if they are no JSON."""
    decoded = msgspec.json.decode(pack, type=dict[str, Any])
    empty: dict[str, Any] = {**{name: [] for name in LISTS}, **{name: {} for name in MAPPINGS}}
    content = {**empty, **{name: value for name, value in decoded.items() if value is not None}}
    release = _release(content)
    return _template().render(
        pack=content,
        pack_digest=digest_of(pack),
        system=_fields(next(iter(_records(content, "ai-system")), {})),
        release=release,
        summary=_summary(content, release),
        records={kind: _told(content, kind) for kind in content["records"]},
        requirements=[_requirement(record) for record in _records(content, "requirement")],
        measured=_measured(content, release),
        charts=_charts(content),
        signatures=[_named(content, one, one.get("signer")) for one in content["signatures"]],
        timeline=_timeline(content),
        roles=_roles(content),
        checks=_checks(content),
        names=_names(content),
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        short=_short, shown=_shown, moment=_moment, number=_decimal, whole=_whole, words=_words, lapsed=_lapsed
    )
    return environment.get_template("evidence_pack.html.jinja")


# What the page says of the records.


def _records(content: Values, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = content["records"].get(kind) or []
    return found


def _fields(record: Values) -> dict[str, Any]:
    return record.get("fields") or {}


def _last_position(record: Values, *names: str) -> int:
    """The ledger position of the record's last event of these names, or of any; 0 without one."""
    events = record.get("events") or ()
    return max((event["ledger_position"] for event in events if not names or event["name"] in names), default=0)


def _release(content: Values) -> dict[str, Any] | None:
    """The release that the pack is about; without one, the release that went out last and still is."""
    if content.get("release") is not None:
        return next((record for record in _records(content, "release") if record["key"] == content["release"]), None)
    out = [record for record in _records(content, "release") if record.get("status") == "released"]
    names = ("releases.release-deployed", "releases.release-adopted")
    return max(out, key=lambda record: _last_position(record, *names), default=None)


def _summary(content: Values, release: Values | None) -> dict[str, int]:
    in_force = [row for row in content["matrix"] if row.get("revision_in_force") is not None]
    digest = _fields(release or {}).get("model_digest")
    covered = [row for row in in_force if any(c["counts"] and c["model_digest"] == digest for c in row["cells"])]
    signers = {(signature.get("signer") or {}).get("subject") for signature in content["signatures"]}
    return {
        "in_force": len(in_force),
        "covered": len(covered),
        "gaps": len(content["gaps"]),
        "signatures": len(content["signatures"]),
        "signers": len(signers),
        "signals": len(_records(content, "drift-signal")),
        "windows": sum(len(windows) for windows in content["drift_windows"].values()),
        "events": len(content["events"]),
    }


def _requirement(record: Values) -> dict[str, Any]:
    """The revision in force, else the latest one; its criteria are those that were approved, if any were."""
    revisions: Values = record.get("revisions") or {}
    approved = [data for data in revisions.values() if data.get("status") == "approved"]
    latest = revisions[max(revisions, key=int)] if revisions else {}
    data = approved[0] if approved else latest
    drafted = data.get("content") or {}
    return {
        **drafted,
        "key": record["key"],
        "title": data.get("title") or drafted.get("title"),
        "status": "retired" if record.get("status") == "retired" else data.get("status"),
        "in_force": bool(approved) and record.get("status") != "retired",
        "revision": data.get("revision"),
        "pending": latest.get("revision") if approved and latest is not data else None,
        "criteria": data.get("criteria") or drafted.get("criteria") or [],
    }


def _told(content: Values, kind: str) -> list[dict[str, Any]]:
    """Records of a kind with their history: what happened, when, by whom and why."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in content["timeline"]:
        if str(line.get("record")).partition(":")[0] == kind:
            lines.setdefault(line["record"], []).append(_named(content, line, line.get("actor")))
    return [
        {**record, "fields": _fields(record), "steps": lines.get(record["stream"], [])}
        for record in _records(content, kind)
    ]


def _timeline(content: Values) -> list[dict[str, Any]]:
    """All events in order of arrival, causes by ledger position; windows that closed one after another are one line."""
    position_of = {msgspec.json.decode(one["event"]).get("id"): one["ledger_position"] for one in content["events"]}
    anchor_of: dict[int, int] = {}
    lines = []
    for (windows, _), group in groupby(content["timeline"], key=_run_of):
        several = list(group)
        for chunk in [several] if windows else [[line] for line in several]:
            anchor_of.update({line["ledger_position"]: chunk[0]["ledger_position"] for line in chunk})
            cause = position_of.get(chunk[0].get("causation"))
            lines.append(
                {
                    **_named(content, chunk[0], chunk[0].get("actor")),
                    "count": len(chunk),
                    "last": chunk[-1],
                    "cause": cause,
                }
            )
    return [{**line, "cause_anchor": anchor_of.get(line["cause"], line["cause"])} for line in lines]


def _run_of(line: Values) -> tuple[bool, Any]:
    windows = line.get("name") == "drift.drift-window-closed"
    return windows, line.get("record") if windows else None


def _named(content: Values, value: Values, actor: Values | None) -> dict[str, Any]:
    return {**value, "printed_name": _printed(content, actor or {}), "subject": (actor or {}).get("subject")}


def _printed(content: Values, actor: Values) -> str:
    person = content["people"].get(actor.get("name_commitment") or "")
    if person is not None:
        return str(person["name"])
    return FORGOTTEN if actor.get("kind") == "person" else str(actor.get("subject") or "–")


def _names(content: Values) -> dict[str, str]:
    return {person["subject"]: person["name"] for person in content["people"].values()}


def _roles(content: Values) -> list[tuple[str, str]]:
    names = _names(content)
    return sorted((names.get(subject, subject), ", ".join(roles)) for subject, roles in content["roles"].items())


def _checks(content: Values) -> dict[str, Any]:
    """What can be recomputed from this file alone: leaf hashes and chains by service, and printed names."""
    services: dict[str, dict[str, int]] = {
        service: {"events": 0, "hashes": 0, "links": 0, "position": position}
        for service, position in sorted(content["service_positions"].items())
    }
    last: dict[str, str] = {}
    for one in content["events"]:
        event, leaf = msgspec.json.decode(one["event"]), leaf_hash_of(one["event"].encode())
        found = services.setdefault(one["service"], {"events": 0, "hashes": 0, "links": 0, "position": 0})
        found["events"] += 1
        found["hashes"] += leaf == one["leaf_hash"]
        found["links"] += event.get("system_previous") == last.get(one["service"])
        last[one["service"]] = leaf
    names = sum(commit(salt=one["salt"], name=one["name"]) == key for key, one in content["people"].items())
    return {"services": services, "names": names, "people": len(content["people"])}


# Verdicts, drawn on one scale for each requirement and metric, so that slices and model versions can be compared.


def _measured(content: Values, release: Values | None) -> list[dict[str, Any]]:
    registered = {
        _fields(r).get("digest"): _last_position(r, "releases.model-version-registered")
        for r in _records(content, "model-version")
    }
    only = _fields(release or {}).get("model_digest") if content.get("release") is not None else None
    shown = [r for r in _records(content, "verification") if only is None or _fields(r).get("model_digest") == only]
    shown.sort(
        key=lambda r: (str(_fields(r).get("requirement")), registered.get(_fields(r).get("model_digest"), 0), r["key"])
    )
    return [
        {"requirement": requirement, "verifications": (several := list(group)), "metrics": _metrics(several)}
        for requirement, group in groupby(shown, key=lambda record: str(_fields(record).get("requirement")))
    ]


def _metrics(verifications: Sequence[Values]) -> list[dict[str, Any]]:
    rows = [
        {**_fields(record), **verdict, "verification": record["key"], "status": record.get("status")}
        for record in verifications
        for verdict in _fields(record).get("verdicts") or ()
    ]
    rows.sort(key=lambda row: (str(row.get("metric")), row.get("slice") != "overall", str(row.get("slice"))))
    return [_metric(name, list(group)) for name, group in groupby(rows, key=lambda row: str(row.get("metric")))]


def _metric(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    drawn = [row for row in rows if _finite(row.get("value")) and _finite(row.get("threshold"))]
    numbers = [row[part] for row in drawn for part in ("value", "bound", "threshold") if _finite(row.get(part))]
    ticks = _ticks(min(numbers), max(numbers)) if numbers else []
    low, high = (ticks[0], ticks[-1]) if ticks else (0.0, 1.0)

    def at(number: float) -> float:
        return round(PLOT_MARGIN + (number - low) / (high - low) * (PLOT_WIDTH - 2 * PLOT_MARGIN), 1)

    for row in drawn:
        row["plot"] = {part: at(row[part]) for part in ("value", "bound", "threshold") if _finite(row.get(part))}
    slices = [{"slice": part, "rows": list(group)} for part, group in groupby(rows, key=lambda row: row.get("slice"))]
    return {"metric": name, "slices": slices, "ticks": [(at(tick), f"{tick:.6g}") for tick in ticks]}


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers around the range."""
    room = (high - low) or abs(high) * 0.1 or 1.0
    power: float = 10.0 ** math.floor(math.log10(room / 2))
    step = next(factor * power for factor in (1, 2, 5, 10) if room / (factor * power) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# What production did: for each plan and environment a small chart of each watched feature.


def _charts(content: Values) -> list[dict[str, Any]]:
    closed = [(plan, window) for plan, windows in sorted(content["drift_windows"].items()) for window in windows]
    closed.sort(key=lambda one: (one[0], str(one[1].get("environment") or "")))
    signals = [_fields(record) for record in _records(content, "drift-signal")]
    charts = []
    for (plan, place), group in groupby(closed, key=lambda one: (one[0], str(one[1].get("environment") or ""))):
        windows = sorted((window for _, window in group), key=lambda window: str(window.get("end")))
        raised = [s for s in signals if s.get("plan") == plan and str(s.get("environment") or place) == place]
        names = sorted({feature["name"] for window in windows for feature in window.get("features") or ()})
        features = [_feature(windows, name, raised) for name in names]
        features.sort(key=lambda one: (-one["highest"], one["name"]))
        charts.append({"plan": plan, "environment": place, "windows": windows, "features": features, "signals": raised})
    return charts


def _feature(windows: Sequence[Values], name: str, signals: Sequence[Values]) -> dict[str, Any]:
    points = [_point(window, name, number) for number, window in enumerate(windows)]
    shown = _worst_of(points)
    marked = [str(signal.get("window_end")) for signal in signals]
    named = {str(s.get("window_end")) for s in signals if name in {f.get("name") for f in s.get("features") or ()}}
    values = [p[part] for p in points for part in ("psi", "debiased", "tolerance") if p[part] is not None]
    top = _ticks(0.0, max([*values, 0.01]))[-1]
    span = (points[0]["at"], points[-1]["at"])

    def x(point: Values) -> float:
        share: float = (point["at"] - span[0]) / ((span[1] - span[0]) or 1.0)
        return round(CHART_LEFT + share * (CHART_WIDTH - 2 * CHART_LEFT), 1)

    def y(value: float) -> float:
        return round(CHART_BOTTOM - max(0.0, value) / top * (CHART_BOTTOM - CHART_TOP), 1)

    def path(part: str) -> str:
        lines = (list(group) for known, group in groupby(shown, key=lambda p: p[part] is not None) if known)
        return " ".join("M" + " L".join(f"{x(p)},{y(p[part])}" for p in line) for line in lines)

    return {
        "name": name,
        "top": top,
        "paths": {part: path(part) for part in ("tolerance", "psi", "debiased")},
        "highest": max((p["debiased"] for p in points if p["debiased"] is not None), default=0.0),
        "tolerance": next((p["tolerance"] for p in reversed(points) if p["tolerance"] is not None), None),
        "beyond": sum(1 for p in points if p["outcome"] == "beyond tolerance"),
        "sampled": len(shown) < len(points),
        "marks": [
            {"x": x(p), "y": y(p["debiased"] or 0.0), "end": p["end"], "named": p["end"] in named}
            for p in points
            if p["end"] in marked
        ],
    }


def _point(window: Values, name: str, number: int) -> dict[str, Any]:
    found: Values = next((one for one in window.get("features") or () if one["name"] == name), {})
    psi, debiased, tolerance = (
        found.get(part) if _finite(found.get(part)) else None for part in ("psi", "psi_debiased", "tolerance")
    )
    end = _instant(window.get("end"))
    return {
        "end": str(window.get("end")),
        "at": end.timestamp() if end else float(number),
        "psi": psi,
        "debiased": psi if debiased is None else debiased,
        "tolerance": tolerance,
        "outcome": found.get("outcome"),
    }


def _worst_of(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most POINTS_MAX points: of each run of neighbours the highest, so that thinning hides no peak."""
    size = -(-len(points) // POINTS_MAX)
    runs = (points[first : first + size] for first in range(0, len(points), size))
    return [max(run, key=lambda p: -1.0 if p["debiased"] is None else p["debiased"]) for run in runs]


# How values are written.


def _short(text: Any) -> Markup:
    """A long digest by its first characters; the whole of it can be seen and copied."""
    whole = str(text)
    if len(whole) < 40 or not all(character in "0123456789abcdef" for character in whole):
        return Markup("{}").format(whole)
    return Markup('<code class="digest" title="{}">{}<span>{}</span></code>').format(whole, whole[:12], whole[12:])


def _shown(value: Any) -> Any:
    """A field's value for a table: words for truth and absence, digests abbreviated."""
    if not value and value not in (0, False):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return f"{value:.4g}" if isinstance(value, float) else _short(value)


def _decimal(value: Any) -> str:
    """Four places: the points of a column stand below each other."""
    return f"{value:.4f}" if _finite(value) else "–"


def _whole(value: Any) -> str:
    return f"{value:,}" if _finite(value) else "–"


def _words(name: Any) -> str:
    """`drift.drift-signal-raised` as `drift signal raised`."""
    return str(name).rpartition(".")[2].replace("-", " ")


def _instant(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found


def _moment(text: Any) -> str:
    """`2026-01-31 12:00:00 UTC`; a text that is no time stays as it is."""
    found = _instant(text)
    return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if found else str(text or "–")


def _lapsed(text: Any, as_of: Any) -> bool:
    until, now = _instant(text), _instant(as_of)
    return until is not None and now is not None and until <= now
