"""Rows on a real PostgreSQL: counted once, closed once, whatever is repeated, reordered, concurrent or cut off."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import numpy as np

from services.drift.application.pane_tables import CountedBatch, WatchKey
from services.drift.application.streams import DRIFT
from services.drift.domain import monitoring_plan
from services.drift.domain.histogram import PartialHistogram
from services.drift.domain.reference_profile import count_rows
from services.drift.main import Drift
from shared.command import CommandContext, Folds
from shared.runtime import utc_now
from tests.drift.traffic import BEGIN, HOUR, PLAN, PLANS, SYSTEM, Staff, defined, deployed, rows, staffed, watching
from tests.house import Client, TestHouse

INGEST = f"{PLANS}/MP-1:ingest"
WATCH = WatchKey(system=SYSTEM, plan="MP-1", environment="production")


def application(house: TestHouse) -> Drift:
    """The use cases of the running service."""
    drift = house.house.services["drift"].application
    assert isinstance(drift, Drift)
    return drift


async def windows(client: Client, **query: Any) -> list[dict[str, Any]]:
    """All closed windows, page by page."""
    items: list[dict[str, Any]] = []
    token = ""
    while token is not None:
        page = await client.get(f"{PLANS}/MP-1/windows", page_size=7, page_token=token, **query)
        items, token = items + page["items"], page["next_page_token"]
    return items


def part(batch: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    """Some of the rows, in this order."""
    return {
        "rows": len(chosen),
        "event_time": [batch["event_time"][index] for index in chosen],
        "features": {name: [values[index] for index in chosen] for name, values in batch["features"].items()},
    }


async def test_each_window_has_exactly_the_rows_of_its_hour(drift_house: TestHouse) -> None:
    """Counted by hand from the same rows."""
    staff = await watching(drift_house)
    batch = rows(np.random.default_rng(4), hours=5)
    await staff.producer.post(INGEST, batch="1", **batch)
    hours = [int((time - BEGIN) // HOUR) for time in batch["event_time"]]
    closed = await windows(staff.reviewer)
    assert [window["rows"] for window in closed] == [hours.count(hour) for hour in range(4)]
    assert [window["start"] for window in closed] == [f"2013-04-01T0{hour}:00:00Z" for hour in range(4)]
    carriers = [level for hour, level in zip(hours, batch["features"]["carrier"], strict=True) if hour == 2]
    counts = closed[2]["features"][2]["counts"]
    assert counts == [carriers.count(level) for level in ("AA", "B6", "DL", "UA")] + [0]


async def test_a_batch_that_is_sent_again_counts_once(drift_house: TestHouse) -> None:
    """The repeat gets the same numbers; other rows under the same id are refused."""
    staff = await watching(drift_house)
    batch = rows(np.random.default_rng(4), hours=3)
    first = await staff.producer.post(INGEST, batch="1", **batch)
    again = await staff.producer.post(INGEST, batch="1", **batch)
    assert (again["accepted"], again["late"], again["windows_closed"]) == (first["accepted"], first["late"], 0)
    assert sum(window["rows"] for window in await windows(staff.reviewer)) < 180
    other = await staff.producer.refused(INGEST, batch="1", **rows(np.random.default_rng(5), hours=3))
    assert (other["status"], other["reason"]) == (422, "batch-reused")


async def test_late_rows_are_counted_as_late_and_in_nothing_else(drift_house: TestHouse) -> None:
    """Within the lateness they still count; afterwards the answer and the next window tell of them."""
    staff = await watching(drift_house, lateness_s=HOUR)
    generator = np.random.default_rng(6)
    await staff.producer.post(INGEST, batch="1", **rows(generator, hours=1, first_hour=1))
    in_time = await staff.producer.post(INGEST, batch="2", **rows(generator, hours=1, first_hour=0))
    assert (in_time["accepted"], in_time["late"]) == (60, 0)
    await staff.producer.post(INGEST, batch="3", **rows(generator, hours=1, first_hour=3))
    late = await staff.producer.post(INGEST, batch="4", **rows(generator, hours=1, first_hour=0))
    assert (late["accepted"], late["late"]) == (0, 60)
    await staff.producer.post(INGEST, batch="5", **rows(generator, hours=1, first_hour=5))
    closed = await windows(staff.reviewer)
    assert [(window["rows"], window["late_rows"]) for window in closed] == [(60, 0), (60, 0), (60, 60)]
    assert closed[2]["empty_before"] == 1


async def test_order_and_split_of_batches_make_no_difference(drift_house: TestHouse) -> None:
    """The same rows in one batch and in shuffled parts give the same windows, byte for byte but for the plan's name."""
    staff = await watching(drift_house, lateness_s=24 * HOUR)
    await second_plan(drift_house, staff, lateness_s=24 * HOUR)
    batch = rows(np.random.default_rng(8), hours=24)
    order = list(range(batch["rows"]))
    random.Random(3).shuffle(order)
    await staff.producer.post(INGEST, batch="whole", **batch)
    for number in range(0, len(order), 200):
        chosen = order[number : number + 200]
        await staff.producer.post(f"{PLANS}/MP-2:ingest", batch=str(number), **part(batch, chosen))
    later = rows(np.random.default_rng(9), hours=1, first_hour=60)
    for key in ("MP-1", "MP-2"):
        await staff.producer.post(f"{PLANS}/{key}:ingest", batch="later", **later)
    one, other = [
        (await staff.reviewer.get(f"{PLANS}/{key}/windows", page_size=100))["items"] for key in ("MP-1", "MP-2")
    ]
    assert len(one) == 24
    assert [{**window, "plan": ""} for window in one] == [{**window, "plan": ""} for window in other]


