"""Bad addresses, parameters, headers, tokens and moments: each is refused, changes nothing and shows no insides."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from services.composition import EMBEDDED_ISSUER
from services.server import uvicorn_serving
from shared.local_issuer import LocalIssuer
from shared.runtime import utc_now
from shared.settings import Settings
from tests.house import problem_of
from tests.requirements.conftest import INSIDES, Scene
from tests.requirements.test_bad_input import DRAFT, GRANT, JSON, LAST_CRITERION, REQUIREMENTS, REVISE
from tests.serving import free_port

SYSTEM = "/v1/systems/flight-delay"
REVISION = {"reason": "part of the test", "criterion": LAST_CRITERION}
REASON = {"reason": "part of the test"}
SIGNABLE = "/v1/requirements/signable"
SIGNATURES = "/v1/requirements/signatures"
RECORD = "requirement:flight-delay/REQ-1"
ZEROS = "0" * 64


def token_of(keys: Any) -> str:
    """A page token as we would make it, of keys that we would not."""
    return base64.urlsafe_b64encode(json.dumps(keys).encode()).decode().rstrip("=")


ADDRESSES = [
    ("/v1/systems/Flight/requirements", "system"),
    ("/v1/systems/flight%00delay/requirements", "system"),
    ("/v1/systems/flight-delay%0A/requirements", "system"),
    (f"{REQUIREMENTS}/REQ%00", "key"),
    (f"{REQUIREMENTS}/REQ%20-1", "key"),
    (f"{REQUIREMENTS}/{'R' * 64}", "key"),
    (f"{SYSTEM}/datasets/flights/%ED%A0%80", "version"),
]
PARAMETERS = [
    (REQUIREMENTS, {"page_size": "0"}, "page_size"),
    (REQUIREMENTS, {"page_size": "201"}, "page_size"),
    (REQUIREMENTS, {"page_size": "-1"}, "page_size"),
    (REQUIREMENTS, {"page_size": "ten"}, "page_size"),
    (REQUIREMENTS, {"page_size": "1.5"}, "page_size"),
    (REQUIREMENTS, {"page_size": "9" * 30}, "page_size"),
    (REQUIREMENTS, {"page_token": "x" * 501}, "page_token"),
    (REQUIREMENTS, {"after": "requirements:1," * 40}, "after"),
    ("/v1/requirements/events", {"from_position": "-1"}, "from_position"),
    ("/v1/requirements/events", {"from_position": "9" * 30}, "from_position"),
    (SIGNABLE, {}, "record"),
    (SIGNABLE, {"record": "x" * 301}, "record"),
    (SIGNABLE, {"record": "requirement:flight-delay/REQ\x00"}, "record"),
    (SIGNABLE, {"record": "requirement:flight\x00delay/REQ-1"}, "record"),
]
PAGE_TOKENS = [
    "%", "!!!!", "e30", "bnVsbA", "x", token_of([]), token_of([1]), token_of([None]), token_of([["REQ-1"]]), token_of(["a", "b"]),
    token_of(["REQ\x00"]), token_of(["\ud800"]), token_of({"0": "REQ-1"}), "gA", token_of(["REQ-1"])[:-2] + "é",
]  # fmt: skip
POSITIONS = [
    "requirements", "requirements:", ":1", "requirements:-1", "requirements:1.5", "requirements:one", "requirements:1;releases:2",
    "REQUIREMENTS:1", "requirements:" + "9" * 19, "requirements:\u0661", "requirements: 1", "\x00:1", "requirements:1\n:2",
]  # fmt: skip
WAITING: list[tuple[str, str, Any]] = [
    ("GET", REQUIREMENTS, None),
    ("POST", f"{REQUIREMENTS}/REQ-1:submit", REASON),
]
ETAGS = ["abc", '"abc"', '"1.0"', '"-1"', '"1", "2"', "0x1", '""', '"', "W/", '"²"', '"1"' + " " * 40]


@pytest.mark.parametrize(("path", "field"), ADDRESSES)
async def test_a_part_of_the_address_that_is_no_key(scene: Scene, path: str, field: str) -> None:
    """Keys are plain, whatever the percent signs hide."""
    await scene.refused("GET", path, status=422, reason="invalid-request", field=field)


@pytest.mark.parametrize(("path", "query", "field"), PARAMETERS)
async def test_a_parameter_out_of_bounds(scene: Scene, path: str, query: dict[str, str], field: str) -> None:
    """Each has a type and a limit."""
    await scene.refused("GET", path, params=query, status=422, reason="invalid-request", field=field)


@pytest.mark.parametrize("token", PAGE_TOKENS)
async def test_a_page_token_that_was_not_given_out(scene: Scene, token: str) -> None:
    """Not decodable, of another list, or with keys that no row has."""
    await scene.refused(
        "GET", REQUIREMENTS, params={"page_token": token}, status=422, reason="malformed-page-token", field="page_token"
    )


@pytest.mark.parametrize("after", POSITIONS)
async def test_a_position_that_was_not_given_out(scene: Scene, after: str) -> None:
    """Reads and commands say so instead of waiting for it."""
    query = {"after": after}
    for method, path, body in WAITING:
        await scene.refused(
            method, path, params=query, json=body, status=422, reason="malformed-position", field="after"
        )


async def test_a_position_that_never_comes(scene: Scene) -> None:
    """503 with Retry-After once the time is up, for reads and for commands."""
    query = {"after": "requirements:" + "9" * 18}
    for method, path, body in WAITING:
        answer, problem = await scene.refused(method, path, params=query, json=body, status=503, reason="not-there-yet")
        assert int(answer.headers["Retry-After"]) >= 1
        assert problem["next_step"]


@pytest.mark.parametrize("etag", ETAGS)
async def test_an_etag_that_is_none_of_ours(scene: Scene, etag: str) -> None:
    """A malformed If-Match never counts as not given."""
    reason = "invalid-request" if len(etag) > 40 else "malformed-if-match"
    await scene.refused(
        "POST", REVISE, json=REVISION, headers={"If-Match": etag.encode()}, status=422, reason=reason
    )  # fmt: skip


@pytest.mark.parametrize("etag", ['"2"', '"0"', 'W/"7"', '"' + "9" * 30 + '"'])
async def test_a_stale_etag(scene: Scene, etag: str) -> None:
    """Two people never overwrite each other unseen."""
    await scene.refused("POST", REVISE, json=REVISION, headers={"If-Match": etag}, status=412, reason="stale-version")


@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}])
async def test_replacing_content_needs_if_match(scene: Scene, headers: dict[str, str]) -> None:
    """428: any version is no version."""
    await scene.refused("POST", REVISE, json=REVISION, headers=headers, status=428, reason="if-match-required")
    changed = {**DRAFT, "key": "REQ-1", "title": "Other words"}
    await scene.refused("POST", REQUIREMENTS, json=changed, headers=headers, status=428, reason="if-match-required")


@pytest.mark.parametrize("key", ["", "k" * 201])
async def test_an_idempotency_key_out_of_bounds(scene: Scene, key: str) -> None:
    """A key has 1 to 200 characters."""
    headers = {"Idempotency-Key": key}
    await scene.refused(
        "POST", REVISE, json=REVISION, headers=headers, status=422, reason="invalid-request", field="idempotency-key"
    )


async def test_an_idempotency_key_used_for_another_request(scene: Scene) -> None:
    """Another body, another address, the same body spelt otherwise: one key names one request of one person."""
    headers = {"Idempotency-Key": "grant-1"}
    body = {**REASON, "subject": "person-9", "role": "author"}
    first = await scene.owner.post(GRANT, headers=headers, **body)
    assert await scene.owner.post(GRANT, headers=headers, **body) == first
    as_owner = {**headers, "Authorization": f"Bearer {scene.owner.token}", **JSON}
    for path, content in (
        (GRANT, json.dumps({**body, "role": "approver"})),
        (GRANT, json.dumps(body, indent=1)),
        ("/v1/systems/flight-delay:revoke-role", json.dumps(body)),
    ):
        await scene.refused(
            "POST", path, content=content, headers=as_owner, status=422, reason="idempotency-key-reused"
        )


def expired(scene: Scene, folder: Path) -> str:
    issuer = LocalIssuer.open(folder, issuer=EMBEDDED_ISSUER, clock=lambda: utc_now() - timedelta(hours=2))
    return issuer.mint(name="Ada Author", lifetime_s=60)


def of_another_issuer(scene: Scene, folder: Path) -> str:
    return LocalIssuer.open(folder, issuer="urn:another", clock=utc_now).mint(name="Ada Author")


def for_another_audience(scene: Scene, folder: Path) -> str:
    return LocalIssuer.open(folder, issuer=EMBEDDED_ISSUER, clock=utc_now).mint(name="Ada Author", audience="else")


def of_another_key(scene: Scene, folder: Path) -> str:
    return LocalIssuer.open(folder, issuer=EMBEDDED_ISSUER, clock=utc_now).mint(name="Ada Author")


def unsigned(scene: Scene, folder: Path) -> str:
    claims = jwt.decode(scene.author.token, options={"verify_signature": False})
    return jwt.encode(claims, "", algorithm="none", headers={"typ": "at+jwt"})


def altered(scene: Scene, folder: Path) -> str:
    header, claims, signature = scene.author.token.split(".")
    return ".".join((header, claims[:-4] + "AAAA", signature))


TOKENS: list[tuple[Callable[[Scene, Path], str], str]] = [
    (expired, "expired-token"),
    (of_another_issuer, "foreign-issuer"),
    (for_another_audience, "foreign-audience"),
    (of_another_key, "unknown-key"),
    (unsigned, "unsigned-token"),
    (altered, "bad-signature"),
    (lambda scene, folder: "made.up.token", "malformed-token"),
    (lambda scene, folder: "x" * 9000, "malformed-token"),
]


@pytest.mark.parametrize(("make", "reason"), TOKENS, ids=[reason for _, reason in TOKENS])
async def test_a_token_that_proves_nothing(
    scene: Scene, make: Callable[[Scene, Path], str], reason: str, tmp_path: Path
) -> None:
    """401 with a challenge, for reads and for commands, and no part of the token comes back."""
    folder = scene.house.house.runtime.settings.data / "issuer"
    token = make(scene, folder if reason != "unknown-key" else tmp_path / "issuer")
    for method, path, body in (("GET", REQUIREMENTS, None), ("POST", REQUIREMENTS, DRAFT)):
        answer, _ = await scene.refused(
            method, path, json=body, headers={"Authorization": f"Bearer {token}"}, status=401, reason=reason
        )
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert [part for part in token.split(".") if len(part) > 8 and part in answer.text] == []


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic QWRhOnNlY3JldA==", "Bearer a b"])
async def test_no_bearer_token_at_all(scene: Scene, authorization: str | None) -> None:
    """Deny by default."""
    headers = {"Authorization": authorization} if authorization is not None else {}
    before = await scene.heads()
    problem = problem_of(await scene.house.http.post(REQUIREMENTS, json=DRAFT, headers=headers))
    assert problem["status"] == 401
    assert await scene.heads() == before


async def test_a_role_too_small(scene: Scene) -> None:
    """An approver does not draft, an author does not approve, and neither grants."""
    as_approver = {"Authorization": f"Bearer {scene.approver.token}"}
    await scene.refused(
        "POST", REQUIREMENTS, json=DRAFT, headers=as_approver, status=403, reason="missing-role"
    )  # fmt: skip
    await scene.refused(
        "POST", f"{REQUIREMENTS}/REQ-1:approve", json={**REASON, "digest": ZEROS}, status=403, reason="missing-role"
    )
    grant = {**REASON, "subject": scene.author.subject, "role": "approver"}
    await scene.refused("POST", GRANT, json=grant, status=403, reason="only-owner-grants")
    use = {**REASON, "intended_use": "Anything.", "risk_class": "minimal"}
    await scene.refused("POST", f"{SYSTEM}:revise-intended-use", json=use, status=403, reason="only-owner-grants")


async def test_a_stranger_cannot_tell_a_system_from_none(scene: Scene) -> None:
    """The answer is the same, word for word, whether the AI system exists or not."""
    headers = {"Authorization": f"Bearer {scene.house.client('Sam Stranger').token}"}
    for verb, path, body in (
        ("GET", "/v1/systems/{}", None),
        ("GET", "/v1/systems/{}/requirements", None),
        ("POST", "/v1/systems/{}/requirements", DRAFT),
        ("POST", "/v1/systems/{}:grant-role", {**REASON, "subject": "person-9", "role": "author"}),
        ("POST", "/v1/systems/{}:revise-intended-use", {**REASON, "intended_use": "x", "risk_class": "high"}),
        ("GET", "/v1/requirements/signable?record=requirement:{}/REQ-1", None),
    ):
        told = []
        for system in ("flight-delay", "flight-delax"):
            _, problem = await scene.refused(
                verb, path.format(system), json=body, headers=headers, status=404, reason="ai-system-not-found"
            )
            del problem["trace_id"]
            told.append(json.dumps(problem).replace(system, "…"))
        assert told[0] == told[1]


async def test_only_persons_who_signed_in_a_moment_ago_sign(scene: Scene) -> None:
    """A service never signs, and a sign-in can be too old."""
    signing = {**REASON, "decision": "sign", "items": [{"record": RECORD, "digest": ZEROS, "meaning": "approval"}]}
    machine = scene.house.client("pipeline", kind="service")
    await scene.owner.post(GRANT, subject=machine.subject, role="approver")
    yesterday = scene.house.client("Ben Approver", auth_time=utc_now() - timedelta(days=1))
    for client, status, reason in ((machine, 403, "only-persons-sign"), (yesterday, 401, "sign-in-too-old")):
        headers = {"Authorization": f"Bearer {client.token}"}
        for path, body in ((SIGNATURES, signing), (f"{REQUIREMENTS}/REQ-1:approve", {**REASON, "digest": ZEROS})):
            await scene.refused("POST", path, json=body, headers=headers, status=status, reason=reason)


@pytest.mark.parametrize("verb", ["approve", "reject", "retire"])
async def test_an_illegal_transition(scene: Scene, verb: str) -> None:
    """A draft is neither approved nor rejected nor retired."""
    headers = {"Authorization": f"Bearer {scene.approver.token}"}
    body = {**REASON, "digest": ZEROS}
    await scene.refused(
        "POST", f"{REQUIREMENTS}/REQ-1:{verb}", json=body, headers=headers, status=409, reason="revision-not-in-state"
    )
    await scene.refused(
        "POST", f"{REQUIREMENTS}/REQ-404:{verb}", json=body, headers=headers, status=404, reason="requirement-missing"
    )


async def test_a_dataset_version_with_other_content(scene: Scene) -> None:
    """A version that was registered never changes."""
    body = {
        **REASON, "name": "flights", "version": "march", "digest": "b" * 64, "rows": 1, "columns": ["x"], "purpose": "test",
        "provenance": "x", "licence": "x", "sequestered": True, "personal_data": False,
    }  # fmt: skip
    await scene.refused("POST", f"{SYSTEM}/datasets", json=body, status=409, reason="dataset-exists")


SIGNED = {"record": RECORD, "digest": ZEROS, "meaning": "approval"}


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"record": "requirement:flight-delay/REQ\x00"}, "/items/0/record"),
        ({"record": "requirement:flight\ud800delay/REQ-1"}, "/items/0/record"),
        ({"record": ""}, "/items/0/record"),
        ({"digest": "Z" * 64}, "/items/0/digest"),
        ({"meaning": ""}, "/items/0/meaning"),
        ({"signer": "person-9"}, "/items/0/signer"),
    ],
)
async def test_a_signature_that_breaks_a_rule_of_form(scene: Scene, item: dict[str, Any], field: str) -> None:
    """What is signed is named exactly."""
    body = {**REASON, "decision": "sign", "items": [{**SIGNED, **item}]}
    headers = {"Authorization": f"Bearer {scene.approver.token}", **JSON}
    await scene.refused(
        "POST", SIGNATURES, content=json.dumps(body), headers=headers, status=422, reason="invalid-request", field=field
    )


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([{**SIGNED, "record": "dataset:flight-delay/flights@march"}], "record"),
        ([{**SIGNED, "record": "requirement:flight-delay:REQ-1"}], "record"),
        ([{**SIGNED, "meaning": "responsibility"}], "/items/0/meaning"),
        ([SIGNED, SIGNED], "/items/1/record"),
    ],
)
async def test_a_signature_for_something_else(scene: Scene, items: list[dict[str, Any]], field: str) -> None:
    """A record of another kind, a meaning that the signer was not shown, and the same record twice."""
    headers = {"Authorization": f"Bearer {scene.approver.token}"}
    body = {**REASON, "decision": "sign", "items": items}
    answer = await scene.house.http.post(SIGNATURES, json=body, headers=headers)
    await scene.refused(
        "POST", SIGNATURES, json=body, headers=headers, status=422, reason=answer.json()["reason"], field=field
    )


async def test_a_signature_that_leaves_out_what_it_signs(scene: Scene) -> None:
    """The list of all that was signed in one act holds at least this record."""
    headers = {"Authorization": f"Bearer {scene.approver.token}"}
    body = {**REASON, "digest": ZEROS, "covers": ["1" * 64]}
    await scene.refused(
        "POST", f"{REQUIREMENTS}/REQ-1:approve", json=body, headers=headers, status=422,
        reason="signature-leaves-out-its-record", field="/covers",
    )  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/v1", "/v2/systems", "/v1/systems/flight-delay/nonsense", f"{REQUIREMENTS}/REQ-1:bless"]
)
async def test_an_unknown_address(scene: Scene, path: str) -> None:
    """404 as a problem too."""
    await scene.refused("GET", path, status=404, reason="no-such-route")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/systems", "GET, POST"),
        ("PUT", REQUIREMENTS, "GET, POST"),
        ("PATCH", f"{REQUIREMENTS}/REQ-1", "GET"),
        ("GET", f"{REQUIREMENTS}/REQ-1:submit", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
async def test_a_method_that_the_address_does_not_take(scene: Scene, method: str, path: str, allowed: str) -> None:
    """405 with all methods of the address in Allow (RFC 9110, 15.5.6)."""
    answer, _ = await scene.refused(method, path, status=405, reason="method-not-allowed")
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize("cut", ["length", "chunks", "reset", "half"])
async def test_a_body_that_is_cut_off(scene: Scene, cut: str, tmp_path: Path) -> None:
    """The connection ends before the body does: nothing is stored, though what came is a whole command."""
    settings = Settings(data=tmp_path, port=free_port())
    body = json.dumps(DRAFT).encode()
    if cut == "half":
        body = body[: len(body) // 2]
    framing = b"Transfer-Encoding: chunked" if cut == "chunks" else b"Content-Length: %d" % (len(body) + 1)
    chunk = b"%x\r\n%s\r\n" % (len(body), body) if cut == "chunks" else body
    before = await scene.heads()
    async with uvicorn_serving(scene.house.house.app, settings):
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n%s\r\n\r\n%s"
            % (REQUIREMENTS.encode(), scene.author.token.encode(), framing, chunk)
        )
        await writer.drain()
        if cut == "reset":
            writer.transport.abort()
        else:
            writer.write_eof()
            told = (await asyncio.wait_for(reader.read(), 60)).decode()
            assert [word for word in INSIDES if word in told] == []
            assert not told.startswith("HTTP/1.1 2")
        writer.close()
    assert await scene.heads() == before
