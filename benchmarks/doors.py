"""A command over HTTP and over gRPC costs little more than behind a bare handler in front of the same use case and the same append.

Four processes of two kinds, each kind on a database of its own; 16 clients of one connection, ours and the bare one in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx

from benchmarks.bare_doors import CALL, PACKAGE
from benchmarks.command import SYSTEM, become_author, dataset_body
from benchmarks.lean_http import LeanClient
from benchmarks.result import Result, compared, median
from services.composition import local_issuer
from shared.grpc_server import message_type
from shared.settings import Settings
from tests.house import fresh_database
from tests.serving import CHECKOUT, free_port, start

CLIENTS = 16
REQUESTS = 1_600
ROUNDS = 5
GOAL = 0.7
READY_SECONDS_MAX = 60.0

Send = Callable[[dict[str, Any]], Awaitable[object]]


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Commands a second, medians of interleaved rounds; the first round warms up."""
    data = scratch / "doors"
    issuer = local_issuer(Settings(data=data))
    token = issuer.mint(name="Ada Author", lifetime_s=3600)
    async with fresh_database(server_url) as url, fresh_database(server_url) as bare_url:
        with _ours(data, url) as (http, rpc), _bare(data / "bare", bare_url) as (bare_http, bare_rpc):
            lean, bare_lean = LeanClient(address=http, token=token), LeanClient(address=bare_http, token=token)
            await become_author(lean, issuer.subject(name="Ada Author"))
            async with _calls(rpc, token) as send, _calls(bare_rpc, token) as bare_send:
                doors = {
                    "ours over HTTP": _posted(lean), "bare over HTTP": _posted(bare_lean),
                    "ours over gRPC": send, "bare over gRPC": bare_send,
                }  # fmt: skip
                rounds = [
                    {name: await _rate(door, f"{number}-{place}") for place, (name, door) in enumerate(doors.items())}
                    for number in range(ROUNDS + 1)
                ][1:]
            await lean.close()
            await bare_lean.close()
    return [
        compared(
            name=f"a command over {wire}, {CLIENTS} clients, its door", ours=median([one[f"ours over {wire}"] for one in rounds]),
            peer=median([one[f"bare over {wire}"] for one in rounds]), peer_name=f"{bare} in front of the same append",
            unit="commands/s", goal=GOAL, better="more",
        )
        for wire, bare in (("HTTP", "a bare FastAPI handler"), ("gRPC", "a bare grpc.aio handler"))
    ]  # fmt: skip


async def _rate(send: Send, name: str) -> float:
    async def one_after_the_other(number: int) -> None:
        for place in range(REQUESTS // CLIENTS):
            await send(dataset_body(f"{name}-{number}-{place}"))

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other(number) for number in range(CLIENTS)))
    return REQUESTS / (time.perf_counter() - began)


def _posted(client: LeanClient) -> Send:
    return lambda body: client.post(f"/v1/systems/{SYSTEM}/datasets", body)


@contextlib.asynccontextmanager
async def _calls(address: str, token: str) -> AsyncIterator[Send]:
    request_type = message_type(f"{PACKAGE}.RegisterDatasetRequest")
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            CALL,
            request_serializer=request_type.SerializeToString,
            response_deserializer=message_type(f"{PACKAGE}.RegisterDatasetResponse").FromString,
        )
        yield lambda body: call(request_type(system=SYSTEM, **body), metadata=metadata)


@contextlib.contextmanager
def _ours(data: Path, url: str) -> Iterator[tuple[str, str]]:
    """Addresses of HTTP and gRPC."""
    port = free_port()
    process = start(data, "requirements", database_url=url, settings={"PROOFTRAIL_GRPC_PORT": str(port)})
    try:
        process.until_ready()
        yield process.address, f"127.0.0.1:{port}"
    finally:
        process.process.terminate()
        process.process.wait(30)


@contextlib.contextmanager
def _bare(data: Path, url: str) -> Iterator[tuple[str, str]]:
    http, rpc = free_port(), free_port()
    arguments = ["-m", "benchmarks.bare_doors", url, str(data), str(http), str(rpc), SYSTEM]
    process = subprocess.Popen([sys.executable, *arguments], cwd=CHECKOUT)
    try:
        _wait_until_ready(f"http://127.0.0.1:{http}")
        yield f"http://127.0.0.1:{http}", f"127.0.0.1:{rpc}"
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/openapi.json", timeout=2).is_success:
                return
        time.sleep(0.05)
    raise RuntimeError("the bare handlers were not ready in time")
