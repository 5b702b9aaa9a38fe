"""The flights of the demo: all of them, in order, and the same bytes every time."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import numpy as np
import pytest

from demo.flights import WEATHER, Flights, data_folder, dataset_version, read_flights
from shared.event import digest_of


@pytest.fixture(scope="module")
def flights() -> Flights:
    """The whole year."""
    return read_flights()


def test_all_flights_of_the_year_are_there_in_order(flights: Flights) -> None:
    """336,776 flights, of which some were cancelled or diverted and have no outcome."""
    assert len(flights) == 336_776
    assert (np.diff(flights.departure) >= 0).all()
    assert int((~flights.departed).sum()) == 8_255
    assert int(flights.arrived.sum()) == 327_346


def test_late_means_more_than_fifteen_minutes(flights: Flights) -> None:
    """A flight that arrived exactly 15 minutes late is not late."""
    fifteen = flights.where(flights.arr_delay == 15)
    sixteen = flights.where(flights.arr_delay == 16)
    assert len(fifteen) > 0
    assert not fifteen.late.any()
    assert sixteen.late.all()


def test_hours_are_a_partition_of_the_flights(flights: Flights) -> None:
    """Replaying hour by hour loses and repeats no flight."""
    april = flights.in_months([4])
    hours = list(april.hours())
    assert sum(len(hour) for hour in hours) == len(april)
    assert all(len(set(hour.departure.tolist())) == 1 for hour in hours)
    starts = [int(hour.departure[0]) for hour in hours]
    assert starts == sorted(set(starts))


def test_weekday_and_hour_are_those_of_new_york(flights: Flights) -> None:
    """The first of January 2013 was a Tuesday; five in the morning there is ten in UTC, in summer nine."""
    january, july = flights.in_months([1]), flights.in_months([7])
    assert (january.weekday[:400] == 1).all()
    assert set((january.departure // 3600 - january.hour) % 24) == {5}
    assert set((july.departure // 3600 - july.hour) % 24) == {4}


def test_every_flight_has_the_weather_of_its_place_and_hour(flights: Flights) -> None:
    """Looked up by hand, row by row, in the file of the weather; hours that nobody measured are NaN."""
    with (data_folder() / "weather.csv").open(encoding="utf-8") as file:
        measured = {(row["origin"], row["time_hour"]): row for row in csv.DictReader(file)}
    unmeasured = np.flatnonzero(np.isnan(flights.temp))
    assert 0 < len(unmeasured) < 0.01 * len(flights)
    for place in (*range(0, len(flights), 997), *unmeasured[:50].tolist()):
        hour = datetime.fromtimestamp(int(flights.departure[place]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        row = measured.get((str(flights.origin[place]), hour), dict.fromkeys(WEATHER, "NA"))
        expected = [float(row[name].replace("NA", "nan")) for name in WEATHER]
        np.testing.assert_array_equal([getattr(flights, name)[place] for name in WEATHER], expected)


def test_the_test_month_has_the_digest_it_has_everywhere(flights: Flights) -> None:
    """Rows, their order and the way they are written down are fixed: another digest is another dataset."""
    march = dataset_version(name="flights", version="march", purpose="test", flights=flights.in_months([3]))
    assert march.content.count(b"\n") == 28_834 + 1
    assert march.digest == "63b664c223518dbd89dfcbaeb65f06c8daf05dcb7bc8870946bd9aaa80d39f20"


def test_a_dataset_version_has_the_same_bytes_every_time_and_they_hold_every_value(flights: Flights) -> None:
    """The digest that is registered can be computed again by anybody who has the rows."""
    march = flights.in_months([3]).sampled(share=0.05, seed=7)
    first = dataset_version(name="flights", version="march", purpose="test", flights=march)
    again = dataset_version(
        name="flights",
        version="march",
        purpose="test",
        flights=flights.in_months([3]).sampled(share=0.05, seed=7),
    )
    assert first.content == again.content
    assert first.digest == digest_of(first.content)
    rows = list(csv.DictReader(io.StringIO(first.content.decode())))
    assert len(rows) == len(march)
    assert [row["carrier"] for row in rows] == march.carrier.tolist()
    read = np.array([float(row["dep_delay"]) if row["dep_delay"] else np.nan for row in rows])
    np.testing.assert_array_equal(read, march.dep_delay)


def test_another_seed_is_another_sample(flights: Flights) -> None:
    """The share is drawn by the seed and by nothing else."""
    march = flights.in_months([3])
    drawn = [march.sampled(share=0.1, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0].departure, drawn[1].departure)
    assert len(drawn[0]) != len(drawn[2]) or (drawn[0].departure != drawn[2].departure).any()