async def second_plan(house: TestHouse, staff: Staff, **changes: Any) -> None:
    """MP-2, which watches the same model version in the same way."""
    await staff.author.post(PLANS, **{**PLAN, "key": "MP-2", "owner": staff.owner.subject, **changes})
    reference = rows(np.random.default_rng(1), hours=200, per_hour=100, first_hour=-300)
    await staff.author.post(f"{PLANS}/MP-2:set-reference", **reference)
    await staff.approver.sign("drift", f"monitoring-plan:{SYSTEM}/MP-2")
    await deployed(house)


async def test_batches_at_the_same_time_close_each_window_once(drift_house: TestHouse) -> None:
    """Whoever is slower takes what the others left; nothing is counted twice or lost."""
    staff = await watching(drift_house, lateness_s=12 * HOUR)
    generator = np.random.default_rng(10)
    batches = [rows(generator, hours=24) for _ in range(6)]
    answers = await asyncio.gather(
        *(staff.producer.post(INGEST, batch=str(number), **batch) for number, batch in enumerate(batches))
    )
    await staff.producer.post(INGEST, batch="later", **rows(generator, hours=1, first_hour=40))
    closed = await windows(staff.reviewer)
    assert len({window["start"] for window in closed}) == len(closed) == 24
    late = sum(answer["late"] for answer in answers)
    assert sum(answer["accepted"] for answer in answers) + late == 6 * 24 * 60
    assert sum(window["rows"] for window in closed) == 6 * 24 * 60 - late


async def test_a_crash_after_rows_were_taken_leaves_them_for_the_next_round(drift_house: TestHouse) -> None:
    """Taken but not closed: failed, and persisted. The service's next round closes the windows."""
    staff = await watching(drift_house)
    drift = application(drift_house)
    batch = rows(np.random.default_rng(4), hours=4)
    await take_only(drift, batch)
    await drift.rounds.make_one()
    drift_house.seen["drift"] = await drift_house.house.services["drift"].foundation.store.head()
    assert len(await windows(staff.reviewer)) == 3
    assert await drift.rounds.panes.behind() == []


async def test_two_processes_close_each_window_once(drift_house: TestHouse) -> None:
    """Closers that do not know of each other: the plan's stream takes each window from one of them."""
    staff = await watching(drift_house)
    drift = application(drift_house)
    await take_only(drift, rows(np.random.default_rng(4), hours=30, shift=1.0))
    closers = [replace(drift.rounds.closer, turns={}, folds=Folds(evolve=monitoring_plan.evolve)) for _ in range(4)]
    context = CommandContext(actor=DRIFT, reason="a test", at=utc_now(), correlation="c")
    closed = await asyncio.gather(*(closer.close_due(context=context, watch=WATCH) for closer in closers))
    drift_house.seen["drift"] = await drift.plans.store.head()
    shown = await windows(staff.reviewer)
    assert len({window["start"] for window in shown}) == len(shown) == 29
    assert sum(some.windows for some in closed) <= 29
    assert sum(len(some.signals) for some in closed) <= 1
    assert [window["start"] for window in shown if window["raised"]] == [shown[0]["start"]]


