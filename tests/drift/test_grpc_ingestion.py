"""Rows batch after batch in one stream of gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from shared import grpc_streams
from tests.drift.traffic import SYSTEM, rows, watching
from tests.grpc_streaming import reason_of, streams_serving
from tests.house import TestHouse
from tests.test_grpc_calls import Refused


def _batch(number: int) -> dict[str, Any]:
    batch = rows(np.random.default_rng(number), hours=1, first_hour=number)
    return {"system": SYSTEM, "key": "MP-1", "batch": str(number), **batch}


async def test_a_stream_of_batches_is_one_call_after_the_other(drift_house: TestHouse) -> None:
    """The answers in order; the first batch that is refused ends the stream and those before it stay, and may be sent again."""
    staff = await watching(drift_house)
    batches = [_batch(number) for number in range(5)]
    async with streams_serving(drift_house) as wire:
        answers = await wire.ingest(staff.producer, batches[:3])
        assert [one.accepted for one in answers] == [len(batch["event_time"]) for batch in batches[:3]]
        with pytest.raises(Refused, match="Batch 2: ") as refused:
            await wire.ingest(staff.producer, [batches[3], {**batches[4], "environment": ""}, batches[4]])
        assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details["BadRequest"]
        again = await wire.ingest(staff.producer, batches)
        assert [one.accepted for one in again] == [len(batch["event_time"]) for batch in batches]
        assert await wire.ingest(staff.producer, []) == []
        with pytest.raises(Refused, match="Batch 1: "):
            await wire.ingest(staff.producer, [{}])


async def _taken(house: TestHouse, count: int) -> None:
    """Returns once so many batches are stored."""
    pool = house.house.services["drift"].foundation.pool
    async with asyncio.timeout(60):
        while await pool.fetchval("SELECT count(*) FROM taken_batch") < count:  # noqa: ASYNC110 -- a count
            await asyncio.sleep(0.02)


async def test_a_service_that_goes_ends_the_stream_and_keeps_its_batches(drift_house: TestHouse) -> None:
    """An open stream holds nobody up who was told to end; sent again, what was taken is not taken twice."""
    staff = await watching(drift_house)
    batches = [_batch(number) for number in range(3)]
    async with streams_serving(drift_house) as wire:
        stream = asyncio.create_task(wire.ingest(staff.producer, batches[:2], open_until=asyncio.Event()))
        await _taken(drift_house, 2)
        await wire.server.aclose()
        with pytest.raises(Refused) as refused:
            await stream
    assert (refused.value.code, reason_of(refused.value)) == (grpc.StatusCode.UNAVAILABLE, "ingest-ends")
    drift_house.house.subscriptions["drift"].ending = asyncio.Event()  # as in the process that takes over
    async with streams_serving(drift_house) as wire:
        answers = await wire.ingest(staff.producer, batches)
    assert [one.accepted for one in answers] == [len(batch["event_time"]) for batch in batches]
    await _taken(drift_house, 3)


async def test_a_stream_has_an_end(drift_house: TestHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch more than a stream takes is refused, those before it stay; and a batch has its time."""
    staff = await watching(drift_house)
    monkeypatch.setattr(grpc_streams, "BATCHES_MAX", 2)
    async with streams_serving(drift_house) as wire:
        with pytest.raises(Refused) as refused:
            await wire.ingest(staff.producer, [_batch(number) for number in range(3)])
        assert (refused.value.code, reason_of(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "stream-too-long")
        await _taken(drift_house, 2)
        monkeypatch.setattr(grpc_streams, "BATCH_SECONDS_MAX", 0.0)
        with pytest.raises(Refused) as refused:
            await wire.ingest(staff.producer, [_batch(3)])
        assert (refused.value.code, reason_of(refused.value)) == (
            grpc.StatusCode.DEADLINE_EXCEEDED, "deadline-exceeded",
        )  # fmt: skip
