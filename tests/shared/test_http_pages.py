"""The pages open only for somebody who was signed in by the link, and show nothing to anybody else."""

from __future__ import annotations

from shared.http_pages import COOKIE
from tests.house import TestHouse, problem_of
from tests.requirements.test_http_api import in_review, staffed


async def test_without_a_token_the_pages_do_not_answer(house: TestHouse) -> None:
    """Neither the page nor its files, and a link with a foreign token sets no cookie."""
    for path in ("/pages", "/pages/pages.js", "/pages/pages.css", "/v1/info"):
        assert problem_of(await house.http.get(path))["status"] == 401
    answer = await house.http.get("/pages/enter", params={"token": "made.up.token"})
    assert problem_of(answer)["status"] == 401
    assert COOKIE not in answer.cookies


async def test_the_link_signs_in_and_the_cookie_serves_the_same_api(house: TestHouse) -> None:
    """The cookie is out of reach of scripts and of other sites."""
    _, author, approver = await staffed(house)
    await in_review(author)
    answer = await house.http.get("/pages/enter", params={"token": approver.token})
    assert answer.status_code == 303
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    page = await house.http.get("/pages")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    waiting = (await house.http.get("/v1/requirements/awaiting-signature", params={"after": "requirements:6"})).json()
    assert [item["record"] for item in waiting["items"]] == ["requirement:flight-delay/REQ-1"]
    assert "requirements" in (await house.http.get("/v1/info")).json()["signing"]


async def test_only_health_the_api_document_the_keys_and_the_witness_answer_without_a_token(house: TestHouse) -> None:
    """Deny by default: every other route of the application asks who is there. A witness asks for the signature of a log."""
    open_paths = set()
    for path, verbs in house.house.app.openapi()["paths"].items():
        for verb in verbs:
            concrete = path.replace("{system}", "flight-delay").replace("{", "").replace("}", "")
            answer = await house.http.request(verb.upper(), concrete, json={} if verb != "get" else None)
            if answer.status_code != 401:
                open_paths.add(path)
    assert open_paths == {"/healthz", "/readyz", "/issuer/jwks", "/add-checkpoint"}
