"""Rows batch after batch in one stream of gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from tests.drift.traffic import SYSTEM, rows, watching
from tests.grpc_streaming import streams_serving
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
