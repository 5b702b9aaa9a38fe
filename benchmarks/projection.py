"""A projection of a million events is rebuilt in 30 s, 20 times as fast as by the library's ProjectionRunner, in flat memory.

Ours is the projection of verification over its own events, recorded, submitted and approved in turn; the library's is a
projection of the same three facts into one table of the same columns, on the same server. The library is given fewer events, and
rates are compared. PROJECTION_EVENTS sets how many events ours folds.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
import psutil

from benchmarks.result import Result, compared, within
from benchmarks.seeding import requirements_approved, verifications_approved
from services.verification.main import MIGRATIONS
from services.verification.projections import VerificationProjection
from shared.feed import StoreFeed
from shared.projection import ProjectionRunner
from shared.runtime import migrate_service, open_pool
from tests.house import fresh_database

EVENTS = int(os.environ.get("PROJECTION_EVENTS", "1000000"))
LIBRARY_EVENTS = 6_000
LIMIT_SECONDS = 30.0
GOAL = 20.0
MEMORY_GROWTH_MB_MAX = 100.0
SECOND_HALF_MB_MAX = 10.0
"""Twenty bytes of each of 500,000 events."""
MEMORY_STEP_MB = 0.1


async def measure(server_url: str, scratch: Path) -> list[Result]:
    """Seconds for a million events, the ratio of the rates, how much memory the rebuild took on top, and how much half way."""
    async with fresh_database(server_url) as url:
        for service in VerificationProjection.sources:
            await migrate_service(url, service=service, scripts=MIGRATIONS if service == "verification" else None)
        await _seed(url)
        seconds, memory = await _rebuild(url)
    ours = EVENTS / seconds
    library = await _library_rate(server_url)
    print(f"{EVENTS:,} events in {seconds:.1f} s: {ours:,.0f} a second; the library {library:,.0f} a second")
    return [
        within(
            name="rebuild of a projection of 1M events", ours=seconds * 1_000_000 / EVENTS, limit=LIMIT_SECONDS, unit="s"
        ),
        compared(
            name="rebuild of a projection", ours=ours, peer=library, peer_name="the library's ProjectionRunner",
            unit="events/s", goal=GOAL, better="more",
        ),
        within(name="memory that a rebuild takes on top", ours=memory.grown_mb, limit=MEMORY_GROWTH_MB_MAX, unit="MB"),
        within(
            name=f"memory that its second {EVENTS // 2:,} events take on top of the first",
            ours=max(MEMORY_STEP_MB, memory.grown_mb - memory.grown_half_way_mb), limit=SECOND_HALF_MB_MAX, unit="MB",
        ),
    ]  # fmt: skip


async def _seed(url: str) -> None:
    """Rows as the store has them, written by one statement from one example of each event: the proofs are measured elsewhere."""
    recorded, approved = verifications_approved(1, requirements=1)
    texts = [
        _text(name, data)
        for name, data in (
            (recorded.name, recorded.data),
            ("verification.verification-submitted", {"key": "VER-00000"}),
            (approved.name, approved.data),
        )
    ]
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "INSERT INTO verification.event SELECT n, 'verification:flight-delay/VER-' || k, 1 + (n - 1) % 3,"
            " ($1::text[])[1 + (n - 1) % 3], 'flight-delay', '2026-01-01', '\\x00',"
            " convert_to(replace(($2::text[])[1 + (n - 1) % 3], 'VER-00000', 'VER-' || k), 'UTF8')"
            " FROM (SELECT n, ((n - 1) / 3)::text AS k FROM generate_series(1::bigint, $3) n) numbers",
            [recorded.name, "verification.verification-submitted", approved.name], texts, EVENTS,
            timeout=600,
        )  # fmt: skip
        await connection.execute("UPDATE verification.head SET position = $1", EVENTS)
        await connection.execute("VACUUM ANALYZE verification.event")
    finally:
        await connection.close()


def _text(name: str, data: dict[str, Any]) -> str:
    signature = next(requirements_approved(1)).data["signature"]
    envelope = {
        "service": "verification", "position": 1, "recorded_at": "2026-01-01T00:00:00.000000Z", "system": "flight-delay",
        "system_sequence": 1, "system_previous": "0" * 64, "id": "8c6f2f0e-0000-4000-8000-000000000000",
        "stream": "verification:flight-delay/VER-00000", "version": 1, "name": name, "schema": 1,
        "actor": signature["signer"], "reason": "seeded", "correlation": "c" * 32, "causation": None, "data": data,
    }  # fmt: skip
    return msgspec.json.encode(envelope).decode()


async def _rebuild(url: str) -> tuple[float, _Memory]:
    """Seconds, and the growth of this process meanwhile."""
    pool = await open_pool(url, connections_max=4, application_name="benchmark")
    async with pool:
        runner = ProjectionRunner(pool=pool, feed=StoreFeed(pool=pool, dsn=url), projection=VerificationProjection())
        with _Memory() as memory:
            began = time.perf_counter()
            await runner.rebuild(lambda _source, done, _head: memory.reached(done))
            seconds = time.perf_counter() - began
        rows = await pool.fetchval(
            "SELECT count(*) FROM verification_projection.verification WHERE status = 'approved'"
        )
    assert rows == EVENTS // 3, rows
    return seconds, memory


class _Memory:
    """How far the memory of this process rises above what it had, in all and over the first half of the events."""

    def __enter__(self) -> _Memory:
        self._process = psutil.Process()
        self._before = self._most = self._most_half_way = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, self._process.memory_info().rss)

    def reached(self, events: int) -> None:
        """So many events are done."""
        self._look()
        if events <= EVENTS // 2:
            self._most_half_way = self._most

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def grown_mb(self) -> float:
        grown: float = (self._most - self._before) / 1e6
        return grown

    @property
    def grown_half_way_mb(self) -> float:
        grown: float = (self._most_half_way - self._before) / 1e6
        return grown


async def _library_rate(server_url: str) -> float:
    """Events a second of the library's runner with its own recorders."""
    async with fresh_database(server_url) as url:
        rate: float = _run_library(url)
    return rate


