"""One person or service at the HTTP door: sends the token, passes positions on, so that nothing sleeps and hopes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from shared.positions import format_positions, parse_positions

ASK_AGAIN_MAX = 60
"""How often a request is sent again whose answer is that the facts it rests on are still on their way."""


class RequestFailed(Exception):
    """An answer that was not expected; the problem document is in `problem`."""

    def __init__(self, path: str, problem: dict[str, Any]) -> None:
        super().__init__(f"{path}: {problem.get('title')} {problem.get('detail', '')} {problem.get('errors', '')}")
        self.problem = problem


@dataclass
class Client:
    """`seen` holds the last positions that anybody of the story was told; it is shared, since they talk to each other."""

    http: httpx.AsyncClient
    name: str
    subject: str
    token: str
    seen: dict[str, int]

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        """The raw answer. `after` is added by itself unless the query has one."""
        answer = await self.http.request(
            method,
            path,
            params={"after": format_positions(self.seen), **query},
            json=body,
            content=content,
            headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
        )
        for service, position in parse_positions(answer.headers.get("Prooftrail-Position", "")).items():
            self.seen[service] = max(position, self.seen.get(service, 0))
        return answer

    async def post(self, path: str, /, *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """The JSON of a successful command. Raises RequestFailed."""
        return await self._successful("POST", path, body={"reason": "part of the story", **body}, headers=headers)

    async def put(self, path: str, content: bytes) -> Any:
        """The JSON of a successful upload. Raises RequestFailed."""
        return await self._successful(
            "PUT", path, content=content, headers={"Content-Type": "application/octet-stream"}
        )

    async def get(self, path: str, /, **query: Any) -> Any:
        """The JSON of a successful read. Raises RequestFailed."""
        return await self._successful("GET", path, **query)

    async def refused(self, path: str, /, *, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        """The problem document of a command that must be refused."""
        answer = await self.request("POST", path, body={"reason": "part of the story", **body}, headers=headers)
        return problem_of(answer)

    async def _successful(self, method: str, path: str, **request: Any) -> Any:
        """Asks again as it is told to: nothing was done yet."""
        answer = await self.request(method, path, **request)
        for _ in range(ASK_AGAIN_MAX):
            if answer.is_success or answer.json().get("reason") != "not-there-yet":
                break
            await asyncio.sleep(float(answer.headers["Retry-After"]))
            answer = await self.request(method, path, **request)
        if not answer.is_success:
            raise RequestFailed(path, answer.json())
        return answer.json()

    async def sign(
        self, service: str, *records: str, decision: str = "sign", reason: str = "Read, understood and agreed."
    ) -> Any:
        """Fetches what would be signed and signs (or declines) exactly that, all records in one act."""
        items = []
        for record in records:
            shown = await self.get(f"/v1/{service}/signable", record=record)
            items.append({"record": record, "digest": shown["digest"], "meaning": shown["meaning"]})
        return await self.post(f"/v1/{service}/signatures", decision=decision, items=items, reason=reason)


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The problem document of an error (RFC 9457); fails if the answer is none."""
    assert answer.status_code >= httpx.codes.BAD_REQUEST, f"expected a refusal: {answer.status_code} {answer.text}"
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert problem["reason"]
    return problem
