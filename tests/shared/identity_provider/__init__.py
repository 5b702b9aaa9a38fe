"""Starts the certified identity provider of npm's oidc-provider for the tests, and signs people in at it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests import npm_packages
from tests.npm_packages import CannotRun

__all__ = ["CannotRun", "IdentityProvider", "installed", "running", "service_token", "sign_in"]

HERE = Path(__file__).parent
REDIRECT_URI = "http://127.0.0.1/signed-in"
ANSWER_TIMEOUT_S = npm_packages.START_TIMEOUT_S
START_ATTEMPTS = 3

# The two newest functions that the provider calls, rather than a version number.
_RUNS = "typeof URL.parse === 'function' && typeof require('crypto').hash === 'function'"


def installed() -> Path:
    """The node_modules folder with the pinned provider, installed once under build/. Raises CannotRun."""
    return npm_packages.installed(HERE, name="identity-provider", node="22", runs=_RUNS)


class IdentityProvider:
    """A running provider. Its keys are `<algorithm>-<generation>`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self.issuer: str = self._answer()["issuer"]

    def command(self, name: str) -> None:
        """`rotate`: new keys beside the old ones; `withdraw`: only the newest keys."""
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        assert self._answer() == {"done": name}

    def _answer(self) -> dict[str, str]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(ANSWER_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            ended = f"ended with {self._process.wait(timeout=ANSWER_TIMEOUT_S)}"
            raise AssertionError(
                f"the identity provider {ended} instead of answering:\n{self._log.read_text()[-2000:]}"
            )
        answer: dict[str, str] = json.loads(line)
        return answer


@contextmanager
def running(modules: Path, log: Path) -> Iterator[IdentityProvider]:
    """The provider on a free port of the loopback; it ends when its stdin is closed."""
    with log.open("w") as stderr:
        process, provider = _start(modules, log, stderr)
        try:
            yield provider
        finally:
            _end(process)


def _start(modules: Path, log: Path, stderr: IO[str]) -> tuple[subprocess.Popen[str], IdentityProvider]:
    """Once more if it ends before its first word: it is not what is tested here."""
    for attempt in range(START_ATTEMPTS):
        process = subprocess.Popen(
            ["node", HERE / "provider.mjs", modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            return process, IdentityProvider(process, log)
        except AssertionError:
            _end(process)
            if attempt == START_ATTEMPTS - 1:
                raise
    raise AssertionError("no attempt was made")


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


async def service_token(client: httpx.AsyncClient, issuer: str, *, resource: str) -> str:
    """An access token by the client-credentials grant for the resource (RFC 8707)."""
    answer = await client.post(
        f"{issuer}/token",
        data={"grant_type": "client_credentials", "resource": resource},
        auth=("nightly-build", "build-secret"),
    )
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


async def sign_in(
    client: httpx.AsyncClient, issuer: str, *, account: str, client_id: str = "workbench", **parameters: str
) -> dict[str, Any]:
    """The token answer of the authorization-code flow with PKCE, as a browser would go through it.

    The cookies of `client` are the browser's: whoever is signed in stays so, unless `max_age` asks anew.
    """
    verifier = secrets.token_urlsafe(32)
    request = {
        "client_id": client_id,
        "response_type": "code",
        "redirect_uri": REDIRECT_URI,
        "scope": "openid profile",
        "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        **parameters,
    }
    code = await _authorization_code(client, f"{issuer}/auth?{httpx.QueryParams(request)}", account)
    grant = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT_URI}
    resource = {"resource": parameters["resource"]} if "resource" in parameters else {}
    answer = await client.post(
        f"{issuer}/token", data={**grant, **resource, "client_id": client_id, "code_verifier": verifier}
    )
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def _authorization_code(client: httpx.AsyncClient, address: str, account: str) -> str:
    answer = await client.get(address)
    for _ in range(10):
        if answer.is_redirect:
            location = str(answer.url.join(answer.headers["location"]))
            if location.startswith(REDIRECT_URI):
                return parse_qs(urlsplit(location).query)["code"][0]
            answer = await client.get(location)
        elif 'name="prompt" value="login"' in answer.text:
            form = {"prompt": "login", "login": account, "password": "any"}
            answer = await client.post(answer.url, data=form)
        else:
            assert 'name="prompt" value="consent"' in answer.text, answer.text
            answer = await client.post(answer.url, data={"prompt": "consent"})
    raise AssertionError(f"the sign-in goes round in circles at {answer.url}")
