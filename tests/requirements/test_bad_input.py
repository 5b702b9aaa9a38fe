"""Bad bodies: each is refused with field and rule, changes nothing and shows no insides."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.requirements.conftest import Scene
from tests.requirements.test_http_api import CRITERION, DATASET, REQUIREMENT

REQUIREMENTS = "/v1/systems/flight-delay/requirements"
DATASETS = "/v1/systems/flight-delay/datasets"
REVISE = f"{REQUIREMENTS}/REQ-1:revise-criterion"
GRANT = "/v1/systems/flight-delay:grant-role"
DRAFT = {**REQUIREMENT, "key": "REQ-9", "reason": "part of the test"}
LAST_CRITERION = {**CRITERION, "key": "C9"}


def draft(**changes: Any) -> dict[str, Any]:
    """A draft that would be taken, but for the changes."""
    return {**DRAFT, **changes}


def draft_with(**changes: Any) -> dict[str, Any]:
    """A draft whose second criterion is changed."""
    return draft(criteria=[CRITERION, {**LAST_CRITERION, **changes}])


def dataset(**changes: Any) -> dict[str, Any]:
    """A dataset that would be taken, but for the changes."""
    return {**DATASET, "version": "may", "reason": "part of the test", **changes}


def grant(**changes: Any) -> dict[str, Any]:
    """A grant that would be taken, but for the changes."""
    return {"reason": "part of the test", "subject": "person-9", "role": "author", **changes}


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    """The body without the field."""
    return {name: value for name, value in body.items() if name != field}


NAN, INFINITY = float("nan"), float("inf")
UNKNOWN_FIELDS = [
    (REQUIREMENTS, draft(colour="red"), "/colour"),
    (REQUIREMENTS, draft_with(colour="red"), "/criteria/1/colour"),
    (REQUIREMENTS, draft(**{"a/b~c": 1}), "/a~1b~0c"),
    (REQUIREMENTS, draft(**{"": 1}), "/"),
    (REQUIREMENTS, draft(**{"x" * 50_000: 1}), "/" + "x" * 99 + "…"),
    (REQUIREMENTS, draft(**{"\ud800": 1}), "body"),
    (REQUIREMENTS, draft(author="person-somebody-else"), "/author"),
    (REQUIREMENTS, draft(**{f"f{number}": 1 for number in range(5000)}), "/f0"),
]
MISSING_FIELDS = [
    (REQUIREMENTS, without(DRAFT, "title"), "/title"),
    (REQUIREMENTS, without(DRAFT, "reason"), "/reason"),
    (REQUIREMENTS, draft(criteria=[without(CRITERION, "threshold")]), "/criteria/0/threshold"),
    (DATASETS, without(dataset(), "digest"), "/digest"),
]
WRONG_TYPES = [
    (REQUIREMENTS, draft(title=5), "/title"),
    (REQUIREMENTS, draft(title=None), "/title"),
    (REQUIREMENTS, draft(controls="A.6.2.4"), "/controls"),
    (REQUIREMENTS, draft(criteria={"0": CRITERION}), "/criteria"),
    (REQUIREMENTS, draft(criteria=[[]]), "/criteria/0"),
    (REQUIREMENTS, draft_with(threshold="0.7"), "/criteria/1/threshold"),
    (REQUIREMENTS, draft_with(threshold=True), "/criteria/1/threshold"),
    (REQUIREMENTS, draft_with(minimum_sample_size=1.5), "/criteria/1/minimum_sample_size"),
    (REQUIREMENTS, draft_with(minimum_sample_size=True), "/criteria/1/minimum_sample_size"),
    (DATASETS, dataset(sequestered="yes"), "/sequestered"),
    (DATASETS, dataset(rows="1000"), "/rows"),
    (REQUIREMENTS, draft(classification="cosmetic"), "/classification"),
    (GRANT, grant(role="administrator"), "/role"),
    (GRANT, grant(role="signer"), "/role"),
]
NOT_FINITE = [
    (REQUIREMENTS, draft_with(threshold=NAN), "/criteria/1/threshold"),
    (REQUIREMENTS, draft_with(threshold=INFINITY), "/criteria/1/threshold"),
    (REQUIREMENTS, draft_with(threshold=-INFINITY), "/criteria/1/threshold"),
    (REQUIREMENTS, draft_with(level=NAN), "/criteria/1/level"),
    (REQUIREMENTS, draft_with(minimum_sample_size=NAN), "/criteria/1/minimum_sample_size"),
    (REQUIREMENTS, draft_with(minimum_sample_size=INFINITY), "/criteria/1/minimum_sample_size"),
    (DATASETS, dataset(rows=NAN), "/rows"),
]
ABSURD_SIZES = [
    (REQUIREMENTS, draft_with(threshold=10**30), "/criteria/1/threshold"),
    (REQUIREMENTS, draft_with(minimum_sample_size=10**30), "/criteria/1/minimum_sample_size"),
    (REQUIREMENTS, draft_with(minimum_sample_size=1e300), "/criteria/1/minimum_sample_size"),
    (REQUIREMENTS, draft_with(minimum_sample_size=-(10**30)), "/criteria/1/minimum_sample_size"),
    (DATASETS, dataset(rows=10**30), "/rows"),
    (DATASETS, dataset(columns=["x"] * 5001), "/columns"),
    (DATASETS, dataset(columns=[]), "/columns"),
    (REQUIREMENTS, draft(criteria=[{}] * 10_000), "/criteria"),
    (REQUIREMENTS, draft(title="x" * 201), "/title"),
    (REQUIREMENTS, draft(title=""), "/title"),
    (REQUIREMENTS, draft(statement="x" * 4001), "/statement"),
    (REQUIREMENTS, draft(reason="no"), "/reason"),
    (REQUIREMENTS, draft(reason="x" * 2001), "/reason"),
    (GRANT, grant(subject="x" * 256), "/subject"),
]
WRONG_TEXTS = [
    (REQUIREMENTS, draft(key="REQ 1"), "/key"),
    (REQUIREMENTS, draft(key="../REQ-1"), "/key"),
    (REQUIREMENTS, draft(key="REQ-1\n"), "/key"),
    (REQUIREMENTS, draft(key="REQ-é"), "/key"),
    (REQUIREMENTS, draft(key="R" * 64), "/key"),
    (REQUIREMENTS, draft(key=""), "/key"),
    (REQUIREMENTS, draft(title="Finds\x00 late flights"), "/title"),
    (REQUIREMENTS, draft(statement="\x1b[2JRecall"), "/statement"),
    (REQUIREMENTS, draft(reason="be\x07cause"), "/reason"),
    (REQUIREMENTS, draft(title="\ud800 late"), "/title"),
    (REQUIREMENTS, draft(controls=["\udfff"]), "/controls/0"),
    (REQUIREMENTS, draft_with(slice="carrier=\x00"), "/criteria/1/slice"),
    (REQUIREMENTS, draft_with(slice="carrier=\ud800"), "/criteria/1/slice"),
    (REQUIREMENTS, draft_with(key="\ud800"), "/criteria/1/key"),
    (DATASETS, dataset(columns=["late", "car\x01rier"]), "/columns/1"),
    (DATASETS, dataset(digest="A" * 64), "/digest"),
    (DATASETS, dataset(digest="a" * 63), "/digest"),
    (GRANT, grant(subject="ada@example.org"), "/subject"),
    (GRANT, grant(subject="per son"), "/subject"),
    ("/v1/systems", {"reason": "why not", "key": "Flight", "name": "x", "intended_use": "x", "risk_class": "high"}, "/key"),
    ("/v1/systems", {"reason": "why not", "key": "flight", "name": "x", "intended_use": "x", "risk_class": "huge"}, "/risk_class"),
]  # fmt: skip
NO_OBJECTS: list[tuple[str, Any, str]] = [
    (REQUIREMENTS, None, "body"),
    (REQUIREMENTS, [], "body"),
    (REQUIREMENTS, "text", "body"),
    (REQUIREMENTS, 5, "body"),
    (REQUIREMENTS, True, "body"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        *UNKNOWN_FIELDS, *MISSING_FIELDS, *WRONG_TYPES, *NOT_FINITE, *ABSURD_SIZES, *WRONG_TEXTS, *NO_OBJECTS,
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)  # fmt: skip
async def test_a_body_that_breaks_a_rule_of_form(scene: Scene, path: str, body: Any, field: str) -> None:
    """422 with a JSON pointer to the field; NaN and Infinity as Python and JavaScript programs write them."""
    await scene.refused(
        "POST", path, content=json.dumps(body), status=422, reason="invalid-request", field=field, headers=JSON
    )


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metric": "vibes"}, "metric"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": -0.5}, "threshold"),
        ({"slice": "carrier"}, "slice"),
        ({"level": None}, "level"),
        ({"decision_rule": "point"}, "level"),
        ({"key": "C1"}, "key"),
        ({"dataset_version": "never-registered"}, "dataset"),
        ({"dataset_version": "train"}, "dataset"),
        ({"dataset_version": "old"}, "dataset"),
    ],
)
async def test_a_criterion_that_breaks_a_rule_of_the_domain(scene: Scene, changes: dict[str, Any], field: str) -> None:
    """An unknown metric, a threshold out of reach, a dataset that is not there, trains the model or was withdrawn."""
    await scene.refused(
        "POST", REQUIREMENTS, json=draft_with(**changes), status=422, reason="invalid-criterion", field=f"/criteria/1/{field}"
    )  # fmt: skip
    if field != "key":
        body = {"reason": "part of the test", "criterion": {**LAST_CRITERION, **changes}}
        await scene.refused(
            "POST", REVISE, json=body, headers={"If-Match": '"1"'}, status=422, reason="invalid-criterion",
            field=f"/criterion/{field}",
        )  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b'{"key":', b"{'key': 1}", b'{"key": 1,}', b"nul", b"\xff", b'{"key": "\xff"}', b'{"key": "a\nb"}',
        b"[" * 400_000, b'{"threshold": ' + b"9" * 5000 + b"}", b"\x00", b'{"a": 1} {"b": 2}', b'"\\ud8"', b"\xff\xfe{\x00",
    ],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
async def test_a_body_that_cannot_be_read(scene: Scene, content: bytes) -> None:
    """Cut short, doubled, not UTF-8, nested without end: 400 that says what to send, or 422 if there is no body."""
    status, reason = (422, "invalid-request") if not content else (400, "unreadable-request")
    await scene.refused("POST", REQUIREMENTS, content=content, headers=JSON, status=status, reason=reason, field="body")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", None])
async def test_a_body_of_another_content_type(scene: Scene, kind: str | None) -> None:
    """Nothing is guessed: JSON must be called JSON."""
    headers = {"Content-Type": kind} if kind else {}
    content = json.dumps(DRAFT).encode()
    _, problem = await scene.refused(
        "POST", REQUIREMENTS, content=content, headers=headers, status=422, reason="invalid-request", field="body"
    )
    assert "JSON" in problem["errors"][0]["rule"]


async def test_a_body_larger_than_the_limit_that_says_so(scene: Scene) -> None:
    """Refused by its Content-Length, before it is read."""
    content = json.dumps(draft(criteria=[{**CRITERION, "key": f"C{number}"} for number in range(10_000)]))
    assert len(content) > 1 << 20
    await scene.refused(
        "POST", REQUIREMENTS, content=content, headers=JSON, status=413, reason="body-too-large", field="body"
    )


async def test_a_body_larger_than_the_limit_that_does_not_say_so(scene: Scene) -> None:
    """Refused while it is being read: chunks have no Content-Length."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    await scene.refused(
        "POST", REQUIREMENTS, content=chunks(), headers=JSON, status=413, reason="body-too-large", field="body"
    )


@pytest.mark.parametrize("path", ["/v1/systems/artefacts/requirements", "/v1/systems/x/requirements/artefacts/x"])
async def test_only_the_addresses_of_files_take_large_bodies(scene: Scene, path: str) -> None:
    """A record that is called after them does not raise the limit."""
    await scene.refused(
        "POST", path, content=b" " * (2 << 20), headers=JSON, status=413, reason="body-too-large", field="body"
    )
