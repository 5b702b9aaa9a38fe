"""Drift through the HTTP door, on a real PostgreSQL."""

from __future__ import annotations

import numpy as np

from tests.drift.traffic import HOUR, PLANS, SIGNALS, rows, watching
from tests.house import TestHouse


async def test_rows_become_windows_and_a_shift_becomes_a_signal(drift_house: TestHouse) -> None:
    """Two quiet days raise nothing; half a standard deviation does within a few hours, and names the right feature."""
    staff = await watching(drift_house)
    generator = np.random.default_rng(7)
    quiet = await staff.producer.post(f"{PLANS}/MP-1:ingest", batch="1", **rows(generator, hours=48))
    assert (quiet["accepted"], quiet["late"], quiet["signals"]) == (48 * 60, 0, [])
    assert quiet["windows_closed"] == 47
    shifted = await staff.producer.post(
        f"{PLANS}/MP-1:ingest", batch="2", **rows(generator, hours=12, first_hour=48, shift=0.5)
    )
    assert shifted["signals"] == ["MP-1-S1"]
    signal = await staff.reviewer.get(f"{SIGNALS}/MP-1-S1")
    assert [feature["name"] for feature in signal["raised"]["features"]] == ["x"]
    windows = await staff.reviewer.get(f"{PLANS}/MP-1/windows", page_size=100)
    assert len(windows["items"]) == 59
    assert sum(window["rows"] for window in windows["items"]) < 60 * 60
    assert HOUR