async def take_only(drift: Drift, batch: dict[str, Any]) -> None:
    """The first half of an ingestion, as if the process died then."""
    plan, _ = await drift.plans.folds.load(drift.plans.store, f"monitoring-plan:{SYSTEM}/MP-1")
    assert plan is not None
    assert plan.reference is not None
    profile = await drift.plans.profiles.read(plan.reference.digest)
    hours = np.array(batch["event_time"]) // HOUR * HOUR
    starts, panes = np.unique(hours.astype(np.int64), return_inverse=True)
    features = batch["features"]
    columns = {name: features[name] if name == "carrier" else np.array(features[name]) for name in features}
    counts = count_rows(profile=profile, columns=columns, panes=panes.astype(np.int64), pane_count=len(starts))
    counted = CountedBatch(
        batch="1",
        fingerprint="f",
        newest=int(max(batch["event_time"])),
        panes={
            int(start): PartialHistogram(profile=profile.digest, rows=int((panes == index).sum()), counts=counts[index])
            for index, start in enumerate(starts)
        },
    )
    await drift.rounds.panes.take(WATCH, counted, plan.definition.shape)


async def test_requests_cut_off_anywhere_lose_and_double_nothing(drift_house: TestHouse) -> None:
    """Each batch is cancelled at random moments until an answer comes; the windows are those of an undisturbed plan."""
    staff = await watching(drift_house)
    await second_plan(drift_house, staff)
    generator, chance = np.random.default_rng(12), random.Random(12)
    for number in range(8):
        batch = rows(generator, hours=3, first_hour=3 * number, shift=0.4 if number > 4 else 0.0)
        await staff.producer.post(f"{PLANS}/MP-2:ingest", batch=str(number), **batch)
        await until_answered(staff.producer, chance, number, batch)
    one, other = [
        (await staff.reviewer.get(f"{PLANS}/{key}/windows", page_size=100))["items"] for key in ("MP-1", "MP-2")
    ]
    assert len(one) == 23
    assert any(window["raised"] for window in one)
    ours = ("plan", "signal")
    assert [{**window, **dict.fromkeys(ours)} for window in one] == [
        {**window, **dict.fromkeys(ours)} for window in other
    ]


async def until_answered(producer: Client, chance: random.Random, number: int, batch: dict[str, Any]) -> None:
    """Cuts the request off up to five times, then waits for it."""
    for _ in range(5):
        request = asyncio.create_task(producer.post(INGEST, batch=str(number), **batch))
        await asyncio.wait([request], timeout=chance.uniform(0, 0.02))
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await producer.post(INGEST, batch=str(number), **batch)


async def test_sliding_windows_share_rows(drift_house: TestHouse) -> None:
    """Windows of an hour that slide by a quarter: each row is in four of them, and one in four feeds the detector."""
    staff = await watching(drift_house, slide_s=HOUR // 4)
    await staff.producer.post(INGEST, batch="1", **rows(np.random.default_rng(4), hours=6))
    closed = await windows(staff.reviewer)
    full = [window for window in closed if window["start"] >= "2013-04-01T00:00:00Z"]
    assert len(full) == 20 - 3 + 3
    assert [window["start"][14:16] for window in closed if window["feeds_detector"]] == ["00"] * 5
    by_start = {window["start"]: window["rows"] for window in closed}
    assert len(by_start) == len(closed)


SOUND: dict[str, Any] = {"rows": 1, "event_time": [BEGIN], "features": {"x": [1.0], "y": [1.0], "carrier": ["AA"]}}
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"features": {"x": [1.0], "y": [1.0]}}, "/features/carrier"),
    ({"features": {"x": [1.0], "y": [1.0], "carrier": ["AA"], "z": [1.0]}}, "/features/z"),
    ({"features": {"x": [1.0, 2.0], "y": [1.0], "carrier": ["AA"]}}, "/features/x"),
    ({"features": {"x": ["fast"], "y": [1.0], "carrier": ["AA"]}}, "/features/x/0"),
    ({"features": {"x": [True], "y": [1.0], "carrier": ["AA"]}}, "/features/x/0"),
    ({"features": {"x": [1.0], "y": [1.0], "carrier": ["A" * 201]}}, "/features/carrier/0"),
    ({"event_time": []}, "/event_time"),
    ({"event_time": ["2013-04-01T00:00:00"]}, "/event_time/0"),
    ({"event_time": ["yesterday"]}, "/event_time/0"),
    ({"event_time": [-1]}, "/event_time/0"),
    ({"event_time": [32_503_680_000]}, "/event_time/0"),
    ({"rows": 0}, "/rows"),
    ({"rows": 50_000}, "/rows"),
    ({"colour": "red"}, "/colour"),
    ({"features": {"x": [{}], "y": [1.0], "carrier": ["AA"]}}, "/features/x/0/float"),
]


