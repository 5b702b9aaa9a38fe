"""What /metrics of a real process shows after a refused call, a lost race, an event that nobody can read and an overdue signal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc
import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.composition import local_issuer
from shared.grpc_server import message_type
from shared.settings import Settings
from tests.drift.facts import RAISED
from tests.foreign import append_foreign
from tests.house import fresh_database
from tests.serving import free_port, served

PATIENCE_S = 60.0
SYSTEMS = "/v1/systems"
RACERS = 24
VERSION = "network_protocol_version=1.1"
CALL = "prooftrail.requirements.v1.RequirementsService/GetAiSystem"
Metrics = dict[str, dict[tuple[str, ...], float]]
BODY = {"key": "loans", "name": "Loans", "intended_use": "tests", "risk_class": "limited", "reason": "tests"}


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process with requirements and drift, and its ports."""

    database_url: str
    http: httpx.AsyncClient
    grpc_port: int
    metrics_port: int
    token: str

    async def scraped(self) -> Metrics:
        return await scraped(self.metrics_port)

    async def shown(self, holds: Callable[[Metrics], bool]) -> None:
        await until_shown(self.metrics_port, holds)


async def scraped(port: int) -> Metrics:
    """Each metric's values by its labels, written `name=value` in order of name."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = (f"{name}={value}" for name, value in sample.labels.items() if not name.startswith("otel_"))
            found.setdefault(sample.name, {})[tuple(sorted(labels))] = sample.value
    return found


async def until_shown(port: int, holds: Callable[[Metrics], bool]) -> None:
    """Returns once a scrape is as wanted: some figures are looked up every few seconds."""
    metrics: Metrics = {}
    for _ in range(int(PATIENCE_S / 0.2)):
        metrics = await scraped(port)
        if holds(metrics):
            return
        await asyncio.sleep(0.2)
    raise AssertionError(metrics)


@pytest.fixture(scope="module")
async def process(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Process]:
    """`python -m services requirements drift` on a database of its own."""
    folder: Path = tmp_path_factory.mktemp("metrics")
    token = local_issuer(Settings(data=folder / "data")).mint(name="Olga Owner")
    metrics_port, grpc_port = free_port(), free_port()
    ports = {"PROOFTRAIL_METRICS_PORT": str(metrics_port), "PROOFTRAIL_GRPC_PORT": str(grpc_port)}
    settings = {**ports, "PROOFTRAIL_MEASURE_S": "1"}
    async with fresh_database(server_url) as url:
        with served(folder / "data", "requirements", "drift", database_url=url, settings=settings) as (address, _, _):
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=60) as http:
                assert (await http.post(SYSTEMS, json=BODY)).status_code == 201
                yield Process(database_url=url, http=http, grpc_port=grpc_port, metrics_port=metrics_port, token=token)


async def test_a_request_is_counted_by_route_and_never_by_id(process: Process) -> None:
    """Method, route and status as the conventions name them; what asks for signs of life is not counted."""
    assert (await process.http.get(f"{SYSTEMS}/loans")).status_code == 200
    assert (await process.http.get(f"{SYSTEMS}/unknown")).status_code == 404
    assert (await process.http.get("/readyz")).status_code == 200
    counts = (await process.scraped())["http_server_request_duration_seconds_count"]
    route = f"http_route={SYSTEMS}/{{system}}"
    for status in ("200", "404"):
        labels = ("http_request_method=GET", f"http_response_status_code={status}", route, VERSION, "url_scheme=http")
        assert counts[labels] == 1
    assert [labels for labels in counts if "loans" in str(labels) or "readyz" in str(labels)] == []


async def test_a_call_is_counted_once_by_method_and_code(process: Process) -> None:
    """The request of HTTP that stands for it within the process is not counted as well."""
    before = await process.scraped()
    request = message_type("prooftrail.requirements.v1.GetAiSystemRequest")(system="loans")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
        call = channel.unary_unary(f"/{CALL}", request_serializer=lambda message: message.SerializeToString())
        await call(request, metadata=[("authorization", f"Bearer {process.token}")])
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await call(request)
    after = await process.scraped()
    counts = after["rpc_server_call_duration_seconds_count"]
    for code in ("OK", "UNAUTHENTICATED"):
        assert counts[(f"rpc_method={CALL}", f"rpc_response_status_code={code}", "rpc_system_name=grpc")] == 1
    requests = "http_server_request_duration_seconds_count"
    assert after[requests] == before[requests]


async def test_a_lost_race_is_counted(process: Process) -> None:
    """Many change one record at once: each but the first of a batch finds that somebody was faster, and all come through."""

    async def grant(number: int) -> int:
        body = {"subject": f"person-{number}", "role": "reviewer", "reason": "tests"}
        return (await process.http.post(f"{SYSTEMS}/loans:grant-role", json=body)).status_code

    answers = await asyncio.gather(*(grant(number) for number in range(RACERS)))
    metrics = await process.scraped()
    appended = answers.count(200)
    assert metrics["prooftrail_store_conflicts_total"][("service=requirements",)] > 0
    batches, commands = (
        metrics[f"prooftrail_store_batch_size_{what}"][("service=requirements",)] for what in ("count", "sum")
    )
    assert 0 < batches < commands
    assert commands >= appended > 1


async def test_a_consumer_shows_where_it_is_and_what_it_left_behind(process: Process) -> None:
    """The position in each source, nothing left to take, and the event that it could not take."""
    await process.shown(lambda metrics: metrics["prooftrail_dead_letters"][("reader=projection", "service=drift")] == 0)
    position = await append_foreign(
        process.database_url, "releases", "release-deployed", "release:loans/R-1", nonsense=True
    )
    consumer = ("consumer=projection", "service=drift", "source=releases")
    await process.shown(
        lambda metrics: (
            metrics["prooftrail_dead_letters"][("reader=projection", "service=drift")] == 1
            and metrics["prooftrail_consumer_position"][consumer] == position
            and metrics["prooftrail_consumer_lag"][consumer] == 0
        )
    )


async def test_a_consumer_that_is_held_up_falls_behind(process: Process) -> None:
    """The lag is what was recorded and not taken."""
    holder = await asyncpg.connect(process.database_url)
    consumer = ("consumer=projection", "service=drift", "source=releases")
    async with holder.transaction():
        await holder.execute("SELECT position FROM drift_projection.position WHERE source = 'releases' FOR UPDATE")
        for _ in range(3):
            await append_foreign(process.database_url, "releases", "something-else", "release:loans/R-2")
        await process.shown(lambda metrics: metrics["prooftrail_consumer_lag"][consumer] == 3)
    await holder.close()
    await process.shown(lambda metrics: metrics["prooftrail_consumer_lag"][consumer] == 0)


async def test_open_and_overdue_signals_are_shown(process: Process) -> None:
    """One whose time has not come, then one whose time has passed."""
    far = msgspec.structs.replace(RAISED, triage_until=RAISED.triage_until.replace(year=2999))
    fields = msgspec.to_builtins(far)
    await append_foreign(process.database_url, "drift", "drift-signal-raised", "drift-signal:loans/MP-1-S1", **fields)
    await process.shown(lambda metrics: metrics["prooftrail_drift_signals"][("status=open",)] == 1)
    assert (await process.scraped())["prooftrail_drift_signals_overdue"][()] == 0
    connection = await asyncpg.connect(process.database_url)
    await connection.execute("UPDATE drift_projection.drift_signal SET triage_until = 'yesterday'")
    await connection.close()
    await process.shown(lambda metrics: metrics["prooftrail_drift_signals_overdue"][()] == 1)


async def test_the_pools_are_shown(process: Process) -> None:
    """Connections in use and idle, and how many there may be."""
    await process.shown(
        lambda metrics: ("db_client_connection_pool_name=drift",) in metrics["db_client_connection_max"]
    )
    metrics = await process.scraped()
    pool = "db_client_connection_pool_name=drift"
    idle, used = (
        metrics["db_client_connection_count"][(pool, f"db_client_connection_state={state}")]
        for state in ("idle", "used")
    )
    assert 1 <= idle + used <= metrics["db_client_connection_max"][(pool,)] == 4
