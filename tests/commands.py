"""One command of each service that can be given under any number, and the events of other services that it stands on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.contracts.test_golden_events import GOLDEN
from tests.drift.traffic import PLAN
from tests.foreign import append_foreign

SYSTEM = "loans"
RECORDS = f"/v1/systems/{SYSTEM}"


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """A command: where it goes, the fields beside its key, and the positions that the service has to know of before."""

    path: str
    fields: dict[str, Any]
    after: str = ""

    def body(self, number: int) -> dict[str, Any]:
        """Each number is another record."""
        return {**self.fields, "key": f"k-{number}", "reason": "load"}


async def numbered_command(service: str, *, database_url: str, owner: str) -> Numbered:
    """The command of a service that runs alone, once what it stands on is in the stores of the others; `owner` may give it."""
    path, fields = _COMMANDS[service]
    if service == "requirements":
        return Numbered(path=path, fields=fields)
    registered = {"key": SYSTEM, "name": SYSTEM, "intended_use": "tests", "risk_class": "limited", "owner": owner}
    approved = {**_golden("requirements.requirement-approved.1"), "key": "REQ-1", "revision": 1}
    version = {"model": PLAN["model"], "version": PLAN["version"], "digest": PLAN["model_digest"]}
    positions = {}
    for source, name, stream, data in (
        ("requirements", "ai-system-registered", f"ai-system:{SYSTEM}", registered),
        ("requirements", "role-granted", f"ai-system:{SYSTEM}", {"subject": owner, "role": "author"}),
        ("requirements", "requirement-approved", f"requirement:{SYSTEM}/REQ-1", approved),
        ("releases", "model-version-registered", f"model-version:{SYSTEM}/delay@1", version),
    ):
        if source != service:
            positions[source] = await append_foreign(database_url, source, name, stream, **data)
    if service == "drift":
        fields = {**fields, "owner": owner}
    after = ",".join(f"{source}:{position}" for source, position in positions.items())
    return Numbered(path=path, fields=fields, after=after)


def _golden(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_bytes())["data"]
    return data


_COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "requirements": ("/v1/systems", {"name": "a system", "intended_use": "tests", "risk_class": "limited"}),
    "verification": (
        f"{RECORDS}/test-cases",
        {
            "title": "a test case", "procedure": "score all rows", "sample_size_rationale": "as many as there are",
            "requirements": [{"key": "REQ-1", "revision": 1}],
        },
    ),
    "releases": (f"{RECORDS}/change-requests", {"cause": "other", "impact_assessment": "none"}),
    "drift": (f"{RECORDS}/monitoring-plans", {name: value for name, value in PLAN.items() if name != "key"}),
    "traceability": (f"{RECORDS}/evidence-packs", {}),
}  # fmt: skip