async def test_rows_that_break_a_rule_are_refused_whole(drift_house: TestHouse) -> None:
    """Field and rule are named, and nothing is counted."""
    staff = await watching(drift_house)
    for change, field in BROKEN:
        problem = await staff.producer.refused(INGEST, batch="1", **{**SOUND, **change})
        assert problem["status"] == 422
        assert field in [error["field"] for error in problem["errors"]]
    taken = await staff.producer.post(INGEST, batch="1", **SOUND)
    assert taken["accepted"] == 1
    assert await application(drift_house).rounds.panes.pool.fetchval("SELECT sum(rows) FROM drift.pane") == 1


async def test_a_literal_nan_is_no_json(drift_house: TestHouse) -> None:
    """NaN and infinities have texts of their own."""
    staff = await watching(drift_house)
    answer = await staff.producer.http.request(
        "POST",
        INGEST,
        content=b'{"batch":"1","rows":1,"event_time":[1364774400],"features":{"x":[NaN],"y":[1],"carrier":["AA"]}}',
        headers={"Authorization": f"Bearer {staff.producer.token}", "Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    taken = await staff.producer.post(
        INGEST,
        batch="1",
        rows=4,
        event_time=[BEGIN, "2013-04-01T00:30:00Z", BEGIN + 1, "2013-04-01T02:00:00+00:00"],
        features={
            "x": ["NaN", "Infinity", "-Infinity", None],
            "y": [1, 2, 3, 4],
            "carrier": ["AA", None, 7, "new"],
        },
    )
    assert taken == {**taken, "accepted": 4, "windows_closed": 1}
    (window,) = await windows(staff.reviewer)
    x, _, carrier = window["features"]
    assert (x["missing"], x["counts"][0], x["counts"][-1]) == (1, 1, 1)
    assert (carrier["missing"], carrier["counts"][-1]) == (1, 1)


async def test_rows_for_a_plan_that_does_not_watch_are_refused(drift_house: TestHouse) -> None:
    """One that does not exist, and one that was never activated."""
    staff = await staffed(drift_house)
    missing = await staff.producer.refused(INGEST, batch="1", **SOUND)
    assert (missing["status"], missing["reason"]) == (404, "monitoring-plan-missing")
    await defined(staff)
    inactive = await staff.producer.refused(INGEST, batch="1", **SOUND)
    assert (inactive["status"], inactive["reason"]) == (409, "not-watched-there")


async def test_an_altered_reference_profile_judges_nothing(drift_house: TestHouse) -> None:
    """The stored artefact must have the digest that was approved."""
    staff = await watching(drift_house)
    profiles = application(drift_house).plans.profiles
    await profiles.pool.execute("UPDATE drift.reference_profile SET content = content || ' '::bytea")
    profiles.remembered.clear()
    problem = await staff.producer.refused(INGEST, batch="1", **SOUND)
    assert (problem["status"], problem["reason"]) == (503, "altered-profile")


async def test_several_environments_are_watched_apart(drift_house: TestHouse) -> None:
    """Rows name their environment as soon as there are two."""
    staff = await watching(drift_house)
    await deployed(drift_house, "staging")
    generator = np.random.default_rng(4)
    unnamed = await staff.producer.refused(INGEST, batch="1", **rows(generator, hours=2))
    assert unnamed["reason"] == "not-watched-there"
    elsewhere = await staff.producer.refused(INGEST, batch="1", environment="moon", **rows(generator, hours=2))
    assert "production, staging" in elsewhere["next_step"]
    for environment, hours in (("production", 3), ("staging", 2)):
        await staff.producer.post(INGEST, batch="1", environment=environment, **rows(generator, hours=hours))
    assert len(await windows(staff.reviewer)) == 3
    assert {window["environment"] for window in await windows(staff.reviewer, environment="staging")} == {"staging"}