def library_environment(url: str) -> dict[str, str]:
    """What tells the eventsourcing library to keep its tables in this database."""
    address = urlsplit(url)
    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": address.path[1:],
        "POSTGRES_HOST": address.hostname or "",
        "POSTGRES_PORT": str(address.port or 5432),
        "POSTGRES_USER": address.username or "",
        "POSTGRES_PASSWORD": address.password or "",
    }
    if not address.hostname:  # a socket
        environment["POSTGRES_HOST"] = parse_qs(address.query)["host"][0]
    return environment


def _run_library(url: str) -> float:
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event
    from eventsourcing.postgres import PostgresTrackingRecorder
    from eventsourcing.projection import Projection, ProjectionRunner
    from psycopg.sql import SQL

    environment = library_environment(url)

    class Verification(Aggregate):
        def __init__(self, *, key: str, data: dict[str, Any]) -> None:
            self.key, self.data, self.status = key, data, "recorded"

        @event("Submitted")
        def submit(self) -> None:
            self.status = "in review"

        @event("Approved")
        def approve(self, *, data: dict[str, Any]) -> None:
            self.status = "approved"

    class Verifications(Application[Any]):
        pass

    class Table(PostgresTrackingRecorder):
        def __init__(self, datastore: Any, **options: Any) -> None:
            super().__init__(datastore, **options)
            self.sql_create_statements.append(
                SQL(  # type: ignore[arg-type]
                    "CREATE TABLE IF NOT EXISTS verification_table (id uuid PRIMARY KEY, key text, requirement text,"
                    " revision integer, model text, version text, dataset text, dataset_version text, run text,"
                    " author text, outcome text, status text)"
                )
            )

        def write(self, statement: str, values: tuple[Any, ...], tracking: Any) -> None:
            with self.datastore.transaction(commit=True) as cursor:
                cursor.execute(statement, values)
                self._insert_tracking(cursor, tracking)

    class Verified(Projection[Any]):
        def process_event(self, domain_event: Any, tracking: Any) -> None:
            if isinstance(domain_event, Aggregate.Created):
                data = domain_event.data  # type: ignore[attr-defined]
                names = (
                    "key", "requirement", "requirement_revision", "model", "version", "dataset", "dataset_version", "run",
                    "author", "outcome",
                )  # fmt: skip
                values = (domain_event.originator_id, *(data[name] for name in names))
                self.view.write(f"INSERT INTO verification_table VALUES ({'%s, ' * 11}'recorded')", values, tracking)
            else:
                status = "approved" if hasattr(domain_event, "data") else "in review"
                self.view.write(
                    "UPDATE verification_table SET status = %s WHERE id = %s",
                    (status, domain_event.originator_id),
                    tracking,
                )

    recorded, approved = verifications_approved(1, requirements=1)
    application = Verifications(environment)
    for number in range(LIBRARY_EVENTS // 3):
        one = Verification(key=f"VER-{number}", data=recorded.data)
        one.submit()
        one.approve(data=approved.data)
        application.save(one)
    last = application.recorder.max_notification_id()
    began = time.perf_counter()
    with ProjectionRunner(
        application_class=Verifications, projection_class=Verified, view_class=Table, env=environment
    ) as runner:
        runner.wait(last, timeout=300)
        seconds = time.perf_counter() - began
    application.close()
    return LIBRARY_EVENTS / seconds
