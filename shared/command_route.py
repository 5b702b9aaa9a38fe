"""Commands read their request in one step, since the framework's general way to do so costs more than the command itself.

The signature of the endpoint stays the declaration: OpenAPI is made from it, and the fields that the framework made of it validate.
What is refused, in which order and with which words, is therefore the same as on every other route.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.message import Message
from functools import lru_cache
from typing import Any

from fastapi import Request, Response
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from shared.http_doors import Doors

Answering = Callable[..., Awaitable[Response]]
"""Takes the request, and what its body says if that is known already."""
Broken = list[dict[str, Any]]
"""Fields that break a rule, as the framework tells them."""

DOORS = frozenset({Doors.command, Doors.signing})
BODY = ("body",)
UNREAD = object()


class CommandRoute(APIRoute):
    """Of endpoints that take a context from `Doors.command` or `Doors.signing`, a body, and parts of the path; others as ever.

    `answering` is how it answers, None on other routes.
    """

    answering: Answering | None = None

    def get_route_handler(self) -> Any:
        if not _is_command(self.dependant):
            return super().get_route_handler()
        self.answering = _Command(self.dependant).answer
        return self.answering


def _is_command(dependant: Dependant) -> bool:
    doors = [getattr(one.call, "__func__", None) for one in dependant.dependencies]
    others = (
        dependant.query_params, dependant.header_params, dependant.cookie_params,
        dependant.request_param_name, dependant.response_param_name, dependant.background_tasks_param_name,
    )  # fmt: skip
    return len(doors) == len(dependant.body_params) == 1 and doors[0] in DOORS and not any(others)


class _Command:
    def __init__(self, dependant: Dependant) -> None:
        (door,), (body,) = dependant.dependencies, dependant.body_params
        assert dependant.call is not None
        assert door.call is not None
        assert door.name is not None
        self._endpoint, self._path, self._body = dependant.call, dependant.path_params, body
        self._door, self._door_name = door.call, door.name
        self._query, self._headers = door.query_params, door.header_params

    async def answer(self, request: Request, body: Any = UNREAD) -> Response:
        """What the endpoint answers. Raises RequestValidationError, HTTPException, and what its door and itself raise."""
        if body is UNREAD:
            body = await _body_of(request)
        values: dict[str, Any] = {}
        broken = await self._enter(request, values)
        broken += _read(self._path, request.path_params, "path", values)
        if body is None:
            broken.append({"type": "missing", "loc": BODY, "msg": "Field required", "input": None})
        else:
            values[self._body.name], found = self._body.validate(body, {}, loc=BODY)
            broken += found
        if broken:
            raise RequestValidationError(broken, body=body)
        response: Response = await self._endpoint(**values)
        return response

    async def _enter(self, request: Request, values: dict[str, Any]) -> Broken:
        said: dict[str, Any] = {}
        broken = _read(self._query, request.query_params, "query", said) if request.scope["query_string"] else []
        broken += _read(self._headers, request.headers, "header", said)
        if not broken:
            values[self._door_name] = await self._door(request=request, **said)
        return broken


def _read(fields: Sequence[ModelField], given: Mapping[str, str], place: str, values: dict[str, Any]) -> Broken:
    """Puts the given values under their names; those that are not given have their default."""
    broken: Broken = []
    for field in fields:
        text = given.get(field.alias)
        if text is not None:
            values[field.name], found = field.validate(text, {}, loc=(place, field.alias))
            broken += found
    return broken


async def _body_of(request: Request) -> Any:
    """The JSON of the body, its bytes if it does not say that it is JSON, None if there is none."""
    try:
        raw = await request.body()
        if not raw or not _is_json(request.headers.get("content-type", "")):
            return raw or None
        return await request.json()
    except json.JSONDecodeError as error:
        told = {
            "type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {},
            "ctx": {"error": error.msg},
        }  # fmt: skip
        raise RequestValidationError([told], body=error.doc) from error
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(400) from error


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type
    kind = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (kind == "json" or kind.endswith("+json"))
