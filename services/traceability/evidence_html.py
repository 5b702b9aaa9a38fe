"""The evidence pack as one self-contained HTML file: nothing is fetched, no script is needed, the same bytes give the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from shared.event import digest_of

from .charts import drift_charts, interval

FORGOTTEN = "(forgotten person)"
GROUPS = (
    ("dataset", "Datasets", ("version", "purpose", "rows", "sequestered", "digest")),
    ("model-version", "Model versions", ("training_dataset", "training_dataset_version", "parent", "why", "digest")),
    ("change-request", "Change requests", ("cause", "classification", "baseline", "candidate", "impact_assessment")),
    ("change-plan", "Change plans", ("content",)),
    ("waiver", "Waivers", ("release", "requirement", "compensating_control", "expires_at")),
    ("nonconformity", "Nonconformities", ("record", "description")),
    ("drift-signal", "Drift signals", ("plan", "window_end", "triage_until", "to", "by_deadline", "change_request")),
    ("run", "Evaluation runs", ("version", "dataset", "dataset_version", "grade", "opened", "post_hoc", "seed")),
    ("test-case", "Test cases", ("title", "revision", "sample_size_rationale")),
)
"""Kinds of records that are shown as a table, with the fields that are its columns."""


def render(pack: bytes) -> str:
    """The page of a pack, from its JSON bytes as domain/evidence_pack.py makes them."""
    content = msgspec.json.decode(pack)
    return _template().render(
        pack=content,
        pack_digest=digest_of(pack),
        system=_system(content),
        release=_release(content),
        summary=_summary(content),
        groups=[group for group in (_group(content, *one) for one in GROUPS) if group["rows"]],
        requirements=[_requirement(record) for record in _records(content, "requirement")],
        verifications=_verifications(content),
        releases=_records(content, "release"),
        charts=drift_charts(content["drift_windows"], [r["fields"] for r in _records(content, "drift-signal")]),
        signatures=[_signature(content, signature) for signature in content["signatures"]],
        timeline=[_line(content, line) for line in content["timeline"]],
        roles=_roles(content),
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(short=_short, shown=_shown, moment=_moment)
    return environment.get_template("evidence_pack.html.jinja")


def _records(content: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = content["records"].get(kind, [])
    return found


def _system(content: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = next((record["fields"] for record in _records(content, "ai-system")), {})
    return {"key": content["system"], "name": fields.get("name", content["system"]), **fields}


def _release(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The release that the pack is about; without one, the release that is out."""
    releases = _records(content, "release")
    if content["release"] is not None:
        return next(record for record in releases if record["key"] == content["release"])
    out = [record for record in releases if record["status"] == "released"]
    return out[-1] if out else None


def _summary(content: Mapping[str, Any]) -> dict[str, int]:
    in_force = [row for row in content["matrix"] if row["revision_in_force"] is not None]
    release = _release(content)
    digest = release["fields"].get("model_digest") if release is not None else None
    covered = [row for row in in_force if any(c["counts"] and c["model_digest"] == digest for c in row["cells"])]
    return {
        "in_force": len(in_force),
        "covered": len(covered),
        "gaps": len(content["gaps"]),
        "signatures": len(content["signatures"]),
        "signers": len({signature["signer"]["subject"] for signature in content["signatures"]}),
        "releases": len(_records(content, "release")),
        "signals": len(_records(content, "drift-signal")),
        "windows": sum(len(windows) for windows in content["drift_windows"].values()),
        "events": len(content["events"]),
    }


def _group(content: Mapping[str, Any], kind: str, title: str, columns: Sequence[str]) -> dict[str, Any]:
    rows = [
        {"key": record["key"], "status": record["status"], "cells": [record["fields"].get(name) for name in columns]}
        for record in _records(content, kind)
    ]
    return {"title": title, "columns": [name.replace("_", " ") for name in columns], "rows": rows}


def _requirement(record: Mapping[str, Any]) -> dict[str, Any]:
    """The revision in force, else the latest one."""
    revisions = record["revisions"]
    approved = [data for data in revisions.values() if data.get("status") == "approved"]
    latest = revisions[max(revisions, key=int)] if revisions else {}
    data = approved[0] if approved else latest
    return {
        "key": record["key"],
        "status": data.get("status"),
        "revision": data.get("revision"),
        **data.get("content", {}),
    }


def _verifications(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    shown = []
    for record in _records(content, "verification"):
        fields = record["fields"]
        if content["release"] is not None and fields.get("model_digest") != _release_digest(content):
            continue
        verdicts = [{**verdict, "svg": Markup(interval(verdict))} for verdict in fields.get("verdicts", ())]
        shown.append({"key": record["key"], "status": record["status"], "fields": fields, "verdicts": verdicts})
    return sorted(shown, key=lambda one: (one["fields"].get("requirement", ""), one["key"]))


def _release_digest(content: Mapping[str, Any]) -> str | None:
    release = _release(content)
    return release["fields"].get("model_digest") if release is not None else None


def _signature(content: Mapping[str, Any], signature: Mapping[str, Any]) -> dict[str, Any]:
    return {**signature, "printed_name": _printed(content, signature["signer"])}


def _line(content: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    return {**line, "printed_name": _printed(content, line["actor"])}


def _printed(content: Mapping[str, Any], actor: Mapping[str, Any]) -> str:
    person = content["people"].get(actor.get("name_commitment") or "")
    if person is not None:
        return str(person["name"])
    return FORGOTTEN if actor.get("kind") == "person" else str(actor.get("subject"))


def _roles(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    names: dict[str, str] = {person["subject"]: person["name"] for person in content["people"].values()}
    return sorted((names.get(subject, subject), ", ".join(roles)) for subject, roles in content["roles"].items())


def _short(text: Any) -> Markup:
    """A long digest by its first characters; the whole of it can be seen and copied."""
    whole = str(text)
    if len(whole) < 40 or not all(character in "0123456789abcdef" for character in whole):
        return Markup("{}").format(whole)
    return Markup('<code class="digest" title="{}">{}<span>{}</span></code>').format(whole, whole[:12], whole[12:])


def _shown(value: Any) -> Any:
    """A field's value for a table: words for truth and absence, digests abbreviated."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return _short(value)


def _moment(text: Any) -> str:
    """`2026-01-31 12:00:00 UTC`."""
    return f"{str(text)[:10]} {str(text)[11:19]} UTC" if text else "–"
